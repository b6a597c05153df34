"""A strict YAML reader for fact tables: every value keeps its line, and nothing is guessed.

Scalars stay text until a typed accessor asks for a number, a date or a price, so YAML's own ideas (`no` is false, 1:30 is
ninety, 0.1 is a binary float) never touch a fact. Duplicate keys, anchors, aliases, tags, tabs and several documents are
refused: each is a way for a table to mean something else than it shows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import TableError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_DECIMALS = 6
MAX_INTEGER = 10**15
"""Above any limit, price or window that exists; a larger number is a typing error."""

_INTEGER = re.compile(r"-?\d{1,3}(_?\d{3})*|-?\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Node:
    """One value of a table: where it stands, and typed ways to read it. Every accessor raises TableError."""

    __slots__ = ("_value", "file", "key", "line")

    def __init__(self, value: Any, file: str, line: int, key: str) -> None:
        self._value = value
        self.file = file
        self.line = line
        self.key = key

    def fail(self, message: str) -> NoReturn:
        """Raise a TableError about this value."""
        raise TableError(message, file=self.file, line=self.line, key=self.key or None)

    def _expected(self, what: str) -> NoReturn:
        self.fail(f"expected {what}, found {self._found()}")

    def _found(self) -> str:
        value = self._value
        if isinstance(value, dict):
            return "a mapping"
        if isinstance(value, list):
            return "a list"
        if value == "":
            return "nothing"
        return f"{value[:40]!r}" + ("…" if len(value) > 40 else "")

    def mapping(self, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Node]:
        """Read a mapping with exactly these keys."""
        if not isinstance(self._value, dict):
            self._expected("a mapping")
        required = tuple(required)
        known = (*required, *optional)
        for key, node in self._value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
                node.fail(f"unknown key {key!r}{hint}")
        for key in required:
            if key not in self._value:
                self.fail(f"missing key {key!r}")
        return dict(self._value)

    def entries(self) -> dict[str, Node]:
        """Read a mapping whose keys are names (models, tiers), not a fixed set."""
        if not isinstance(self._value, dict):
            self._expected("a mapping")
        return dict(self._value)

    def items(self) -> list[Node]:
        """Read a list."""
        if not isinstance(self._value, list):
            self._expected("a list")
        return list(self._value)

    def text(self, choices: Iterable[str] | None = None) -> str:
        """Read a text that is not empty; one of `choices` when given."""
        if not isinstance(self._value, str) or not self._value.strip():
            self._expected("a text")
        if choices is not None and self._value not in (known := tuple(choices)):
            self._expected(f"one of {', '.join(known)}")
        return self._value

    def texts(self) -> tuple[str, ...]:
        """Read a list of texts."""
        return tuple(node.text() for node in self.items())

    def integer(self, minimum: int = 0) -> int:
        """Read a whole number of at least `minimum`; underscores between thousands are welcome."""
        value = self._value
        if not isinstance(value, str) or not _INTEGER.fullmatch(value):
            self._expected("a whole number")
        if len(value) > 20 or abs(number := int(value.replace("_", ""))) > MAX_INTEGER:
            self.fail(f"{value[:40]} is larger than any number this table can mean")
        if number < minimum:
            self._expected(f"a whole number of at least {minimum}")
        return number

    def boolean(self) -> bool:
        """Read true or false; `yes`, `no`, `on` and `off` are refused because YAML dialects disagree on them."""
        if self._value not in ("true", "false"):
            self._expected("true or false")
        return bool(self._value == "true")

    def date(self) -> date:
        """Read a day, YYYY-MM-DD."""
        value = self._value
        if not isinstance(value, str) or not _DATE.fullmatch(value):
            self._expected("a date, YYYY-MM-DD")
        try:
            return date.fromisoformat(value)
        except ValueError:
            self._expected("a date that exists, YYYY-MM-DD")

    def decimal(self) -> Decimal:
        """Read a price in US dollars: not negative, at most six decimals, no exponent."""
        value = self._value
        if not isinstance(value, str) or not re.fullmatch(r"-?\d+(\.\d+)?", value):
            self._expected('a price in dollars such as "2.50"')
        try:
            price = Decimal(value)
        except InvalidOperation:
            self._expected('a price in dollars such as "2.50"')
        if price < 0:
            self._expected("a price of at least 0")
        if len(value.partition(".")[2]) > MAX_DECIMALS:
            self.fail(f"{value} has more than {MAX_DECIMALS} decimals: float noise? write the published price")
        if price > 1_000_000:
            self.fail(f"${value} per million tokens is no price that exists: is it per token, or in cents?")
        return price


def read_table(path: str | PathLike[str]) -> Node:
    """Read a YAML file as a Node tree. Raises TableError for whatever is wrong with it."""
    import yaml  # here, because importing the packages must not load a YAML library

    file = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", file=file) from error
    if len(raw) > MAX_BYTES:
        raise TableError(f"larger than {MAX_BYTES:,} bytes; a table of facts is smaller", file=file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise TableError(f"not UTF-8 (byte 0x{raw[error.start]:02x})", file=file, line=line) from None
    for number, content in enumerate(text.splitlines(), 1):
        if "\t" in content[: len(content) - len(content.lstrip())]:
            raise TableError("indented with a tab: use spaces", file=file, line=number)
    # The C scanner is ten times faster; both give the same nodes.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        _refuse_tricks(text, file)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise TableError(f"not YAML: {error.problem or error.context}", file=file, line=line) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise TableError(f"not YAML: {error}", file=file) from None
    finally:
        loader.dispose()
    if root is None:
        raise TableError("the file is empty", file=file, line=1)
    return _node(root, file, "", 0)


def _refuse_tricks(text: str, file: str) -> None:
    """Refuse anchors, aliases and tags before anything is composed: that is where YAML bombs go off."""
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise TableError("aliases (*name) are not allowed: write the value out", file=file, line=line)
        if getattr(event, "anchor", None):
            raise TableError("anchors (&name) are not allowed: write the value out", file=file, line=line)
        if getattr(event, "tag", None) and not (isinstance(event, yaml.ScalarEvent) and event.tag == "!"):
            raise TableError(f"tags ({event.tag}) are not allowed", file=file, line=line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise TableError(f"nested more than {MAX_DEPTH} deep", file=file, line=line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _node(node: yaml.Node, file: str, key: str, depth: int) -> Node:
    import yaml

    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        # A bare `null`, `~` or nothing at all is no value; the quoted texts are.
        value = "" if node.style is None and node.value in ("", "~", "null", "Null", "NULL") else node.value
        return Node(value, file, line, key)
    if isinstance(node, yaml.SequenceNode):
        return Node(
            [_node(item, file, f"{key}[{number}]", depth + 1) for number, item in enumerate(node.value)],
            file,
            line,
            key,
        )
    return Node(dict(_pairs(node, file, key, depth)), file, line, key)


def _pairs(node: yaml.Node, file: str, key: str, depth: int) -> Iterator[tuple[str, Node]]:
    seen: dict[str, int] = {}
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        if name_node.id != "scalar" or not name_node.value:
            raise TableError("a key must be a text", file=file, line=line, key=key or None)
        name = name_node.value
        path = f"{key}.{name}" if key else name
        if name == "<<":
            raise TableError("merge keys (<<) are not allowed: write the value out", file=file, line=line, key=path)
        if name in seen:
            raise TableError(f"duplicate key {name!r}, first on line {seen[name]}", file=file, line=line, key=path)
        seen[name] = line
        child = _node(value_node, file, path, depth + 1)
        child.line = line
        yield name, child
