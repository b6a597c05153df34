"""What one seed is: an account, its traffic, the network, and what goes wrong. Data only; nothing happens here."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

S = 1_000_000  # µs
DAY_US = 86_400 * S
UNITS = ("requests", "tokens", "images", "concurrent")
MEANING = {
    "rpm": (0, 60 * S),
    "rpd": (0, DAY_US),
    "tpm": (1, 60 * S),
    "tpd": (1, DAY_US),
    "ipm": (2, 60 * S),
    "concurrency": (3, 0),
}
"""Per name of a limit: which unit (place in UNITS), and per how long."""


class Rule(NamedTuple):
    """One limit as the server counts it.

    key    the models that share a key share the books
    style  "refill", "sliding", "fixed" or "slots"; span_us is the burst or the window, phase_us where windows begin
    """

    key: str
    name: str
    unit: int
    capacity: int
    period_us: int
    span_us: int
    style: str
    phase_us: int = 0


class Ask(NamedTuple):
    """One request.

    cancel_us    its task is cancelled so long after asking; None for never
    fate         what becomes of it once admitted: settle, silent, twice, less, more, release
    true_tokens  what the server charges in the end (fate less, more)
    up_us, service_us, down_us   its way to the server, its time there, and its way back
    """

    number: int
    at_us: int
    model: str
    tokens: int
    images: int
    priority: str | None
    max_wait_us: int | None
    cancel_us: int | None
    fate: str
    true_tokens: int
    up_us: int
    service_us: int
    down_us: int


@dataclass
class World:
    """Everything one seed says.

    depth        "direct" (the limiter alone), "wire" (the transport) or "client" (the openai client)
    rules        per model, what its requests pass
    pooled       the keys that several models share
    margin_us    what the limiter keeps free for jitter before it has learned anything; jitter_us what there is
    steps        (instant, µs) by which the limiter's clock is moved
    faults       names of what goes wrong on the wire, with how much
    """

    seed: int
    depth: str = "direct"
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    pooled: tuple[str, ...] = ()
    asks: list[Ask] = field(default_factory=list)
    margin_us: int = 100_000
    jitter_us: int = 0
    priorities: dict[str, Any] | None = None
    headroom: float = 0.0
    steps: list[tuple[int, int]] = field(default_factory=list)
    faults: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, int]:
        """The classes and their weights, as documented."""
        if self.priorities is None:
            return {"high": 9, "normal": 3, "low": 1}
        return {name: one["weight"] if isinstance(one, dict) else one for name, one in self.priorities.items()}

    @property
    def usual(self) -> str:
        """The class of a request that names none."""
        return "normal" if "normal" in self.weights else next(iter(self.weights))

    def leave_ppm(self, priority: str) -> int:
        """The share of every burst that a class leaves free."""
        one = (self.priorities or {}).get(priority)
        return round(one["leave"] * 1_000_000) if isinstance(one, dict) else 0

    def margin_of(self, rule: Rule) -> int:
        """What is kept free of one limit before anything is learned: never more than a twentieth of its burst."""
        return 0 if rule.style == "slots" else min(self.margin_us, rule.span_us // 20)

    def ours(self, rule: Rule) -> int:
        """The capacity that is left of a limit when the headroom is taken off."""
        ppm = 1_000_000 - round(self.headroom * 1_000_000)
        return max(1, rule.capacity * ppm // 1_000_000)


def draw(seed: int) -> World:
    """Draw the world of a seed. One seed in ten goes through the transport, one in two hundred through the client."""
    rng = random.Random(seed)
    depth = "client" if seed % 200 == 7 else "wire" if seed % 10 == 7 else "direct"
    world = World(seed, depth)
    models = ["sim-alpha", "sim-beta", "sim-gamma"][: rng.choice((1, 1, 1, 2, 2, 3))]
    count = round(min(160, max(5, rng.lognormvariate(math.log(55), 0.6))))
    if depth == "client":
        count = min(count, 40)
    sizes = _sizes(rng, count)
    images = [rng.choice((0, 0, 1, 1, 2, 5)) if rng.random() < 0.5 else 1 for _ in range(count)]
    if depth != "direct":
        images = [0] * count
    _limits(rng, world, models, sizes, images)
    world.headroom = rng.choice((0.05, 0.1, 0.2)) if rng.random() < 0.15 else 0.0
    world.margin_us = rng.choice((0, 20_000, 100_000, 100_000, 100_000, 500_000))
    margins = [world.margin_of(rule) for rules in world.rules.values() for rule in rules if rule.style != "slots"]
    most_us = min(margins, default=2 * S)
    # The loop may wake somebody two µs late, so that much is taken off the delays.
    world.jitter_us = max(0, rng.choice((most_us, most_us, rng.randint(0, most_us))) - 3)
    if rng.random() < 0.35:
        world.priorities = rng.choice(
            (None, {"interactive": 8, "batch": 1}, {"interactive": 4, "batch": {"weight": 1, "leave": 0.1}})
        )
    if depth == "direct" and rng.random() < 0.12:
        world.steps = [(rng.randint(0, 60 * S), -rng.randint(1, 20 * S)) for _ in range(rng.randint(1, 3))]
    _traffic(rng, world, models, sizes, images)
    if depth != "direct":
        _faults(rng, world)
    return world


def _sizes(rng: random.Random, count: int) -> list[int]:
    median = 10 ** rng.uniform(0.5, 4.5)
    sigma = rng.uniform(0.2, 1.6)
    return [max(1, round(median * math.exp(rng.gauss(0, sigma)))) for _ in range(count)]


def _limits(rng: random.Random, world: World, models: list[str], sizes: list[int], images: list[int]) -> None:
    """One to three limits, sized so that the traffic of this seed presses on them."""
    chances = {"rpm": 0.6, "tpm": 0.75, "rpd": 0.1, "tpd": 0.1, "ipm": 0.12, "concurrency": 0.25}
    if world.depth != "direct":
        chances["ipm"] = 0
    names = [name for name in MEANING if rng.random() < chances[name]] or [rng.choice(("rpm", "tpm"))]
    while len(names) > 3:
        names.remove(rng.choice(names))
    shared = rng.choice(names) if len(models) > 1 and rng.random() < 0.5 else None
    if shared == "concurrency" or len(names) == 1:
        shared = None  # slots are no pool's, and every model needs a limit of its own
    totals = (len(sizes), sum(sizes), max(1, sum(images)), len(sizes))
    largest = (1, max(sizes), max(images), 1)
    windows = rng.random() < 0.25
    rules: dict[str, list[Rule]] = {model: [] for model in models}
    for name in names:
        unit, period_us = MEANING[name]
        share = 1 if name == shared else len(models)
        total = max(1, totals[unit] // share)
        if name == "concurrency":
            capacity = rng.randint(max(1, total // 20), max(2, total // 2))
            made = Rule("", name, unit, capacity, capacity, capacity, "slots")
        elif period_us == DAY_US:
            # A day's limit that binds is waited for for hours, and whoever waits looks every few seconds who is
            # first: mostly it has just enough room.
            capacity = max(largest[unit], int(totals[unit] * rng.uniform(0.97, 2)))
            made = Rule("", name, unit, capacity, period_us, period_us, "refill")
        else:
            made = _minute(rng, name, unit, total, largest[unit], windows)
        for model in models:
            if name == shared:
                rules[model].append(made._replace(key=f"org-{name}"))
                world.pooled = (f"org-{name}",)
            else:
                rules[model].append(made._replace(key=f"{model}:{name}"))
    world.rules = {model: tuple(ones) for model, ones in rules.items()}


def _minute(rng: random.Random, name: str, unit: int, total: int, largest: int, windows: bool) -> Rule:
    """A limit per minute; a server that counts per window (or allows less of a burst) counts in a shorter span."""
    period_us = 60 * S
    floor = largest if rng.random() < 0.97 else max(1, largest * 3 // 4)  # sometimes the largest never fits
    style, span_us = "refill", period_us
    if windows and rng.random() < 0.8:
        style = rng.choice(("sliding", "fixed", "refill"))
        span_us = rng.choice((S, 5 * S, 10 * S, 60 * S))
    in_span = max(floor, int(total * rng.uniform(0.1, 1.3) * (1 if span_us == period_us else 0.3)), 1)
    capacity = max(1, in_span * period_us // span_us + rng.randint(0, 3))
    phase_us = rng.randint(0, span_us) if style == "fixed" else 0
    return Rule("", name, unit, capacity, period_us, span_us, style, phase_us)


def _traffic(rng: random.Random, world: World, models: list[str], sizes: list[int], images: list[int]) -> None:
    """Bursts and Poisson arrivals, several classes, bounds on waiting, cancellations."""
    horizon_us = round(rng.choice((0, 1, 10, 60, 180)) * S * rng.uniform(0.5, 1.5))
    bursts = [rng.randint(0, max(1, horizon_us)) for _ in range(rng.randint(1, 4))]
    bursty = rng.choice((0.0, 0.3, 0.7, 1.0))
    classes = list(world.weights) if rng.random() < 0.5 else [None]
    bounded = rng.choice((0.0, 0.0, 0.3, 1.0))
    cancelled = rng.choice((0.0, 0.0, 0.05, 0.3))
    fates = rng.choice((["settle"], ["settle", "silent", "twice"], ["settle", "less"], ["settle", "less", "release"]))
    if rng.random() < 0.1:
        fates = [*fates, "more"]
    typical_s = 10 ** rng.uniform(-2, 1)
    tokenless = rng.random() < 0.1  # some requests take no tokens: they pass other limits than the rest
    for number, size in enumerate(sizes):
        at_us = rng.choice(bursts) if rng.random() < bursty else rng.randint(0, max(1, horizon_us))
        tokens = 0 if tokenless and rng.random() < 0.3 and world.depth == "direct" else size
        fate = rng.choice(fates)
        share = rng.uniform(0, 1) if fate == "less" else rng.uniform(1, 1.5) if fate == "more" else 1
        world.asks.append(
            Ask(
                number,
                at_us,
                rng.choice(models),
                tokens,
                images[number],
                rng.choice(classes),
                round(rng.choice((0, 1, 10, 60)) * rng.random() * S) if rng.random() < bounded else None,
                round(rng.expovariate(0.1) * S) if rng.random() < cancelled else None,
                fate,
                int(tokens * share),
                rng.randint(0, world.jitter_us),
                round(typical_s * rng.lognormvariate(0, 0.7) * S),
                rng.randint(0, world.jitter_us),
            )
        )
    world.asks.sort(key=lambda ask: ask.at_us)


def _faults(rng: random.Random, world: World) -> None:
    """What goes wrong on the wire. A third of the seeds see nothing that could cost a refusal."""
    faults = world.faults
    faults["errors"] = rng.choice((0.0, 0.0, 0.05, 0.2))  # 5xx, lost connections, cut replies: each of them
    faults["abandon"] = rng.choice((0.0, 0.05))
    faults["headers"] = rng.choice(("none", "true", "true", "true", "garbage"))
    faults["processing"] = rng.random() < 0.7
    if rng.random() < 0.35:
        return
    kinds = ("rival", "lower", "raise", "late", "quota", "slow_down", "too_large", "forward")
    for kind in rng.sample(kinds, rng.choice((1, 1, 2))):
        faults[kind] = {
            "rival": rng.uniform(0.1, 0.5),
            "lower": (rng.randint(0, 60 * S), rng.uniform(0.3, 0.9)),
            "raise": (rng.randint(0, 60 * S), rng.uniform(1.1, 2)),
            "late": rng.uniform(1.5, 10),
            "quota": (rng.randint(0, 60 * S), rng.randint(1, 90 * S)),
            "slow_down": (rng.randint(0, 60 * S), rng.randint(1, 5 * S)),
            "too_large": rng.uniform(0.3, 0.9),
            "forward": (rng.randint(0, 60 * S), rng.randint(1, 30 * S)),
        }[kind]
    if "forward" in faults:
        world.steps = [faults["forward"]]
