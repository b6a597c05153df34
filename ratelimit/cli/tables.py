"""`ratecard tables check|schema`"""

from __future__ import annotations

from pathlib import Path

import click

from pricing.cards import load_cards
from pricing.prices import load_prices
from pricing.resources import data_path

from ..errors import ConfigError
from ..tiers import load_tiers

LOADERS = {"models": load_cards, "prices": load_prices, "tiers": load_tiers}


@click.group("tables")
def command() -> None:
    """Check the fact tables, or print where they and their schemas are."""


@command.command("check")
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False))
def check(files: tuple[str, ...]) -> None:
    """Validate tables: the shipped ones, or FILES named models.yaml, prices.yaml or tiers.yaml."""
    paths = [Path(file) for file in files] or [data_path(f"{name}.yaml") for name in LOADERS]
    for path in paths:
        loader = LOADERS.get(path.name.split(".")[0])
        if loader is None:
            raise ConfigError(f"{path}: a table is called models.yaml, prices.yaml or tiers.yaml")
        loader(path)
        click.echo(f"{path}: ok")


@command.command("schema")
def schema() -> None:
    """Print the paths of the shipped tables and their JSON Schemas."""
    for name in LOADERS:
        click.echo(data_path(f"{name}.yaml"))
        click.echo(data_path(f"{name}.schema.json"))
