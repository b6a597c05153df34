"""Charts of a forecast: panels that are drawn alone into an HTML report, and side by side into a picture.

matplotlib draws them, without a screen and without its global state; the same forecast gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from pricing.export import needed
from pricing.money import Usd
from pricing.projection import Ahead, Day
from pricing.spend import Spending

from ..clock import US_PER_S
from ..errors import ConfigError
from .choices import Choice
from .series import Series
from .traced import Filled

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"
"""Told apart by the colour-blind as well. Source: Okabe and Ito, Color Universal Design (2008)."""
_SIZE = (7.2, 3.4)
_STYLE = {
    "svg.hashsalt": "ratecard",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,  # names come from elsewhere, and a dollar is a dollar
}
_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))
_PICO = 1e12
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PERIODS = ((60 * US_PER_S, "minute"), (86_400 * US_PER_S, "day"))
MOST_CHOICES = 24
"""Choices that have a bar: more cannot be read."""


class Panel(NamedTuple):
    """One chart: its title, what it tells in words, and a function that draws it on a matplotlib Axes."""

    title: str
    says: str
    draw: Callable[[Any], None]


def svg(panel: Panel) -> str:
    """Draw a panel as an <svg> element."""
    with _styled():
        figure, axes = _figure(1, 1)
        panel.draw(axes[0])
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].strip()


def png(panels: Sequence[Panel], title: str, path: str) -> None:
    """Write panels side by side as a picture.

    Raises  ConfigError when there are none, or the file cannot be written
    """
    if not panels:
        raise ConfigError(f"{path}: is not written: there is nothing to draw")
    columns = 2 if len(panels) > 1 else 1
    with _styled():
        figure, axes = _figure(-(-len(panels) // columns), columns)
        figure.suptitle(visible(title), x=0.01, ha="left", fontsize=13, fontweight="bold")
        for panel, one in zip(panels, axes, strict=False):
            panel.draw(one)
            one.set_title(visible(panel.title))
        for one in axes[len(panels) :]:
            one.set_visible(False)
        try:
            figure.savefig(path, format="png", dpi=130, metadata={"Software": "ratecard"})
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _styled() -> Any:
    return needed("matplotlib", extra="charts").rc_context(_STYLE)


def _figure(rows: int, columns: int) -> tuple[Any, list[Any]]:
    figure = needed("matplotlib.figure", extra="charts").Figure(
        (_SIZE[0] * columns, _SIZE[1] * rows), layout="constrained"
    )
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]


def visible(text: str) -> str:
    """Spell out what no page and no picture can hold: control characters, and halves of characters."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _clock(series: Series) -> tuple[Any, str]:
    """The instants of a series in a unit that suits them."""
    last_s = float(series.until_us[-1]) / US_PER_S
    size, name = next((size, name) for size, name in _UNITS if last_s >= 2 * size or size == 1)
    return series.until_us / US_PER_S / size, name


def _powers(axes: Any) -> None:
    """Write the numbers of a logarithmic axis in full, those between its powers too, and all of them one way."""
    ticker = needed("matplotlib.ticker", extra="charts")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.4g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def spend_over_time(series: Series, budget_pico: int | None = None) -> Panel:
    """Spend, expected and as nine in ten such jobs lie."""

    def draw(axes: Any) -> None:
        at, unit = _clock(series)
        axes.fill_between(at, series.low / _PICO, series.high / _PICO, color=BLUE, alpha=0.18, lw=0, label="p5 – p95")
        axes.plot(at, series.spent / _PICO, color=BLUE, label="expected")
        if budget_pico is not None:
            axes.axhline(budget_pico / _PICO, color=RED, ls="--", label="budget")
        axes.set(xlabel=unit, ylabel="US dollars", xlim=(0, at[-1]))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")

    return Panel("Spend over time", "What has been spent when, and where nine in ten such jobs lie.", draw)


