"""`ratecard gate` and `baseline` as people and CI systems run them: offline, in a bare environment, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pricing import Ledger, Usage, cost
from pricing.gate.report import load_report
from ratelimit.cli import main

AT = "2026-11-25"
GATE = f"""
gate:
  baseline: .costs/baseline.json
  at: {AT}
  tier: tier_1
  sources: ["jobs/*.jsonl"]
  rules:
    - {{metric: cost.p95, max: 20 USD}}
    - {{metric: cost.expected, select: "jobs/*", max_increase: 5%, message: "ask the platform team"}}
    - {{metric: duration.p95, max: 2h, level: warn}}
"""
OFFLINE = """
import sys
def stop(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {args}")
sys.addaudithook(stop)
from ratelimit.cli import main
main(sys.argv[1:])
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def write_job(path: Path, requests: int, words: int, model: str = "gpt-4.1-mini") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/responses",
         "body": {"model": model, "input": f"Case {number}: " + "parcel " * words, "max_output_tokens": 500}}
        for number in range(requests)
    )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two jobs and a gate, and nothing of this machine."""
    write_job(tmp_path / "jobs" / "a.jsonl", 20, 50)
    write_job(tmp_path / "jobs" / "b.jsonl", 5, 500)
    (tmp_path / "ratecard.yaml").write_text(GATE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ratecard(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process."""

    def run(*arguments: str) -> Ended:
        capfd.readouterr()
        code: Any = 0
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
        return Ended(code or 0, *capfd.readouterr())

    return run


def test_a_change_that_costs_too_much_fails_and_says_why(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """The first run warns of the missing baseline, the second passes, and after the change the third fails."""
    first = ratecard("gate")
    assert first.code == 0
    assert "there is no baseline yet" in first.err
    assert ratecard("baseline", "write").code == 0
    assert ratecard("gate").code == 0
    write_job(checkout / "jobs" / "b.jsonl", 5, 500, "o3-pro")
    third = ratecard("gate")
    assert third.code == 3
    assert "gpt-4.1-mini → o3-pro" in third.out
    assert "ask the platform team" in third.out
    assert third.err == "gate: fail: 1 failed, 0 warned\n"


@pytest.mark.parametrize("step", ["gate", "write"])
def test_a_bare_environment_is_enough(checkout: Path, step: str) -> None:
    """No network, no key, no HOME, CI=true, a checkout in which nothing may be written: and nothing is."""
    command = ["gate"] if step == "gate" else ["baseline", "write", "-o", "-"]
    for path in (*checkout.rglob("*"), checkout):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path for path in checkout.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", OFFLINE, *command], cwd=checkout, env={"CI": "true"}, capture_output=True,
        check=False,
    )  # fmt: skip
    for path in (checkout, *before):
        path.chmod(0o755)
    assert (done.returncode, done.stderr.decode()) == (0, done.stderr.decode())
    assert "Traceback" not in done.stderr.decode()
    assert sorted(path for path in checkout.rglob("*")) == before
    assert "total" in done.stdout.decode("utf-8"), "what it says is UTF-8, whatever the locale"


def test_the_same_input_gives_the_same_bytes(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """Twice, with one process or two, with the cache or without: every output, and the baseline."""
    formats = ["table", "json", "junit", "markdown", "github", "gitlab", "benchmark"]
    assert ratecard("baseline", "write").code == 0
    write_job(checkout / "jobs" / "a.jsonl", 40, 60)
    seen = []
    for more in ([], ["--jobs", "2"], ["--no-cache"]):
        names = [argument for name in formats for argument in ("-o", f"{name}=out/{name}")]
        assert ratecard("gate", *names, *more).code == 3
        assert ratecard("baseline", "write", "-o", "out/report", *more).code == 0
        seen.append({path.name: path.read_bytes() for path in (checkout / "out").iterdir()})
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[0]) == {*formats, "report"}


def test_outputs_are_several_and_the_report_comes_before_the_verdict(
    checkout: Path, ratecard: Callable[..., Ended]
) -> None:
    """Files, and what is printed: data on stdout, talk on stderr, all written although the gate fails."""
    done = ratecard(
        "gate", "--fail-if", "cost>0", "-o", "junit=deep/er/report.xml", "-o", "json", "-o", "github-output=gh.txt"
    )
    assert done.code == 3
    document = json.loads(done.out)
    assert document["status"] == "fail"
    assert ET.parse(checkout / "deep/er/report.xml").getroot().tag == "testsuites"
    assert "status=fail" in (checkout / "gh.txt").read_text()
    ratecard("gate", "-o", "github-output=gh.txt")
    assert (checkout / "gh.txt").read_text().count("status=") == 2, "others write to that file too"


def test_exit_codes_are_told_apart(checkout: Path, ratecard: Callable[..., Ended], monkeypatch: Any) -> None:
    """0 passed or only warned, 1 an error, 2 wrong usage, 3 (or what one says) a broken rule."""
    assert ratecard("gate", "--warn-if", "cost>0").code == 0
    assert ratecard("gate", "--fail-if", "cost>0").code == 3
    assert ratecard("gate", "--fail-if", "cost>0", "--exit-zero").code == 0
    assert ratecard("gate", "--fail-if", "cost>0", "--exit-code-on-fail", "99").code == 99
    monkeypatch.setenv("RATECARD_EXIT_CODE_ON_FAIL", "42")
    assert ratecard("gate", "--fail-if", "cost>0").code == 42
    assert ratecard("gate", "none.jsonl").code == 1
    assert ratecard("gate", "--fail-if", "cots>0").code == 2
    assert ratecard("gate", "-o", "jnit=x").code == 2
    (checkout / "ratecard.yaml").unlink()
    usage = ratecard("gate", "jobs/a.jsonl")
    assert usage.code == 2
    assert "there is no rule: give --fail-if" in usage.err
    assert ratecard("gate", "--fail-if", "cost>1").code == 2, "nothing to look at"


