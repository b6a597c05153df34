"""Batches: every line is booked when its batch is submitted, and trued up by the usage of its own reply.

A line is known by the batch's id, which its entry has as `run`, and by its custom_id. So booking a batch again books
nothing, and settling is done with whatever files there are, as often as one likes: in parts, in any order, and again
after a crash. What is in no file yet stays pending.

Lines are mappings, as the JSON of a batch's files has them; nothing of a prompt or a reply is kept but its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import chain, islice
from typing import Any, NamedTuple

from ._ledger_closing import posting, text_of, told
from .budget import US_PER_S, Budget
from .context import TAGS
from .cost import Cost, Unpriced, cost
from .entries import Closing, Entry
from .errors import ConfigError, OverBudget
from .estimate import effort_of, estimate
from .learned import RECALLED, Learned
from .ledger import Ledger
from .money import Usd
from .prices import PriceTable, load_prices
from .totals import Totals, fold
from .usage import Usage, usage_of_work

CHUNK = 1_000
"""Lines settled in one transaction: others wait no longer than these take."""
UNBOOKED = "no booking of this line was found"
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Booked(NamedTuple):
    """What `book` did.

    lines            of the batch, those that had been booked before included
    booked           entries written now
    unpriced         of these, those without a price
    estimate, worst  of these, what the priced ones are expected to cost, and the most they can
    """

    lines: int
    booked: int
    unpriced: int
    estimate: Usd
    worst: Usd


class Refused(NamedTuple):
    """A line of a file that tells of no request's end: which one (of those given, from 1), and why."""

    file: str
    position: int
    reason: str


class Mismatch(NamedTuple):
    """A count that the batch's own usage states differently."""

    name: str
    ours: int
    theirs: int


class Settled(NamedTuple):
    """What `settle` did, and how the batch stands.

    posted      lines that ended now with a usage
    voided      lines that ended now as not billed
    expired     lines that ended now, served without a usage that can be read
    unchanged   lines that changed nothing: their end was known before, another entry has billed their response, or they
                failed and had no booking
    unbooked    custom_ids without a booking; what they cost was posted all the same
    refused     lines that tell of no request's end
    totals      the sums of the whole batch as the ledger has it now: what is pending waits for its line
    mismatches  with usage=: counts in which the batch's own sum differs from that of its posted lines
    """

    posted: int
    voided: int
    expired: int
    unchanged: int
    unbooked: tuple[str, ...]
    refused: tuple[Refused, ...]
    totals: Totals
    mismatches: tuple[Mismatch, ...]


def book(
    ledger: Ledger,
    lines: Iterable[Mapping[str, Any]],
    *,
    batch_id: str,
    at: date | None = None,
    tags: Mapping[str, str] | None = None,
    prices: PriceTable | None = None,
    region: str | None = None,
    budgets: Iterable[Budget] = (),
) -> Booked:
    """Write a pending entry for each line of a batch about to be submitted: all of them, in one transaction, or none.

    lines     of its input file: custom_id, url and body
    batch_id  the batch's id, or any name by which it is settled later
    at        the day, or the instant (UTC where it names no zone), of the booking: prices are those of that day; now
              unless told
    tags      below the tags of the context
    budgets   each has to have room for the worst case of all lines together

    Raises  ConfigError when a line is none, or a custom_id stands twice; OverBudget: nothing is written in any case
    """
    run = _checked_id(batch_id)
    created_us = ledger.now_us() if at is None else _instant_us(at)
    table, day = prices or load_prices(), _day_of(created_us)
    learned = Learned(reversed(ledger.latest(RECALLED)))
    tagged = {**(tags or {}), **TAGS.get()}
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for chunk in _chunks(enumerate(lines, 1)):
        named = [(number, *_input(number, line)) for number, line in chunk]
        known = ledger.booked_lines(run, [name for _, name, _, _ in named])
        for number, name, endpoint, body in named:
            if seen.setdefault(name, number) != number:
                raise ConfigError(f"line {number}: custom_id {name!r} was used on line {seen[name]} already")
            if name in known:
                continue
            try:
                guess = estimate(
                    body, endpoint=endpoint, batch=True, at=day, prices=table, region=region,
                    prior=learned.foresee(str(body.get("model")), effort_of(body), tagged),
                )  # fmt: skip
            except ConfigError as error:
                raise ConfigError(f"line {number}: {error}") from error
            priced = None if isinstance(guess.cost, Unpriced) else guess.cost
            entries.append(
                _fresh(run, name, told(guess.model), told(endpoint), created_us)._replace(
                    tags=tagged,
                    estimate=None if priced is None else priced.mean,
                    worst=None if priced is None else priced.worst,
                    asked_model=told(guess.model),
                    asked_tier="batch",
                    effort=told(effort_of(body)),
                    expected={
                        "input_tokens": guess.input.tokens,
                        "output_tokens": guess.output_mean,
                        "output_p50": guess.output_p50,
                        "output_p95": guess.output_p95,
                    },
                )
            )
    try:
        written = len(ledger.book_lines(entries, budgets)) if entries else 0
    except OverBudget as error:
        error.args = (f"batch {batch_id} ({len(entries):,} lines) is not booked: {error}",)
        raise
    worst, likely = (_sum(one.worst for one in entries), _sum(one.estimate for one in entries))
    return Booked(len(seen), written, sum(one.worst is None for one in entries), likely, worst)


