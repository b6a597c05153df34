"""The action and the workflows of docs/ci.md are what they say: their shell steps run here, as a runner runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pricing.gate.formats import FORMATS, github_output, render
from pricing.gate.rules import load_gate
from ratelimit.cli import COMMANDS

from .conftest import example

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
ACTION_FILE = ROOT / ".github" / "actions" / "gate" / "action.yml"
ACTION: dict[str, Any] = yaml.safe_load(ACTION_FILE.read_text(encoding="utf-8"))
BLOCKS: list[Any] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
GITHUB = [block for block in BLOCKS if "jobs" in block]

needs_gate = pytest.mark.skipif("gate" not in COMMANDS, reason="this ratecard has no command `gate` yet")
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the filter of `gh api` is jq's, which is not here")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="the workflow commits, and git is not here")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Runner:
    """A folder with a checkout, and the environment of a step; nothing reaches a network.

    `ratecard` is the real one, `pip` and `gh` write down what they are asked.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.checkout, self.bin = home, home / "checkout", home / "bin"
        for folder in (self.checkout, self.bin, home / "temp"):
            folder.mkdir()
        self.calls = home / "calls.txt"
        self.comments = home / "comments.json"
        self.comments.write_text("[]")
        self._shim("ratecard", f'exec "{sys.executable}" -m ratelimit "$@"')
        self._shim("pip", f'echo "pip $*" >> "{self.calls}"')
        self._shim(
            "python", f'if [ "$1 $2" = "-m pip" ]; then shift 2; exec pip "$@"; fi; exec "{sys.executable}" "$@"'
        )
        self._shim(
            "gh",
            f"""
echo "gh $*" >> "{self.calls}"
if [ -n "$DENIED" ]; then echo "gh: Resource not accessible by integration (HTTP 403)" >&2; exit 1; fi
while [ $# -gt 0 ]; do if [ "$1" = --jq ]; then jq -r "$2" "{self.comments}"; fi; shift; done
""",
        )
        self.env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(home), "CI": "true", "GITHUB_ACTIONS": "true",
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "RUNNER_TEMP": str(home / "temp"),
            "GITHUB_ACTION": "__self", "GITHUB_REPOSITORY": "org/repo", "GITHUB_BASE_REF": "main",
            "GITHUB_OUTPUT": str(home / "output.txt"), "GITHUB_STEP_SUMMARY": str(home / "summary.md"),
            "RATECARD_CACHE": str(home / "cache"),
        }  # fmt: skip

    def _shim(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def bash(self, script: str, env: Mapping[str, str] = {}) -> Ended:
        """Run a step as GitHub's `shell: bash` does."""
        file = self.home / "step.sh"
        file.write_text(script, encoding="utf-8")
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)]
        done = subprocess.run(
            command, cwd=self.checkout, env={**self.env, **env}, capture_output=True, text=True, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def step(self, name: str, **facts: str) -> Ended:
        """Run a step of the action; inputs are their defaults where nothing else is said."""
        step = next(step for step in ACTION["runs"]["steps"] if step.get("name") == name)
        inputs = {f"inputs.{key.replace('_', '-')}": value for key, value in facts.items()}
        known = {f"inputs.{key}": str(value["default"]) for key, value in ACTION["inputs"].items()} | inputs
        known |= {"github.token": "t", "github.event.pull_request.number": "7"}
        known["steps.gate.outputs.markdown"] = self.outputs().get("markdown", "")
        return self.bash(step["run"], {key: expanded(value, known) for key, value in step.get("env", {}).items()})

    def outputs(self) -> dict[str, str]:
        path = Path(self.env["GITHUB_OUTPUT"])
        return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}

    def asked(self) -> list[str]:
        return self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []

    def jobs(self, words: int = 5) -> None:
        """A gate as the page shows it, on a job whose prices never change."""
        gate = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0].replace("gate:\n", 'gate:\n  at: "2026-11-20"\n', 1)
        (self.checkout / "ratecard.yaml").write_text(gate, encoding="utf-8")
        line = json.dumps({"model": "gpt-5.6-terra", "input": "word " * words, "max_output_tokens": 100})
        (self.checkout / "jobs").mkdir(exist_ok=True)
        for name in ("a", "b c"):
            (self.checkout / "jobs" / f"{name}.jsonl").write_text(f"{line}\n" * 3, encoding="utf-8")


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Fill in the expressions of a text, those inside of values too."""
    while "${{" in text:
        text = re.sub(r"\$\{\{ (.+?) \}\}", lambda match: known[match[1]], text)
    return text


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner with nothing in its checkout."""
    return Runner(tmp_path)


