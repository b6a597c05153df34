"""Budgets written in a file: a YAML list of texts such as "25 USD/day slow", or of the same facts as keys.

budgets:
  - 500 USD/month zone:Europe/Berlin
  - {amount: "25 USD/day", tag: "team=search", action: slow, unpriced: allow, thresholds: [50, 90]}
"""

from __future__ import annotations

from os import PathLike
from typing import Any

from ._yaml import Node, read_table
from .budget import ACTIONS, UNPRICED, Budget
from .errors import ConfigError, TableError

_KEYS = ("run", "tag", "zone", "rolling", "action", "unpriced", "thresholds")


def read_budgets(text: str) -> list[Budget]:
    """Read what people give for budgets: one as a text, or the path of a file (.yaml, .yml) with several.

    Raises  ConfigError, for a file with its line and key
    """
    return load_budgets(text) if text.endswith((".yaml", ".yml")) else [Budget.parse(text)]


def load_budgets(path: str | PathLike[str]) -> list[Budget]:
    """Read a file of budgets.

    Raises  TableError with file, line and key when it is wrong
    """
    root = read_table(path).mapping(required=("budgets",))
    return [_budget(node) for node in root["budgets"].items()]


def _budget(node: Node) -> Budget:
    try:
        if isinstance(node._value, str):
            return Budget.parse(node.text())
        facts = node.mapping(required=("amount",), optional=_KEYS)
        given: dict[str, Any] = {name: facts[name].text() for name in ("run", "tag", "zone") if name in facts}
        for name, choices in (("action", ACTIONS), ("unpriced", UNPRICED)):
            if name in facts:
                given[name] = facts[name].text(choices)
        if "rolling" in facts:
            given["rolling"] = facts["rolling"].boolean()
        if "thresholds" in facts:
            given["thresholds"] = tuple(one.integer(1) for one in facts["thresholds"].items())
        return Budget.parse(facts["amount"].text())._replace(**given).checked()
    except TableError:
        raise
    except ConfigError as error:
        node.fail(str(error))
