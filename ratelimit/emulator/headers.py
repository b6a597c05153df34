"""The response headers of the real server, in its own formats: limits, durations, retry-after."""

from __future__ import annotations

from collections.abc import Sequence

from .buckets import Meter

Header = tuple[bytes, bytes]

_SHOWN = {"requests": ("rpd", "rpm"), "tokens": ("tpm", "tpd"), "images": ("ipm",)}
"""Which limit speaks for its unit when there are several. A daily request limit hides the one per minute: recorded
answers of accounts with both say 10,000 and 8.64s."""

_WORD = {"requests": b"requests", "tokens": b"tokens", "images": b"input-images"}


def duration(ms: int) -> str:
    """Write whole milliseconds as the server does: "0s", "120ms", "1.352s", "6m0s", "1m12.5s", "24h0m0s".

    Source  2,300 recorded x-ratelimit-reset values
    """
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds}.{ms:03d}".rstrip("0") if ms else str(seconds)
    if hours:
        return f"{hours}h{minutes}m{text}s"
    return f"{minutes}m{text}s" if minutes else f"{text}s"


class LimitHeaders:
    """The x-ratelimit headers of one pool. What never changes is spelled once."""

    __slots__ = ("_rows",)

    def __init__(self, buckets: Sequence[Meter]) -> None:
        by_name = {bucket.name: bucket for bucket in buckets}
        rows = []
        for unit, names in _SHOWN.items():
            shown = next((by_name[name] for name in names if name in by_name), None)
            if shown is None:
                shown = next((bucket for bucket in buckets if bucket.unit == unit), None)
            if shown is not None:
                word = _WORD[unit]
                rows.append(
                    (
                        shown,
                        (b"x-ratelimit-limit-" + word, b"%d" % shown.capacity),
                        b"x-ratelimit-remaining-" + word,
                        b"x-ratelimit-reset-" + word,
                    )
                )
        self._rows = tuple(rows)

    def now(self, images: bool = False) -> list[Header]:
        """Read the buckets as they stand. Image headers appear only on requests with images, as recorded."""
        headers: list[Header] = []
        for bucket, limit, remaining, reset in self._rows:
            if bucket.unit != "images" or images:
                headers.append(limit)
                headers.append((remaining, b"%d" % bucket.remaining))
                headers.append((reset, duration(bucket.reset_us // 1000).encode()))
        return headers


def retry_after(wall_us: int) -> list[Header]:
    """Tell clients when to come back, in wall time and rounded up: whoever obeys waits long enough.

    Source  429 seen 2025-07-15: retry-after 1, retry-after-ms 534
    """
    return [
        (b"retry-after", b"%d" % max(1, -(-wall_us // 1_000_000))),
        (b"retry-after-ms", b"%d" % max(1, -(-wall_us // 1000))),
    ]
