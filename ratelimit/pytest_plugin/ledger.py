"""A test's ledger, and what its marks allow: told before the next call, and when the test has ended.

A mark's `max_usd` is checked against what has been spent, so that it says what people mean by it: the largest reply
that a request allows costs a hundred times what the usual one does. Who wants a promise takes `block=True`: the mark
is then a budget, and no call is sent that could cost more than it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from pricing.budget import Budget
from pricing.entries import Entry
from pricing.errors import ConfigError, OverBudget
from pricing.gate.booked import groups_of, together
from pricing.gate.metrics import USD, percent, read_amount, shown
from pricing.gate.report import Group
from pricing.ledger import Ledger
from pricing.money import Usd

TAG = "test"
"""The tag that names the test, on every entry but those of clients that have a tag of that name."""
_ENDED = ("posted", "expired")


class Cap(NamedTuple):
    """What a mark allows.

    largest   Usd; None for any amount
    tokens    read and written; None for any number
    unpriced  whether calls without a price may pass
    block     whether a call that could cost more is not sent
    """

    largest: Usd | None
    tokens: int | None
    unpriced: bool
    block: bool

    @property
    def budget(self) -> Budget | None:
        """The budget of a mark that blocks."""
        if not self.block or self.largest is None:
            return None
        return Budget(self.largest, unpriced="allow" if self.unpriced else "refuse", thresholds=())

    def broken(self, spent: Group) -> list[str]:
        """Say what of it is not so: each in a sentence."""
        said = []
        if self.largest is not None and spent.expected > self.largest.pico:
            over = percent(spent.expected - self.largest.pico, self.largest.pico)
            said.append(f"{_exact(spent.expected)} spent, max_usd is {self.largest}" + (f" ({over})" if over else ""))
        tokens = spent.input + spent.output.expected
        if self.tokens is not None and tokens > self.tokens:
            said.append(f"{tokens:,} tokens used, max_tokens is {self.tokens:,}")
        if not self.unpriced and spent.without_price:
            reasons = "; ".join(f"{count:,} × {reason}" for reason, count in sorted(spent.unpriced.items()))
            said.append(f'calls without a price ({reasons}): they may cost anything; unpriced="allow" lets them pass')
        return said


def _exact(pico: int) -> str:
    """An amount, and all of its decimals where printing it for people would round them away."""
    text = shown(pico, USD)
    return text if Usd.parse(text).pico == pico else f"${Usd(pico)}"


def read_cap(arguments: tuple[Any, ...], given: Mapping[str, Any]) -> Cap:
    """Read what stands in the parentheses of `@pytest.mark.cost(…)`.

    Raises  ConfigError
    """
    known = ("max_usd", "max_tokens", "unpriced", "block")
    if arguments:
        raise ConfigError(f'each thing is said by name, such as max_usd="0.05", not {arguments[0]!r}')
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{unknown[0]} is unknown; there are {', '.join(known)}")
    if given.get("max_usd") is None and given.get("max_tokens") is None:
        raise ConfigError('says what a test may cost: max_usd="0.05", max_tokens=5_000 or both')
    largest, tokens = _amount(given.get("max_usd")), given.get("max_tokens")
    if tokens is not None and (type(tokens) is not int or tokens < 0):
        raise ConfigError(f"max_tokens is a whole number of tokens, not {tokens!r}")
    unpriced = given.get("unpriced", "allow" if largest is None else "fail")
    if unpriced not in ("fail", "allow"):
        raise ConfigError(f'unpriced is "fail" or "allow", not {unpriced!r}')
    block = given.get("block", False)
    if not isinstance(block, bool):
        raise ConfigError(f"block is True or False, not {block!r}")
    if block and not largest:
        raise ConfigError("block=True needs a max_usd above 0: money can be held before a call is sent, tokens cannot")
    return Cap(largest, tokens, unpriced == "allow", block)


def _amount(given: Any) -> Usd | None:
    if given is None:
        return None
    if isinstance(given, bool | float):
        raise ConfigError(f'max_usd is never a {type(given).__name__}: write it as text, max_usd="{given}"')
    if not isinstance(given, str | int | Decimal):
        raise ConfigError(f'max_usd is a text such as "0.05", a whole number or a Decimal, not {given!r}')
    try:
        amount = Usd(read_amount(given, USD)) if isinstance(given, str) else Usd.parse(given)
    except ConfigError as error:
        raise ConfigError(f"max_usd: {error}") from None
    if amount < Usd.ZERO:
        raise ConfigError(f"max_usd is nothing below 0, not {given!r}")
    return amount


class CostLedger(Ledger):
    """What the calls of one test cost, in memory.

    name  the test's id: the `run` of its entries and their tag "test", unless the program names others
    caps  what its marks allow

    A call raises OverBudget, unsent, when what was spent before is more than they do.
    """

    def __init__(self, name: str, caps: Iterable[Cap] = ()) -> None:
        super().__init__()
        self.name = name
        self.caps = tuple(caps)
        self.budgets = tuple(cap.budget for cap in self.caps if cap.budget is not None)

    def pend(self, **call: Any) -> int:
        """Write the pending entry of a call about to be sent. Raises OverBudget as well when a mark is broken."""
        if broken := self.broken(ended=True):
            raise OverBudget(f"this call was not sent, for the test has broken @pytest.mark.cost: {'; '.join(broken)}")
        call["tags"] = {TAG: self.name, **(call.get("tags") or {})}
        call["run"] = call.get("run") or self.name
        try:
            return super().pend(**call)
        except OverBudget as error:
            if error.budget in self.budgets:
                error.args = (f"@pytest.mark.cost(max_usd=…, block=True): {error}",)
            raise

    def spent(self, *, ended: bool = False) -> Group:
        """What was booked so far; `ended`: without the calls in the air."""
        entries = (entry for entry in self.entries() if not ended or entry.state in _ENDED)
        return spent_by(self.name, entries)

    def broken(self, *, ended: bool = False) -> list[str]:
        """Say what the marks do not allow."""
        if not self.caps:
            return []
        spent = self.spent(ended=ended)
        return list(dict.fromkeys(reason for cap in self.caps for reason in cap.broken(spent)))


def spent_by(name: str, entries: Iterable[Entry]) -> Group:
    """One group of entries, which may be none."""
    return together(groups_of(entries, lambda _: name, kind="tests"), name, "tests")
