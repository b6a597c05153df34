"""A strict YAML reader for fact tables: every value keeps its line, and nothing is guessed.

Scalars stay text until a typed accessor asks for a number, a date or a price, so YAML's own ideas (`no` is false,
1:30 is ninety, 0.1 is a binary float) never touch a fact. Duplicate keys, anchors, aliases, tags, tabs and several
documents are refused: each is a way for a table to mean something else than it shows. Files that people share with
other programs may be read with anchors, aliases and merge keys; then what they come to is bounded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import TableError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 2_000_000
"""Values in a file whose aliases are written out."""
MAX_DECIMALS = 6
MAX_INTEGER = 10**15
"""Above any limit, price or window that exists; a larger number is a typing error."""

MAX_USD_PER_MTOK = 1_000_000
MIN_USD_PER_MTOK = Decimal("0.001")
"""Below any price per million tokens that exists, and above most prices per token: such a number lost its unit."""

# [0-9], because \d would also take the digits of other scripts; no leading zero, because YAML 1.1 reads 010 as eight.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,2}(_?[0-9]{3})*|[1-9][0-9]*)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PRICE = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,2})?")
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    "": None,
}
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML forbids in a file. Looked for here because the two scanners report it differently, and without a line."""


class Node:
    """One value of a table: where it stands, and typed ways to read it. Every accessor raises TableError.

    line   0 where nobody knows it
    plain  a scalar without quotes: YAML may take it for a number, a truth value or nothing
    """

    __slots__ = ("_value", "file", "key", "line", "plain")

    def __init__(self, value: Any, file: str, line: int, key: str, plain: bool = False) -> None:
        self._value = value
        self.file = file
        self.line = line
        self.key = key
        self.plain = plain

    @property
    def is_scalar(self) -> bool:
        """Whether it is a single value, and neither a mapping nor a list."""
        return isinstance(self._value, str)

    def fail(self, message: str) -> NoReturn:
        """Raise a TableError about this value."""
        raise TableError(message, file=self.file, line=self.line or None, key=self.key or None)

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

    @property
    def nothing(self) -> bool:
        """Whether there is no value: nothing written, or null."""
        return self.plain and self._value == ""

    def mapping(self, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Node]:
        """Read a mapping with exactly these keys."""
        if not isinstance(self._value, dict):
            self._expected("a mapping")
        required = tuple(required)
        known = tuple(dict.fromkeys((*required, *optional)))
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

    def data(self) -> Any:
        """Read any value as JSON has it: what has no quotes is what YAML 1.2 takes it for, the rest are texts."""
        value = self._value
        if isinstance(value, dict):
            return {name: node.data() for name, node in value.items()}
        if isinstance(value, list):
            return [node.data() for node in value]
        if not self.plain:
            return value
        if value in _WORDS:
            return _WORDS[value]
        if _WHOLE.fullmatch(value):
            return int(value)
        return float(value) if _FLOAT.fullmatch(value) else value

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
        if not isinstance(value, str) or not _PRICE.fullmatch(value):
            self._expected('a price in dollars such as "2.50"')
        if value.startswith("-"):
            self._expected("a price of at least 0")
        shown = value[:40] + ("…" if len(value) > 40 else "")
        whole, _, decimals = value.partition(".")
        if len(decimals) > MAX_DECIMALS:
            self.fail(f"{shown} has more than {MAX_DECIMALS} decimals: float noise? write the published price")
        if len(whole) > 20 or (price := Decimal(value)) > MAX_USD_PER_MTOK:
            self.fail(f"${shown} per million tokens is no price that exists: is it in cents or pico-dollars?")
        if 0 < price < MIN_USD_PER_MTOK:
            self.fail(f"${shown} per million tokens is no price that exists: is it per token, or per thousand?")
        return price


def read_table(path: str | PathLike[str]) -> Node:
    """Read a YAML file as a Node tree. Raises TableError for whatever is wrong with it."""
    file = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", file=file) from error
    if len(raw) > MAX_BYTES:
        raise TableError(f"larger than {MAX_BYTES:,} bytes; a table of facts is smaller", file=file)
    text = read_text(raw, file)
    if "\t" in text:
        for number, content in enumerate(text.splitlines(), 1):
            if "\t" in content[: len(content) - len(content.lstrip())]:
                raise TableError("indented with a tab: use spaces", file=file, line=number)
    return read_yaml(text, file)