def test_what_has_no_price_fails(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """An unknown model is no $0, and a line that is none is not left out silently."""
    write_job(checkout / "jobs" / "a.jsonl", 2, 5, "nobody-knows-this")
    done = ratecard("gate", "--fail-if", "cost[jobs/a*]>100")
    assert done.code == 3
    assert "no price row for 'nobody-knows-this'" in done.out
    write_job(checkout / "jobs" / "a.jsonl", 2, 5)
    with (checkout / "jobs" / "a.jsonl").open("a") as file:
        file.write("nonsense\n")
    done = ratecard("gate")
    assert done.code == 3
    assert "1 × no request that can be read" in done.out


def test_a_saved_report_is_judged_and_compared(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """Without the files that it was made of: the verdict, `show` and `diff` are the same."""
    assert ratecard("baseline", "write", "-o", "old.json").code == 0
    write_job(checkout / "jobs" / "a.jsonl", 30, 50)
    assert ratecard("baseline", "write", "-o", "new.json").code == 0
    live = ratecard("gate", "--baseline", "old.json", "--json")
    saved = ratecard("gate", "new.json", "--baseline", "old.json", "--json")
    assert live.out == saved.out
    assert live.code == saved.code == 3
    diff = json.loads(ratecard("baseline", "diff", "old.json", "new.json", "--json").out)
    (group,) = [one for one in diff["change"]["groups"] if one["mark"] == "~"]
    assert group["effects"]["price"] == group["effects"]["model"] == "0"
    assert float(group["effects"]["volume"]) == pytest.approx(float(group["change"]), rel=0.01)
    assert "jobs/a.jsonl" in ratecard("baseline", "show", "new.json").out
    assert ratecard("gate", "new.json", "jobs/a.jsonl").code == 1, "a report stands alone"


def test_ledgers_traces_and_suites_are_sources(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """Each is told by its content; a ledger is split by a tag, and is what was booked to the last digit."""
    usage, spent = {"input_tokens": 1_000, "output_tokens": 500}, 0
    with Ledger(checkout / "costs.db") as ledger:
        for team in ("search", "ads", "ads"):
            price = cost(usage, model="o3-pro")
            entry = ledger.pend(model="o3-pro", endpoint="/v1/responses", estimate=None, tags={"team": team})
            ledger.post(entry, usage=Usage.from_response(usage), cost=price)
            spent += price.total.pico
    (checkout / "day.csv").write_text("t_s,input_tokens,output_tokens\n0,1000,500\n1,2000,500\n")
    (checkout / "suite.yaml").write_text(
        "prompts: ['Say {{word}}']\nproviders: [openai:responses:gpt-4.1-mini]\n"
        "tests: [{vars: {word: hi}}, {vars: {word: ho}}]\n"
    )
    (checkout / "ratecard.yaml").write_text(
        f"gate:\n  at: {AT}\n  sources:\n    - {{path: costs.db, by: 'tag:team'}}\n"
        "    - {path: day.csv, model: o3-pro}\n"
        "    - suite.yaml\n  rules: [{metric: cost, max: 1000}]\n"
    )
    assert ratecard("baseline", "write", "-o", "report.json").code == 0
    found = load_report(checkout / "report.json").named()
    assert {name: (group.kind, group.requests) for name, group in found.items()} == {
        "costs.db: ads": ("ledger", 2), "costs.db: search": ("ledger", 1), "day.csv": ("trace", 2),
        "suite.yaml": ("suite", 2),
    }  # fmt: skip
    assert found["costs.db: ads"].expected + found["costs.db: search"].expected == spent
    total = load_report(checkout / "report.json").total
    assert total.expected == sum(group.expected for group in found.values())
    assert total.cost is not None
    assert total.cost.p5 <= total.cost.p50 <= total.cost.p95 <= total.cost.worst


def test_names_from_a_pull_request_are_only_words(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """A file name with escapes and workflow commands reaches neither the terminal nor the runner as such."""
    name = "jobs/\x1b[31m\n::error::x|<b>.jsonl"
    write_job(checkout / name, 2, 5)
    done = ratecard("gate", "-o", "table", "-o", "markdown", "-o", "github")
    assert "\x1b" not in done.out
    assert "\n::error::" not in done.out
    assert "<b>" not in done.out.replace("`", "") or "\\" in done.out


def test_what_is_a_link_or_a_device_is_written_to(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """/dev/stdout is either: it stays what it is, and is not replaced by a file."""
    link = checkout / "link"
    link.symlink_to(checkout / "there")
    assert ratecard("gate", "-o", "json=link", "-o", f"json={os.devnull}").code == 0
    assert link.is_symlink()
    assert json.loads((checkout / "there").read_text())["status"] == "warn"
    assert not Path(os.devnull).is_file()


def test_a_config_that_is_wrong_names_line_and_key(checkout: Path, ratecard: Callable[..., Ended]) -> None:
    """Settings too: one line, and exit code 1."""
    for body, words in (
        ("tier: tier_9", "unknown tier 'tier_9'"),
        ("mode: fast", "gate.mode: expected one of online"),
        ("seed: x", "gate.seed: expected a whole number"),
        ("at: soon", "gate.at: expected a date"),
        ("rules: [{metric: cost.p59, max: 1}]", "did you mean 'cost.p95'?"),
    ):
        (checkout / "ratecard.yaml").write_text(f"gate:\n  sources: [jobs/a.jsonl]\n  {body}\n")
        done = ratecard("gate", "--fail-if", "cost>1")
        assert done.code == 1
        assert words in done.err
        assert done.err.count("\n") == 1