# -- what can be read --------------------------------------------------------------------------------------------------


def scripts() -> list[str]:
    """Every shell script of the action and of the page."""
    found = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    for block in BLOCKS:
        for job in [*block.get("jobs", {}).values(), block, *(one for one in block.values() if isinstance(one, dict))]:
            steps = job.get("steps", []) if isinstance(job, dict) else []
            found += [step.get("run") or step.get("bash") for step in steps if step.get("run") or step.get("bash")]
            found += job.get("script", []) if isinstance(job, dict) else []
    return found


def test_no_script_has_the_words_of_others_in_it() -> None:
    """Expressions reach a shell as variables alone, so that no title or branch of a pull request is run."""
    assert len(scripts()) >= 10
    assert [script for script in scripts() if "${{" in script] == []


def test_the_action_is_documented() -> None:
    """docs/ci.md has a row for every input, each input is used, and every output is one of a step."""
    table = PAGE.partition("| input | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", "\n".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))) == set(
        ACTION["inputs"]
    )
    text = ACTION_FILE.read_text(encoding="utf-8")
    assert [name for name in ACTION["inputs"] if f"inputs.{name}" not in text] == []
    printed = {line.partition("=")[0] for line in github_output.render(example()).splitlines()}
    values = {
        re.fullmatch(r"\$\{\{ steps\.gate\.outputs\.(\w+) \}\}", one["value"]) for one in ACTION["outputs"].values()
    }
    names = {match[1] for match in values if match}
    assert names == set(ACTION["outputs"])
    assert names - printed == {"report", "junit", "markdown"}


def test_the_page_uses_the_action_as_it_is() -> None:
    """The workflow names inputs and outputs that it has, and may write the comment."""
    block = GITHUB[0]
    (job,) = block["jobs"].values()
    (step,) = (step for step in job["steps"] if step.get("uses") == "./.github/actions/gate")
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert set(re.findall(rf"steps\.{step['id']}\.outputs\.(\w+)", str(job))) <= set(ACTION["outputs"])
    assert block["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_the_page_asks_for_formats_that_there_are() -> None:
    """Each `-o NAME` of the action and the page is a format; each format has its row."""
    asked = re.findall(r'-o "?([a-z][a-z-]+)(?==|\s|"|`|\))', PAGE + ACTION_FILE.read_text(encoding="utf-8"))
    assert set(asked) <= set(FORMATS)
    assert len(set(asked)) >= 7
    assert [name for name in FORMATS if f"\n| `{name}` |" not in PAGE] == []


def test_the_gate_of_the_page_can_be_read(tmp_path: Path) -> None:
    """The first block is a gate with rules on the whole and on groups, and an override."""
    file = tmp_path / "ratecard.yaml"
    file.write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0], encoding="utf-8")
    gate = load_gate(file)
    assert [rule.is_for_groups for rule in gate.rules] == [False, True]
    assert gate.overrides


# -- the comment -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(runner: Runner) -> Runner:
    """A runner after a gate that has written the text of a comment."""
    body = runner.home / "temp" / "comment.md"
    body.write_text(render("markdown", example()), encoding="utf-8")
    Path(runner.env["GITHUB_OUTPUT"]).write_text(f"markdown={body}\n")
    return runner


