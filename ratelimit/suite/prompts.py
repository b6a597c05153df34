"""The prompts of a suite: texts, and chat messages as JSON, written out or in files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pricing._yaml import MAX_DEPTH, Node

from ..errors import TableError
from .files import CODE, FILE, YAML, Files
from .names import Names, clean
from .template import NotRendered, Place, Template, compile_text

TEXTS = (".txt", ".md", ".j2")
KNOWN = (*TEXTS, ".json", *YAML)
_NAMED_LIKE_FILES = (*KNOWN, *CODE, ".csv", ".jsonl")
_SEPARATOR = "---"
_ELSEWHERE = ("langfuse://", "portkey://", "helicone://", "package:")
_PAGES = ("http://", "https://")


class Prompt(NamedTuple):
    """One prompt.

    name   what lines are named after, no other prompt's
    group  what providers and tests choose it by: the label, or what was written in its place
    raw    the text, or JSON
    place  where it begins
    chat   it has to be a list of messages
    """

    name: str
    group: str
    raw: str
    place: Place
    chat: bool = False


def read_prompts(node: Node, files: Files) -> tuple[Prompt, ...]:
    """Read `prompts`. Raises TableError with the line and key of what is not understood."""
    if isinstance(node._value, dict):
        node.fail("expected a list: write each prompt as a text, or as {label: …, raw: …}")
    entries = node.items() if isinstance(node._value, list) else [node]
    if not entries:
        node.fail("there is no prompt in it")
    names = Names()
    return tuple(
        prompt._replace(name=names.new(clean(prompt.name)))
        for number, entry in enumerate(entries, 1)
        for prompt in _entry(entry, number, files)
    )


def _entry(node: Node, number: int, files: Files) -> Iterator[Prompt]:
    label = ""
    written = node
    if isinstance(node._value, dict):
        facts = node.mapping(optional=("id", "raw", "file", "label"))
        if "label" in facts:
            label = facts["label"].text()
        texts = [facts[key] for key in ("raw", "file", "id") if key in facts]
        if not texts:
            node.fail("it has no text: expected raw, file or id")
        written = texts[0]
    raw = written.text()
    if raw.startswith("exec:"):
        written.fail(
            f"{raw[:60]!r} would have to be run, and nothing is: write what it prints into a file (.txt, .json)"
        )
    if raw.startswith(_ELSEWHERE) or (raw.startswith(_PAGES) and _one_word(raw)):
        written.fail(f"{raw[:60]!r} is not on this machine, and nothing is fetched: write the prompt into a file")
    is_file = raw.startswith(FILE) or written.key.endswith(".file") or _looks_like_file(raw)
    if not is_file:
        chat = _parsed(raw) is not None
        if raw.lstrip().startswith("- role:"):
            written.fail("chat messages as YAML in a text are not understood: write them as JSON, or into a .yaml file")
        yield Prompt(
            label or f"prompt-{number}", label or raw, raw, Place(written.file, written.line, written.key), chat
        )
        return
    paths = files.find(written, raw)
    for path in paths:
        found = list(_in_file(written, path, files))
        if not found:
            written.fail(f"{files.name(path)}: there is no prompt in it")
        name = f"{label}: {files.name(path)}" if label and len(paths) > 1 else label or files.name(path)
        for at, (text, place, chat) in enumerate(found, 1):
            own = f"{name}#{at}" if len(found) > 1 else name
            yield Prompt(own, label or raw.removeprefix(FILE), text, place, chat)


def _one_word(text: str) -> bool:
    return not any(one.isspace() for one in text.strip()) and "{{" not in text


def _looks_like_file(text: str) -> bool:
    """Whether a text without file:// names a file: one word that ends like one."""
    return _one_word(text) and _ending(text) in _NAMED_LIKE_FILES


def _ending(text: str) -> str:
    ending = Path(text).suffix.lower()
    return Path(text.rpartition(":")[0]).suffix.lower() if ":" in ending else ending


