"""fastokens, if it is installed: the same counts at many times the speed, for a price.

It takes more than a second to load and about 200 MB, so it is for heavy counting (`pip install 'ratecard[fast]'`), and
nothing but a job of more than 64 MB uses it unasked. That it counts as tiktoken does is a test.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable

from .encodings import PATTERNS, read_ranks


def load(name: str) -> Callable[[str], int] | None:
    """Build a counter for an encoding; None where fastokens is not installed."""
    try:
        from fastokens import Tokenizer
    except ImportError:
        return None
    with tempfile.TemporaryDirectory(prefix="ratecard-") as folder:  # it reads its vocabulary from a file only
        path = os.path.join(folder, name + ".tiktoken")
        with open(path, "wb") as file:
            file.writelines(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in read_ranks(name).items())
        encode = Tokenizer.from_tiktoken(path, pattern=PATTERNS[name], special_tokens={}).encode_ordinary

    def count(text: str) -> int:
        try:
            return len(encode(text))
        except (UnicodeEncodeError, TypeError):  # lone surrogates: read as tiktoken reads them
            return len(encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))

    return count