def comment(number: int, body: str, kind: str = "Bot") -> dict[str, Any]:
    return {"id": number, "body": body, "user": {"type": kind, "login": "x"}}


MARKER = "<!-- ratecard-gate: default -->"


@needs_jq
@pytest.mark.parametrize(
    "others",
    [
        [],
        [comment(1, "hello"), comment(2, f"look at {MARKER}"), comment(3, MARKER, "User")],
        [comment(4, "<!-- ratecard-gate: other -->\n### x")],
    ],
)
def test_the_first_run_writes_a_comment(others: list[Any], written: Runner) -> None:
    """Also where there are comments of others, of people who copy the marker, and of a gate with another tag."""
    written.comments.write_text(json.dumps(others))
    ended = written.step("Comment")
    assert ended == (0, "", "")
    listing, post = written.asked()
    assert "--paginate repos/org/repo/issues/7/comments?per_page=100" in listing
    body = written.outputs()["markdown"]
    assert post == f"gh api --silent --method POST repos/org/repo/issues/7/comments --field body=@{body}"


@needs_jq
def test_a_later_run_updates_it(written: Runner) -> None:
    """The first comment of a bot that begins with the marker; no second one is written."""
    own = [comment(1, "hello"), comment(42, f"{MARKER}\n### old"), comment(43, f"{MARKER}\n### older")]
    written.comments.write_text(json.dumps(own))
    assert written.step("Comment") == (0, "", "")
    body = written.outputs()["markdown"]
    assert written.asked()[1:] == [
        f"gh api --silent --method PATCH repos/org/repo/issues/comments/42 --field body=@{body}"
    ]


def test_a_comment_that_cannot_be_written_changes_nothing(written: Runner) -> None:
    """Without permission, without a token and without a text the step passes; the first two with a warning."""
    written.env["DENIED"] = "1"
    ended = written.step("Comment")
    assert ended.code == 0
    assert ended.out.startswith("::warning title=ratecard::the comment could not be written")
    ended = written.step("Comment", token="")
    assert (ended.code, ended.out.startswith("::warning title=ratecard::no token")) == (0, True)
    Path(written.env["GITHUB_OUTPUT"]).write_text("")
    assert written.step("Comment") == (0, "", "")


def test_the_comment_is_for_pull_requests(runner: Runner) -> None:
    """The step runs after a gate that failed, on a pull request, where a comment is wanted."""
    (step,) = (step for step in ACTION["runs"]["steps"] if step.get("name") == "Comment")
    assert step["if"] == "!cancelled() && inputs.comment == 'true' && github.event.pull_request.number"


@pytest.mark.parametrize(
    ("facts", "asked"),
    [
        ({}, "ratecard[pandas]"),
        ({"version": "1.2.3"}, "ratecard[pandas]==1.2.3"),
        ({"from": "./dist/a b.whl", "version": "1"}, "./dist/a b.whl"),
        ({"version": "1; echo x >&2"}, "ratecard[pandas]==1; echo x >&2"),
    ],
)
def test_what_is_installed_is_said(facts: dict[str, str], asked: str, runner: Runner) -> None:
    """The newest version, a version, or a file; and nothing that an input says is run."""
    assert runner.step("Install ratecard", **facts) == (0, "", "")
    assert runner.asked() == [f"pip install --quiet --disable-pip-version-check {asked}"]


# -- the gate itself ---------------------------------------------------------------------------------------------------


@needs_gate
def test_the_action_gates(runner: Runner) -> None:
    """Its exit code is the gate's; whichever it is, there are outputs, a summary, annotations and files."""
    runner.jobs()
    ended = runner.step("Gate", args="--fail-if=cost.worst>1000\n")
    assert ended.code == 0, ended.err
    outputs = runner.outputs()
    assert outputs["passed"] == "true"
    assert Path(outputs["report"]).is_file()
    assert Path(outputs["junit"]).is_file()
    summary = Path(runner.env["GITHUB_STEP_SUMMARY"])
    assert summary.read_text(encoding="utf-8") == Path(outputs["markdown"]).read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8").startswith(MARKER)
    ended = runner.step("Gate", args="--fail-if=cost.worst>0.000001", files="jobs/*.jsonl")
    assert ended.code == 3, ended.err
    assert runner.outputs()["passed"] == "false"
    assert "\n::error file=ratecard.yaml,title=" in f"\n{ended.out}"
    assert "jobs/b c.jsonl" in ended.out
    assert summary.read_text(encoding="utf-8").count(MARKER) == 2


