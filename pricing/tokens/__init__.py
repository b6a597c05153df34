"""Token counts before anything is sent: exact for text, bounded for the rest, offline."""

from __future__ import annotations

from .encodings import encoding_for
from .messages import Count, count_input, count_tokens
from .text import accelerate, count_text

__all__ = ["Count", "accelerate", "count_input", "count_text", "count_tokens", "encoding_for"]
