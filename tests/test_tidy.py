"""Law: the repository stays tidy. Style that a machine can check is checked here, so that nobody has to say it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ratelimit", "pricing", "tests", "benchmarks")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PROSE = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_small(path: Path) -> None:
    """No source file is longer than 500 lines: a reader finds the room for a new line within a minute."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_every_module_and_test_says_what_it_is_for() -> None:
    """Modules open with a docstring, and every test says in words which behaviour it guards."""
    mute = [name_of(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert mute == []
    tests = [path for path in SOURCES if path.name.startswith("test_")]
    silent = [
        f"{name_of(path)}::{test.name}"
        for path in tests
        for test in functions(path)
        if test.name.startswith("test_") and not ast.get_docstring(test)
    ]
    assert silent == []


def test_no_test_sleeps() -> None:
    """Tests wait for events and on virtual clocks, never for a number of this machine's seconds."""
    asleep = []
    for path in SOURCES:
        if path.is_relative_to(ROOT / "tests"):
            text = path.read_text(encoding="utf-8")
            calls = r"\btime\.sleep\(" if "run_virtual" in text else r"\btime\.sleep\(|\basyncio\.sleep\((?!0\))"
            asleep += [f"{name_of(path)}: {match[0]}" for match in re.finditer(calls, text)]
    assert asleep == []


def test_nothing_is_left_for_later() -> None:
    """No marks of unfinished work in the code, and no path of somebody's machine anywhere."""
    unfinished = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|HAC[K])\b|raise NotImplemented[E]rror")
    machine = re.compile(r"/(home|Users|work|root)/\w")
    left = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in [*SOURCES, *PROSE]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if unfinished.search(line) or machine.search(line)
    ]
    assert left == []


def test_prose_points_at_what_exists() -> None:
    """Every relative link of README and docs leads to a file, and every test or module they name is there."""
    broken = []
    for path in PROSE:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            if not (path.parent / target).exists():
                broken.append(f"{name_of(path)}: {target}")
        for target in re.findall(r"`((?:tests|ratelimit|pricing|data|benchmarks|docs)/[\w./-]+)`", text):
            if not (ROOT / target).exists():
                broken.append(f"{name_of(path)}: {target}")
    assert broken == []


def test_the_gate_runs_the_readme_s_test_command() -> None:
    """What README tells a newcomer to run is what the gate runs."""
    command = "python -m pytest"
    first_screen = "\n".join(README.splitlines()[:60])
    assert f".venv/bin/{command}" in first_screen
    assert "ratecard demo" in first_screen
    assert f'/bin/{command}"' not in README
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"bin/python\"? -m pytest\b", gate)


def test_every_command_and_every_public_name_is_documented() -> None:
    """README or docs/ name each command of the command line and each public name of both packages."""
    import pricing
    import ratelimit
    from ratelimit.cli import COMMANDS

    prose = "\n".join(path.read_text(encoding="utf-8") for path in PROSE)
    assert [name for name in COMMANDS if f"ratecard {name}" not in prose] == []
    names = [f"ratelimit.{name}" for name in ratelimit.__all__] + [f"pricing.{name}" for name in pricing.__all__]
    assert [name for name in names if name.partition(".")[2] not in prose] == []