def settle(
    ledger: Ledger,
    batch_id: str,
    output_lines: Iterable[Any],
    error_lines: Iterable[Any] = (),
    *,
    usage: Mapping[str, Any] | None = None,
    prices: PriceTable | None = None,
    region: str | None = None,
) -> Settled:
    """End the entries of a batch by the lines of its files: each at the batch price of the day of its booking.

    output_lines, error_lines  of the files that the API gave, as far as they are there
    usage                      the batch's own sum (Batch.usage), to be compared with that of its lines

    A line with a usage is posted, whatever its status; one that failed without a usage was not billed, and is voided;
    one that was served without a usage is expired: it counts at its estimate. A line without a booking is posted at the
    prices of the day its reply states (`created`), today's where it states none. A bill is final, and stands against
    any failure that another line tells of the same request.

    Raises  ConfigError without an id
    """
    run = _checked_id(batch_id)
    table = prices or load_prices()
    counts = {"posted": 0, "voided": 0, "expired": 0, "unchanged": 0}
    unbooked: dict[str, None] = {}
    refused: list[Refused] = []
    files = (("output", output_lines), ("errors", error_lines))
    numbered = chain.from_iterable(((file, *pair) for pair in enumerate(lines, 1)) for file, lines in files)
    for chunk in _chunks(numbered):
        replies = []
        for file, position, line in chunk:
            reply = _read(line)
            if isinstance(reply, str):
                refused.append(Refused(file, position, reply))
            else:
                replies.append(reply)
        booked = ledger.booked_lines(run, [reply.custom_id for reply in replies])
        unbooked.update((reply.custom_id, None) for reply in replies if reply.custom_id not in booked)
        news = [_news(reply, booked.get(reply.custom_id), run, ledger.now_us(), table, region) for reply in replies]
        for (_, closing), changed in zip(news, ledger.settle_lines(news), strict=True):
            counts[closing.state if changed else "unchanged"] += 1
    totals, used = _standing(ledger, run)
    return Settled(
        **counts,
        unbooked=tuple(unbooked),
        refused=tuple(refused),
        totals=totals,
        mismatches=() if usage is None else tuple(_compare(used, usage)),
    )


class _Reply(NamedTuple):
    """A line of an output or error file, read.

    failed  it says that its request was not served; where it says nothing that can be read, it may have been
    status  of HTTP; None when there was no response, or none can be read
    code    the server's name of the error; "" when there is none
    """

    custom_id: str
    failed: bool
    status: int | None
    body: Mapping[str, Any]
    usage: Usage | None
    request_id: str | None
    code: str


def _read(line: Any) -> _Reply | str:
    """Read a line of a batch's files, or say what is wrong with it."""
    if not isinstance(line, Mapping):
        return "no JSON object"
    name, response, error = line.get("custom_id"), line.get("response"), line.get("error")
    if not isinstance(name, str) or not name:
        return "it has no custom_id"
    if not isinstance(response, Mapping):
        if not isinstance(error, Mapping):
            return f"custom_id {name!r}: neither a response nor an error"
        response = {}
    body = response.get("body")
    body = body if isinstance(body, Mapping) else {}
    status = response.get("status_code")
    status = status if type(status) is int else None
    inner = error if isinstance(error, Mapping) else body.get("error")
    code = inner.get("code") if isinstance(inner, Mapping) else None
    return _Reply(
        told(name),
        isinstance(error, Mapping) if status is None else not 200 <= status < 300,
        status,
        body,
        Usage.from_reply(body) if usage_of_work(body.get("usage")) is not None else None,
        _text(response.get("request_id")),
        code if isinstance(code, str) and _CODE.fullmatch(code) else "",
    )


