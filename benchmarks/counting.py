"""What counting tokens costs: new texts, texts sent again, the first count, hostile texts, and a job of 100 MB.

    python benchmarks/counting.py [--rounds 9] [--megabytes 100] [--only texts|first|hostile|job] [--json]

Texts of 2 to 8 kB come from what is on the machine: prose and code from the standard library, JSON from the recorded
token cases, Chinese drawn from common characters. New: not in the memo, by CPU time of one thread, beside tiktoken's
own `encode(text, disallowed_special=())` on the same texts in the same round; which goes first alternates. Again: the
same messages as new objects, as a client that reads its history from somewhere makes them. Prose is ASCII; with a
curly quote in it a message is twice as large in memory, and takes longer to compare.

First: CPU of a fresh process from before `import pricing` to after the first count. Hostile: CPU seconds per megabyte.

Job: `ratecard estimate` of a JSONL of as many megabytes, by the wall clock, against a plain loop of `json.loads` and
tiktoken over the same file, whole processes, in turns; with fastokens where it is installed, and without; and a second
time, with the counts that were kept the first time. The same of its first ten lines.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gc
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from _common import environment

from pricing.tokens import count_text
from pricing.tokens import text as engine
from pricing.tokens.encodings import get_encoding

ENCODING = "o200k_base"
KINDS = ("prose", "curly prose", "code", "JSON", "Chinese")
CASES = Path(__file__).parent.parent / "tests" / "data" / "token_cases.json.gz"
HAN = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家"


def raw(kind: str, rng: random.Random) -> str:
    """A megabyte or two of one kind of text."""
    if kind == "Chinese":
        words = ("".join(rng.choices(HAN, k=rng.randint(1, 4))) for _ in range(250_000))
        return "".join(word + ("，" if n % 7 == 6 else "。\n" if n % 40 == 39 else "") for n, word in enumerate(words))
    if kind == "JSON":
        with gzip.open(CASES, "rt", encoding="utf-8") as file:
            cases = [case for case in json.load(file) if len(json.dumps(case)) < 20_000]
        return json.dumps(cases, ensure_ascii=False, indent=1)
    library = Path(sysconfig.get_paths()["stdlib"])
    if kind.endswith("prose"):
        from pydoc_data.topics import topics

        text = "\n\n".join(topics.values())
        return text.replace('"', "”") if kind.startswith("curly") else text.encode("ascii", "ignore").decode()
    files = sorted(path for path in library.glob("*.py") if path.stat().st_size < 100_000)
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def cut(text: str, rng: random.Random) -> list[str]:
    """Cut a text into messages of 2,000 to 8,000 characters."""
    found, start = [], 0
    while start < len(text):
        size = rng.randint(2_000, 8_000)
        found.append(text[start : start + size])
        start += size
    return found


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of one run."""
    gc.collect()
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e9


