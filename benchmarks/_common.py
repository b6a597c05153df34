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


def environment(*peers: str) -> str:
    """Name the machine's cores and load, Python, and the packages that matter (and `peers`), in one line."""
    names = []
    for package in ("ratecard", "openai", "httpx2", "httpx", "tiktoken", *peers):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{os.cpu_count()} cores, {load}, Python {platform.python_version()}, {', '.join(names)}"


class Server:
    """A running emulator: its URL and its own log."""

    def __init__(self, url: str) -> None:
        self.url = url

    def admissions(self) -> list[dict[str, Any]]:
        """Every decision of its limits, oldest first."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/_emulator/admissions") as reply:
            admissions: list[dict[str, Any]] = json.load(reply)["admissions"]
        return admissions


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
