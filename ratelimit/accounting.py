"""The cost side of the middleware: a pending entry before the send, a posted one when the price is known.

Stands alone (CostTransport) or beside the limiter. Never stores a prompt, a key or a reply: numbers, names and ids
only.

A budget is a promise, so what it counts of a reply is never less than what may have been spent. Before the send it
holds the worst case, at the dearest service tier that may serve the call. A reply that ends without a usage is charged
what was seen of it; where more may have been produced unseen (hidden reasoning, or nothing was seen), it is charged its
worst case under a budget, and without one what such calls cost on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from pricing.budget import US_PER_S, Budget
from pricing.context import TAGS
from pricing.cost import Cost, Unpriced, cost
from pricing.estimate import Estimate, asked_tier, dearest_input, effort_of, estimate, most, reasons
from pricing.learned import RECALLED, Learned
from pricing.ledger import Entry, Ledger
from pricing.media import SPEECH, characters_of, images_of, is_media
from pricing.money import Usd
from pricing.prices import PriceTable, load_prices
from pricing.tokens import count_tokens
from pricing.tools import unseen_calls
from pricing.usage import Usage, usage_of_work, with_tools

from .context import CURRENT
from .errors import OverBudget, RatecardWarning
from .events import guarded
from .reply import RUNNING, Outcome, Trail

if TYPE_CHECKING:
    from .call import Call


_UNDECIDED = (None, "", "auto")
"""Service tiers that leave the choice to the project's setting, which may be priority."""
_DEAREST = "priority"
_UNWORKED = ("failed", "cancelled")
"""Responses that may have ended before the model read anything: their zeros are believed."""