def texts(rounds: int) -> dict[str, dict[str, list[float]]]:
    """By kind: MB/s of tiktoken, and the ratios of ours to it on new texts and on the same ones again."""
    encode = get_encoding(ENCODING).encode
    memo = engine._memo(ENCODING)
    table = {}
    for kind in KINDS:
        rng = random.Random(1)
        messages = cut(raw(kind, rng), rng)
        size = sum(len(message.encode("utf-8", "replace")) for message in messages) / 1e6
        row: dict[str, list[float]] = {"MB/s": [], "new": [], "again": []}
        for turn in range(rounds):
            memo._counts.clear()
            memo._chars = 0

            def theirs() -> list[int]:
                return [len(encode(message, disallowed_special=())) for message in messages]  # noqa: B023

            def ours() -> list[int]:
                return [count_text(message, ENCODING) for message in messages]  # noqa: B023

            first, second = (theirs, ours) if turn % 2 else (ours, theirs)
            spent = {work.__name__: cpu(work) for work in (first, second)}
            row["MB/s"].append(size / spent["theirs"])
            row["new"].append(spent["theirs"] / spent["ours"])
            # A history that fits the memo, as objects of its own: each is compared again.
            history, total = [], 0
            for message in messages:
                total += len(message)
                if total < engine.MEMO_CHARS // 2:
                    history.append(message)
            for message in history:
                count_text(message, ENCODING)
            copies = [message.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass") for message in history]
            known = cpu(lambda: [count_text(message, ENCODING) for message in copies])  # noqa: B023
            alone = cpu(lambda: [len(encode(message, disallowed_special=())) for message in copies])  # noqa: B023
            row["again"].append(alone / known)
        table[kind] = row
    return table


FIRST = """
import time
start = time.process_time_ns()
import pricing
pricing.count_tokens("How many tokens are these?", model="gpt-4o")
print((time.process_time_ns() - start) / 1e6, time.process_time_ns() / 1e6)
"""


def first(rounds: int) -> dict[str, list[float]]:
    """CPU ms to the first count, from before the import; and of the whole process, the interpreter's start included."""
    runs = [
        subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True) for _ in range(rounds)
    ]
    counted, whole = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    return {"first count": list(counted), "whole process": list(whole)}


def hostile() -> dict[str, tuple[float, int]]:
    """CPU seconds per MB, and tokens, of texts that break engines."""
    rng = random.Random(7)
    rows = {
        "a × 1,000,000": "a" * 1_000_000,
        "space × 1,000,000": " " * 1_000_000,
        "tab × 1,000,000": "\t" * 1_000_000,
        "space × 1,000,000 + a": " " * 1_000_000 + "a",
        "newline × 1,000,000": "\n" * 1_000_000,
        "- × 1,000,000": "-" * 1_000_000,
        "base64, 1 MB": base64.b64encode(rng.randbytes(750_000)).decode(),
        "random lower case": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "random punctuation": "".join(rng.choices("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", k=1_000_000)),
        "333,000 Han, no punctuation": "".join(rng.choices(HAN, k=333_000)),
        "lone surrogates": "\ud800 \udfff\udbff" * 100_000,
    }
    found = {}
    for name, text in rows.items():
        size = len(text.encode("utf-8", "surrogatepass")) / 1e6
        tokens: list[int] = []
        found[name] = (cpu(lambda: tokens.append(count_text(text, ENCODING))) / size, tokens[0])  # noqa: B023
    return found


KEPT, TEN = "counted before", "ten lines"
PLAIN = """
import json, sys
from pricing.tokens.encodings import get_encoding
encode, tokens = get_encoding("o200k_base").encode, 0
with open(sys.argv[1], encoding="utf-8") as file:
    for line in file:
        for message in json.loads(line)["body"]["messages"]:
            tokens += len(encode(message["content"], disallowed_special=()))
print(tokens)
"""
OURS = """
import sys
if sys.argv[2] == "tiktoken":
    sys.modules["fastokens"] = None
from ratelimit.cli import main
main(["estimate", sys.argv[1], "--json", "--at", "2026-07-15"])
"""


