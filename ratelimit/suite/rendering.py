"""A suite as the lines of a job: one for each prompt, provider, combination of variables and repetition.

A line is what stands in a Batch file. A request that cannot be sent is a line too, with the reason in the place of the
body, so that it is counted among the bad ones.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pricing._yaml import Node, read_text, read_yaml

from ..errors import TableError
from .cases import Case, Reader
from .files import MAX_BYTES, Files, read_json
from .prompts import Compiled, Prompt, read_prompts
from .providers import Provider, read_providers
from .template import NotRendered, texts_of

MAX_REQUESTS = 1_000_000
UNUSABLE = "unusable"
"""The key of a line that says why it cannot be sent."""
_READ = ("prompts", "providers", "targets", "tests", "defaultTest", "evaluateOptions", "commandLineOptions")
_OTHER = ("description", "tags", "outputPath", "sharing", "env", "metadata", "derivedMetrics", "tracing",
          "nunjucksFilters", "assertionTemplates", "writeLatestResults")  # fmt: skip
_OWN = ("x-", "_", ".")
"""How keys begin under which people keep what they point at."""
_MAKES_REQUESTS = {
    "scenarios": "write them as tests",
    "redteam": "write the tests that it generates into a file of tests",
    "extensions": "they may change every request, and nothing is run: leave them out",
}
_QUIET_OPTIONS = ("repeat", "description", "config", "envPath", "envFile", "grader", "maxConcurrency", "delay",
                  "output", "table", "tableCellMaxLength", "progressBar", "verbose", "share", "cache", "write",
                  "watch")  # fmt: skip
"""Options that change no request."""
_LIKE = 0.8
_MOST_COMPILED = 1_000


class Suite(NamedTuple):
    """A suite, read. `repeat`: how often each request is made."""

    prompts: tuple[Prompt, ...]
    providers: tuple[Provider, ...]
    cases: tuple[Case, ...]
    repeat: int


def read_suite(path: Path) -> Suite:
    """Read a suite and all that it refers to.

    Raises  ConfigError, with file, line and key where there are such, for what is not understood, and for one of more
            than a million requests
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror or error}", file=file) from error
    if len(raw) > MAX_BYTES:
        raise TableError(f"larger than {MAX_BYTES:,} bytes", file=file)
    text = read_text(raw, file)
    root = read_json(text, file) if text.lstrip().startswith("{") else read_yaml(text, file, aliases=True)
    facts = root.entries()
    _check_keys(facts)
    if "prompts" not in facts:
        root.fail("missing key 'prompts'")
    targets = [facts[key] for key in ("providers", "targets") if key in facts]
    if len(targets) != 1:
        root.fail("missing key 'providers'" if not targets else "'targets' is another name of 'providers': write one")
    files = Files(path)
    prompts = read_prompts(facts["prompts"], files)
    for prompt in prompts:
        Compiled(prompt)  # what is not understood in a template is told before the first line
    providers = read_providers(targets[0], prompts, files)
    tests, default = (
        facts[key] if key in facts and not facts[key].nothing else None for key in ("tests", "defaultTest")
    )
    cases = Reader(prompts, providers, files).read(root, tests, default)
    suite = Suite(prompts, providers, cases, _repeat(facts))
    if (count := requests(suite)) > MAX_REQUESTS:
        raise TableError(f"{count:,} requests; a suite has at most {MAX_REQUESTS:,}: make jobs of it", file=file)
    return suite


def _check_keys(facts: Mapping[str, Node]) -> None:
    """Refuse what would change the requests, and what may be a typing error; all else is no matter of requests."""
    for key, node in facts.items():
        if key in _MAKES_REQUESTS:
            node.fail(f"{key!r} is not understood: {_MAKES_REQUESTS[key]}")
        near = difflib.get_close_matches(key, _READ, 1, _LIKE)
        if near and key not in (*_READ, *_OTHER) and not key.startswith(_OWN):
            node.fail(f"unknown key {key!r}; did you mean {near[0]!r}?")


def _repeat(facts: Mapping[str, Node]) -> int:
    """How often each request is made; what stands for the command line goes before."""
    found = 1
    for key in ("evaluateOptions", "commandLineOptions"):
        if key not in facts or facts[key].nothing:
            continue
        options = facts[key].entries()
        if key == "commandLineOptions":
            for name, one in options.items():
                if name not in _QUIET_OPTIONS:
                    one.fail(f"option {name!r} is not understood, and may change the requests: leave it out")
        if "repeat" in options:
            found = max(options["repeat"].integer(), 1)
    return found


def _pairs(suite: Suite, case: Case) -> Iterator[tuple[Provider, int]]:
    """The providers that a test asks, and of each the prompts, by their places."""
    for at, provider in enumerate(suite.providers):
        if case.providers is None or at in case.providers:
            for place in range(len(suite.prompts)):
                if all(chosen is None or place in chosen for chosen in (case.prompts, provider.prompts)):
                    yield provider, place


def requests(suite: Suite) -> int:
    """Count the requests of a suite."""
    count = 0
    pairs: dict[tuple[Any, Any], int] = {}
    for case in suite.cases:
        chosen = case.providers, case.prompts
        if chosen not in pairs:
            pairs[chosen] = sum(1 for _ in _pairs(suite, case))
        count += pairs[chosen] * case.size
    return count * suite.repeat


def lines(suite: Suite) -> Iterator[bytes]:
    """Render a suite, line by line, in the order in which promptfoo would ask."""
    compiled: dict[tuple[int, str, str], Compiled] = {}
    for case in suite.cases:
        several = case.size > 1
        for turn in range(1, suite.repeat + 1):
            for number, variables in enumerate(case.combinations(), 1):
                name = case.name + (f".{number}" if several else "") + (f"#{turn}" if suite.repeat > 1 else "")
                texts, wrong = _texts(variables)
                for provider, place in _pairs(suite, case):
                    prompt = suite.prompts[place]
                    line: dict[str, Any] = {"custom_id": f"{prompt.name}/{provider.name}/{name}"}
                    key = place, case.before, case.after
                    if key not in compiled:
                        if len(compiled) >= _MOST_COMPILED:
                            compiled.clear()
                        compiled[key] = Compiled(prompt, case.before, case.after)
                    try:
                        if wrong or provider.why:
                            raise NotRendered(provider.why or wrong)
                        body = provider.body(compiled[key].render(texts, variables))
                        line |= {"method": "POST", "url": provider.endpoint, "body": body}
                    except NotRendered as error:
                        where = "" if provider.why else f"prompt {prompt.name!r}, test {case.name!r}: "
                        line[UNUSABLE] = f"{where}{error}"
                    yield json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _texts(variables: Mapping[str, Node]) -> tuple[dict[str, str], str]:
    """The variables as texts; or why they cannot be."""
    try:
        return texts_of(variables), ""
    except NotRendered as error:
        return {}, str(error)
