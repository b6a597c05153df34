"""Token counts before anything is sent: exact for text, bounded for the rest, offline."""

from __future__ import annotations

import time

from .encodings import encoding_for
from .messages import Count, count_input, count_tokens, quotes
from .text import accelerate, count_text

LOADED_S = time.time()
"""When this code was read, in seconds since the epoch: a file that has changed since is not what counts here."""

__all__ = ["Count", "accelerate", "count_input", "count_text", "count_tokens", "encoding_for", "quotes"]
