"""The auditor: it sees who asks, who is admitted and what arrives, keeps its own books, and says what was not allowed.

It never asks the product anything while the world runs. What it holds against it:

- a request ends once, for a named reason, and none is admitted after its max_wait;
- first come, first served among those of one class who want of the same limits; where they are counted per window,
  one of the next few may go before the first if that does not delay it;
- nobody waits while everything it wants has room (up to the margin for jitter), and nobody waits longer than its share;
- no more in the air than there are slots; NeverFits exactly where no waiting would help;
- the server refuses nothing where the delays are within the margin, and little where they are not (`judge.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from .meters import Entry
from .server import No, Server, meter_of
from .world import Ask, World

MOST_PASSED = 64
"""So many in front of somebody may be passed by him into room that the first cannot use."""
LATE_US = 10
"""The loop may wake somebody some µs late."""


class Life:
    """What is known of one request: where it stands, since when, and how often it was sent."""

    __slots__ = (
        "admitted_us",
        "ask",
        "asked_us",
        "by_us",
        "entries",
        "file",
        "foreseen_us",
        "not_before_us",
        "outcome",
        "sent",
        "state",
    )

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.state = "unborn"
        self.outcome = ""
        self.asked_us = self.admitted_us = 0
        self.by_us: int | None = None
        self.foreseen_us: int | None = None  # when it was going to be admitted, before somebody passed it
        self.entries: list[tuple[str, int, Entry]] = []  # key, unit, what it took
        self.file: tuple[Any, ...] = ()
        self.sent = self.not_before_us = 0


class Auditor:
    """Watch one world."""

    def __init__(self, world: World, trace: bool = False) -> None:
        self.world = world
        self.server = Server(world)
        self.wrong: list[str] = []
        self.lives = [Life(ask) for ask in sorted(world.asks, key=lambda ask: ask.number)]
        self.trace: list[str] | None = [] if trace else None
        self.start_us = 0
        refusing = {"rival", "lower", "raise", "late", "quota", "slow_down", "too_large", "forward"}
        self.strict = not refusing & world.faults.keys()
        self.clean = self.strict and all(ask.fate != "more" for ask in world.asks)
        self.stepped_us = sum(abs(step) for _, step in world.steps)
        self.books = {
            rule.key: meter_of(
                rule._replace(style="sliding" if rule.style == "fixed" else rule.style), world.ours(rule)
            )
            for rules in world.rules.values()
            for rule in rules
        }
        self.margins = {rule.key: world.margin_of(rule) for rules in world.rules.values() for rule in rules}
        if world.depth != "direct":  # the margin grows with the round trips it sees
            for rules in world.rules.values():
                for rule in rules:
                    if rule.style != "slots":
                        self.margins[rule.key] = max(self.margins[rule.key], min(2_000_000, rule.span_us // 20))
        self.quota_until_us = 0
        self.arrivals = self.noes = self.waited_us = self.flying = self.most_flying = 0
        # Headers are cut to the ms, and a bucket is never thought emptier than they say.
        self.rounding_us = 0 if world.depth == "direct" else 1_000
        self.air: dict[str, int] = defaultdict(int)
        self._files: dict[str, dict[tuple[Any, ...], list[Life]]] = defaultdict(lambda: defaultdict(list))
        self._changed_us: dict[str, int] = defaultdict(int)
        self._charges = 0
        self._largest_us: dict[str, int] = defaultdict(int)  # by class
        kinds = {(ask.model, ask.tokens > 0, ask.images > 0) for ask in world.asks}
        self._kinds = Counter(self._group_of(model) for model, _, _ in kinds)
        for life in self.lives:
            name = life.ask.priority or world.usual
            self._largest_us[name] = max(self._largest_us[name], self.cost_us(life.ask))
        self._bounded = (
            self.clean
            and not world.steps
            and not any(world.leave_ppm(name) for name in world.weights)
            and all(rule.style != "slots" for rules in world.rules.values() for rule in rules)
        )
        self._span_us = max((rule.span_us for rules in world.rules.values() for rule in rules), default=0)

    # what happens

    def asked(self, ask: Ask, now_us: int) -> None:
        """A request wants to be sent (or again, after a 429)."""
        life, group = self.lives[ask.number], self._group(ask)
        if life.state == "done" and self.world.depth != "client":
            self._say(now_us, f"#{ask.number} asks although it has ended as {life.outcome}")
        self._nobody_waits_in_vain(group, now_us)
        life.asked_us = now_us
        life.foreseen_us = None
        life.state = "waiting"
        mask = tuple(bool(self.amounts(ask)[rule.unit]) for rule in self.world.rules[ask.model])
        life.file = (ask.model, ask.priority or self.world.usual, mask)
        self._files[group][life.file].append(life)
        if not self._foresees(group):
            for one in self.lives:
                one.foreseen_us = None
        self._changed_us[group] = now_us
        if self._bounded:
            life.by_us = now_us + self._longest_us(group, life)
        self._note(now_us, "asks", ask, f"{ask.model} {ask.tokens} tokens, {life.file[1]}, max_wait {ask.max_wait_us}")

    def admitted(self, ask: Ask, now_us: int) -> None:
        """It may be sent."""
        life, group, world = self.lives[ask.number], self._group(ask), self.world
        self._note(now_us, "admitted", ask, f"after {now_us - life.asked_us} µs")
        if life.state != "waiting":
            self._say(now_us, f"#{ask.number} is admitted while it is {life.state}")
            return
        self._nobody_waits_in_vain(group, now_us)
        if now_us < self.quota_until_us - self.stepped_us:
            self._say(
                now_us, f"#{ask.number} is sent {self.quota_until_us - now_us} µs before the quota is tried again"
            )
        if now_us < life.not_before_us - self.stepped_us - 1_000:
            self._say(now_us, f"#{ask.number} is sent {life.not_before_us - now_us} µs before the server told it to")
        waited_us = now_us - life.asked_us
        if ask.max_wait_us is not None and waited_us > ask.max_wait_us + LATE_US + self.stepped_us:
            self._say(now_us, f"#{ask.number} is admitted after {waited_us} µs; its max_wait is {ask.max_wait_us}")
        first = self._files[group][life.file][0]
        if life.foreseen_us is not None and now_us > life.foreseen_us:
            self._say(now_us, f"#{ask.number} is admitted {now_us - life.foreseen_us} µs later for those who passed it")
        if self.strict and first is not life:
            place = self._files[group][life.file].index(life)
            if self._foresees(group) and first.foreseen_us is None:
                first.foreseen_us = self._earliest_us(first, now_us) + self._charges + LATE_US + self.rounding_us
            if place > MOST_PASSED or all(rule.style in ("refill", "slots") for rule in world.rules[ask.model]):
                self._say(now_us, f"#{ask.number} is admitted before #{first.ask.number}, which asked earlier")
        if life.by_us is not None and now_us > life.by_us:
            self._say(now_us, f"#{ask.number} of {life.file[1]} waited {waited_us} µs, {now_us - life.by_us} too long")
        self._left(life, group, now_us, "admitted")
        life.admitted_us = now_us
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        if self.never_fits(ask):
            self._say(now_us, f"#{ask.number} is admitted and larger than a whole limit")
        for rule in world.rules[ask.model]:
            amount = self.amounts(ask)[rule.unit]
            if amount:
                life.entries.append((rule.key, rule.unit, self.books[rule.key].take(amount, now_us)))
                self._charges += 1
            if rule.style == "slots":
                self.air[rule.key] += 1
                if self.air[rule.key] > world.ours(rule):
                    self._say(now_us, f"{self.air[rule.key]} in the air for {rule.key}, {world.ours(rule)} allowed")

    def raised(self, ask: Ask, now_us: int, error: BaseException) -> None:
        """It was not sent: an error says why."""
        life, group, name = self.lives[ask.number], self._group(ask), type(error).__name__
        self._note(now_us, "raises", ask, f"{name}: {error}")
        if life.state != "waiting":
            self._say(now_us, f"#{ask.number} raises {name} while it is {life.state}")
            return
        self._nobody_waits_in_vain(group, now_us)
        if name == "NeverFits":
            if self.strict and not self.never_fits(ask):
                self._say(now_us, f"#{ask.number} would fit, and raises {error}")
        elif name == "WouldWait":
            self._check_would_wait(life, group, now_us)
        elif not (name == "QuotaSpent" and "quota" in self.world.faults):
            self._say(now_us, f"#{ask.number} raises {error!r}")
        self._left(life, group, now_us, "done")
        life.outcome = name

    def cancelled(self, ask: Ask, now_us: int) -> None:
        """Its task was cancelled while it waited."""
        life, group = self.lives[ask.number], self._group(ask)
        self._note(now_us, "cancelled", ask, life.state)
        self._nobody_waits_in_vain(group, now_us)
        self._left(life, group, now_us, "done")
        life.outcome = "cancelled"

    def corrected(self, ask: Ask, now_us: int, tokens: int | None) -> None:
        """Its charge was settled at other tokens, or given back whole (None)."""
        life, group = self.lives[ask.number], self._group(ask)
        self._note(now_us, "corrected", ask, f"to {tokens} tokens")
        self._nobody_waits_in_vain(group, now_us)
        for key, unit, entry in life.entries:
            if unit == 3:
                continue
            if tokens is None:
                self.books[key].correct(entry, 0)
            elif unit == 1 and tokens < ask.tokens:
                self.books[key].correct(entry, tokens)
            elif unit == 1 and tokens > ask.tokens:
                self.books[key].take(tokens - ask.tokens, now_us)
        self._changed_us[group] = now_us

    def landed(self, ask: Ask, now_us: int, outcome: str) -> None:
        """It is no longer in the air; an empty outcome says that it will ask again."""
        life, group = self.lives[ask.number], self._group(ask)
        self._note(now_us, "lands", ask, outcome or "and is queued again")
        if life.state != "admitted":
            self._say(now_us, f"#{ask.number} lands ({outcome}) while it is {life.state}")
            return
        self._nobody_waits_in_vain(group, now_us)
        self.flying -= 1
        for key, unit, entry in life.entries:
            if unit == 3:
                self.books[key].correct(entry, 0)
                self.air[key] -= 1
        life.entries.clear()
        life.state = "done" if outcome else "landed"
        life.outcome = outcome
        self._changed_us[group] = now_us

    def told(self, ask: Ask, now_us: int, status: int, headers: dict[str, str]) -> None:
        """The caller gets a reply's status."""
        life = self.lives[ask.number]
        self._note(now_us, "is told", ask, str(status))
        if status != 429:
            return
        if life.state == "waiting":  # refused, and what was left of max_wait is too short to be queued again
            if ask.max_wait_us is None:
                self._say(now_us, f"#{ask.number} gets a temporary 429 although it might wait for ever")
            self._left(life, self._group(ask), now_us, "done")
            life.outcome = "429 no time left"
        if headers.get("x-should-retry") != "false":
            self._say(now_us, f"#{ask.number} gets a 429 that the client would try again")

    def arrived(self, ask: Ask, now_us: int, status: int, kind: str) -> None:
        """It has reached the server."""
        self._note(now_us, "arrives", ask, f"{status} {kind}")
        self.arrivals += 1
        self.noes += status == 429

    def refused(self, ask: Ask, now_us: int, no: No, kind: str) -> None:
        """The server has no room for it before so long."""
        self.lives[ask.number].not_before_us = now_us + no.wait_us * (kind == "rate")
        if self.clean:
            self._say(now_us, f"#{ask.number} is refused: {no}")

    def remark(self, now_us: int, text: str) -> None:
        """Something else worth a line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{(now_us - self.start_us) / 1e6:14.6f} {text}")

    # what was allowed

    def amounts(self, ask: Ask) -> tuple[int, int, int, int]:
        """What a request asks of each unit."""
        return 1, ask.tokens, ask.images, 1

    def never_fits(self, ask: Ask) -> bool:
        """Say whether it is larger than a whole limit, headroom taken off."""
        amounts = self.amounts(ask)
        return any(
            amounts[rule.unit] * rule.period_us > self.world.ours(rule) * rule.span_us
            for rule in self.world.rules[ask.model]
            if rule.style != "slots"
        )

    def cost_us(self, ask: Ask) -> int:
        """How long its scarcest limit needs to give it back."""
        amounts = self.amounts(ask)
        return max(
            -(-amounts[rule.unit] * rule.period_us // self.world.ours(rule)) for rule in self.world.rules[ask.model]
        )

    def _foresees(self, group: str) -> bool:
        """Say whether the first in line can be foreseen: nobody of another kind may come before it."""
        slots = any(rule.style == "slots" for rules in self.world.rules.values() for rule in rules)
        kinds = sum(map(bool, self._files[group].values()))
        return self.clean and not self.world.steps and not slots and kinds == 1

    def _group(self, ask: Ask) -> str:
        return self._group_of(ask.model)

    def _group_of(self, model: str) -> str:
        """Models that share a pool wait in one line."""
        return "pool" if self.world.pooled else model

    def _earliest_us(self, life: Life, at_us: int, more_us: int = 0) -> int:
        """When everything a waiting request wants has room, if nothing else happens; with `more_us` to spare."""
        amounts, leave_ppm = self.amounts(life.ask), self.world.leave_ppm(life.file[1])
        act_us = at_us
        for rule in self.world.rules[life.ask.model]:
            amount = amounts[rule.unit]
            if amount:
                margin_us = self.margins[rule.key] + more_us
                act_us = max(act_us, self.books[rule.key].earliest_us(amount, at_us, margin_us, leave_ppm))
        return act_us

    def _nobody_waits_in_vain(self, group: str, now_us: int) -> None:
        """Between two changes somebody is first in line; whoever it is, it does not stand there with room for it."""
        since_us = self._changed_us[group]
        if now_us <= since_us + LATE_US or not self.strict:
            return
        fits_us = 0
        for waiting in self._files[group].values():
            if waiting:
                fits_us = max(fits_us, self._earliest_us(waiting[0], since_us))
                if fits_us >= now_us:
                    return
        # Charges are rounded up to a µs each.
        if fits_us and now_us > fits_us + self._charges + LATE_US + self.stepped_us + self.rounding_us:
            firsts = [waiting[0].ask.number for waiting in self._files[group].values() if waiting]
            self._say(now_us, f"of {firsts} the first in line waits although it has had room since {fits_us}")

    def _longest_us(self, group: str, life: Life) -> int:
        """How long a newcomer may have to wait: until its class has got its share, times what a share is of all.

        Each class that competes may be one request ahead; windows lose up to a half of themselves to what does not
        fit into their rest; those who want of other limits stand in files of their own, which take turns.
        """
        name = life.file[1]
        ahead_us = sum(
            self.cost_us(one.ask) for file, ones in self._files[group].items() if file[1] == name for one in ones
        )
        weights = self.world.weights
        rivals = {one.ask.priority or self.world.usual for one in self.lives if self._group(one.ask) == group}
        whole = sum(weights[one] for one in rivals)
        work_us = -(-(ahead_us + self._largest_us[name]) * whole // weights[name])
        work_us += sum(self._largest_us[one] for one in rivals) + max(self.margins.values())
        work_us *= self._kinds[group]
        windows = any(rule.style != "refill" for rule in self.world.rules[life.ask.model])
        return (2 * work_us + 2 * self._span_us if windows else work_us) + self._charges + LATE_US

    def most_noes(self) -> int:
        """How many 429s are no storm: for each piece of news what was in the air then, and one for each time that a
        rival took what was free."""
        faults = self.world.faults
        news = len(faults.keys() & {"lower", "forward", "slow_down", "late"})
        news += "forward" in faults  # the jump itself, and the windows that were left too early
        news += 1 + faults["quota"][1] // 60_000_000 if "quota" in faults else 0
        large = sum(one.outcome == "429 too_large" for one in self.lives)
        return self.arrivals // 50 + 12 + news * self.most_flying + self.server.rivals + large

    def _check_would_wait(self, life: Life, group: str, now_us: int) -> None:
        ask = life.ask
        if ask.max_wait_us is None:
            self._say(now_us, f"#{ask.number} has no max_wait and raises WouldWait")
            return
        if now_us - life.asked_us > ask.max_wait_us + LATE_US + self.stepped_us:
            self._say(now_us, f"#{ask.number} learns {now_us - life.asked_us} µs after asking that max_wait is over")
        alone = sum(map(len, self._files[group].values())) == 1
        spare_us = self._charges + LATE_US
        if self.strict and alone and not self.stepped_us and self._earliest_us(life, now_us, spare_us) <= now_us:
            self._say(now_us, f"#{ask.number} raises WouldWait with nobody before it and room for it")

    def _left(self, life: Life, group: str, now_us: int, state: str) -> None:
        if life.state == "waiting":
            self._files[group][life.file].remove(life)
            self.waited_us += now_us - life.asked_us
        life.state = state
        self._changed_us[group] = now_us

    def finish(self, now_us: int) -> None:
        """The world has ended: everybody has, too."""
        for life in self.lives:
            if life.state != "done":
                self._say(now_us, f"#{life.ask.number} never ended: it is {life.state}")
        allowed = self.most_noes()
        if self.noes > allowed:
            self._say(now_us, f"a storm: {self.noes} of {self.arrivals} that arrived were refused, {allowed} may be")
        if any(self.air.values()):
            self._say(now_us, f"slots are still held: {dict(self.air)}")

    def _say(self, now_us: int, text: str) -> None:
        self.wrong.append(f"{(now_us - self.start_us) / 1e6:.6f} s: {text}")
        if self.trace is not None:
            self.trace.append(f"  WRONG {self.wrong[-1]}")

    def _note(self, now_us: int, what: str, ask: Ask, more: str = "") -> None:
        if self.trace is not None:
            self.trace.append(f"{(now_us - self.start_us) / 1e6:14.6f} #{ask.number:<4d}{what} {more}")
