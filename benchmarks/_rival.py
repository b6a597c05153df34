"""Somebody else on the same account: a process that uses a fixed share of its tokens, whatever we do.

    python benchmarks/_rival.py URL MODEL REQUESTS_PER_S TOKENS

It sends small Chat requests on a schedule of its own, prints a line once the first is answered, and repeats what was
refused when the server says so, until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time

import httpx2


async def main(url: str, model: str, per_s: float, tokens: int) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "mine " * tokens}]}
    body["messages"][0]["content"] = body["messages"][0]["content"][: 4 * (tokens - 2)]
    async with httpx2.AsyncClient(timeout=600) as http:

        async def send() -> None:
            while True:
                reply = await http.post(f"{url}/chat/completions", json=body)
                if reply.status_code == 200:
                    return
                await asyncio.sleep(int(reply.headers["retry-after-ms"]) / 1000)

        await send()
        print("ready", flush=True)
        start, running = time.monotonic(), set()
        for number in itertools.count():
            await asyncio.sleep(start + number / per_s - time.monotonic())
            task = asyncio.create_task(send())
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
