"""Law: the rooms of the design stay apart. Imports point one way, and importing costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CORE = {"limit", "gcra", "cells", "headers", "reply", "tier_rows", "tiers"}
"""Pure: they decide, and neither wait, nor read a clock, nor do I/O (tables are read through pricing)."""
FORBIDDEN_IN_CORE = {
    "asyncio",
    "threading",
    "time",
    "datetime.datetime",
    "socket",
    "httpx",
    "httpx2",
    "openai",
    "random",
}

LAYERS = [
    {
        "errors",
        "limit",
        "clock",
        "gcra",
        "cells",
        "headers",
        "forks",
        "outputs",
        "tier_rows",
        "_json",
        "_kept",
        "call",
    },
    {"suite", "tiers", "context", "reply", "usage_chunk", "stores", "verdict", "events"},
    {"demand", "ticket", "order", "line", "gate"},
    {"_admit", "_admit_async", "reservation", "feedback", "limiter"},
    {"accounting", "preflight", "job", "results", "counted", "once", "pieces", "progress", "tally", "why"},
    {"exchange"},
    {"transports"},
    {"runner", "checks", "emulator", "testing", "contract"},
    {"forecast", "plan", "collect", "batch"},
    {"cli", "pytest_plugin"},
]
"""Rooms of ratelimit/ from the ground up: at run time a module imports from its own floor and those below."""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package with its dotted name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imported(name: str, path: Path, *, lazy: bool) -> Iterator[str]:
    """The modules that a file imports, absolute; without those for type checkers, and with or without lazy ones."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield child
            yield from walk(child)

    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            prefix = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_pricing_never_imports_ratelimit() -> None:
    """Money and tokens know nothing of time and admission, not even lazily."""
    for name, path in modules("pricing"):
        guilty = [target for target in imported(name, path, lazy=True) if target.split(".")[0] == "ratelimit"]
        assert not guilty, f"{name} imports {guilty}"


def test_the_core_is_pure() -> None:
    """What decides imports neither a clock, nor a loop, nor a lock, nor a network."""
    for name, path in modules("ratelimit"):
        if name.rpartition(".")[2] in CORE and name.count(".") == 1:
            targets = set(imported(name, path, lazy=True))
            guilty = {one for one in targets if one in FORBIDDEN_IN_CORE or one.split(".")[0] in FORBIDDEN_IN_CORE}
            assert not guilty, f"{name} imports {guilty}"


def test_imports_point_downwards() -> None:
    """No module of ratelimit imports, when it loads, from a floor above its own."""
    floor = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    for name, path in modules("ratelimit"):
        parts = name.split(".")
        if len(parts) < 2 or parts[1] == "__main__":
            continue
        for target in imported(name, path, lazy=False):
            there = target.split(".")
            if there[0] == "ratelimit" and len(there) > 1 and there[1] in floor:
                assert floor[there[1]] <= floor[parts[1]], f"{name} imports {target}, which stands above it"


def test_every_room_has_a_floor() -> None:
    """A new module of ratelimit finds its place in LAYERS above, or this fails."""
    rooms = {name.split(".")[1] for name, _ in modules("ratelimit") if "." in name} - {"__main__"}
    assert rooms == set().union(*LAYERS)


@pytest.mark.parametrize("package", ["ratelimit", "pricing"])
def test_importing_loads_nothing_heavy(package: str) -> None:
    """`import ratelimit` and `import pricing` load no pandas, no openai, no HTTP library, no tokenizer, no server."""
    heavy = {
        "pandas",
        "numpy",
        "openai",
        "httpx",
        "httpx2",
        "tiktoken",
        "redis",
        "sqlite3",
        "hypothesis",
        "starlette",
        "uvicorn",
        "rich",
        "click",
    }
    code = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


@pytest.mark.parametrize("package", ["ratelimit", "pricing"])
def test_the_front_door_is_small_and_true(package: str) -> None:
    """A package exports fifteen names or fewer, each of which is really there."""
    code = f"import {package} as p; print(len(p.__all__)); [getattr(p, name) for name in p.__all__]; dir(p)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 15