@needs_gate
def test_a_gate_that_cannot_be_read_fails_the_action(runner: Runner) -> None:
    """Exit code 1, the reason on stderr, and no report of an earlier run is taken for this one's."""
    runner.jobs()
    assert runner.step("Gate").code == 0
    (runner.checkout / "ratecard.yaml").write_text("gate: {rulse: []}\n", encoding="utf-8")
    ended = runner.step("Gate")
    assert ended.code == 1
    assert "rulse" in ended.err
    assert not Path(runner.outputs()["markdown"]).exists()


def steps(block: Any) -> list[str]:
    """The scripts of a workflow, whatever its CI system calls them."""
    if "jobs" in block:
        (job,) = block["jobs"].values()
        return [step["run"] for step in job["steps"] if "run" in step]
    if "steps" in block:
        return [step["bash"] for step in block["steps"] if "bash" in step]
    (job,) = block.values()
    return ["\n".join(job["script"])]


def git(runner: Runner, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    command = ["git", *who, *arguments]
    env = {**runner.env, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return subprocess.run(command, cwd=runner.checkout, env=env, text=True, capture_output=True, check=True).stdout


def check_out(runner: Runner) -> None:
    """Make the folder a clone of a repository whose main branch has the jobs and their baseline."""
    runner.jobs()
    assert runner.bash("ratecard baseline write -o .costs/baseline.json jobs/*.jsonl --at 2026-11-20").code == 0
    git(runner, "init", "--quiet")
    git(runner, "init", "--quiet", "--bare", str(runner.home / "origin.git"))
    git(runner, "remote", "add", "origin", str(runner.home / "origin.git"))
    git(runner, "add", ".")
    git(runner, "commit", "--quiet", "-m", "jobs")
    git(runner, "push", "--quiet", "--set-upstream", "origin", "HEAD:main")


@needs_gate
@needs_git
@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block.get("name") or next(iter(block)))
def test_each_workflow_of_the_page_runs(block: Any, runner: Runner) -> None:
    """Every shell step of it ends well on a job that costs what it cost, and asks pip for ratecard at most."""
    check_out(runner)
    for script in steps(block):
        ended = runner.bash(script)
        assert ended.code == 0, f"{script}\n{ended.out}\n{ended.err}"
    assert set(runner.asked()) <= {"pip install ratecard[pandas]"}
    if block.get("name") == "costs" and "steps" in str(block) and steps(block):
        assert runner.outputs()["passed"] == "true"
        assert Path(runner.env["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8").startswith(MARKER)
    for name in ("costs.xml", "codequality.json", "metrics.txt"):
        assert (runner.checkout / name).exists() == (name in str(block))


@needs_gate
@needs_git
def test_the_main_branch_gets_its_new_baseline(runner: Runner) -> None:
    """A push that changes costs commits the file; one that does not commits nothing."""
    check_out(runner)
    for script in steps(next(block for block in GITHUB if block["name"] == "baseline")):
        assert runner.bash(script).code == 0
    first = git(runner, "rev-parse", "origin/main")
    runner.jobs(words=500)
    for script in steps(next(block for block in GITHUB if block["name"] == "baseline")):
        assert runner.bash(script).code == 0
    assert git(runner, "rev-parse", "origin/main") != first
    assert git(runner, "show", "--stat", "--format=%s", "origin/main").split()[:3] == ["Costs", "of", "main"]
    assert git(runner, "show", "--name-only", "--format=", "origin/main").split() == [".costs/baseline.json"]
