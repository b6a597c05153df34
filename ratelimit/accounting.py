"""The cost side of the middleware: a pending entry before the send, a posted one when the price is known.

Stands alone (CostTransport) or beside the limiter. Never stores a prompt, a key or a reply: numbers, names and ids
only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from pricing.budget import Budget
from pricing.cost import Cost, Unpriced, cost
from pricing.estimate import Estimate, estimate
from pricing.ledger import Ledger
from pricing.prices import PriceTable, load_prices
from pricing.tokens import count_tokens
from pricing.usage import Usage

from .context import CURRENT
from .reply import RUNNING, Outcome

if TYPE_CHECKING:
    from .exchange import Call


class Accountant:
    """Turns calls and outcomes into ledger entries.

    ledger   where entries go
    budgets  caps checked, and held, before each send (worst case of the call)
    tags     attached to every entry, below the tags of the context
    prices   the price table; the shipped one unless told
    at       day whose prices apply; today (UTC) unless told
    """

    __slots__ = ("_at", "_budgets", "_prices", "_tags", "ledger")

    def __init__(
        self,
        ledger: Ledger,
        *,
        budgets: Iterable[Budget] = (),
        tags: Mapping[str, str] | None = None,
        prices: PriceTable | None = None,
        at: date | None = None,
    ) -> None:
        self.ledger = ledger
        self._budgets = tuple(budgets)
        self._tags = dict(tags or {})
        self._prices = prices or load_prices()
        self._at = at

    def estimate(self, call: Call) -> Estimate:
        """Estimate a call. Done before it waits for admission: nothing slow may stand between admission and send."""
        return estimate(call.body, endpoint=call.endpoint, input_count=call.count, at=self._day(), prices=self._prices)

    def open(self, call: Call, guess: Estimate) -> int:
        """Write the pending entry of a call about to be sent. Raises OverBudget: not sent, nothing written."""
        context = CURRENT.get()
        tier = call.body.get("service_tier")
        priced = guess.cost
        return self.ledger.pend(
            model=call.model,
            endpoint=call.endpoint,
            estimate=None if isinstance(priced, Unpriced) else priced.mean,
            worst=None if isinstance(priced, Unpriced) else priced.worst,
            tags={**self._tags, **context.tags} if context.tags else self._tags,
            service_tier=tier if isinstance(tier, str) else None,
            custom_id=context.custom_id,
            run=context.run,
            budgets=self._budgets,
        )

    def failed(self, entry: int, error: BaseException, not_sent: bool) -> None:
        """End an entry whose request got no response."""
        name = type(error).__name__
        if not_sent:
            self.ledger.void(entry, f"{name}: not sent")
        else:
            self.ledger.expire(entry, f"{name}: sent, and nobody knows whether it was billed; counted at its estimate")

    def close(self, entry: int, call: Call, outcome: Outcome) -> None:
        """End (or, for a background response, identify) the entry of a call that got a response."""
        if outcome.status >= 400:
            self.ledger.void(entry, f"HTTP {outcome.status}: not billed")
            return
        background = call.body.get("background") is True  # only such a response goes on after its reply has ended
        if background and outcome.state in RUNNING and outcome.usage is None and outcome.response_id:
            self.ledger.attach(entry, outcome.response_id)
            return
        usage, exact, why = self._usage(call, outcome)
        if usage is None:
            self.ledger.expire(entry, why, outcome.response_id)
            return
        price = self._price(usage, outcome.model or call.model, outcome)
        posted = self.ledger.post(
            entry,
            response_id=outcome.response_id,
            usage=usage,
            cost=price,
            model=outcome.model,
            service_tier=outcome.service_tier,
            exact=exact,
            why=why,
        )
        self._tell(posted, price)

    def polled(self, call: Call, outcome: Outcome) -> None:
        """Post what a poll of a background response has to tell, once."""
        if outcome.status >= 400 or not outcome.response_id or outcome.state in RUNNING:
            return
        usage = None if outcome.usage is None else Usage.from_response(outcome.usage)
        if usage is None:
            if outcome.state and outcome.complete:
                self.ledger.expire_response(outcome.response_id, f"{outcome.state}, without a usage")
            return
        price = self._price(usage, outcome.model or "", outcome)
        posted = self.ledger.post_response(
            outcome.response_id,
            endpoint=call.endpoint,
            usage=usage,
            cost=price,
            model=outcome.model or "",
            service_tier=outcome.service_tier,
        )
        self._tell(posted, price)

    def _usage(self, call: Call, outcome: Outcome) -> tuple[Usage | None, bool, str]:
        """Find the usage of a reply: its own, else one counted from a stream's text, else none and why."""
        if outcome.usage is not None:
            usage = Usage.from_response(outcome.usage)
            if usage is not None:
                return usage, True, ""
            return None, False, "the reply's usage is unreadable"
        if outcome.text:
            output = count_tokens(outcome.text, outcome.model or call.model)
            why = "the stream carried no usage" if outcome.complete else "the stream was cut before its usage"
            usage = Usage(input_tokens=call.count.tokens, output_tokens=output)
            return usage, False, f"{why}: counted from its text"
        return None, False, "the reply carried no usage; counted at its estimate"

    def _price(self, usage: Usage, model: str, outcome: Outcome) -> Cost | Unpriced:
        return cost(usage, model=model, service_tier=outcome.service_tier, at=self._day(), prices=self._prices)

    def _tell(self, posted: bool, price: Cost | Unpriced) -> None:
        on_cost = CURRENT.get().on_cost
        if posted and on_cost is not None:
            on_cost(price)

    def _day(self) -> date:
        return self._at or datetime.now(UTC).date()
