"""Model cards: what each model is and can do, as data/models.yaml states it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple

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
    "v1/decisions",
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
CHAT_TOOLS = ("never", "with_effort_none")
DETAILS = ("default", "high", "original")
_NONE: Mapping[str, Any] = MappingProxyType({})
_READ = re.compile(r"20[0-9]{2}(-(0[1-9]|1[0-2]))?")
_OPTIONAL = (
    "description",
    "released",
    "shutdown",
    "replacement",
    "snapshots",
    "aliases",
    "context_window",
    "max_input_tokens",
    "max_output_tokens",
    "dimensions",
    "knowledge_cutoff",
    "reasoning_tokens",
    "ratings",
    "encoding",
    "encoding_evidence",
    "prime_tokens",
    "image_output_tokens",
    "image_tokens",
    "modalities",
    "endpoints",
    "features",
    "rejected_efforts",
    "chat_tools",
    "tools",
    "notes",
    "conflicts",
)


class Source(NamedTuple):
    """Where a fact was read, and when (a day, a month or a year)."""

    name: str
    url: str
    read: str

    def __str__(self) -> str:
        return f"{self.url}, read {self.read}"


class Tiles(NamedTuple):
    """An image costs `base` tokens and `per_tile` for each tile of 512 pixels (how many: the vision guide)."""

    base: int
    per_tile: int


class Patches(NamedTuple):
    """At one level of detail an image is shrunk to so many patches of 32 pixels, and to so long a side.

    budget    patches  None: no bound is known
    max_side  pixels   the same
    """

    budget: int | None
    max_side: int | None


class ImageRule(NamedTuple):
    """What an input image costs: a model of tiles, or one of patches.

    patches             by level of detail: "default" where the source makes no difference, else "high" | "original"
    multiplier_percent  of the patches, rounded up, are its tokens
    auto                the level that "auto" means, where a source says so
    """

    tiles: Tiles | None
    patches: Mapping[str, Patches]
    multiplier_percent: int = 100
    auto: str | None = None


class ModelCard(NamedTuple):
    """One model. None, or a missing key of a mapping, means that no source states the fact.

    snapshots                           dated names; the one an alias leads to comes first
    context_window, max_input_tokens, max_output_tokens   tokens
    dimensions                          numbers of an embedding
    encoding_evidence                   sources that show which encoding counts its tokens
    endpoints, features                 name → offered or not
    rejected_efforts                    values of reasoning effort that are errors
    chat_tools                          function calling on Chat Completions: "never", or "with_effort_none" only
    notes, conflicts                    what a reader should know; where sources contradict each other
    modalities                          "text" | "image" | "audio" → {"input": …, "output": …}
    image_output_tokens                 quality → size → the most output tokens that an image of it takes
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
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    dimensions: int | None = None
    knowledge_cutoff: date | None = None
    reasoning_tokens: bool | None = None
    ratings: Mapping[str, str] = _NONE
    encoding: str | None = None
    encoding_evidence: tuple[Source, ...] = ()
    prime_tokens: int | None = None
    image_output_tokens: Mapping[str, Mapping[str, int]] = _NONE
    image_tokens: ImageRule | None = None
    modalities: Mapping[str, Mapping[str, bool]] = _NONE
    endpoints: Mapping[str, bool] = _NONE
    features: Mapping[str, bool] = _NONE
    rejected_efforts: tuple[str, ...] = ()
    chat_tools: str | None = None
    tools: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    # A card is the same as itself alone; so it can be a key, though its mappings cannot.
    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__  # type: ignore[misc]


class CardTable:
    """All cards of one table. Iterates over them in the order of the file."""

    def __init__(self, cards: tuple[ModelCard, ...]) -> None:
        self._cards = cards
        self._names = {name: card for card in cards for name in (card.model, *card.aliases, *card.snapshots)}

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)

    def named(self, name: str) -> ModelCard | None:
        """Find the card that has this name: a model, an alias or a snapshot. What has a price is found so."""
        return self._names.get(name)

    def resolve(self, name: str) -> ModelCard | None:
        """Find the card of a model, an alias, a snapshot, or of the base of a fine-tuned model; else None.

        A fine-tuned model (ft:base:organisation:suffix:id) can do what its base can. Its price is its own: see `named`.
        """
        return self._names.get(base_of(name))


def base_of(name: str) -> str:
    """The base of a fine-tuned model's name, ft:base:organisation:suffix:id; any other name as it is."""
    if isinstance(name, str) and name.startswith("ft:"):
        parts = name.split(":")
        if len(parts) >= 5 and parts[1]:
            return parts[1]
    return name


