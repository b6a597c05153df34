"""Templates: texts with `{{ name }}`, as far as they can be rendered without a program.

Understood are names, dotted names of mappings, and `| dump` (or `| json`) of whatever a name stands for. All else of
nunjucks is an error that quotes it: a text that was rendered differently would be counted wrongly, and silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pricing._yaml import Node

from ..errors import TableError

MAX_CHARACTERS = 64 * 1024 * 1024
"""Of one rendered text."""
ROUNDS = 5
"""How often variables are put into variables."""
_OPENS = re.compile(r"\{\{|\{%|\{#")
_CLOSES = {"{{": "}}", "{%": "%}", "{#": "#}"}
_NAME = r"[^\W\d][\w]*(?:\.[\w]+)*"
_REFERENCE = re.compile(r"\{\{\s*(" + _NAME + r")\s*(?:\|\s*(dump|json)\s*)?\}\}")
_PLAIN_REFERENCE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LONGEST_QUOTE = 60


class NotRendered(Exception):
    """This request cannot be rendered; the message says why. It becomes a bad line, and others go on."""


class Place(NamedTuple):
    """Where a text begins: file, line (0: not known) and key."""

    file: str
    line: int
    key: str


class Reference(NamedTuple):
    """`{{ name }}`: the variable, and what to look up in it.

    dumped  written as JSON
    """

    name: str
    path: tuple[str, ...]
    dumped: bool


class Template(NamedTuple):
    """A text cut at its references."""

    pieces: tuple[str | Reference, ...]

    @property
    def refers(self) -> bool:
        """Whether it has a reference."""
        return any(isinstance(piece, Reference) for piece in self.pieces)

    def render(self, texts: Mapping[str, str], variables: Mapping[str, Node]) -> str:
        """Put the variables in.

        texts  the variables that are texts, as they are to be written

        Raises  NotRendered when one is missing, or is no text
        """
        return joined(piece if isinstance(piece, str) else _shown(piece, texts, variables) for piece in self.pieces)


def compile_text(text: str, place: Place, *, counts_lines: bool = True) -> Template:
    """Cut a text at its references.

    counts_lines  the text stands in its file as it is, so that a mistake's line can be told

    Raises  TableError quoting what is not understood
    """
    pieces: list[str | Reference] = []
    done = 0
    while opened := _OPENS.search(text, done):
        start = opened.start()
        if start > done:
            pieces.append(text[done:start])
        found = _REFERENCE.match(text, start)
        name, _, rest = found[1].partition(".") if found else ("", "", "")
        if found is None or name == "env":
            line = place.line + text.count("\n", 0, start) if counts_lines and place.line else place.line
            what = _refused(text, start, opened[0], name)
            raise TableError(what, file=place.file, line=line or None, key=place.key or None)
        pieces.append(Reference(name, tuple(rest.split(".")) if rest else (), found[2] is not None))
        done = found.end()
    if done < len(text):
        pieces.append(text[done:])
    return Template(tuple(pieces))


def _refused(text: str, start: int, opening: str, name: str) -> str:
    end = text.find(_CLOSES[opening], start)
    quote = text[start : end + 2] if end >= 0 else text[start : start + _LONGEST_QUOTE]
    quote = quote if len(quote) <= _LONGEST_QUOTE else quote[:_LONGEST_QUOTE] + "…"
    if name == "env":
        return f"{quote!r}: the environment is not read: write the value, or make it a variable of the tests"
    if end < 0:
        return f"{quote!r} is not closed by {_CLOSES[opening]!r}"
    return f"{quote!r} is not understood: only {{{{ name }}}}, {{{{ name.key }}}} and {{{{ name | dump }}}} are"


def _shown(reference: Reference, texts: Mapping[str, str], variables: Mapping[str, Node]) -> str:
    if not reference.path and not reference.dumped and (text := texts.get(reference.name)) is not None:
        return text
    node = variables.get(reference.name)
    written = ".".join((reference.name, *reference.path))
    for key in reference.path:
        inside = None if node is None else node._value
        node = inside.get(key) if isinstance(inside, dict) else None
    if node is None:
        raise NotRendered(f"variable {written!r} is missing")
    if reference.dumped:
        value = texts.get(reference.name) if not reference.path and isinstance(node.data(), str) else node.data()
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text_of(node)
    if text is None:
        raise NotRendered(f"variable {written!r} is a mapping: write {{{{ {written} | dump }}}} to have it as JSON")
    return text


def text_of(node: Node) -> str | None:
    """Write a value as a template would: a number as it is written, a list with commas; None for what holds mappings.

    The last line end of a text is left out.
    """
    value = node._value
    if isinstance(value, dict):
        return None
    if isinstance(value, list):
        parts = [text_of(one) for one in value]
        return None if None in parts else joined(_between([part or "" for part in parts]))
    data = node.data()
    if isinstance(data, bool):
        return "true" if data else "false"
    return str(value).removesuffix("\n")


def _between(parts: list[str]) -> Iterator[str]:
    for at, part in enumerate(parts):
        if at:
            yield ","
        yield part


def texts_of(variables: Mapping[str, Node]) -> dict[str, str]:
    """Write the variables that are texts; in them `{{ other }}` is the variable of that name, all else stays.

    Raises  NotRendered when they name each other without end
    """
    texts = {name: text for name, node in variables.items() if (text := text_of(node)) is not None}
    for _ in range(ROUNDS):
        again = {name: text for name, text in texts.items() if "{{" in text and _replaceable(text, texts)}
        if not again:
            return texts
        texts = {**texts, **{name: _replaced(text, texts) for name, text in again.items()}}
    if again := {name: text for name, text in texts.items() if "{{" in text and _replaceable(text, texts)}:
        raise NotRendered(f"variable {next(iter(again))!r} names variables in variables, more than {ROUNDS} deep")
    return texts


def _replaceable(text: str, texts: Mapping[str, Any]) -> bool:
    return any(found[1] in texts for found in _PLAIN_REFERENCE.finditer(text))


def _replaced(text: str, texts: Mapping[str, str]) -> str:
    def pieces() -> Iterator[str]:
        done = 0
        for found in _PLAIN_REFERENCE.finditer(text):
            yield text[done : found.start()]
            yield texts.get(found[1], found[0])
            done = found.end()
        yield text[done:]

    return joined(pieces())


def joined(pieces: Iterable[str]) -> str:
    """Join pieces, and stop before they fill the memory. Raises NotRendered."""
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise NotRendered(f"longer than {MAX_CHARACTERS:,} characters once its variables are in it")
        kept.append(piece)
    return "".join(kept)
