"""The command line for its tests: in this process, or as a process of its own, with no key in its environment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ratelimit.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What --json printed: one document, and no number in it that a float would have to hold."""

        def refuse(text: str) -> Any:
            raise AssertionError(f"a decimal is a text in our JSON, not {text}")

        return json.loads(self.out, parse_float=refuse, parse_constant=refuse)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing here goes to OpenAI, and files without a folder land in the test's own."""
    for name in list(os.environ):
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ratecard() -> Callable[..., Ended]:
    """Run a command in this process, as the console script does."""

    def run(*arguments: str) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(arguments))
            except SystemExit as end:
                code = end.code
        return Ended(code or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command as a process of its own, with pipes; it is killed when the test ends."""
    children: list[subprocess.Popen[str]] = []

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = subprocess.Popen(
            [sys.executable, "-m", "ratelimit", *arguments],
            text=True,
            encoding="utf-8",
            env={**os.environ, **(env or {})},
            **{**pipes, **options},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job of three lines whose tokens can be counted by hand."""
    path = tmp_path / "job.jsonl"
    lines = [
        {"model": "o3-pro", "input": "word" + " word" * 99, "max_output_tokens": 1_000},
        {"model": "o3", "messages": [{"role": "user", "content": "word" + " word" * 49}], "max_completion_tokens": 500},
        {"model": "o3-mini", "input": "word", "max_output_tokens": 200},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
