"""Law: no name of a file, a tag, a model or a rule becomes anything but words, whatever it is, in any format."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pricing.gate.formats import FORMATS, markdown, render
from pricing.gate.formats._markdown import code, prose
from pricing.gate.formats._text import one_line, visible
from pricing.gate.judge import Verdict

from . import junit_shape
from .conftest import HOSTILE, cell, group, report, verdict, verdicts, words

OFTEN = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
READER = MarkdownIt("gfm-like")
"""GitHub's Markdown with every link that it would make of a plain text, and more."""

OURS = re.compile(r"<!-- ratecard-gate: [A-Za-z0-9._/-]+ -->|</?details>|<summary>[\d,]+ passed</summary>")
ALLOWED = {
    "paragraph", "heading", "inline", "text", "softbreak", "code_inline", "html_block", "strong", "bullet_list",
    "list_item", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
MEANS_SOMETHING = re.compile(r"@|#|://|www\.|mailto:|\bGH-\d|:\w+:|\$[^$]*\S\$(?!\w)|\b[0-9a-f]{7,40}\b", re.IGNORECASE)


def tokens(text: str) -> list[Token]:
    """All tokens of a document, those inside of lines too."""
    return [inner for token in READER.parse(text) for inner in (token, *(token.children or ()))]


def harmless(text: str) -> None:
    """Fail when a document has anything that we did not write, or text that GitHub would make something of."""
    for token in tokens(text):
        assert re.sub(r"_(open|close)$", "", token.type) in ALLOWED, token
        if token.type == "html_block":
            assert OURS.sub("", token.content).strip() == "", token.content
        elif token.type == "text":
            assert not MEANS_SOMETHING.search(token.content), token.content
            assert token.content.isprintable()


def shown(cell_text: str) -> str:
    """The words that a reader sees of a piece of Markdown."""
    return "".join(token.content for token in tokens(cell_text) if token.type in ("text", "code_inline"))


@OFTEN
@given(verdicts())
def test_markdown_has_no_markup_of_others(of: Verdict) -> None:
    """No link, image, HTML, mention, reference or formula comes of a name, and every row has all its cells."""
    text = render("markdown", of)
    harmless(text)
    harmless(markdown.render(of, tag="--> <b>", limit=8_000))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!^)\|", row)) for row in rows]
    assert set(cells) <= {4, 6}, "a pipe is a border, and nothing else"


@settings(max_examples=500)
@given(words())
def test_a_name_is_read_as_it_is(name: str) -> None:
    """In a table's cell a reader sees each character of it, hidden ones spelled out; and nothing else happens."""
    document = f"| a | b |\n| --- | --- |\n| {code(name, most=10_000)} | x |\n"
    harmless(document)
    inline = [token for token in READER.parse(document) if token.type == "inline"]
    assert len(inline) == 4
    seen = "".join(token.content for token in inline[2].children or ())
    assert re.sub(r"\s+", " ", seen).strip() == re.sub(r"\s+", " ", visible(name)).strip() or not name
    assert inline[3].content == "x"


@settings(max_examples=500)
@given(words())
def test_a_sentence_is_read_as_it_is(text: str) -> None:
    """Words of a message stay the words that they are, wherever it stands in a document."""
    for document in (f"- a: {prose(text, 10_000)}", f"x **{prose(text, 10_000)}** y"):
        if prose(text):
            harmless(document)
    seen = shown(f"a: {prose(text, 10_000)}").removeprefix("a:")
    squeezed = re.sub(r"\s+", " ", visible(one_line(text)))
    assert re.sub(r"\s+", "", seen) == re.sub(r"\s+", "", squeezed)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_each_hostile_name_is_harmless_alone(name: str) -> None:
    """As a name in code, and as a word of a sentence."""
    harmless(f"- {code(name)}: {prose(name)} end")
    harmless(f"| {code(name)} | b |\n| --- | --- |\n| {code(name)} | {prose(name)} |\n")


@OFTEN
@given(verdicts())
def test_the_terminal_obeys_nothing(of: Verdict) -> None:
    """No control character, no mark that turns text around, no line or piece that a CI system takes for a command."""
    text = render("table", of)
    assert text.replace("\n", "").isprintable() or {one for one in text if not one.isprintable()} <= {
        "\n",
        "\u3000",
        "\xa0",
    }
    inert(text)