def read_text(raw: bytes, file: str) -> str:
    """Decode UTF-8. Raises TableError with the line of the first byte that is none."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TableError(f"not UTF-8 (byte 0x{error.object[error.start]:02x})", file=file, line=line) from None


def read_yaml(text: str, file: str, *, aliases: bool = False) -> Node:
    """Read YAML as a Node tree.

    aliases  anchors, aliases and merge keys are allowed; a value stands where its anchor is

    Raises  TableError for whatever is wrong with it
    """
    import yaml  # here, because importing the packages must not load a YAML library

    if found := _UNPRINTABLE.search(text):
        line = len((text[: found.start()] + ".").splitlines())
        raise TableError(f"control character U+{ord(found[0]):04X}: save the file as plain UTF-8", file=file, line=line)
    try:
        root = _build(text, file, _Aliases() if aliases else None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and error.context_mark and mark.line >= len(text.rstrip().splitlines()):
            # Found only at the end of the file: what was left open began where the context did.
            mark = error.context_mark
        what = " ".join(part for part in (error.problem, error.context) if part)
        raise TableError(f"not YAML: {what}", file=file, line=mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The Python scanner lets int() and chr() refuse an absurd escape or version.
        raise TableError(f"not YAML: {error}", file=file) from None
    if root is None:
        raise TableError("the file is empty, or only comments", file=file, line=1)
    return root


class _Aliases:
    """The anchors of a file, and how many values it has once each alias is written out."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Node, int, int]] = {}  # anchor → value, values in it, how deep it is
        self._total = 0
        self._open: list[tuple[str | None, int]] = []  # of each open collection: its anchor, and the total before it
        self._depths: list[int] = []  # and how deep it is so far

    def add(self, node: Node, anchor: str | None, *, opens: bool) -> None:
        """Note a value; a collection can be pointed at only when it has ended, so that none is inside itself."""
        self._total += 1
        if opens:
            self._open.append((anchor, self._total - 1))
            self._depths.append(1)
        elif anchor:
            self._known[anchor] = node, 1, 0

    def close(self, node: Node) -> None:
        """Note the end of a collection, and write its merge keys out: what it says itself goes first."""
        anchor, before = self._open.pop()
        depth = self._depths.pop()
        self._deepen(depth)
        if isinstance(node._value, dict) and (merged := node._value.pop("<<", None)) is not None:
            for source in merged._value if isinstance(merged._value, list) else [merged]:
                if not isinstance(source._value, dict):
                    merged.fail("a merge key (<<) takes a mapping, or a list of mappings")
                for name, value in source._value.items():
                    node._value.setdefault(name, value)
        if anchor:
            self._known[anchor] = node, self._total - before, depth

    def find(self, name: str | None, file: str, line: int, key: str) -> Node:
        """Find what an alias points at."""
        node, size, depth = self._known.get(name or "", (None, 0, 0))
        self._total += size
        self._deepen(depth)
        what = ""
        if node is None:
            what = f"no value that ends before this line has the anchor &{name}"
        elif self._total > MAX_NODES:
            what = f"more than {MAX_NODES:,} values once its aliases are written out"
        elif len(self._depths) + depth > MAX_DEPTH:
            what = f"nested more than {MAX_DEPTH} deep"
        if node is None or what:
            raise TableError(what, file=file, line=line, key=key or None)
        return node

    def _deepen(self, depth: int) -> None:
        if self._depths:
            self._depths[-1] = max(self._depths[-1], depth + 1)


def _build(text: str, file: str, aliases: _Aliases | None) -> Node | None:
    """Build the Node tree in one pass over the parser's events; None when there is no document.

    Nothing is composed by YAML: an anchor, alias or tag is refused at the event that carries it, before a bomb could
    grow (where aliases are allowed, they are counted), and the stack is a list, so depth is our limit and not Python's.
    """
    import yaml

    root: Node | None = None
    parents: list[Node] = []  # the collections that are open, outermost first
    name: str | None = None  # the key whose value comes next, and its line
    name_line = 0
    # The C scanner is ten times faster; both give the same events.
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = parents.pop()
            if aliases is not None:
                aliases.close(ended)
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise TableError("a second document begins here: a table is one document", file=file, line=_line(event))
        if not isinstance(event, yaml.NodeEvent):
            continue
        line = _line(event)
        parent = parents[-1] if parents else None
        siblings: Any = None if parent is None else parent._value
        key = "" if parent is None else parent.key
        if isinstance(siblings, list):
            key = f"{key}[{len(siblings)}]"
        elif name is not None:
            key, line = f"{key}.{name}" if key else name, name_line
        _refuse_trick(event, file, key, aliases is not None)
        if isinstance(siblings, dict) and name is None:
            if not isinstance(event, yaml.ScalarEvent) or not event.value:
                raise TableError("a key must be a text", file=file, line=line, key=key or None)
            name, name_line = event.value, line
            path = f"{key}.{name}" if key else name
            if name == "<<" and aliases is None:
                raise TableError("merge keys (<<) are not allowed: write the value out", file=file, line=line, key=path)
            if name in siblings:
                first = siblings[name].line
                raise TableError(f"duplicate key {name!r}, first on line {first}", file=file, line=line, key=path)
            continue
        value: Any
        plain = False
        if isinstance(event, yaml.ScalarEvent):
            plain = not event.style
            # A bare `null`, `~` or nothing at all is no value; the quoted texts are. A plain style is None or "".
            value = "" if not event.style and event.value in ("~", "null", "Null", "NULL") else event.value
        else:
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        if isinstance(event, yaml.AliasEvent):
            assert aliases is not None  # refused above
            node = aliases.find(event.anchor, file, line, key)
        else:
            node = Node(value, file, line, key, plain)
            if aliases is not None:
                aliases.add(node, event.anchor, opens=isinstance(event, yaml.CollectionStartEvent))
        if parent is None:
            root = node
        elif name is None:
            siblings.append(node)
        else:
            siblings[name], name = node, None
        if isinstance(event, yaml.CollectionStartEvent):
            parents.append(node)
            if len(parents) > MAX_DEPTH:
                node.fail(f"nested more than {MAX_DEPTH} deep")
    return root


def _refuse_trick(event: yaml.NodeEvent, file: str, key: str, aliases: bool) -> None:
    """Refuse tags, and aliases and anchors unless they are allowed: each makes a value mean more than it shows."""
    import yaml

    tag = getattr(event, "tag", None)
    if aliases and not tag:
        return
    if isinstance(event, yaml.AliasEvent):
        what = "aliases (*name) are not allowed: write the value out"
    elif event.anchor and not aliases:
        what = "anchors (&name) are not allowed: write the value out"
    elif tag and not (isinstance(event, yaml.ScalarEvent) and tag == "!"):
        what = f"tags ({tag}) are not allowed: write the plain value"
    else:
        return
    raise TableError(what, file=file, line=_line(event), key=key or None)


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # both scanners mark every event
    return event.start_mark.line + 1
