"""The tests of a suite: variables for its prompts, in the suite or in files (CSV, JSON, JSON Lines, YAML)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from pricing._yaml import Node

from ..errors import TableError
from .files import FILE, MAX_BYTES, SCRIPTS, YAML, Files, read_json
from .names import Names, clean
from .prompts import Prompt, chosen
from .providers import Provider
from .template import Place, compile_text

_KEYS = ("vars", "description", "options", "prompts", "providers", "providerOutput")
_NOT_SENT = ("assert", "assertScoringFunction", "threshold", "metadata")
"""What comes after a reply."""
_OPTIONS = ("prefix", "suffix", "disableVarExpansion")
_OPTIONS_NOT_SENT = ("transform", "postprocess", "provider", "rubricPrompt", "factuality", "runSerially",
                     "storeOutputAs", "disableConversationVar", "disableDefaultAsserts")  # fmt: skip
_MEDIA = (".pdf", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".svg", ".mp4", ".webm", ".ogg", ".mov", ".avi",
          ".wmv", ".mkv", ".m4v", ".mp3", ".wav", ".docx", ".xlsx")  # fmt: skip
_ELSEWHERE = ("http://", "https://", "huggingface://", "langfuse://", "az://", "s3://")


class Case(NamedTuple):
    """One test.

    name            what lines are named after, no other test's
    values          variable → what it may be: every combination is a request
    before, after   what is put around each prompt
    prompts         places of the prompts that it takes, None for all; providers likewise
    """

    name: str
    values: Mapping[str, tuple[Node, ...]]
    before: str = ""
    after: str = ""
    prompts: frozenset[int] | None = None
    providers: frozenset[int] | None = None

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return prod(len(values) for values in self.values.values())

    def combinations(self) -> Iterator[dict[str, Node]]:
        """Every combination; what is named first changes last."""
        for values in product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))


class _Facts(NamedTuple):
    """What a test, or defaultTest, says."""

    node: Node
    name: str = ""
    variables: Mapping[str, Node] = {}
    options: Mapping[str, Node] = {}
    facts: Mapping[str, Node] = {}


class Reader:
    """Reads the tests of one suite."""

    def __init__(self, prompts: tuple[Prompt, ...], providers: tuple[Provider, ...], files: Files) -> None:
        self._prompts = prompts
        self._providers = providers
        self._files = files
        self._contents: dict[Path, Node] = {}

    def read(self, suite: Node, tests: Node | None, default: Node | None) -> tuple[Case, ...]:
        """Read `tests` and `defaultTest`; without tests there is one, of no variables.

        Raises  TableError with the file, line and key of what is not understood
        """
        common = _Facts(suite) if default is None else self._default(default)
        names = Names()
        found: list[Case] = []
        entries = [] if tests is None else list(self._entries(tests))
        for number, one in enumerate(entries or [_Facts(suite)], 1):
            name = names.new(clean(one.name).replace("/", "_") or str(number))
            if not _answered(one):
                found.append(self._case(one, common, name))
        return tuple(found)

    def _default(self, node: Node) -> _Facts:
        if isinstance(node._value, str):
            path = self._one(node, node.text())
            node = self._files.document(node, path)
        return self._test(node)

    def _one(self, node: Node, reference: str) -> Path:
        path = self._files.find(node, reference)[0]
        if path.suffix.lower() not in (*YAML, ".json"):
            node.fail(f"{reference!r} is not understood here: .yaml and .json are")
        return path

    def _entries(self, node: Node) -> Iterator[_Facts]:
        if isinstance(node._value, dict):
            node.fail("expected a list of tests, or a file of them (file://tests.csv)")
        for one in node.items() if isinstance(node._value, list) else [node]:
            if isinstance(one._value, str):
                for path in self._tests_in(one, one.text()):
                    yield from self._in_file(one, path)
            else:
                yield self._test(one)

    def _tests_in(self, node: Node, reference: str) -> list[Path]:
        if reference.startswith(_ELSEWHERE):
            node.fail(f"{reference[:60]!r} is not on this machine, and nothing is fetched: save it as .csv or .json")
        return self._files.find(node, reference)

    def _in_file(self, node: Node, path: Path) -> Iterator[_Facts]:
        ending = path.suffix.lower()
        if ending == ".csv":
            yield from _rows(self._files.text(node, path), str(path))
        elif ending == ".jsonl":
            lines = self._files.text(node, path).split("\n")
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield self._test(read_json(line, str(path), number))
        elif ending in (*YAML, ".json"):
            document = self._files.document(node, path)
            for one in document.items() if isinstance(document._value, list) else [document]:
                yield self._test(one)
        else:
            node.fail(
                f"tests in a file like {self._files.name(path)!r} are not understood: .csv, .json, .jsonl, .yaml are"
            )

    def _test(self, node: Node) -> _Facts:
        given = node.entries()
        for key in ("provider", "path"):
            if key in given:
                what = "a provider of its own" if key == "provider" else "tests that a program makes"
                given[key].fail(f"{what} is not understood: write it as tests and providers of another suite")
        facts = node.mapping(optional=(*_KEYS, *_NOT_SENT))
        options: dict[str, Node] = {}
        if "options" in facts and not facts["options"].nothing:
            options = facts["options"].entries()
            for key, one in options.items():
                if key not in (*_OPTIONS, *_OPTIONS_NOT_SENT):
                    one.fail(f"option {key!r} is not understood: {', '.join(_OPTIONS)} are")
        name = facts["description"].data() if "description" in facts else ""
        variables = self._variables(facts["vars"]) if "vars" in facts else {}
        return _Facts(node, str(name or ""), variables, options, facts)

    def _variables(self, node: Node) -> Mapping[str, Node]:
        """Variables as a mapping, or in files of such."""
        if isinstance(node._value, dict):
            return node.entries()
        if node.nothing:
            return {}
        found: dict[str, Node] = {}
        for one in node.items() if isinstance(node._value, list) else [node]:
            for path in self._files.find(one, one.text()):
                if path.suffix.lower() not in (*YAML, ".json"):
                    one.fail(f"variables in a file like {one.text()!r} are not understood: .yaml and .json are")
                found |= self._files.document(one, path).entries()
        return found

    def _case(self, test: _Facts, common: _Facts, name: str) -> Case:
        options = {**common.options, **test.options}
        whole = "disableVarExpansion" in options and options["disableVarExpansion"].boolean()
        variables = {**common.variables, **test.variables}
        values = {key: self._values(node, whole) for key, node in variables.items()}
        return Case(
            name,
            values,
            _around(options.get("prefix")),
            _around(options.get("suffix")),
            chosen(test.facts.get("prompts"), self._prompts),
            self._chosen(test.facts.get("providers")),
        )

    def _values(self, node: Node, whole: bool) -> tuple[Node, ...]:
        """What a variable may be: each text of a list of texts, each file of a pattern, else what it is."""
        value = node._value
        if isinstance(value, list) and value and not whole and isinstance(value[0].data(), str):
            return tuple(content for one in value for content in self._content(one))
        if isinstance(value, list) and not value and not whole:
            node.fail("an empty list: there is nothing that this variable may be")
        return tuple(self._content(node))

    def _content(self, node: Node) -> Iterator[Node]:
        reference = node._value
        if not isinstance(reference, str) or not reference.startswith(FILE):
            yield node
            return
        for path in self._files.find(node, reference, SCRIPTS):
            if path not in self._contents:
                self._contents[path] = self._read(node, path)
            yield self._contents[path]

    def _read(self, node: Node, path: Path) -> Node:
        ending = path.suffix.lower()
        if ending in _MEDIA:
            node.fail(f"{self._files.name(path)!r} is not read as a variable: write its text, or its data URL, as one")
        text = self._files.text(node, path)
        if ending in YAML:
            text = json.dumps(self._files.document(node, path).data(), ensure_ascii=False, separators=(",", ":"))
        return Node(text.strip(), str(path), 0, "")

    def _chosen(self, node: Node | None) -> frozenset[int] | None:
        if node is None:
            return None
        found: set[int] = set()
        for one in node.items():
            name = one.text()
            places = {
                at
                for at, provider in enumerate(self._providers)
                if name in provider.names or (name.endswith("*") and provider.names[0].startswith(name[:-1]))
            }
            if not places:
                one.fail(f"no provider has the id or label {name!r}")
            found |= places
        return frozenset(found)


def _answered(test: _Facts) -> bool:
    """Whether the test brings its answer along, so that no request is made."""
    return "providerOutput" in test.facts and bool(test.facts["providerOutput"]._value)


def _around(node: Node | None) -> str:
    if node is None or not node._value:
        return ""
    text = node.text()
    compile_text(text, Place(node.file, node.line, node.key), counts_lines=False)
    return text


def _rows(text: str, file: str) -> Iterator[_Facts]:
    """The rows of a CSV: each column is a variable, but for those that say something of the test."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        table = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(table, [])
        if not any(header):
            raise TableError("there is no header: the first row names the variables", file=file, line=1)
        rows = []
        while True:
            line = table.line_num + 1
            row = next(table, None)
            if row is None:
                break
            if row:
                rows.append((line, row))
    except csv.Error as error:
        raise TableError(f"not CSV: {error}", file=file, line=table.line_num) from None
    finally:
        csv.field_size_limit(before)
    again = [name for at, name in enumerate(header) if name in header[:at]]
    if again:
        raise TableError(f"two columns are named {again[0]!r}", file=file, line=1)
    for line, row in rows:
        if len(row) != len(header):
            what = f"{len(row)} columns, where the header has {len(header)}"
            raise TableError(what, file=file, line=line)
        yield _row({name: Node(value, file, line, name) for name, value in zip(header, row, strict=True)}, file, line)


def _row(cells: Mapping[str, Node], file: str, line: int) -> _Facts:
    special = ("__expected", "__metric", "__threshold", "__metadata", "__config", "__description", "__prefix",
               "__suffix", "__providerOutput")  # fmt: skip
    variables = {name: node for name, node in cells.items() if not name.startswith(special)}
    options = {key: cells[f"__{key}"] for key in ("prefix", "suffix") if f"__{key}" in cells}
    facts: dict[str, Any] = {"providerOutput": cells["__providerOutput"]} if "__providerOutput" in cells else {}
    described = cells.get("__description")
    return _Facts(Node("", file, line, ""), described._value if described else "", variables, options, facts)