def _news(
    reply: _Reply, booked: Entry | None, run: str, now_us: int, prices: PriceTable, region: str | None
) -> tuple[Entry, Closing]:
    """How a line's entry ends, and the entry it gets where it has none that is still open."""
    model = _text(reply.body.get("model")) or ("" if booked is None else booked.model)
    created_us = _created_us(reply.body, now_us) if booked is None else booked.created_us
    fresh = _fresh(run, reply.custom_id, told(model), "" if booked is None else booked.endpoint, created_us)
    if booked is not None:  # it was voided, and its bill came after all
        fresh = fresh._replace(tags=booked.tags, asked_model=booked.asked_model, asked_tier=booked.asked_tier)
    why = UNBOOKED if booked is None else ""
    if reply.usage is not None:
        price = cost(reply.usage, model=model, batch=True, at=_day_of(created_us), prices=prices, region=region)
        return fresh, _posting(reply, now_us, price, model, why)
    if reply.failed:
        what = " ".join(filter(None, ("" if reply.status is None else f"HTTP {reply.status}", reply.code))) or "failed"
        return fresh, Closing("voided", now_us, why=f"{what}: not billed", request_id=text_of(reply.request_id))
    what = "the reply carried no usage that can be read; counted at its estimate"
    return fresh, Closing(
        "expired", now_us, text_of(_text(reply.body.get("id"))), exact=False, why=f"{what}; {why}" if why else what,
        request_id=text_of(reply.request_id),
    )  # fmt: skip


def _posting(reply: _Reply, now_us: int, price: Cost | Unpriced, model: str, why: str) -> Closing:
    response_id = _text(reply.body.get("id"))
    return posting(now_us, reply.usage, price, response_id, model, "batch", True, why, reply.request_id)


def _fresh(run: str, custom_id: str, model: str, endpoint: str, created_us: int) -> Entry:
    """A pending entry of a line of a batch, of which nothing else is known."""
    return Entry(
        0, "pending", model, endpoint, None, custom_id, run, {}, "batch", True, created_us,
        None, None, None, None, {}, None, None, {}, False, "",
    )  # fmt: skip


def _input(number: int, line: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """The custom_id, endpoint and body of a line of a batch's input file."""
    name, url, body = (line.get(key) for key in ("custom_id", "url", "body"))
    if not isinstance(name, str) or not name or not isinstance(url, str) or not isinstance(body, Mapping):
        raise ConfigError(f"line {number}: a line of a batch has a custom_id, a url and a body")
    return told(name), url, body


def _standing(ledger: Ledger, run: str) -> tuple[Totals, Usage]:
    """The sums of a batch, and the usage of its posted lines together."""
    used: dict[str, Any] = {}

    def lines() -> Iterator[Entry]:
        for entry in ledger.entries(run=run):
            if entry.batch:
                if entry.state == "posted":
                    for name, count in entry.usage.items():
                        used[name] = used.get(name, 0) + count
                yield entry

    return fold(lines()), Usage(**used)


def _compare(ours: Usage, stated: Mapping[str, Any]) -> Iterator[Mismatch]:
    """The counts that a batch's own usage states, and states differently. It counts no cache writes apart."""
    theirs = Usage.from_response(stated)
    if theirs is None:
        raise ConfigError("the batch's own usage states no token counts that can be read")
    pairs = [("input_tokens", ours.total_input, theirs.total_input)]
    pairs.append(("output_tokens", ours.total_output, theirs.total_output))
    if stated.get("input_tokens_details"):
        pairs.append(("cached_tokens", _cached(ours), _cached(theirs)))
    if stated.get("output_tokens_details"):
        pairs.append(("reasoning_tokens", ours.reasoning_tokens, theirs.reasoning_tokens))
    yield from (Mismatch(*pair) for pair in pairs if pair[1] != pair[2])


def _cached(usage: Usage) -> int:
    return sum(count for name, count in usage.as_dict().items() if name.startswith("cached_input_"))


def _chunks(items: Iterable[Any]) -> Iterator[Sequence[Any]]:
    source = iter(items)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _checked_id(batch_id: str) -> str:
    if not isinstance(batch_id, str) or not batch_id:
        raise ConfigError("a batch is known by its id: give batch_id, a text")
    return told(batch_id)


def _created_us(body: Mapping[str, Any], now_us: int) -> int:
    """The instant that a reply states for its own making; now when it states none that can be."""
    for key in ("created", "created_at"):
        stated = body.get(key)
        if isinstance(stated, int | float) and not isinstance(stated, bool) and 0 < stated * US_PER_S <= now_us:
            return int(stated * US_PER_S)
    return now_us


def _instant_us(at: date) -> int:
    moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * US_PER_S


def _day_of(created_us: int) -> date:
    return datetime.fromtimestamp(created_us // US_PER_S, UTC).date()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _sum(amounts: Iterable[Usd | None]) -> Usd:
    return sum((one for one in amounts if one is not None), Usd.ZERO)