def rate_against_limit(series: Series, limit: str) -> Panel:
    """Units taken of a limit within its period, against what it lets through in so long."""
    taken, most, period_us = series.rates[limit]
    unit = "requests" if limit.partition("-")[2].startswith("rp") or limit.startswith("rp") else "tokens"
    per = next((name for size, name in _PERIODS if period_us == size), f"{period_us / US_PER_S:,g} s")

    def draw(axes: Any) -> None:
        at, name = _clock(series)
        axes.fill_between(at, taken, step="pre", color=GREEN, alpha=0.35, lw=0)
        axes.step(at, taken, where="pre", color=GREEN, label=f"admitted in the {per} before")
        peak = float(taken.max(initial=0))
        near = peak * 20 > most
        axes.axhline(most, color=RED, ls="--", label=f"limit {most:,.0f}")
        axes.set(xlabel=name, ylabel=f"{unit} per {per}", xlim=(0, at[-1]))
        axes.set_ylim(bottom=0, top=max(peak, most if near else 0) * 1.15 or 1)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend(loc="upper right")

    words = (
        f"What was taken of {limit} in the {per} before each instant, against the limit. A full bucket may be "
        "spent beside what comes in meanwhile: then it is up to twice as much."
    )
    return Panel(f"{unit.capitalize()} per {per}: {limit}", words, draw)


def queue_depth(series: Series, concurrency: int | None) -> Panel:
    """Requests that wait, and that are in the air."""

    def draw(axes: Any) -> None:
        at, name = _clock(series)
        axes.plot(at, series.waiting, color=ORANGE, label="waiting for admission")
        axes.plot(at, series.in_the_air, color=BLUE, label="in the air")
        if concurrency is not None and series.in_the_air.max(initial=0) * 4 > concurrency:
            axes.axhline(concurrency, color=RED, ls="--", label="concurrency")
        axes.set(xlabel=name, ylabel="requests", xlim=(0, at[-1]))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend(loc="upper right")

    return Panel("Queue depth", "How many requests wait for their admission, and how many for their reply.", draw)


def cost_by_component(parts: Mapping[str, tuple[int, int]]) -> Panel:
    """Expected cost of input and of output, by model (pico-dollars)."""

    def draw(axes: Any) -> None:
        inputs = [one / _PICO for one, _ in parts.values()]
        outputs = [one / _PICO for _, one in parts.values()]
        places = range(len(parts))
        axes.barh(places, inputs, 0.6, color=BLUE, label="input")
        axes.barh(places, outputs, 0.6, left=inputs, color=ORANGE, label="output")
        axes.set_yticks(places, [visible(name) for name in parts])
        for place, both in enumerate(parts.values()):
            axes.text(sum(both) / _PICO, place, f"  {Usd(sum(both)).format()}", va="center")
        axes.set_ylim(max(len(parts), 3) - 0.5, -0.5)
        axes.margins(x=0.18)
        axes.set(xlabel="US dollars, expected")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right")

    return Panel("Cost by component", "What the input costs, and what the output is expected to cost.", draw)


def comparison(choices: Sequence[Choice], best: Choice | None) -> Panel:
    """How long every choice takes that does the whole job, and what it costs."""
    known = [one for one in choices if one.cost is not None and one.slowest_us() is not None and not one.missing]
    shown = known[:MOST_CHOICES]

    def draw(axes: Any) -> None:
        colours = {"online": BLUE, "flex": GREEN, "batch": ORANGE}
        hours = [max(one.slowest_us() or 0, 1) / US_PER_S / 3_600 for one in shown]
        least = min(hours, default=1) / 4
        for place, (one, long) in enumerate(zip(shown, hours, strict=True)):
            axes.barh(place, long - least, 0.7, left=least, color=colours.get(one.mode, GREY))
            cost = 0 if one.cost is None else one.cost.p50
            words = f"  {Usd(cost).format()}" + ("  cheapest" if one == best else "")
            axes.text(long, place, visible(words), va="center", fontsize=8, color=RED if one == best else "black")
        names = [" ".join([one.tier, *one.models.values(), one.mode]) for one in shown]
        axes.set_yticks(range(len(shown)), [visible(name) for name in names], fontsize=8)
        axes.set(xscale="log", xlabel="hours (p95, or at most)", ylim=(len(shown) - 0.4, -0.6))
        axes.set_xlim(least, max(hours, default=1) * 12)
        _powers(axes)
        axes.grid(visible=False, axis="y")

    words = "How long every way takes that does the whole job (logarithmic), and what half of such jobs cost at most."
    if len(known) > len(shown):
        words += f" The first {len(shown)} of {len(known)}."
    return Panel("Tiers and modes", words, draw)


