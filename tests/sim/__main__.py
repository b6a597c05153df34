"""Run seeds from the command line: many with their failures, or one with everything that happens in it."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from .run import Outcome, run
from .world import draw

EVERY = 500
"""After how many seeds progress is told."""


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="tell everything that happens (with --seed)")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = run(options.seed, options.trace)
        say(f"{draw(options.seed)}" if options.trace else "")
        say("\n".join(outcome.trace))
        say(str(outcome) if outcome.wrong else f"seed {outcome.seed} ({outcome.depth}): nothing wrong")
        say(f"  {outcome.sent} arrived, {outcome.refused} of them were refused")
        return bool(outcome.wrong)
    seeds = range(options.start, options.start + options.seeds)
    start = time.monotonic()
    failed: list[int] = []
    arrived = refused = 0
    with multiprocessing.Pool(options.jobs) as pool:
        for count, outcome in enumerate(pool.imap(run, seeds, chunksize=20), 1):
            arrived, refused = arrived + outcome.sent, refused + outcome.refused
            if outcome.wrong:
                failed.append(outcome.seed)
                say(str(outcome))
            if count % EVERY == 0 or count == len(seeds):
                took = time.monotonic() - start
                say(f"{count:,} seeds, {len(failed)} failed, {arrived:,} arrived, {refused:,} refused, {took:.1f} s")
    if failed:
        say(f"failed: {' '.join(map(str, failed))}")
    return bool(failed)


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


__all__ = ["Outcome", "main"]

if __name__ == "__main__":
    sys.exit(main())
