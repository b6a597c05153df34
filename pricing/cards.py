"""Model cards: what each model is and can do, as data/models.yaml states it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from os import PathLike
from types import MappingProxyType
from typing import NamedTuple

from ._yaml import Node, read_table
from .errors import TableError
from .resources import data_path

ENDPOINTS = (
    "v1/chat/completions",
    "v1/responses",
    "v1/realtime",
    "v1/assistants",
    "v1/batch",
    "v1/fine-tuning",
    "v1/embeddings",
    "v1/images/generations",
    "v1/images/edits",
    "v1/audio/speech",
    "v1/audio/transcriptions",
    "v1/audio/translations",
    "v1/moderations",
    "v1/completions",
)
FEATURES = (
    "streaming",
    "function_calling",
    "structured_outputs",
    "fine_tuning",
    "distillation",
    "predicted_outputs",
)
MODALITIES = ("text", "image", "audio")
ENCODINGS = ("o200k_base", "cl100k_base")
_READ = re.compile(r"20[0-9]{2}(-(0[1-9]|1[0-2]))?")
_OPTIONAL = (
    "description",
    "released",
    "shutdown",
    "replacement",
    "snapshots",
    "aliases",
    "context_window",
    "max_output_tokens",
    "knowledge_cutoff",
    "reasoning_tokens",
    "ratings",
    "encoding",
    "prime_tokens",
    "modalities",
    "endpoints",
    "features",
    "tools",
)


class Source(NamedTuple):
    """Where a fact was read, and when (a day, a month or a year)."""

    name: str
    url: str
    read: str

    def __str__(self) -> str:
        return f"{self.url}, read {self.read}"


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """One model. None, or a missing key of a mapping, means that no source states the fact.

    context_window, max_output_tokens   tokens
    endpoints, features                 name → offered or not
    modalities                          "text" | "image" | "audio" → {"input": …, "output": …}
    prime_tokens                        tokens that prime a chat reply (2 or 3), beside those of the messages
    """

    model: str
    description: str = ""
    released: date | None = None
    shutdown: date | None = None
    replacement: str | None = None
    snapshots: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    context_window: int | None = None
    max_output_tokens: int | None = None
    knowledge_cutoff: date | None = None
    reasoning_tokens: bool | None = None
    ratings: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    prime_tokens: int | None = None
    modalities: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    endpoints: Mapping[str, bool] = field(default_factory=dict)
    features: Mapping[str, bool] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


class CardTable:
    """All cards of one table. Iterates over them in the order of the file."""

    def __init__(self, cards: tuple[ModelCard, ...]) -> None:
        self._cards = cards
        self._names = {name: card for card in cards for name in (card.model, *card.aliases, *card.snapshots)}

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)

    def resolve(self, name: str) -> ModelCard | None:
        """Find the card of a model, an alias or a snapshot; None for anything else, fine-tuned models included."""
        return self._names.get(name)


def resolve(name: str) -> ModelCard | None:
    """Find a card in the shipped table by model, alias or snapshot; None when there is none."""
    return load_cards().resolve(name)


def load_cards(path: str | PathLike[str] | None = None) -> CardTable:
    """Load the shipped cards (once), or another table.

    Raises  TableError with file, line and key when the table is wrong
    """
    return _shipped() if path is None else _load(path)


@lru_cache(maxsize=1)
def _shipped() -> CardTable:
    return _load(data_path("models.yaml"))


def _load(path: str | PathLike[str]) -> CardTable:
    root = read_table(path).mapping(required=("version", "sources", "models"))
    read_version(root["version"])
    sources = read_sources(root["sources"])
    names: dict[str, int] = {}
    cards = []
    for node in root["models"].items():
        cards.append(_card(node, sources, names))
    return CardTable(tuple(cards))


def read_version(node: Node) -> None:
    """Check the table format's version."""
    if node.integer(1) != 1:
        node.fail("this ratecard reads tables of version 1")


def read_sources(node: Node) -> dict[str, Source]:
    """Read the `sources` of a table by name. Each has a url and the day, month or year it was read."""
    found = {}
    for name, source in node.entries().items():
        fields = source.mapping(required=("url", "read"), optional=("note",))
        url = fields["url"].text()
        if not url.startswith("https://"):
            fields["url"].fail(f"expected a URL that begins with https://, found {url!r}")
        if not _READ.fullmatch(fields["read"].text()):
            fields["read"].date()
        if "note" in fields:
            fields["note"].text()
        found[name] = Source(name, url, fields["read"].text())
    return found