def components(by_model: Mapping[str, Spending], inputs: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Expected cost of input and of output by model (pico-dollars), of those that have a price."""
    return {
        model: (inputs[model], one.cost.mean - inputs[model]) for model, one in by_model.items() if one.cost is not None
    }


def fullness(tiers: Sequence[tuple[str, Sequence[Filled]]]) -> Panel:
    """How full the fullest limit of each tier is, on average and at its peak."""

    def draw(axes: Any) -> None:
        names = [visible(f"{tier}: {filled[0].limit}") for tier, filled in tiers]
        least = 0.001
        for place, (_, filled) in enumerate(tiers):
            peak, sustained = max(filled[0].peak, least), max(filled[0].sustained, least)
            axes.barh(place, peak, 0.7, color=ORANGE, alpha=0.45, label="peak" if not place else None)
            axes.barh(place, sustained, 0.4, color=BLUE, label="sustained" if not place else None)
        axes.axvline(1, color=RED, ls="--", label="limit")
        axes.set_yticks(range(len(tiers)), names, fontsize=8)
        axes.set(xscale="log", xlabel="share of the limit", ylim=(len(tiers) - 0.4, -0.6))
        _powers(axes)
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right")

    return Panel("Tiers", "How full the fullest limit of each tier is, if nobody waited (logarithmic).", draw)


def month(days: Sequence[Day], today: date) -> Panel:
    """Spending day by day, and what it adds up to, with an interval for the days to come."""

    def draw(axes: Any) -> None:
        at = [one.day for one in days]
        over = [one.day < today for one in days]
        costs = [one.cost.mean / _PICO for one in days]
        axes.bar(at, costs, color=[BLUE if done else ORANGE for done in over], alpha=0.8)
        low = [max(0.0, (one.cost.mean - one.cost.p5) / _PICO) for one in days]
        high = [max(0.0, (one.cost.p95 - one.cost.mean) / _PICO) for one in days]
        axes.errorbar(at, costs, yerr=(low, high), fmt="none", ecolor=GREY, lw=1)
        axes.set(ylabel="US dollars a day")
        axes.tick_params(axis="x", rotation=30)

    return Panel(
        "Spending by day", "Blue: what was spent. Orange: what is to come, and where nine in ten such days lie.", draw
    )


def parts(names: Sequence[str], amounts: Sequence[Ahead | None]) -> Panel:
    """What each part comes to, with its interval."""
    known = [(name, one) for name, one in zip(names, amounts, strict=True) if one is not None][:MOST_CHOICES]

    def draw(axes: Any) -> None:
        for place, (_, one) in enumerate(known):
            axes.barh(place, one.mean / _PICO, 0.6, color=BLUE)
            axes.plot((one.p5 / _PICO, one.p95 / _PICO), (place, place), color=RED, lw=2)
        axes.set_yticks(range(len(known)), [visible(name) for name, _ in known], fontsize=8)
        axes.set(xlabel="US dollars, expected; the line: nine in ten", ylim=(max(len(known), 3) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")

    return Panel("Parts", "What each part comes to by the end, with its interval.", draw)
