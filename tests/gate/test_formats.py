"""What each format says of a verdict, and that it is a document of its kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from pricing.errors import ConfigError
from pricing.gate.formats import FORMATS, markdown, render
from pricing.gate.judge import Verdict
from pricing.gate.report import Part, as_document

from . import junit_shape
from .conftest import HEADER, cell, example, group, report, verdict

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def lines(name: str, of: Verdict) -> list[str]:
    return render(name, of).splitlines()


def many(count: int, before: bool = True) -> Verdict:
    """A verdict on so many groups, each of which has doubled."""
    old = report(*(group(f"jobs/{number:05}.jsonl", cell(1)) for number in range(count)))
    new = report(*(group(f"jobs/{number:05}.jsonl", cell(2)) for number in range(count)))
    return verdict(new, old if before else None, fail=["cost.expected[jobs/*]:+5%"] if before else ["cost>1"])


# -- all ---------------------------------------------------------------------------------------------------------------


def test_the_same_verdict_gives_the_same_bytes() -> None:
    """Whatever the order of sets, the language, the time zone and the folder are."""
    code = (
        "import hashlib; from tests.gate.conftest import example; from pricing.gate.formats import FORMATS, render;"
        "print([hashlib.sha256(render(name, example()).encode()).hexdigest() for name in FORMATS])"
    )

    def run(**environment: str) -> str:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True).stdout

    first = run(PYTHONHASHSEED="1", LC_ALL="C", TZ="Asia/Tokyo")
    assert first == run(PYTHONHASHSEED="2", LC_ALL="C.UTF-8", HOME="/nowhere", CI="true", NO_COLOR="1")
    assert first.count("'") == 2 * len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_documented_and_ends_with_a_line_end(name: str) -> None:
    """docs/ci.md has a row for each; so has a verdict without anything in it a document."""
    assert f"| `{name}` |" in PAGE
    empty = verdict(report())
    for one in (example(), empty, many(1)):
        text = render(name, one)
        assert text.endswith("\n") or (one is not None and text == "")
        assert "\r" not in text


def test_an_unknown_format_offers_the_nearest() -> None:
    """A typing error is told with what was meant; nonsense with all there are."""
    with pytest.raises(ConfigError, match=r"unknown format 'junti'; did you mean 'junit'\?"):
        render("junti", example())
    with pytest.raises(ConfigError, match="known: table, json, junit"):
        render("????", example())


# -- table -------------------------------------------------------------------------------------------------------------


def test_the_table_tells_cost_change_cause_and_rule() -> None:
    """Header, groups worst first with their facts and effects, the whole, the checks, the overrides, the verdict."""
    found = lines("table", example())
    assert found[0] == "Costs of tier_1 on 2026-12-01, prices 0123456789ab (changed)"
    assert found[2] == "made with other settings: seed 2 → 1"
    assert found[4].split() == ["baseline", "now", "change", "p5–p95"]
    marks = [line[:2] + line[2:].split()[0] for line in found if re.match(r"[~+=-] (jobs|total)", line)]
    assert marks == [
        "~ jobs/nightly.jsonl", "+ jobs/new.jsonl", "- jobs/gone.jsonl", "= jobs/same.jsonl", "+ jobs/unknown.jsonl",
        "~ total",
    ]  # fmt: skip
    assert found[5].split() == ["~", "jobs/nightly.jsonl", "$10.20", "$12.41", "+$2.21", "(+21.7%)", "$11.17–$13.65"]
    assert found[6] == "    · o3-mini → o3-pro"
    assert "    · price -$0.03 · tokens +$0.32 · volume $0.00 · model +$1.92" in found
    assert "  at the baseline's prices it would be $14.19" in found
    assert [line[0] for line in found if line[0:1] in ("✗", "!", "~", "✓") and " · " in line] == list("✗✗✗!!!!~✓✓✓")
    assert "override cost.worst: expired, until 2026-01-31: long ago" in found
    assert found[-1] == "failed: 3 failed, 4 warnings, 1 overridden, 3 passed · 6 unpriced"


def test_the_table_has_no_change_without_a_baseline() -> None:
    """What it costs is all there is to tell: dearest first, what has no price before everything."""
    found = lines("table", verdict(report(group("a", cell(1)), group("b", cell(2)), group("c", unpriced={"x": 1}))))
    assert found[0].endswith("(no baseline)")
    assert found[2].split() == ["now", "p5–p95"]
    assert [line.split()[:2] for line in found[3:8]] == [["•", "c"], ["·", "1"], ["•", "b"], ["•", "a"], ["•", "total"]]
    assert "change" not in "\n".join(found)


def test_the_table_is_thirty_groups_long() -> None:
    """The rest is counted, of groups and of checks."""
    found = lines("table", many(40))
    assert sum(line.startswith("~ jobs") for line in found) == 30
    assert "  … and 10 more" in found
    assert sum(line.startswith("✗ cost") for line in found) == 30
    assert "✗ … and 10 more: fail" in found
    assert found[-1].startswith("failed: 40 failed,")


@pytest.mark.parametrize("name", ["table", "markdown"])
def test_what_has_no_price_is_never_zero(name: str) -> None:
    """Neither its cost nor its change is an amount, with a baseline and without one."""
    old, new = report(group("a", cell(3))), report(group("a", unpriced={"no price of x": 10}))
    for one in (verdict(new), verdict(new, old)):
        text = render(name, one)
        assert "$0.00" not in text
        assert "-$3.00" not in text
        assert "no price" in text
    assert "unknown" in render(name, verdict(new, old))


# -- junit -------------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_check() -> None:
    """A failure, an error where nobody knows, skipped where overridden; a warning passes, and says why."""
    root = junit_shape.read(render("junit", example()))
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert len(cases) == len(example().checks)
    kinds = {name: [child.tag for child in case] for name, case in cases.items()}
    assert kinds["unpriced [total]"] == ["error"]
    assert kinds["duration.p95 ≤ 2:00 h [total]"] == ["error"]
    assert kinds["cost.expected +5% at most [total]"] == ["failure"]
    assert kinds["tokens.input +10% at most [jobs/*] [jobs/nightly.jsonl]"] == ["system-out"]
    assert kinds["requests ≤ 100 [total]"] == []
    skipped = cases["cost.p95 ≤ $2.00 [total]"]
    assert (skipped[0].tag, skipped[0].attrib["message"]) == ("skipped", "the new judge")
    assert cases["cost.expected +5% at most [total]"].attrib["classname"] == "ratecard.cost.expected"
    of_a_group = cases["tokens.input +10% at most [jobs/*] [jobs/nightly.jsonl]"]
    assert of_a_group.attrib["classname"] == "ratecard.jobs/nightly.jsonl"
    facts = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert (facts["cost"], facts["baseline"], facts["delta"], facts["status"]) == ("14.16", "10.95", "3.21", "fail")
    assert facts["digest"] == HEADER.prices


def test_junit_leaves_out_what_is_not_known() -> None:
    """A job without any price has no property `cost`, and no `delta`."""
    old, new = report(group("a", cell(3))), report(group("a", unpriced={"no price of x": 10}))
    root = junit_shape.read(render("junit", verdict(new, old)))
    names = {one.attrib["name"] for one in root.iter("property")}
    assert "baseline" in names
    assert not names & {"cost", "delta"}


# -- markdown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "shown"),
    [(None, "default"), ("", "default"), ("eval/nightly", "eval/nightly"), ("a --> <b>", "a-b"), ("--", "default")],
)
def test_the_marker_is_the_first_line(tag: str | None, shown: str) -> None:
    """It names the tag, and no tag can end the comment that hides it."""
    assert render("markdown", example(), tag=tag).splitlines()[0] == f"<!-- ratecard-gate: {shown} -->"


def test_the_headline_says_what_became_of_it() -> None:
    """A sign, the verdict, the cost and its change."""
    assert lines("markdown", example())[1] == ("### ❌ Cost gate failed: $14.16, +$3.21 (+29.3%) against the baseline")
    good = verdict(report(group("a", cell(1))), fail=["cost>2"])
    assert lines("markdown", good)[1] == "### ✅ Cost gate passed: $1.00"
    fair = verdict(report(group("a", cell(1))), warn=["cost>0.5"])
    assert lines("markdown", fair)[1] == "### ⚠️ Cost gate passed with warnings: $1.00"


@pytest.mark.parametrize("count", [1, 150, 151, 400, 3_000])
@pytest.mark.parametrize("limit", [8_000, 65_000])
def test_a_long_comment_loses_its_middle(count: int, limit: int) -> None:
    """It stays below the limit; its first and last lines, and all tables and folds, stay whole."""
    whole = markdown.render(many(count), limit=10**9)
    cut = markdown.render(many(count), limit=limit)
    assert len(cut.encode()) <= limit
    if len(whole.encode()) <= limit:
        assert cut == whole
        return
    assert "more are left out here" in cut
    kept, all_lines = cut.splitlines(), whole.splitlines()
    assert kept[:5] == all_lines[:5]
    assert kept[-1] == all_lines[-1]
    assert kept.count("<details>") == kept.count("</details>")
    known = set(all_lines)
    assert [line for line in kept if line not in known and "left out here" not in line] == []
    tables = [line.count("|") for line in kept if line.startswith("|")]
    assert set(tables) == {5, 7}
    left = sum(int(number.replace(",", "")) for number in re.findall(r"… ([\d,]+) more are left out here", cut))
    assert left == len(all_lines) - (len(kept) - cut.count("left out here"))


# -- GitHub ------------------------------------------------------------------------------------------------------------


def test_annotations_stand_on_the_lines_of_the_rules() -> None:
    """An error, a warning or a notice each, with a title and the message people wrote; escaped as GitHub asks."""
    found = lines("github", example())
    assert [line.split()[0] for line in found] == ["::error"] * 3 + ["::warning"] * 4 + ["::notice"]
    assert found[1] == (
        "::error file=ratecard.yaml,line=4,title=Cost gate%3A cost.expected +5%25 at most [total]::cost.expected is "
        "$14.16 ($10.95 before), 6 of 56 requests have no price, +$3.21 (+29.3%25) against the baseline, more than "
        "+5%25%0Aask #costs before raising this"
    )
    assert found[-1].startswith("::notice file=ratecard.yaml,line=20,")
    assert lines("github", verdict(report(group("a", cell(1))), fail=["cost>2"])) == []
    short = verdict(report(group("a", cell(1))), fail=["cost>0.5"], file="")
    assert lines("github", short)[0].startswith("::error title=")


@pytest.mark.parametrize(("count", "expected"), [(10, 10), (11, 10), (200, 10)])
def test_github_shows_ten_of_a_kind(count: int, expected: int) -> None:
    """Of more than ten the tenth stands for the rest, because an eleventh would not be seen."""
    found = lines("github", many(count))
    assert len(found) == expected
    assert (f"{count - 9} more" in found[-1]) == (count > 10)


def test_outputs_are_what_later_steps_decide_by() -> None:
    """Exact decimals; empty where nobody knows; a warning has passed."""
    assert dict(line.split("=", 1) for line in lines("github-output", example())) == {
        "passed": "false", "status": "fail", "cost": "14.16", "baseline": "10.95", "delta": "3.21",
        "delta_percent": "29.3", "failed": "3", "warnings": "4", "unpriced": "6",
    }  # fmt: skip
    alone = lines("github-output", verdict(report(group("a", cell(1))), warn=["cost>0.5"]))
    assert alone[:6] == ["passed=true", "status=warn", "cost=1", "baseline=", "delta=", "delta_percent="]
    old, new = report(group("a", cell(3))), report(group("a", unpriced={"no price of x": 10}))
    unknown = lines("github-output", verdict(new, old))
    assert unknown[2:6] == ["cost=", "baseline=3", "delta=", "delta_percent="]
    less = lines("github-output", verdict(report(group("a", cell(2))), old))
    assert less[4:6] == ["delta=-1", "delta_percent=-33.3"]


# -- the others --------------------------------------------------------------------------------------------------------


def test_benchmark_numbers_are_exact() -> None:
    """The value is the median as a number, printed from the exact decimal; what has no price is not there."""
    found = json.loads(render("benchmark", example()), parse_float=Decimal, parse_int=Decimal)
    assert [item["name"] for item in found] == [
        "cost of total", "cost of jobs/new.jsonl", "cost of jobs/nightly.jsonl", "cost of jobs/same.jsonl",
    ]  # fmt: skip
    groups = {f"cost of {one.name}": one for one in (example().report.total, *example().report.groups)}
    for item in found:
        cost = groups[item["name"]].cost
        assert cost is not None
        assert item["value"] * 10**12 == cost.p50
        assert item["unit"] == "USD"
        assert [Decimal(part) * 10**12 for part in item["range"].split("–")] == [cost.p5, cost.p95]
    tiny = report(group("a", cell(0)._replace(parts={"input": Part(1, 1), "output": Part(1, 0)})))
    assert '"value": 0.000000000001,' in render("benchmark", verdict(tiny))


def test_gitlab_s_fingerprints_stay_when_numbers_move() -> None:
    """An issue is the same one as long as rule and group are; two issues never have one fingerprint."""

    def issues(dollars: int) -> list[dict[str, object]]:
        rules = ["cost>1", "cost>1", "cost[*]>1"]
        found: list[dict[str, object]] = json.loads(
            render("gitlab", verdict(report(group("a", cell(dollars))), fail=rules, file="./ci/ratecard.yaml"))
        )
        return found

    prints = [issue["fingerprint"] for issue in issues(2)]
    assert prints == [issue["fingerprint"] for issue in issues(3)]
    assert len(set(prints)) == 3
    assert issues(2) != issues(3)
    assert issues(2)[0] == {
        "check_name": "ratecard.cost.p50",
        "description": "cost.p50 ≤ $1.00 [total]: cost.p50 is $2.00, more than $1.00 by +100.0%",
        "fingerprint": prints[0],
        "severity": "critical",
        "location": {"path": "ci/ratecard.yaml", "lines": {"begin": 3}},
    }
    assert {issue["severity"] for issue in json.loads(render("gitlab", example()))} == {"critical", "minor", "info"}


SAMPLE = re.compile(r'([a-z_]+)\{group="((?:[^"\\\n]|\\[\\"n])*)"(?:,at="([a-z0-9]+)")?\} ([0-9]+(?:\.[0-9]+)?)')


def test_gitlab_s_metrics_are_openmetrics() -> None:
    """A type before the samples of each family, every sample once, exact numbers, an end; nothing that is unknown."""
    found = lines("gitlab-metrics", example())
    assert found[-1] == "# EOF"
    family, seen = "", set()
    for line in found[:-1]:
        if line.startswith("# TYPE "):
            family = line.split()[2]
        elif not line.startswith("# HELP ") and family != "ratecard_gate_checks":
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == family
            seen.add(match.groups()[:3])
    assert len(seen) == sum(SAMPLE.fullmatch(line) is not None for line in found)
    assert 'ratecard_cost_usd{group="jobs/nightly.jsonl",at="p95"} 13.651' in found
    assert 'ratecard_unpriced{group="total"} 6' in found
    assert ("ratecard_cost_usd", "jobs/unknown.jsonl", "p50") not in seen


def test_azure_has_an_issue_for_what_fails_or_warns() -> None:
    """On the line of the rule, escaped as Azure's agent reads it."""
    found = lines("azure", example())
    assert [line.partition(";")[0] for line in found] == (
        ["##vso[task.logissue type=error"] * 3 + ["##vso[task.logissue type=warning"] * 4
    )
    assert found[1].startswith(
        "##vso[task.logissue type=error;sourcepath=ratecard.yaml;linenumber=4;]cost.expected +5%AZP25 at most [total]: "
    )
    odd = verdict(report(group("a", cell(1))), fail=["cost>0.5"], file="a;b]c.yaml")
    assert "sourcepath=a%3Bb%5Dc.yaml;" in lines("azure", odd)[0]


def test_json_has_the_whole_report() -> None:
    """The very document that a baseline is, beside what was made of it."""
    found = json.loads(render("json", example()))
    assert found["report"] == as_document(example().report)
    assert found["header"] == found["report"]["header"]
    assert found["counts"] == {"fail": 3, "warn": 4, "overridden": 1, "pass": 3}
    assert (found["status"], found["baseline_header"]["at"]) == ("fail", "2026-11-01")
    total = found["change"]["total"]
    assert sum(map(Decimal, total["effects"].values())) == Decimal(total["change"]) == Decimal("3.21")
    assert json.loads(render("json", verdict(report())))["change"] is None
    overridden = next(check for check in found["checks"] if check["status"] == "overridden")
    assert overridden["override"] == {"reason": "the new judge", "until": "2026-12-31"}
