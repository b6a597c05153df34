"""Words of others inside Markdown: as code, where nothing means anything.

GitHub and GitLab look for mentions, references, links, formulas and emoji in text, and in what entities and backslashes
come to, but never inside a code span. So whatever is not a plain word stands in one; a pipe, which would end a
table's cell even there, stands between two, as an entity.
"""

from __future__ import annotations

import re

from ._text import one_line, shortened, visible

_WORD = re.compile(
    r"""[("“]* [-+±]?                           # what may stand before
        (?: \$?[0-9][0-9,]*(?:\.[0-9]+)?%?      # a number, an amount, a share
          | [0-9]{1,2}:[0-9]{2}                 # a duration
          | [^\W\d_]+(?:['’-][^\W\d_]+)*        # a word, or several with hyphens
        ) [)"”,.;:!?…]* """,
    re.VERBOSE,
)
_SIGNS = frozenset(("→", "≤", "≥", "×", "·", "–", "—", "…", "+", "-"))
_HASH = re.compile(r"\W*[0-9a-f]{7,40}\W*", re.IGNORECASE)
"""Seven digits that may be a commit, which GitHub links."""


def code(text: str, most: int = 120) -> str:
    """A name as a code span (several where it has pipes) that is safe in a sentence and in a cell."""
    text = shortened(visible(text), most)
    return "&#124;".join(_span(part) if part else "" for part in text.split("|")) or "(no name)"


def _span(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    edge = text[0] + text[-1]
    pad = " " if "`" in edge or (edge == "  " and text.strip(" ")) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def prose(text: str, most: int = 600) -> str:
    """A sentence: plain words stay, everything else becomes code."""
    return " ".join(_piece(piece, most) for piece in shortened(one_line(text), most).split(" ") if piece)


def _piece(piece: str, most: int) -> str:
    if piece in _SIGNS or (_WORD.fullmatch(piece) and not _HASH.fullmatch(piece)):
        return piece
    bare = piece.rstrip(",;:.")
    return code(bare, most) + piece[len(bare) :] if bare else code(piece, most)
