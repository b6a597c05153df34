"""What is checked before a job is sent: that somebody is there at its address, and that limits and prices are known.

Each of these would otherwise be told line by line, by the client's or the limiter's errors, in the words of a program.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pricing.budget import Budget
from pricing.budget_file import read_budgets
from pricing.cards import near_names, resolve
from pricing.prices import PriceTable

from .errors import ConfigError, NotOffered
from .exchange import NOT_SENT
from .job import Line, fingerprint, read_job
from .limiter import Limiter
from .tiers import TierTable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KNOCKS = 3
KNOCK_S = 10.0
BETWEEN_KNOCKS_S = 0.3
"""A server that was started a moment ago is given the time to open its port."""
MOST_TOLD = 10
"""Models named in one message."""


def read_base_url(text: str) -> str:
    """Check the address of an API. Raises ConfigError for what is none, with the address that may be meant."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        meant = text.partition("://")[2] or text
        path = "" if "/" in meant.rstrip("/") else "/v1"
        raise ConfigError(f"{text!r} is not the URL of a server; write it like http://{meant.rstrip('/')}{path}")
    try:
        port_is_one = url.port != 0
    except ValueError:
        port_is_one = False
    if not port_is_one:
        raise ConfigError(f"{text!r} has no port that can be; write it like http://127.0.0.1:8000/v1")
    if url.path in ("", "/"):
        raise ConfigError(f"{text!r} is a server without the path of its API; write {text.rstrip('/')}/v1")
    return text


def read_job_budgets(text: str) -> list[Budget]:
    """Read --budget: "5 USD" is for the job; a window or a tag counts the whole ledger; a .yaml file has several.

    Raises  ConfigError for what is no budget
    """
    return [
        budget._replace(window="job") if budget.window == "total" and not budget.tag and not budget.run else budget
        for budget in read_budgets(text)
    ]


def check_files(job: str, output: str, ledger: str) -> None:
    """Make sure that nothing is written over anything else. Raises ConfigError naming the option to change."""
    for option, path in (("-o", output), ("--ledger", ledger)):
        if _same(path, job):
            raise ConfigError(f"{option} {path} is the job itself: name another file")
    if _same(output, ledger):
        raise ConfigError(f"--ledger {ledger} is the output: name another file")


def _same(path: str, other: str) -> bool:
    if os.path.isfile(path) and os.path.isfile(other):
        return os.path.samefile(path, other)
    exists = os.path.exists(path) and os.path.exists(other)  # devices, such as a terminal that is both ends
    return not exists and os.path.realpath(path) == os.path.realpath(other)


def check_resumed(job: str, output: str, held: Mapping[str, str]) -> None:
    """Make sure that an output which is to be gone on with is of this job.

    held  custom_id → fingerprint of the request that it is the result of; "" where nobody knows

    Raises  ConfigError when it shares no custom_id with the job, or has the result of a request that is another by now
    """
    shared, changed = 0, None
    try:
        for line in read_job(job):
            known = held.get(line.custom_id or "")
            if known is not None:
                shared += 1
                if known and isinstance(line, Line) and known != fingerprint(line):
                    changed = line
                    break
    except ConfigError:
        return  # the run will come to it, and say what is wrong
    if changed is not None:
        raise ConfigError(
            f"{output} has the result of another request named {changed.custom_id!r} than line {changed.number} of "
            f"{job}: name another output, or give what has changed a custom_id of its own; nothing was sent"
        )
    if not shared:
        raise ConfigError(
            f"{output} has the results of another job: none of its {len(held):,} custom_ids is in {job}; name another "
            "output; nothing was sent"
        )


async def knock(client: AsyncOpenAI) -> None:
    """Make sure that something answers where a client sends: any answer will do, and no model is asked.

    Raises  ConfigError when after a few tries nobody was there
    """
    for number in range(1, KNOCKS + 1):
        try:
            await client._client.head(str(client.base_url).rstrip("/"), timeout=KNOCK_S)
            return
        except Exception as error:
            if type(error).__name__ not in NOT_SENT:
                return  # it was there, and had nothing to say to this
            if number == KNOCKS:
                url = str(client.base_url).rstrip("/")
                raise ConfigError(
                    f"nothing answers at {url} ({error or type(error).__name__}): check the address, and that the "
                    "server runs; nothing was sent"
                ) from error
        await asyncio.sleep(BETWEEN_KNOCKS_S)


def check_limits(limiter: Limiter, models: Iterable[str], where: str) -> None:
    """Make sure that the limits of every model of a job are known; `where` is the job's name for people.

    Raises  ConfigError with every model that has none, and the tiers that have it
    """
    missing = [model for model in models if not _has_limits(limiter, model)]
    if not missing:
        return
    told = "; ".join(f"{model} ({_known_in(limiter.tables, model)})" for model in missing[:MOST_TOLD])
    more = f"; and {len(missing) - MOST_TOLD:,} more models" if len(missing) > MOST_TOLD else ""
    raise ConfigError(
        f"{where}: {limiter.tier} has no limits for {told}{more}. Choose another --tier, or leave it off and give your "
        "account's own numbers with --rpm and --tpm; nothing was sent"
    )


def check_prices(budgets: Iterable[Budget], models: Iterable[str], table: PriceTable, day: date, where: str) -> None:
    """Make sure that every model of a job has a price on a day, where a budget would refuse it without one.

    Budgets of a tag or of another run are none of this job's business.

    Raises  ConfigError with every model that has none, and those that may be meant: no larger budget would help
    """
    refusing = [one for one in budgets if one.refuses_unpriced and not one.tag and not one.run]
    if not refusing:
        return
    missing = [model for model in models if not table.has_price(model, day)]
    if not missing:
        return
    told = ", ".join(model + _meant(model) for model in missing[:MOST_TOLD])
    more = f", and {len(missing) - MOST_TOLD:,} more models" if len(missing) > MOST_TOLD else ""
    raise ConfigError(
        f"{where}: no price is known for {told}{more}, and budget {refusing[0]} refuses what could cost anything. "
        "Correct the model, give its price with --prices FILE, or let it pass with unpriced:allow in --budget; "
        "nothing was sent"
    )


def _meant(model: str) -> str:
    near = [] if resolve(model) else near_names(model)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _has_limits(limiter: Limiter, model: str) -> bool:
    try:
        limiter.gate(model)
    except (ConfigError, NotOffered):
        return False
    return True


def _known_in(tables: TierTable, model: str) -> str:
    """Say in which tiers a model has limits."""
    card = resolve(model)
    found = []
    for tier in dict.fromkeys(name for scheme in tables.schemes for name in scheme.tiers):
        try:
            tables.limits(card.model if card else model, tier)
        except (ConfigError, NotOffered):
            continue
        found.append(tier)
    return f"only in {', '.join(found)}" if found else "in no tier of the table"