def job(rounds: int, megabytes: int) -> dict[str, Any]:
    """Wall and CPU seconds of the whole processes, by kind of counting, and the largest resident set of each."""
    rng = random.Random(2)
    pool = [message for kind in KINDS for message in cut(raw(kind, rng), rng)]
    programs = {"plain loop": (PLAIN, ""), "ratecard": (OURS, "tiktoken"), KEPT: (OURS, ""), TEN: (OURS, "")}
    programs[f"{TEN}, {KEPT}"] = (OURS, "")
    with contextlib.suppress(ImportError):
        import fastokens  # noqa: F401

        programs["ratecard with fastokens"] = (OURS, "fastokens")
    walls: dict[str, list[float]] = {name: [] for name in programs}
    spent: dict[str, list[float]] = {name: [] for name in programs}
    memory = dict.fromkeys(programs, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.jsonl")
        write_job(path, pool, megabytes * 1_000_000, rng)
        with path.open("rb") as whole:
            ten = Path(folder, "ten.jsonl")
            ten.write_bytes(b"".join(islice(whole, 10)))
        for file in (path, ten):  # so that their counts are kept
            subprocess.run(
                [sys.executable, "-c", OURS, file, ""],
                stdout=subprocess.DEVNULL,
                env={**os.environ, "RATECARD_CACHE": folder},
                check=True,
            )
        for turn in range(rounds):
            for name in random.Random(turn).sample(list(programs), len(programs)):
                code, option = programs[name]
                start = time.perf_counter()
                file = ten if name.startswith(TEN) else path
                process = subprocess.Popen(
                    [sys.executable, "-c", code, file, option],
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "RATECARD_CACHE": folder if name.endswith(KEPT) else "off"},
                )
                _, status, usage = os.wait4(process.pid, 0)
                walls[name].append(time.perf_counter() - start)
                process.returncode = os.waitstatus_to_exitcode(status)
                assert process.returncode == 0, name
                spent[name].append(usage.ru_utime + usage.ru_stime)  # of the processes it started too
                memory[name] = max(memory[name], usage.ru_maxrss * 1024)
    return {"walls": walls, "cpu": spent, "memory": memory, "cores": len(os.sched_getaffinity(0))}


def write_job(path: Path, pool: list[str], size: int, rng: random.Random) -> None:
    """Write requests until the file is so large. No message comes twice: each is mixed from parts of three."""

    def lines() -> Iterator[bytes]:
        number = 0
        while True:
            parts = []
            for text in rng.sample(pool, 3):
                start = rng.randrange(max(1, len(text) - 200))
                parts.append(text[start : start + rng.randint(200, 2_000)])
            messages = [{"role": "user", "content": "\n".join(parts)}]
            number += 1
            body = {"model": "o3", "messages": messages, "max_tokens": 500}
            row = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            yield json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    written = 0
    with path.open("wb") as file:
        for line in lines():
            file.write(line)
            written += len(line)
            if written >= size:
                return


def spread(values: list[float]) -> str:
    """Median (least – most)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} – {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--only", choices=("texts", "first", "hostile", "job"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    measures: dict[str, Callable[[], Any]] = {
        "texts": lambda: texts(given.rounds),
        "first": lambda: first(given.rounds),
        "hostile": hostile,
        "job": lambda: job(max(3, given.rounds // 3), given.megabytes),
    }
    found = {name: measure() for name, measure in measures.items() if given.only in (None, name)}
    versions = environment("fastokens")
    if given.json:
        json.dump({"environment": versions, **found}, sys.stdout, indent=2)
        return
    print(versions)
    for kind, row in found.get("texts", {}).items():
        again = f"again {spread(row['again'])} ×"
        print(f"{kind:<11} tiktoken {spread(row['MB/s'])} MB/s   ours, new {spread(row['new'])} ×   {again}")
    for name, values in found.get("first", {}).items():
        print(f"{name:<14} {spread(values)} ms CPU")
    for name, (seconds, tokens) in found.get("hostile", {}).items():
        print(f"{name:<28} {seconds:.2f} s/MB   {tokens:,} tokens")
    if "job" in found:
        walls, spent, memory = found["job"]["walls"], found["job"]["cpu"], found["job"]["memory"]
        print(f"a job of {given.megabytes} MB on {found['job']['cores']} cores, whole processes")
        for name, values in walls.items():
            ratio = spread([plain / one for plain, one in zip(walls["plain loop"], values, strict=True)])
            cost = f"{statistics.median(spent[name]):.2f} s CPU, {memory[name] / 1e6:,.0f} MB"
            print(f"{name:<25} {spread(values)} s   {ratio} × the plain loop   {cost}")


if __name__ == "__main__":
    main()
