"""One HTTP attempt as it passes: which call it is, what it takes, what it costs, and how it ended.

Everything here is colourless; the transports only add the waiting and the bytes. A Visit accompanies one attempt:
`demand` before it waits, `sent` when it goes out, `failed` or `answered` + `feed` + `close` when it ends. Every path
ends the reservation and the ledger entry exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pricing.usage import usage_of_work

from .call import Call
from .clock import US_PER_S, MonotonicClock
from .context import CURRENT
from .demand import Demand
from .errors import ConfigError, LedgerError, OverBudget, QueueFull, RatecardError, RatecardWarning, WouldWait, warn
from .events import guarded
from .gate import ENOUGH_REPLIES, Gate
from .headers import Refusal, edges_us, observations, rate_limits, read_refusal, retry_after_us
from .outputs import Kind
from .preflight import check, warn_once
from .reply import JsonReader, Outcome, StreamReader, Trail
from .usage_chunk import Stripper

if TYPE_CHECKING:
    from .accounting import Accountant
    from .limiter import Limiter
    from .reservation import Reservation

LOOK_AGAIN_US = 5_000_000
LOOK_EVERY_US = 100_000
"""How often the rate-limit headers of a lane's replies are looked at: reading them costs more than what they add."""

NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError", "LocalProtocolError"}
)
"""Transport errors (httpx and httpx2 spell them alike) after which the server cannot have seen the request."""

MOST_ID = 200
"""Characters kept of the server's name of a request."""
_CLOCK = MonotonicClock()

MOST_REFUSALS = 100
"""Temporary 429s of one request that are queued again here: a rival may take the room again and again."""


class Tries:
    """The attempts at one request: how often it was refused, and how long it may still wait.

    tokens  what the server said that it charges for it, in the message of a 429; 0 where it has said nothing
    retried    how often the SDK has sent it before, as its header says
    paused_us  how long it has waited for slow budgets
    """

    __slots__ = ("_asked_us", "_limiter", "_max_wait_us", "_retries", "paused_us", "refused", "tokens")

    def __init__(self, limiter: Limiter | None, max_wait_us: int | None, retried: str | None = None) -> None:
        self._retries = int(retried) if retried is not None and retried.isdigit() and len(retried) < 4 else 0
        self.paused_us = 0
        self._limiter = limiter
        self._max_wait_us = max_wait_us
        self._asked_us = limiter.clock.now_us() if limiter is not None and max_wait_us is not None else 0
        self.refused = 0
        self.tokens = 0

    def left_us(self) -> int | None:
        """How long it may wait from now on (µs); None for as long as it takes."""
        if self._max_wait_us is None or self._limiter is None:
            return None
        if not self.refused and not self.paused_us:
            return self._max_wait_us  # it has waited for nothing; an error says what was given
        return max(0, self._asked_us + self._max_wait_us - self._limiter.clock.now_us())

    def told(self, error: WouldWait | QueueFull) -> WouldWait | QueueFull:
        """A refusal to wait, with the max_wait that was given where a pause for a slow budget took a part of it."""
        if type(error) is not WouldWait or not self.paused_us or self._max_wait_us is None:
            return error
        given_s = self._max_wait_us / US_PER_S
        bound = f"max_wait is {given_s:g} s, and {self.paused_us / US_PER_S:.3f} s of it went by for a slow budget"
        return WouldWait(limit=error.limit, retry_after_s=error.retry_after_s, max_wait_s=given_s, bound=bound)

    def attempt(self) -> int:
        """Which try of the request this is: after those of the SDK, of whoever stands above it, and of ours."""
        return CURRENT.get().attempt + self._retries + self.refused

    def slowed_us(self, error: OverBudget) -> int:
        """How long to wait (µs) before a budget that has no room is asked again. Raises the error where that is no use.

        Not longer than LOOK_AGAIN_US: what is in the air holds its worst case, and costs less.
        """
        context = CURRENT.get()
        left_us, deadline = self.left_us(), context.deadline
        if deadline is not None:
            left_us = deadline.left_us() if left_us is None else min(left_us, deadline.left_us())
        if error.retry_after_us is None or (left_us is not None and left_us <= 0):
            raise error
        pause_us = min(error.retry_after_us, LOOK_AGAIN_US if left_us is None else min(left_us, LOOK_AGAIN_US))
        self.paused_us += pause_us
        if context.on_slowed is not None:
            guarded("on_slowed", context.on_slowed, error)
        return pause_us


