"""Text for people: aligned columns, and nothing that a terminal would obey instead of showing it.

Names, tags and a server's words come from elsewhere; what they print must stay words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import click


def shown(text: str) -> str:
    """Spell out what is no visible character: a control character, a line end, a hidden mark, half of a character."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or unicodedata.category(one) == "Zs" else one.encode("unicode_escape").decode()
        for one in text
    )


def echo(text: str, *, err: bool = False) -> None:
    """Print one line."""
    click.echo(shown(text), err=err)


def columns(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset({0})) -> Iterator[str]:
    """Lay out rows in columns as wide as their widest cell; a last cell that only some rows have takes no part.

    left  the columns that stand to the left; numbers stand to the right
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    count = min(map(len, cells), default=0)
    widths = [max(len(row[place]) for row in cells) for place in range(count)]
    for row in cells:
        aligned = [
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*aligned, *row[count:]]).rstrip()