def _in_file(node: Node, path: Path, files: Files) -> Iterator[tuple[str, Place, bool]]:
    ending = path.suffix.lower()
    if ending == ".txt":
        yield from ((text, Place(str(path), line, ""), False) for text, line in _split(files.text(node, path)))
    elif ending in TEXTS:
        text = files.text(node, path)
        if text.strip():
            yield text, Place(str(path), 1, ""), False
    elif ending == ".json":
        text = files.text(node, path)
        place = Place(str(path), 1, "")
        made = compile_text(text, place)  # where a template is in the way of JSON, that is what is wrong
        if not made.refers or _parsed(text) is not None:
            _messages(files.document(node, path))
        yield text, place, True  # with {{ name | dump }} between its texts it is JSON only when it is rendered
    elif ending in YAML:
        messages = _messages(files.document(node, path))
        yield json.dumps(messages, ensure_ascii=False), Place(str(path), 0, ""), True
    else:
        node.fail(f"prompts in a file like {files.name(path)!r} are not understood: {', '.join(KNOWN)} are")


def _messages(node: Node) -> Any:
    messages = node.data()
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        node.fail('expected a list of messages, such as [{"role": "user", "content": "…"}]')
    refuse_references(node)
    return messages


def refuse_references(node: Node) -> None:
    """Refuse file:// in what is sent as it stands. Raises TableError."""
    value = node._value
    inside: Iterable[Node] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inside:
        refuse_references(one)
    if isinstance(value, str) and value.startswith(FILE):
        node.fail(f"{value[:60]!r} is not read here: write the content out, or make it a variable of the tests")


def _split(text: str) -> Iterator[tuple[str, int]]:
    """Cut a text at lines of three dashes; each part without the blanks around it, and the line it begins on."""
    begun, part = 1, list[str]()
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), _SEPARATOR], 1):
        if line.strip() != _SEPARATOR:
            part.append(line)
            continue
        whole = "\n".join(part)
        if whole.strip():
            yield whole.strip(), begun + whole[: len(whole) - len(whole.lstrip())].count("\n")
        begun, part = number + 1, []


def _parsed(text: str) -> list[Any] | None:
    """Read messages; None for what is a text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if value and all(isinstance(one, dict) for one in value) else None


class Compiled:
    """A prompt, between what a test puts before and after it, ready to be rendered."""

    def __init__(self, prompt: Prompt, before: str = "", after: str = "") -> None:
        """Raises TableError for what is not understood in its templates."""
        raw = before + prompt.raw + after
        parsed = _parsed(raw)
        exact = prompt.place.key == "" and not before
        self._chat = prompt.chat and not before and not after
        self._what: Any = (
            compile_text(raw, prompt.place, counts_lines=exact) if parsed is None else _compiled(parsed, prompt.place)
        )

    def render(self, texts: Mapping[str, str], variables: Mapping[str, Node]) -> str | list[Any]:
        """Put the variables in: a text, or a list of messages.

        Raises  NotRendered when a variable is missing, or when what had to be messages is none
        """
        made = _rendered(self._what, texts, variables)
        if isinstance(made, str) and (messages := _parsed(made)) is not None:
            made = messages
        if self._chat and not isinstance(made, list):
            raise NotRendered("it is no list of messages once its variables are in it")
        return made  # type: ignore[no-any-return]  # a text or a list: what went in


def _compiled(value: Any, place: Place, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        what = f"nested more than {MAX_DEPTH} deep"
        raise TableError(what, file=place.file, line=place.line or None, key=place.key or None)
    if isinstance(value, str):
        return compile_text(value, place, counts_lines=False)
    if isinstance(value, list):
        return [_compiled(one, place, depth + 1) for one in value]
    return {key: _compiled(one, place, depth + 1) for key, one in value.items()} if isinstance(value, dict) else value


def _rendered(value: Any, texts: Mapping[str, str], variables: Mapping[str, Node]) -> Any:
    if isinstance(value, Template):
        return value.render(texts, variables)
    if isinstance(value, list):
        return [_rendered(one, texts, variables) for one in value]
    return {key: _rendered(one, texts, variables) for key, one in value.items()} if isinstance(value, dict) else value


def chosen(node: Node | None, prompts: tuple[Prompt, ...]) -> frozenset[int] | None:
    """Read a `prompts` filter of labels; → the places of what it chooses, None for all.

    Raises  TableError for a label that no prompt has
    """
    if node is None:
        return None
    found: set[int] = set()
    for one in node.items():
        label = one.text()
        places = {at for at, prompt in enumerate(prompts) if _matches(label, prompt.group)}
        if not places:
            one.fail(f"no prompt has the label {label!r}")
        found |= places
    return frozenset(found)


def _matches(label: str, group: str) -> bool:
    starts = label[:-1] if label.endswith("*") else f"{label}:"
    return group == label or group.startswith(starts)