class Visit:
    """One attempt on its way through the middleware. `limiter` and `accountant` may each be None."""

    __slots__ = (
        "_accountant",
        "_asks_usage",
        "_attempt",
        "_begun_us",
        "_call",
        "_ended",
        "_entry",
        "_estimate",
        "_kind",
        "_limiter",
        "_paused_us",
        "_reader",
        "_request_id",
        "_reservation",
        "_retry_after_us",
        "_sent_us",
        "_status",
        "_stripper",
        "refusal",
    )

    def __init__(
        self, call: Call, limiter: Limiter | None, accountant: Accountant | None, *, asks_usage: bool = False
    ) -> None:
        if call.unreadable:
            warn(call.unreadable)
        self._asks_usage = asks_usage
        self._stripper: Stripper | None = None
        self._attempt = 1
        self._begun_us = self._paused_us = 0
        self._request_id: str | None = None
        self._call = call
        self._limiter = limiter
        self._accountant = accountant
        self._estimate = accountant.estimate(call) if accountant is not None and not call.polls else None
        self._kind: Kind | None = None
        self._reservation: Reservation | None = None
        self._entry: int | None = None
        self._sent_us = 0
        self._status = 0
        self._reader: JsonReader | StreamReader | None = None
        self._ended = False
        self._retry_after_us: int | None = None
        self.refusal: Refusal | None = None  # the 429 it ended with, once its body was read

    def demand(self, tries: Tries) -> tuple[Gate, Demand] | None:
        """Check the card, then say at which gate to wait and for what; None for no gate at all.

        A call whose body names no model passes the limits that are given for every model; where there are none it
        passes unpaced, and a warning says so, once.

        Raises  NotOffered, ConfigError
        """
        call, limiter = self._call, self._limiter
        self._attempt, self._paused_us = tries.attempt(), tries.paused_us
        if limiter is None or call.polls or call.unreadable:
            return None
        if not tries.refused:  # where warnings are errors, one must not lose a request that waits already
            limiter.feedback.tell()
        today = limiter.today()
        check(call, limiter.preflight, today, limiter.warned)
        try:
            gate, wanted, self._kind = limiter.wants(call.body, call.endpoint, call.model, lambda: call.count, today)
        except ConfigError:
            if call.body.get("model"):
                raise
            warn_once(
                "a request names no model, for a stored prompt, a conversation or a default does, and no limits are "
                'given for every model: it passes unpaced; limits={"rpm": 500} beside the others would pace it',
                limiter.warned,
            )
            return None
        if tries.tokens > wanted.tokens:  # the server has said what it charges
            wanted = wanted._replace(tokens=tries.tokens)
        return gate, wanted

    def sent(self, reservation: Reservation | None) -> None:
        """Note the admission, and write the pending ledger entry. Raises OverBudget, LedgerError: not sent."""
        self._reservation = reservation
        try:
            if self._accountant is not None and self._estimate is not None:
                waited_us = None if reservation is None else reservation.waited_us + self._paused_us
                self._entry = self._accountant.open(self._call, self._estimate, self._attempt, waited_us)
                self._begun_us = _CLOCK.now_us()
            if reservation is not None:
                on_admitted = CURRENT.get().on_admitted
                if on_admitted is not None:
                    on_admitted(reservation)
                assert self._limiter is not None
                self._sent_us = self._limiter.clock.now_us()
                if reservation.gate.heard < ENOUGH_REPLIES:
                    reservation.gate.going()
        except BaseException as error:
            self.failed(error, not_sent=True)
            raise

    def failed(self, error: BaseException, *, not_sent: bool = False) -> None:
        """End an attempt that got no response: nothing was sent, or nobody knows."""
        # An error of ours comes from a middleware below: it has not sent it.
        not_sent = not_sent or isinstance(error, RatecardError) or type(error).__name__ in NOT_SENT
        if self._reservation is not None:
            if not_sent:
                self._reservation.release()
            else:
                self._reservation.end()
        if self._accountant is not None and self._entry is not None:
            latency_us = None if not_sent else _CLOCK.now_us() - self._begun_us
            self._book(lambda books, entry: books.failed(entry, error, not_sent, latency_us))

    def answered(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], decode: Callable[[str, bytes], bytes]
    ) -> None:
        """Take in status and headers, and get ready to read the body."""
        kind = encoding = b""
        processing = None
        reservation, limiter = self._reservation, self._limiter
        seen: dict[str, str] | None = None
        now_us = 0
        if reservation is not None and limiter is not None:
            now_us = limiter.clock.now_us()
            if now_us >= reservation.gate.look_us or reservation.lane.windowed:
                reservation.gate.look_us = now_us + LOOK_EVERY_US
                seen = {}
        for name, value in headers:
            length = len(name)  # cheaper than lower(), and a reply has a dozen headers
            if length == 12:
                name = name.lower()
                if name == b"content-type":
                    kind = value
                elif name == b"x-request-id":
                    self._request_id = value.decode("latin-1")[:MOST_ID]
            elif length == 16 and name.lower() == b"content-encoding":
                encoding = value.strip().lower()
            elif length == 20 and name.lower() == b"openai-processing-ms":
                processing = value
            elif seen is not None and name[:12].lower() == b"x-ratelimit-":
                seen[name.decode("latin-1")] = value.decode("latin-1")
        self._status = status
        if status == 429:
            self._retry_after_us = _asked_pause_us(headers)
        if reservation is not None and limiter is not None:
            if processing is not None and processing.isdigit() and len(processing) < 10:
                took_us = int(processing) * 1000
                reservation.arrived(now_us - self._sent_us - took_us, took_us)
            if reservation.gate.heard < ENOUGH_REPLIES:
                reservation.gate.told()
            if seen:
                told = rate_limits(seen)
                limiter.feedback.headers(reservation.gate, observations(told), now_us - self._sent_us)
                if reservation.lane.windowed:
                    reservation.told(edges_us(told))
        refunds = reservation is not None and reservation.demand.refunds
        if self._accountant is None and status != 429 and not refunds:
            return  # nobody asks what the reply says
        if status < 400 and kind[:6].lower() == b"audio/":
            return  # a speech says nothing of its cost
        coding = encoding.decode("latin-1")
        undo = (lambda raw: decode(coding, raw)) if coding and coding != "identity" else None
        self._reader = (
            StreamReader(status, coding, undo)
            if b"event-stream" in kind.lower() and status < 400
            else JsonReader(status, undo)
        )
        if self._asks_usage and undo is None and isinstance(self._reader, StreamReader):
            self._stripper = Stripper()

    def feed(self, chunk: bytes) -> bytes:
        """See a chunk of the body go by, and say what of it the caller gets."""
        if self._reader is not None:
            self._reader.feed(chunk)
        return chunk if self._stripper is None else self._stripper.feed(chunk)

    def rest(self) -> bytes:
        """What the caller still gets when the body has ended."""
        return b"" if self._stripper is None else self._stripper.rest()

    def asked_in_vain(self, status: int) -> bool:
        """Say whether the server may have refused the request because its usage was asked for."""
        return self._asks_usage and status in (400, 422)

    def asks_no_more(self, raw: bytes) -> bool:
        """Say whether it did so, by its words: then the request is sent again as it was, and no other one asks."""
        assert self._accountant is not None
        if b"stream_options" in raw or b"include_usage" in raw:
            self._accountant.asks_usage = False
        return not self._accountant.asks_usage

    def close(self, complete: bool) -> None:
        """End the attempt: the body was read to its end (`complete`) or abandoned. A second end changes nothing.

        May run in a collection of garbage, amid work of this very thread: every lock on its way is re-entrant.
        """
        if self._ended:
            return
        self._ended = True
        reader, self._reader = self._reader, None
        outcome = reader.close(complete) if reader is not None else Outcome(self._status, complete=complete)
        if self._reservation is not None:
            self._settle(self._reservation, outcome)
        if self._limiter is not None and self._limiter.signals.halt is not None and 200 <= outcome.status < 300:
            self._limiter.signals.answered(self._sent_us)
        if self._accountant is not None:
            call, estimate = self._call, self._estimate
            if call.polls:
                self._book(lambda books, _: books.polled(call, outcome))
            elif self._entry is not None and estimate is not None:
                trail = Trail(self._request_id, _CLOCK.now_us() - self._begun_us)
                self._book(lambda books, entry: books.close(entry, call, estimate, outcome, trail))

    def _settle(self, reservation: Reservation, outcome: Outcome) -> None:
        limiter = self._limiter
        assert limiter is not None
        if outcome.status == 429:
            refusal = read_refusal(outcome.error)
            if refusal.kind == "unknown" and self._retry_after_us is not None:
                refusal = refusal._replace(kind="rate")  # a gateway's own words; it does say when to come back
            self.refusal = refusal
            # A refused request still counts as a request, and takes no tokens (facts: error-codes guide, 2026-07-15).
            reservation.settle(tokens=0)
            limiter.feedback.refused(reservation.gate, refusal, self._retry_after_us)
            on_refused = CURRENT.get().on_refused
            if on_refused is not None:
                guarded("on_refused", on_refused, refusal)
        elif reservation.demand.refunds and outcome.status == 200 and outcome.final:
            used = usage_of_work(outcome.usage)
            if used is not None:
                # No bucket is fuller than full, whatever number a reply states.
                full = [limit.capacity for limit in reservation.gate.lane.limits if limit.unit == "tokens"]
                most = max([reservation.demand.tokens, *full])
                if self._kind is not None:
                    reserved = max(0, reservation.demand.tokens - self._call.count.tokens)
                    limiter.outputs.learn(self._kind, reserved, used.total_output)
                reservation.settle(tokens=min(used.total_input + used.total_output, most))
        reservation.end()

    @property
    def terminal(self) -> bool:
        """The 429 it ended with is known, and nobody above needs to try again: the waiting is done here."""
        return self.refusal is not None and self.refusal.kind != "unknown"

    def again(self, tries: Tries) -> bool:
        """Say whether this attempt, which ended with a 429, is to be queued again; the limiter has learned from it."""
        refusal = self.refusal
        if refusal is None or refusal.kind not in ("rate", "slow_down") or tries.refused >= MOST_REFUSALS:
            return False
        tries.refused += 1
        if refusal.limit_name.startswith("tp") and refusal.requested is not None:
            tries.tokens = refusal.requested
        return True

    def _book(self, write: Callable[[Accountant, int], None]) -> None:
        """Write to the ledger after the fact.

        The reply belongs to the user by now, so a failing ledger only warns, and the entry stays pending.
        """
        accountant = self._accountant
        assert accountant is not None
        try:
            write(accountant, -1 if self._entry is None else self._entry)
        except LedgerError as error:
            text = f"the cost of a call could not be written and stays pending: {error}"
            try:
                warn(text)
            except RatecardWarning as warning:  # warnings are errors here: raised now, this one would lose the reply
                accountant.untold.append(warning)


def _asked_pause_us(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    names = (b"retry-after", b"retry-after-ms")
    return retry_after_us(
        {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers if name.lower() in names}
    )


def final_refusal(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a 429 that is not to be retried by whoever gets it: the waiting has been done here."""
    return [(name, value) for name, value in headers if name.lower() != b"x-should-retry"] + [
        (b"x-should-retry", b"false")
    ]
