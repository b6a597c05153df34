"""A process that books a batch and settles it line by line, over and over, until it is done or killed.

    batch_settler.py PATH COUNT

A line on stdout says that it begins to book, and each other that a line's end was written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from pricing import Ledger, batches


def asked(n: int) -> dict[str, Any]:
    """Line n of the input file."""
    body = {"model": "gpt-4o-mini", "messages": [], "max_completion_tokens": 100}
    return {"custom_id": f"line {n}", "url": "/v1/chat/completions", "body": body}


def served(n: int) -> dict[str, Any]:
    """Line n of the output file."""
    usage = {"prompt_tokens": 1_000 + n, "completion_tokens": n}
    body = {"id": f"chatcmpl-{n}", "model": "gpt-4o-mini-2024-07-18", "usage": usage}
    return {"custom_id": f"line {n}", "response": {"status_code": 200, "body": body}}


def main(path: str, count: int) -> None:
    """Book, and settle one line per transaction; each run goes on from another line."""
    batches.CHUNK = 1
    with Ledger(path) as ledger:
        os.write(1, b"booking\n")
        batches.book(ledger, map(asked, range(count)), batch_id="b")
        start = os.getpid() % count

        def lines() -> Iterator[Any]:
            for n in range(count):
                yield served((start + n) % count)
                os.write(1, b"settled\n")

        batches.settle(ledger, "b", lines())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
