"""Run one seed in virtual time, and say what was wrong."""

from __future__ import annotations

import asyncio
import gc
import random
import traceback
import warnings
from dataclasses import dataclass, field

from ratelimit.errors import RatecardWarning
from ratelimit.testing import run_virtual

from . import direct, wire
from .auditor import Auditor
from .world import World, draw

LONGEST_S = 10 * 86_400
"""A world that has not ended after so many virtual seconds never will."""


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    depth: str
    wrong: list[str]
    sent: int
    refused: int
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = "\n".join(f"  {one}" for one in self.wrong[:8])
        return f"seed {self.seed} ({self.depth}):\n{told}\n  replay: python -m tests.sim --seed {self.seed} --trace"


def run(seed: int, trace: bool = False) -> Outcome:
    """Let the world of a seed happen."""
    world = draw(seed)
    auditor = Auditor(world, trace)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: auditor.wrong.append(f"the loop: {context}")
        )
        async with asyncio.timeout(LONGEST_S):
            await drive(world, auditor)

    gc.freeze()  # whoever waits long for a slot collects garbage: let it look at this world only
    random.seed(seed)  # cool-downs and the openai client's retries are spread at random: a replay spreads them alike
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RatecardWarning)  # corrected limits are told as warnings
        try:
            run_virtual(main)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            auditor.wrong.append(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        finally:
            gc.unfreeze()
    return Outcome(seed, world.depth, auditor.wrong, auditor.arrivals, auditor.noes, auditor.trace or [])


async def drive(world: World, auditor: Auditor) -> None:
    """Drive it at the depth its seed says."""
    await (direct if world.depth == "direct" else wire).drive(world, auditor)