def resolve(name: str) -> ModelCard | None:
    """Find a card in the shipped table by model, alias, snapshot or fine-tune id; None when there is none."""
    return load_cards().resolve(name)


def near_names(name: str) -> list[str]:
    """Up to three names of shipped cards that a mistyped model may have meant."""
    return difflib.get_close_matches(name, [card.model for card in load_cards()], 3)


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
    card = cards.named(name)
    if card is None:
        near = difflib.get_close_matches(name, [card.model for card in cards], 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{len(cards)} models have cards in models.yaml"
        node.fail(f"unknown model {name!r}; {hint}")
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
    numbers: dict[str, int] = {
        key: fields[key].integer(1)
        for key in ("context_window", "max_input_tokens", "max_output_tokens", "dimensions")
        if key in fields
    }
    context = numbers.get("context_window")
    for key, what in (("max_output_tokens", "output"), ("max_input_tokens", "input")):
        if context is not None and (most := numbers.get(key, 0)) > context:
            fields[key].fail(f"{most} {what} tokens do not fit a context window of {context}")
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
        max_input_tokens=numbers.get("max_input_tokens"),
        max_output_tokens=numbers.get("max_output_tokens"),
        dimensions=numbers.get("dimensions"),
        knowledge_cutoff=dates.get("knowledge_cutoff"),
        reasoning_tokens=fields["reasoning_tokens"].boolean() if "reasoning_tokens" in fields else None,
        ratings=_texts(fields.get("ratings")),
        encoding=fields["encoding"].text(ENCODINGS) if "encoding" in fields else None,
        encoding_evidence=_sources(fields.get("encoding_evidence"), sources),
        prime_tokens=fields["prime_tokens"].integer(0) if "prime_tokens" in fields else None,
        image_output_tokens=_image_output(fields.get("image_output_tokens")),
        image_tokens=_image_rule(fields["image_tokens"]) if "image_tokens" in fields else None,
        modalities=_modalities(fields.get("modalities")),
        endpoints=_flags(fields.get("endpoints"), ENDPOINTS),
        features=_flags(fields.get("features"), FEATURES),
        rejected_efforts=_list(fields.get("rejected_efforts")),
        chat_tools=fields["chat_tools"].text(CHAT_TOOLS) if "chat_tools" in fields else None,
        tools=_list(fields.get("tools")),
        notes=_list(fields.get("notes")),
        conflicts=_list(fields.get("conflicts")),
        sources=tuple(read_source(source, sources) for source in source_nodes),
    )


def _image_output(node: Node | None) -> Mapping[str, Mapping[str, int]]:
    if node is None:
        return MappingProxyType({})
    found = {
        quality: MappingProxyType({size: tokens.integer(1) for size, tokens in sizes.entries().items()})
        for quality, sizes in node.entries().items()
    }
    return MappingProxyType(found)


def _image_rule(node: Node) -> ImageRule:
    fields = node.mapping(optional=("tiles", "patches", "multiplier_percent", "auto"))
    if ("tiles" in fields) is ("patches" in fields):
        node.fail("expected tiles or patches, one of them")
    if "tiles" in fields:
        for key in ("multiplier_percent", "auto"):
            if key in fields:
                fields[key].fail(f"{key} belongs to patches")
        facts = fields["tiles"].mapping(required=("base", "per_tile"))
        return ImageRule(Tiles(facts["base"].integer(1), facts["per_tile"].integer(1)), MappingProxyType({}))
    levels = {}
    for detail, level in fields["patches"].mapping(optional=DETAILS).items():
        bounds = level.mapping(optional=("budget", "max_side"))
        budget, side = (bounds[key].integer(1) if key in bounds else None for key in ("budget", "max_side"))
        levels[detail] = Patches(budget, side)
    if not levels:
        fields["patches"].fail(f"expected at least one of {', '.join(DETAILS)}")
    percent = fields["multiplier_percent"].integer(1) if "multiplier_percent" in fields else 100
    auto = fields["auto"].text(levels) if "auto" in fields else None
    return ImageRule(None, MappingProxyType(levels), percent, auto)


def _sources(node: Node | None, sources: Mapping[str, Source]) -> tuple[Source, ...]:
    return () if node is None else tuple(read_source(one, sources) for one in node.items())


def _list(node: Node | None) -> tuple[str, ...]:
    return () if node is None else node.texts()


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
