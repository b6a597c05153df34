"""What the benchmarks share: the machine's description, and the emulator in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def environment() -> str:
    """Name the machine's cores, Python and the packages that matter, in one line."""
    names = []
    for package in ("ratecard", "openai", "httpx2", "httpx", "tiktoken"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(names)}"


class Server:
    """A running emulator: its URL and its own counters."""

    def __init__(self, url: str) -> None:
        self.url = url

    def counters(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/_emulator") as reply:
            counters: dict[str, Any] = json.load(reply)
        return counters


@contextmanager
def served(*options: str) -> Iterator[Server]:
    """Run the emulator as `python -m ratelimit.emulator` on a free port until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ratelimit.emulator", "--port", "0", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
