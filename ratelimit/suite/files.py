"""The files of a suite: found by their references, read once each, within bounds. Nothing is run, nothing is fetched.

Whatever they hold becomes the same tree of nodes, which know the file, line and key they stand at; of JSON the line is
not known.
"""

from __future__ import annotations

import glob
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pricing._yaml import MAX_DEPTH, Node, read_text, read_yaml

from ..errors import ConfigError, TableError

FILE = "file://"
MAX_BYTES = 64 * 1024 * 1024
"""Of one file."""
MAX_TOTAL_BYTES = 512 * 1024 * 1024
"""Of all files of a suite."""
CODE = (".py", ".js", ".ts", ".mjs", ".cjs", ".mts", ".cts", ".sh", ".bash", ".exe", ".bat", ".cmd", ".ps1", ".rb",
        ".pl", ".go")  # fmt: skip
"""What would have to be run, where a prompt, a provider or a test is expected."""
SCRIPTS = CODE[:7]
"""What would have to be run even where a text is expected."""
YAML = (".yaml", ".yml")
_GLOB = frozenset("*?[")


class Files:
    """The files of one suite, by their paths relative to its folder."""

    def __init__(self, suite: Path) -> None:
        self._folder = suite.parent
        self._texts: dict[Path, str] = {}
        self._documents: dict[Path, Node] = {}
        self._total = 0

    def find(self, node: Node, reference: str, code: tuple[str, ...] = CODE) -> list[Path]:
        """Find the files that a reference means: one, or in the order of their names those of a pattern.

        code  the endings of what would have to be run

        Raises  TableError at `node` when there is none, or when it names code
        """
        name = reference.removeprefix(FILE)
        if not name or "\0" in name:
            node.fail(f"{reference!r} names no file")
        refuse_code(node, name, code)
        path = Path(os.path.normpath(self._folder / name))
        if path.is_file() or not _GLOB & set(name):
            return [path]
        found = sorted(Path(one) for one in glob.glob(os.fspath(path), recursive=True) if os.path.isfile(one))
        if not found:
            node.fail(f"no file matches {name!r}")
        for one in found:
            refuse_code(node, one.name, code)
        return found

    def name(self, path: Path) -> str:
        """Name a file as the suite would: by its path from there."""
        return Path(os.path.relpath(path, self._folder)).as_posix()

    def text(self, node: Node, path: Path) -> str:
        """Read a file of text. Raises TableError at `node` when that cannot be done, and in the file for no UTF-8."""
        if path not in self._texts:
            self._texts[path] = read_text(self._read(node, path), str(path))
        return self._texts[path]

    def document(self, node: Node, path: Path) -> Node:
        """Read a file of YAML or JSON. Raises TableError, at `node` or in the file."""
        if path not in self._documents:
            read = read_json if path.suffix == ".json" else _read_yaml
            self._documents[path] = read(read_text(self._read(node, path), str(path)), str(path))
        return self._documents[path]

    def _read(self, node: Node, path: Path) -> bytes:
        try:
            with open(path, "rb", opener=_patiently) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    node.fail(f"{self.name(path)} is no file")
                raw = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            node.fail(f"{self.name(path)}: cannot be read: {getattr(error, 'strerror', None) or error}")
        if len(raw) > MAX_BYTES:
            node.fail(f"{self.name(path)}: larger than {MAX_BYTES:,} bytes")
        self._total += len(raw)
        if self._total > MAX_TOTAL_BYTES:
            node.fail(f"the files of this suite are larger than {MAX_TOTAL_BYTES:,} bytes together")
        return raw


def refuse_code(node: Node, name: str, code: tuple[str, ...] = CODE) -> None:
    """Refuse what would have to be run: "prompt.py", "prompt.py:function". Raises TableError."""
    base = name if name.lower().endswith(code) else name.rpartition(":")[0]
    if base.lower().endswith(code):
        node.fail(f"{name!r} is code, and nothing is run here: write what it returns into a file (.txt, .json, .csv)")


def _patiently(path: str, flags: int) -> int:
    """Open without waiting for whoever would write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_yaml(text: str, file: str) -> Node:
    return read_yaml(text, file, aliases=True)


class _Number(str):
    """A number, as it is written."""

    __slots__ = ()


def read_json(text: str, file: str, line: int = 0, key: str = "") -> Node:
    """Read JSON as a Node tree; numbers stay as they are written.

    line, key  where it stands in the file, when it is not the whole of it

    Raises  TableError, with the line where it is no JSON
    """
    try:
        value = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant, object_pairs_hook=_object
        )
        return _node(value, file, line, key, 0)
    except json.JSONDecodeError as error:
        at = error.lineno + max(line - 1, 0)
        raise TableError(f"not JSON: {error.msg}, column {error.colno}", file=file, line=at, key=key or None) from None
    except RecursionError:
        raise TableError(f"nested more than {MAX_DEPTH} deep", file=file, line=line or None) from None
    except ConfigError as error:
        if isinstance(error, TableError):
            raise
        raise TableError(str(error), file=file, line=line or None, key=key or None) from None


def _no_constant(name: str) -> Any:
    raise ConfigError(f"not JSON: {name}")


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ConfigError(f"duplicate key {name!r}")
        made[name] = value
    return made


def _node(value: Any, file: str, line: int, key: str, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise TableError(f"nested more than {MAX_DEPTH} deep", file=file, line=line or None, key=key)
    if isinstance(value, dict):
        inside: Any = {
            name: _node(one, file, line, f"{key}.{name}" if key else name, depth + 1) for name, one in value.items()
        }
        return Node(inside, file, line, key)
    if isinstance(value, list):
        return Node(
            [_node(one, file, line, f"{key}[{at}]", depth + 1) for at, one in enumerate(value)], file, line, key
        )
    if isinstance(value, _Number):
        return Node(str(value), file, line, key, True)
    words = {True: "true", False: "false", None: ""}
    return Node(value, file, line, key) if isinstance(value, str) else Node(words[value], file, line, key, True)
