"""`ratecard tables check|diff|schema`"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from pricing.cards import load_cards, near_names
from pricing.peers import Disagreement, compare
from pricing.prices import load_prices
from pricing.resources import data_path

from ..errors import ConfigError
from ..tiers import load_tiers
from ._prices import prices_option
from ._shared import Day, counted, print_json
from ._text import echo

LOADERS: dict[str, Callable[[Path], Any]] = {"models": load_cards, "prices": load_prices, "tiers": load_tiers}

GATES = ("gate", "gate_report", "gate_verdict")
"""Schemas of what is no table: a gate's file, a saved report, and what a gate prints as JSON."""


@click.group("tables")
def command() -> None:
    """Check the fact tables, compare their prices with other projects', or print where they and their schemas are."""


@command.command("check")
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False))
@prices_option
def check(files: tuple[str, ...], prices: tuple[str, ...]) -> None:
    """Validate tables: the shipped ones, or FILES named models.yaml, prices.yaml or tiers.yaml; and overlays."""
    paths = [Path(file) for file in files]
    if not files and not prices:
        paths = [data_path(f"{name}.yaml") for name in LOADERS]
    for path in paths:
        loader = LOADERS.get(path.name.split(".")[0])
        if loader is None:
            raise ConfigError(
                f"{path}: a table is called models.yaml, prices.yaml or tiers.yaml; give an overlay as --prices {path}"
            )
        loader(path)
        echo(f"{path}: ok")
    for number, overlay in enumerate(prices, 1):
        table = load_prices(overlay=prices[:number])
        echo(f"{overlay}: ok")
    for model in table.without_card() if prices else ():
        near = near_names(model)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        echo(f"{model} has a price and no card: it is priced under that very name{hint}", err=True)


@command.command("diff")
@prices_option
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(prices: tuple[str, ...], at: date | None, as_json: bool) -> None:
    """Compare our prices with those that genai-prices and litellm ship, where these are installed.

    Their data files are read and nothing else: no network, none of their code. Theirs may be the wrong one.
    """
    day = at or datetime.now(UTC).date()
    comparisons = compare(load_prices(overlay=prices), [card.model for card in load_cards()], day)
    if as_json:
        print_json(
            {
                one.name: {
                    "version": one.version,
                    "equal": one.equal,
                    "disagreements": [_document(each) for each in one.disagreements],
                }
                for one in comparisons
            }
        )
        return
    for one in comparisons:
        differing = [each for each in one.disagreements if each.ours is not None]
        echo(
            f"{one.name} {one.version}: {counted(one.equal, 'price')} equal, {len(differing):,} differ, "
            f"{len(one.disagreements) - len(differing):,} that we have none for"
        )
        for each in one.disagreements:
            model, tier, kind, long = each.place
            ours = "none" if each.ours is None else f"{each.ours:f}"
            what = f"{kind}, long context" if long else kind
            echo(f"  {model:<24} {tier:<10} {what:<32} ours {ours:>8}  theirs {each.theirs:>8f}")


def _document(one: Disagreement) -> dict[str, Any]:
    ours = None if one.ours is None else f"{one.ours:f}"
    return {**one.place._asdict(), "ours": ours, "theirs": f"{one.theirs:f}"}


@command.command("schema")
def schema() -> None:
    """Print the paths of the shipped tables and their JSON Schemas, and of the schemas of cost gates."""
    for name in LOADERS:
        click.echo(data_path(f"{name}.yaml"))
        click.echo(data_path(f"{name}.schema.json"))
    for name in GATES:
        click.echo(data_path(f"{name}.schema.json"))