def read_source(node: Node, sources: Mapping[str, Source]) -> Source:
    """Read a reference to one of the table's sources."""
    name = node.text()
    if name not in sources:
        node.fail(f"unknown source {name!r}; the table's sources are {', '.join(sources) or 'none'}")
    return sources[name]


def read_model(node: Node, cards: CardTable) -> str:
    """Read the name of a model that has a card; an alias or a snapshot is not the name."""
    name = node.text()
    card = cards.resolve(name)
    if card is None:
        node.fail(f"unknown model {name!r}; the cards are {', '.join(card.model for card in cards)}")
    if card.model != name:
        node.fail(f"{name!r} is another name of {card.model}: write {card.model}")
    return name


def _card(node: Node, sources: Mapping[str, Source], names: dict[str, int]) -> ModelCard:
    fields = node.mapping(required=("model", "sources"), optional=_OPTIONAL)
    model = fields["model"].text()
    snapshots = fields["snapshots"].items() if "snapshots" in fields else []
    aliases = fields["aliases"].items() if "aliases" in fields else []
    # The model's page lists its own name among its aliases.
    for given in (fields["model"], *(alias for alias in aliases if alias.text() != model), *snapshots):
        name = given.text()
        if name in names:
            given.fail(f"{name!r} already names the model on line {names[name]}")
        names[name] = fields["model"].line
    dates = {key: fields[key].date() for key in ("released", "shutdown", "knowledge_cutoff") if key in fields}
    if "released" in dates and "shutdown" in dates and dates["shutdown"] <= dates["released"]:
        fields["shutdown"].fail(f"expected a day after the release on {dates['released']}, found {dates['shutdown']}")
    context = fields["context_window"].integer(1) if "context_window" in fields else None
    output = fields["max_output_tokens"].integer(1) if "max_output_tokens" in fields else None
    if context is not None and output is not None and output > context:
        fields["max_output_tokens"].fail(f"{output} output tokens do not fit a context window of {context}")
    prime = fields["prime_tokens"].integer(0) if "prime_tokens" in fields else None
    if not (source_nodes := fields["sources"].items()):
        fields["sources"].fail("expected at least one source")
    return ModelCard(
        model=model,
        description=fields["description"].text() if "description" in fields else "",
        released=dates.get("released"),
        shutdown=dates.get("shutdown"),
        replacement=fields["replacement"].text() if "replacement" in fields else None,
        snapshots=tuple(snapshot.text() for snapshot in snapshots),
        aliases=tuple(alias.text() for alias in aliases),
        context_window=context,
        max_output_tokens=output,
        knowledge_cutoff=dates.get("knowledge_cutoff"),
        reasoning_tokens=fields["reasoning_tokens"].boolean() if "reasoning_tokens" in fields else None,
        ratings=_texts(fields.get("ratings")),
        encoding=fields["encoding"].text(ENCODINGS) if "encoding" in fields else None,
        prime_tokens=prime,
        modalities=_modalities(fields.get("modalities")),
        endpoints=_flags(fields.get("endpoints"), ENDPOINTS),
        features=_flags(fields.get("features"), FEATURES),
        tools=fields["tools"].texts() if "tools" in fields else (),
        sources=tuple(read_source(source, sources) for source in source_nodes),
    )


def _flags(node: Node | None, known: tuple[str, ...]) -> Mapping[str, bool]:
    if node is None:
        return MappingProxyType({})
    return MappingProxyType({name: flag.boolean() for name, flag in node.mapping(optional=known).items()})


def _texts(node: Node | None) -> Mapping[str, str]:
    if node is None:
        return MappingProxyType({})
    return MappingProxyType({name: text.text() for name, text in node.entries().items()})


def _modalities(node: Node | None) -> Mapping[str, Mapping[str, bool]]:
    if node is None:
        return MappingProxyType({})
    return MappingProxyType(
        {name: _flags(flags, ("input", "output")) for name, flags in node.mapping(optional=MODALITIES).items()}
    )


__all__ = ["CardTable", "ModelCard", "Source", "TableError", "load_cards", "resolve"]