def inert(text: str) -> None:
    """Fail when a CI system would take a line, or a piece of one, for a command."""
    for line in text.split("\n"):
        assert not line.strip().startswith("::")
        assert not re.search(r"##(\[|vso\[)", line, re.IGNORECASE)


COMMAND = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^:,\r\n]*,)*title=[^:,\r\n]*)::([^\r\n]*)")


@OFTEN
@given(verdicts())
def test_github_sees_our_commands_alone(of: Verdict) -> None:
    """A line each, whose properties and message are, unescaped, the words that were meant."""
    found = render("github", of).split("\n")
    assert found.pop() == ""
    told = [check for check in of.checks if check.status != "pass"]
    assert len(found) == len(told) or len(found) <= 30
    for line in found:
        match = COMMAND.fullmatch(line)
        assert match, line
        properties = dict(one.split("=", 1) for one in match[2].split(","))
        assert set(properties) <= {"file", "line", "title"}
        assert "file" not in properties or unquote(properties["file"], errors="surrogatepass") == visible(
            of.config.file
        )
        assert not re.search(r"##(\[|vso\[)", line, re.IGNORECASE)
    first = next((check for check in told if check.status == "fail"), None)
    if first is not None and len(first.why) < 2_000:
        message = COMMAND.fullmatch(found[0])
        assert message
        assert unquote(message[3]).split("\n")[0] == one_line(first.why)


@OFTEN
@given(verdicts())
def test_azure_sees_our_commands_alone(of: Verdict) -> None:
    """Each line has one command, at its start, and nothing in it ends a property early."""
    lines = render("azure", of).splitlines()
    assert len(lines) == sum(check.status in ("fail", "warn") for check in of.checks)
    for line in lines:
        match = re.fullmatch(r"##vso\[task\.logissue ((?:[a-z]+=[^;\]]*;)+)\](.*)", line)
        assert match, line
        assert match[1].startswith("type=")
        assert not re.search(r"##(\[|vso\[)", match[2], re.IGNORECASE)
        assert "%" not in re.sub(r"%AZP25|%3B|%5D", "", line)


@OFTEN
@given(verdicts())
def test_files_for_machines_stay_files_for_machines(of: Verdict) -> None:
    """JUnit fits its schemas, JSON has the names as they are, outputs and metrics have their own lines alone."""
    root = junit_shape.read(render("junit", of))
    subjects = [case.attrib["name"] for case in root.iter("testcase")]
    assert subjects == [f"{one_line(check.rule.name)} [{visible(check.subject)}]" for check in of.checks]
    document = json.loads(render("json", of))
    assert [one["name"] for one in document["report"]["groups"]] == sorted(one.name for one in of.report.groups)
    for name in ("benchmark", "gitlab"):
        assert isinstance(json.loads(render(name, of)), list)
    outputs = render("github-output", of).splitlines()
    assert [line.partition("=")[0] for line in outputs] == [
        "passed", "status", "cost", "baseline", "delta", "delta_percent", "failed", "warnings", "unpriced",
    ]  # fmt: skip
    for line in render("gitlab-metrics", of).splitlines():
        assert re.fullmatch(r'# .*|[a-z_]+\{[a-z]+="([^"\\]|\\[\\"])*"(,at="[a-z0-9]+")?\} [0-9.]+', line), line


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_survives_every_hostile_name(format_: str, name: str) -> None:
    """As the name of a group, a model, a rule's message and the gate's file; what comes out can be written as UTF-8."""
    if name == "total":
        return
    old = report(group(name, cell(1, model=name)))
    of = verdict(
        report(group(name, cell(2, model=name), unpriced={name: 1})), old, fail=["cost[*]:+5%"], message=name, file=name
    )
    alone = verdict(of.report, fail=["cost>1"], message=name)
    for one in (of, alone):
        assert render(format_, one).encode()
    if format_ in ("table", "markdown"):
        for one in (of, alone):
            (inert if format_ == "table" else harmless)(render(format_, one))