class Accountant:
    """Turns calls and outcomes into ledger entries.

    ledger   where entries go
    budgets  caps checked, and held, before each send (worst case of the call), on top of the ledger's own
    tags     attached to every entry, below the tags of the context
    prices   the price table; the shipped one unless told
    at       day whose prices apply; the day of the call (UTC) unless told
    region   the region that processes the calls; the one of the host they are sent to, unless told
    ask_usage  whether Chat streams are asked for their usage where their caller did not
    untold   warnings that could not be given with a reply because they are errors; the next call raises them
    """

    __slots__ = (
        "_at", "_binding", "_budgets", "_learned", "_prices", "_region", "_tags", "asks_usage", "ledger", "untold",
    )  # fmt: skip

    def __init__(
        self,
        ledger: Ledger,
        *,
        budgets: Iterable[Budget] = (),
        tags: Mapping[str, str] | None = None,
        prices: PriceTable | None = None,
        at: date | None = None,
        ask_usage: bool = True,
        region: str | None = None,
    ) -> None:
        self.ledger = ledger
        self._region = region
        self.asks_usage = ask_usage
        self._learned: Learned | None = None
        self._budgets = (*budgets, *ledger.budgets)
        self._binding = any(budget.action != "warn" for budget in self._budgets)
        self._tags = dict(tags or {})
        self._prices = prices or load_prices()
        self._at = at
        self.untold: list[RatecardWarning] = []

    def estimate(self, call: Call) -> Estimate:
        """Estimate a call. Done before it waits for admission: nothing slow may stand between admission and send."""
        if self._learned is None:
            self._learned = Learned(reversed(self.ledger.latest(RECALLED)))
        return estimate(
            call.body,
            endpoint=call.endpoint,
            model=call.model,
            input_count=call.count,
            at=self._day(),
            prices=self._prices,
            region=self._region_of(call),
            prior=self._learned.foresee(call.model, effort_of(call.body), self._tagged()),
        )

    def open(self, call: Call, guess: Estimate, attempt: int, waited_us: int | None) -> int:
        """Write the pending entry of a call about to be sent. Raises OverBudget: not sent, nothing written."""
        if self.untold:
            raise self.untold.pop()
        context = CURRENT.get()
        priced = guess.cost
        try:
            return self.ledger.pend(
                model=call.model,
                endpoint=call.endpoint,
                estimate=None if isinstance(priced, Unpriced) else priced.mean,
                worst=self._worst(call, guess),
                tags=self._tagged(),
                service_tier=asked_tier(call.body),
                custom_id=context.custom_id,
                run=context.run,
                budgets=self._budgets,
                effort=effort_of(call.body),
                attempt=attempt,
                wait_us=waited_us,
                expected={
                    "input_tokens": guess.input.tokens,
                    "output_tokens": guess.output_mean,
                    "output_p50": guess.output_p50,
                    "output_p95": guess.output_p95,
                },
            )
        except OverBudget as error:
            if isinstance(priced, Unpriced):
                error.args = (f"{error}: {priced.reason}",)
            raise

    def failed(self, entry: int, error: BaseException, not_sent: bool, latency_us: int | None) -> None:
        """End an entry whose request got no response."""
        name = type(error).__name__
        if not_sent:
            self.ledger.void(entry, f"{name}: not sent")
        else:
            why = f"{name}: sent, and nobody knows whether it was billed; counted at its estimate"
            self.ledger.expire(entry, why, latency_us=latency_us)

    def close(self, entry: int, call: Call, guess: Estimate, outcome: Outcome, trail: Trail) -> None:
        """End (or, for a background response, identify) the entry of a call that got a response."""
        if not 200 <= outcome.status < 300:
            self.ledger.void(entry, f"HTTP {outcome.status}: not billed", **trail._asdict())
            return
        background = call.body.get("background") is True  # only such a response goes on after its reply has ended
        if background and outcome.state in RUNNING and outcome.usage is None and outcome.response_id:
            self.ledger.attach(entry, outcome.response_id)
            return
        usage = _used(call, outcome)
        exact, why = usage is not None, ""
        if usage is None:
            usage, why = self._reckon(call, guess, outcome)
            if usage is None and is_media(call.endpoint) and isinstance(guess.cost, Unpriced):
                why = why.partition(";")[0]  # there is no estimate that it could be counted at
                self.ledger.post(entry, usage=None, cost=guess.cost, exact=False, why=why, **trail._asdict())
                return
            if usage is None:
                self.ledger.expire(entry, why, outcome.response_id, **trail._asdict())
                return
        asked = asked_tier(call.body)
        tier = _tier(outcome.service_tier, asked)
        model = outcome.model or call.model
        price = self._price(call, usage, model, tier, self._day())
        if not exact and self._binding and outcome.service_tier in _UNDECIDED and asked in _UNDECIDED:
            dearest = self._price(call, usage, model, _DEAREST, self._day())
            if isinstance(price, Cost) and isinstance(dearest, Cost) and dearest.total > price.total:
                tier, price = _DEAREST, dearest
        posted = self.ledger.post(
            entry,
            response_id=outcome.response_id,
            usage=usage,
            cost=price,
            model=outcome.model,
            service_tier=tier,
            exact=exact,
            why=why,
            **trail._asdict(),
        )
        if exact and self._learned is not None:
            self._learned.add(call.model, effort_of(call.body), self._tagged(), usage.total_output)
        self._tell(posted, price)

    def polled(self, call: Call, outcome: Outcome) -> None:
        """Post what a poll of a background response has to tell, once, at the prices of the day of its call."""
        if outcome.status == 404:
            self.ledger.expire_response(
                call.response_id, "the server has this response no more; counted at its estimate"
            )
            return
        if not 200 <= outcome.status < 300:
            return
        if call.deletes:
            self.ledger.expire_response(call.response_id, "deleted before its usage was known; counted at its estimate")
            return
        if not outcome.response_id or outcome.state in RUNNING:
            return
        usage = _used(call, outcome)
        if usage is None:
            if outcome.state and outcome.complete:
                self.ledger.expire_response(outcome.response_id, f"{outcome.state}, without a usage that can be read")
            return
        entry = self.ledger.find(outcome.response_id)
        tier = _tier(outcome.service_tier, None if entry is None else entry.service_tier)
        day = self._day() if entry is None or self._at is not None else _day_of(entry)
        price = self._price(call, usage, outcome.model or ("" if entry is None else entry.model), tier, day)
        posted = self.ledger.post_response(
            outcome.response_id,
            endpoint=call.endpoint,
            usage=usage,
            cost=price,
            model=outcome.model or "",
            service_tier=tier,
        )
        self._tell(posted, price)

    def _reckon(self, call: Call, guess: Estimate, outcome: Outcome) -> tuple[Usage | None, str]:
        """Reckon what a reply without a usage took, and say how; None where nothing but the estimate is known.

        What was seen is counted: the text, what was refused or passed to tools, or the server's own running count.
        Hidden reasoning is not seen: the output is then at least the mean of such calls, and under a budget the
        largest that the request allows, for a mean is less than what every other call has spent. The same holds under
        a budget where nothing at all was seen. Input that is not known exactly (an image by its address, what an
        earlier response holds) is the most that it may be under a budget, and tools are called as often as was held.
        """
        if is_media(call.endpoint):
            return self._reckon_media(call, outcome)
        running = usage_of_work(outcome.usage)
        model = outcome.model or call.model
        seen = count_tokens(outcome.text, model) if outcome.text else 0
        read = call.count.tokens
        if running is not None:
            seen, read = max(seen, running.total_output), running.total_input
        if outcome.usage is not None and running is None:
            zeros = Usage.from_response(outcome.usage) is not None
            what = "the reply's usage is all zeros" if zeros else "the reply's usage is unreadable"
        elif seen:
            what = f"the stream {'carried no usage' if outcome.complete else 'was cut before its usage'}"
        else:
            what = "the reply carried no usage"
        hides = reasons(model) or reasons(call.model)
        heard = _speaks(call)
        calls: dict[str, Any] = {} if outcome.tools is None else outcome.tools[0]
        kind = "input"
        if self._binding:
            calls = unseen_calls(call.body, model, self._day(), self._prices, calls)
            row = self._prices.lookup(model, asked_tier(call.body), self._day())
            if row is not None and running is None and not guess.input.exact:
                kind, read = dearest_input(row, call.body), max(read, guess.input.high)
        counts: dict[str, Any]
        if self._binding and (hides or heard or not seen):
            output = max(seen, guess.output_worst)
            kind = "input" if row is None else dearest_input(row, call.body)
            told = {"output_audio_tokens": output} if heard else {"reasoning_tokens": output - seen}
            counts = {"output_tokens": 0 if heard else seen, **told, **calls}
            counts[f"{kind}_tokens"] = max(read, guess.input.high)
            why = f"{what}: charged at its worst case, for under a budget nothing may be spent uncounted"
            return Usage(**counts), why
        if not seen:
            return None, f"{what}; counted at its estimate"
        if hides:
            hidden = max(0, guess.output_mean - seen)
            usage = Usage(read, output_tokens=seen, reasoning_tokens=hidden, **calls)
            return usage, f"{what}: counted from its text, and its hidden reasoning at the mean of such calls"
        counts = {f"{kind}_tokens": read, "output_tokens": seen, **calls}
        return Usage(**counts), f"{what}: counted from its text"

    def _reckon_media(self, call: Call, outcome: Outcome) -> tuple[Usage | None, str]:
        """Reckon a reply of images or audio without a usage, where its length, or that of its request, is its price."""
        row = self._prices.lookup(call.model, None, self._day())
        if row is not None and call.endpoint == SPEECH and outcome.complete:
            characters = characters_of(call.body, row)
            if characters is not None:
                usage = Usage(characters=characters)
                return usage, "the reply carried no usage: counted from the characters that it speaks"
        if row is not None and "audio_us" in row.per_unit and outcome.duration is not None:
            # Recorded usages are whole seconds: 8.47 s of audio were billed as 9.
            whole = Usage.from_response({"type": "duration", "seconds": outcome.duration})
            if whole is not None:
                usage = Usage(audio_us=-(-whole.extra.get("audio_us", 0) // US_PER_S) * US_PER_S)
                return usage, "the reply carried no usage: counted from the duration that it states, in whole seconds"
        return None, "the reply carried no usage; counted at its estimate"

    def _worst(self, call: Call, guess: Estimate) -> Usd | None:
        """The most a call may cost: what budgets hold.

        A request that names no service tier, or "auto", runs in the project's default one, and nobody here knows that
        setting: where priority has a price for the model, it is held. service_tier="default" makes the hold smaller.
        """
        priced = guess.cost
        if isinstance(priced, Unpriced):
            return None
        if asked_tier(call.body) in _UNDECIDED:
            row = self._prices.lookup(call.model, _DEAREST, self._day())
            dearest = None
            if row is not None:
                dearest = most(
                    row, call.body, guess.input, guess.output_worst,
                    at=self._day(), prices=self._prices, region=self._region_of(call),
                )  # fmt: skip
            if isinstance(dearest, Usd):
                return max(dearest, priced.worst)
        return priced.worst

    def _price(self, call: Call, usage: Usage, model: str, tier: str | None, day: date) -> Cost | Unpriced:
        region = self._region_of(call)
        return cost(usage, model=model, service_tier=tier, at=day, prices=self._prices, region=region)

    def _region_of(self, call: Call) -> str | None:
        return self._region or self._prices.region_of(call.host)

    def _tell(self, posted: bool, price: Cost | Unpriced) -> None:
        on_cost = CURRENT.get().on_cost
        if posted and on_cost is not None:
            guarded("on_cost", on_cost, price)

    def _tagged(self) -> Mapping[str, str]:
        tags = TAGS.get()
        return {**self._tags, **tags} if tags else self._tags

    def _day(self) -> date:
        return self._at or datetime.now(UTC).date()


def _used(call: Call, outcome: Outcome) -> Usage | None:
    """The usage of a whole reply, and what its hosted tools are billed for; None when nobody knows."""
    if not outcome.complete and call.endpoint.startswith("/v1/images/") and images_of(call.body) > 1:
        return None  # each image of a stream tells its own, and the last may not have come
    read = Usage.from_response if outcome.state in _UNWORKED else usage_of_work
    usage = read(outcome.usage) if outcome.final else None
    if usage is not None and call.endpoint == SPEECH:  # what it has made is sound, though it does not say so
        counts = usage.as_dict()
        counts["output_audio_tokens"] = counts.get("output_audio_tokens", 0) + counts["output_tokens"]
        counts["output_tokens"] = 0
        usage = Usage(**counts, notes=usage.notes)
    if usage is None or outcome.tools is None:
        return usage
    return with_tools(usage, *outcome.tools)


def _speaks(call: Call) -> bool:
    """Say whether a chat is answered in sound, of which no text tells how much there was."""
    modalities = call.body.get("modalities")
    return isinstance(modalities, list) and "audio" in modalities


def _tier(served: str | None, asked: str | None) -> str | None:
    """Name the service tier to price: the one served; where the reply names none, the one asked for.

    A discounted completion window is processed as standard, and the reply says so; what it asked for is what it costs.
    """
    if asked is not None and asked.startswith("window_") and served in (*_UNDECIDED, "default", "standard"):
        return asked
    tier = served or asked
    return "default" if tier == "auto" else tier


def _day_of(entry: Entry) -> date:
    return datetime.fromtimestamp(entry.created_us // US_PER_S, UTC).date()
