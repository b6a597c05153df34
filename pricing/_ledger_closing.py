"""How news of a call become the end of its entry: what nobody can mean is left out, and said so."""

from __future__ import annotations

from .cost import Cost, Unpriced
from .entries import MOST, Closing
from .usage import Usage


def posting(
    closed_us: int,
    usage: Usage | None,
    cost: Cost | Unpriced | None,
    response_id: str | None,
    model: str | None,
    service_tier: str | None,
    exact: bool,
    why: str,
    request_id: str | None = None,
    latency_us: int | None = None,
) -> Closing:
    """Build the end of an entry that is billed, with a cost or with the reason why there is none."""
    response_id, model, service_tier, why = text_of(response_id), text_of(model), text_of(service_tier), told(why)
    request_id = text_of(request_id)
    counts = usage.as_dict() if usage is not None else {}
    # The call is over, so news are never refused; but nobody believes such numbers, and one would spoil every sum.
    if sum(map(abs, counts.values())) > MOST:
        counts = {}
        why = f"{why}; {_NOT_KEPT}" if why else _NOT_KEPT
    if isinstance(cost, Cost) and _absurd(cost):
        cost = Unpriced("a cost above 9.2 million dollars for one call is none")
    if isinstance(cost, Cost):
        notes = "; ".join((why, *cost.notes) if why else cost.notes)
        return Closing(
            "posted", closed_us, response_id, model, service_tier, cost.total, cost.components, cost.row_id,
            cost.table_version, counts, exact, told(notes), request_id, latency_us,
        )  # fmt: skip
    reason = cost.reason if cost is not None else "no cost given"
    why = f"{why}; {reason}" if why else reason
    return Closing(
        "posted", closed_us, response_id, model, service_tier, usage=counts, exact=exact, why=told(why),
        request_id=request_id, latency_us=latency_us,
    )  # fmt: skip


_NOT_KEPT = "token counts that nobody can have used are not kept"


def _absurd(cost: Cost) -> bool:
    for part in cost.components.values():  # a loop and no comprehension: every call comes by here
        if abs(part.pico) > MOST:
            return True
    return abs(cost.total.pico) > MOST


def told(text: str) -> str:
    """A text that a file can hold: half of a character, as broken programs make them, is spelt out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def text_of(text: str | None) -> str | None:
    """Such a text, or None. An empty one names nothing: some servers send "id": "", and those are not all one."""
    return told(text) if text else None
