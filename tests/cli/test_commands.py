"""Law: every command says what it is for, prints data (or JSON, decimals as texts) to stdout, and errors as one line.

Exit codes: 0 ok, 1 error, 2 usage, 3 a budget said no. What the facts are is written down here, from the pages.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from pricing.ledger import Ledger
from ratelimit.cli import COMMANDS
from ratelimit.emulator import Emulator

AT = "2026-08-01"
RUN = ["run", "{job}", "-o", "out.jsonl", "--at", AT]
HERE = ["--rpm", "1", "--base-url", "http://127.0.0.1:9/v1"]
EVERY_COMMAND = [
    ["demo"],
    ["run"],
    ["emulate"],
    ["models"],
    ["estimate"],
    ["forecast"],
    ["gate"],
    ["baseline"],
    ["baseline", "write"],
    ["baseline", "show"],
    ["baseline", "diff"],
    ["batch"],
    ["batch", "plan"],
    ["batch", "run"],
    ["batch", "status"],
    ["batch", "cancel"],
    ["batch", "adopt"],
    ["ledger"],
    ["ledger", "report"],
    ["ledger", "export"],
    ["ledger", "reconcile"],
    ["ledger", "accuracy"],
    ["tables"],
    ["tables", "check"],
    ["tables", "schema"],
]


@pytest.mark.parametrize("command", [[], *EVERY_COMMAND], ids=" ".join)
def test_every_command_explains_itself(command: list[str], ratecard: Callable[..., Any]) -> None:
    """`--help` (and -h at the top) prints a usage line and a sentence, and ends well."""
    ended = ratecard(*command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: {' '.join(['ratecard', *command])}")
    assert len(ended.out.splitlines()) > 3
    assert {part[0] for part in EVERY_COMMAND} == set(COMMANDS)


def test_the_top_lists_every_command_and_the_version(ratecard: Callable[..., Any]) -> None:
    """`ratecard --help` names each command with a sentence; `--version` is the distribution's."""
    out = ratecard("-h").out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert ratecard("--version").out.startswith("ratecard, version ")


def one_error_line(ended: Any, code: int = 1) -> str:
    """The error of a command that failed as it should: nothing on stdout, one line on stderr, no traceback."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "gpt-0"], ["no card for 'gpt-0'", "gpt-5"]),
        ([*RUN, "--tier", "tier_1"], ["OPENAI_API_KEY is not set", "--base-url"]),
        ([*RUN, *HERE, "-o", "no/such/o.jsonl"], ["no/such/o.jsonl", "no such file"]),
        (["run", "none.jsonl", *RUN[2:], *HERE], ["none.jsonl", "no such file"]),
        (["run", "none.jsonl", *RUN[2:], "--tier", "tier_1"], ["none.jsonl", "no such file"]),
        ([*RUN, *HERE, "--ledger", "no/such.db"], ["no/such.db"]),
        (["estimate", "none.jsonl"], ["none.jsonl", "no such file"]),
        (["gate", "none.jsonl", "--fail-if", "cost>1"], ["none.jsonl", "no such file"]),
        (["gate", "-c", "none.yaml"], ["none.yaml", "no such file"]),
        (["gate", "no*.jsonl", "--fail-if", "cost>1"], ["no*.jsonl", "no file matches"]),
        (["baseline", "show", "{job}"], ["job.jsonl", "no JSON"]),
        (["batch", "plan", "none.jsonl"], ["none.jsonl", "name a file that is there"]),
        (["batch", "status", "-o", "none.jsonl"], ["none.jsonl.batch.db", "no such run"]),
        (["batch", "run", "{job}", "-o", "out.jsonl"], ["OPENAI_API_KEY is not set", "--base-url"]),
        (["ledger", "report", "none.db"], ["none.db", "no such ledger"]),
        (["ledger", "export", "none.db", "-o", "-", "--format", "csv"], ["none.db", "no such ledger"]),
        (["ledger", "accuracy", "none.db"], ["none.db", "no such ledger"]),
        (["ledger", "reconcile", "none.db", "none.json"], ["none.json", "no such file"]),
        (["ledger", "report", "{job}"], ["job.jsonl", "not a database"]),
        (["tables", "check", "none/models.yaml"], ["none/models.yaml", "no such file"]),
        (["tables", "check", "{job}"], ["models.yaml, prices.yaml or tiers.yaml"]),
        (["emulate", "--tier", "tier_1", "--model", "gpt-0"], ["no limits", "gpt-0"]),
        (["emulate", "--rpm", "5", "--speed", "nan"], ["speed"]),
        (["emulate", "--rpm", "5", "--window", "second"], ["5 requests in 60 s", "windows of 1 s"]),
        (["emulate", "--rpm", "5", "--host", "no.such.host.invalid"], ["cannot listen on no.such.host.invalid"]),
        (["demo", "--keep", "{job}/folder"], ["--keep", "job.jsonl/folder", "cannot be written"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0] in COMMANDS else "",
)
def test_errors_are_one_line_that_says_what_to_do(
    arguments: list[str], words: list[str], ratecard: Callable[..., Any], job: Path
) -> None:
    """A model, tier, file or setting that is not there is exit code 1 and one line naming it and what there is."""
    line = one_error_line(ratecard(*(part.format(job=job) for part in arguments)))
    assert [word for word in words if word not in line.replace("No such", "no such")] == [], line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["run"], "Missing argument 'FILE'"),
        (["run", "job.jsonl", "--tier", "tier_1"], "Missing option '-o'"),
        (["run", "job.jsonl", "-o", "out.jsonl"], "--tier build, or --rpm/--tpm"),
        (["run", "job.jsonl", "-o", "out.jsonl", "--rpm", "0"], "Invalid value for '--rpm'"),
        (["run", "job.jsonl", "-o", "out.jsonl", "--rpm", "1", "--headroom", "1"], "Invalid value for '--headroom'"),
        (["run", "job.jsonl", "-o", "out.jsonl", "--rpm", "1", "--colour"], "No such option"),
        (["estimate", "job.jsonl", "--at", "24.11.2026"], "not a date such as 2026-11-24"),
        (["emulate"], "--tier tier_1, or --rpm/--tpm"),
        (["emulate", "--rpm", "1", "--port", "70000"], "Invalid value for '--port'"),
        (["demo", "--requests", "0"], "Invalid value for '--requests'"),
        (["ledger", "nothing"], "No such command 'nothing'"),
        (["models", "o3-pro", "--tier", "tier_9"], "unknown tier 'tier_9'; known: free, tier_1"),
        (["models", "--tier", "tier_9"], "unknown tier 'tier_9'"),
        (["run", "job.jsonl", "-o", "out.jsonl", "--tier", "tier_9"], "unknown tier 'tier_9'"),
        (
            ["run", "job.jsonl", "-o", "out.jsonl", "--rpm", "1", "--policy", "guess"],
            "'guess' is not one of 'observed'",
        ),
        (
            ["run", "job.jsonl", "-o", "out.jsonl", "--rpm", "1", "--budget", "5 USD slow"],
            "rolling, slow and zones are for",
        ),
        (["emulate", "--tier", "tier_9"], "unknown tier 'tier_9'"),
        (["emulate", "--rpm", "5", "--policy", "guess"], "'guess' is not one of 'observed'"),
        (["emulate", "--rpm", "5", "--window", "hour"], "'hour' is not one of 'continuous'"),
        (["emulate", "--rpm", "5", "--faults", "418"], "unknown fault '418'"),
        (["emulate", "--rpm", "5", "--output-tokens", "0"], "Invalid value for '--output-tokens'"),
        (["ledger", "report", "none.db", "--by", "colour"], "month or tag:NAME, not 'colour'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], words: str, ratecard: Callable[..., Any], job: Path) -> None:
    """A command line that cannot be understood is exit code 2, a usage line and the reason on stderr."""
    ended = ratecard(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: ratecard")
    assert words in ended.err


def test_an_output_that_cannot_be_written_is_one_line(ratecard: Callable[..., Any], job: Path) -> None:
    """A disk that fills up under the results is an error like any other, not a traceback."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with Emulator(limits={"rpm": 1_000}, latency=0) as server:
        to = ["-o", str(full), "--ledger", "costs.db", "--rpm", "1000", "--base-url", server.url, "--at", AT]
        assert "No space left" in one_error_line(ratecard("run", str(job), *to))


def test_errors_of_a_real_process_are_the_same(spawn: Callable[..., Any]) -> None:
    """What the tests see in this process is what a shell sees through `python -m ratelimit`: exit code 1, one line."""
    out, err = spawn("models", "gpt-0").communicate(timeout=20)
    assert out == ""
    assert err.startswith("error: no card for 'gpt-0'")
    assert err.count("\n") == 1


def test_the_console_script_is_installed() -> None:
    """The command is called `ratecard`."""
    script = Path(sys.executable).with_name("ratecard")
    ended = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("ratecard, version ")


# -- estimate, ledger, tables ------------------------------------------------------------------------------------------

HAND_COUNT = {"o3-pro": (106, 1_000), "o3": (56, 500), "o3-mini": (7, 200)}
"""Tokens of the job's lines: its words, and six around one message; and the most each reply may have."""
USD_PER_MTOK = {"o3-pro": ("20", "80"), "o3": ("2", "8"), "o3-mini": ("1.10", "4.40")}


def hand_cost(share: Decimal = Decimal(1)) -> Decimal:
    """What the job costs at worst."""
    return sum(
        (Decimal(USD_PER_MTOK[model][0]) * read + Decimal(USD_PER_MTOK[model][1]) * write) * share / 1_000_000
        for model, (read, write) in HAND_COUNT.items()
    )


def test_estimate_equals_a_sum_by_hand(ratecard: Callable[..., Any], job: Path) -> None:
    """Tokens, the sum and each line's cost at worst are those of a price list and a count made by hand."""
    found = ratecard("estimate", str(job), "--at", AT, "--lines", "--json")
    assert (found.code, found.err) == (0, "")
    document = found.document
    assert (document["lines"], document["unpriced"], document["inexact"]) == (3, 0, 0)
    assert document["input_tokens"] == 106 + 56 + 7
    assert Decimal(document["cost"]["worst"]) == hand_cost() == Decimal("0.0871197")
    assert [row["input_tokens"] for row in document["rows"]] == [106, 56, 7]
    assert set(document["cost"]) == {"mean", "worst"}  # percentiles of single lines do not add up
    for name in ("mean", "worst"):
        assert sum(Decimal(row[name]) for row in document["rows"]) == Decimal(document["cost"][name])
    # The cap of each line is below the mean of a reasoning model's replies, so what is expected is the worst.
    assert document["cost"]["mean"] == document["cost"]["worst"]
    assert "$0.09 expected, $0.09 at worst" in ratecard("estimate", str(job), "--at", AT).out


def test_estimate_prices_batch_and_tiers(ratecard: Callable[..., Any], job: Path) -> None:
    """`--batch` is half; a tier without a price for a model makes that line unpriced and the exit code 1, never $0."""
    half = ratecard("estimate", str(job), "--at", AT, "--batch", "--json").document
    assert Decimal(half["cost"]["worst"]) == hand_cost() / 2
    ended = ratecard("estimate", str(job), "--at", AT, "--service-tier", "flex", "--lines", "--json")
    assert ended.code == 1
    assert ended.document["unpriced"] == 2
    assert Decimal(ended.document["cost"]["worst"]) == (Decimal(1) * 56 + Decimal(4) * 500) / 1_000_000
    assert "no flex price row for 'o3-pro'" in ended.document["rows"][0]["unpriced"]


def test_estimate_of_what_has_no_price_is_no_number(ratecard: Callable[..., Any], job: Path) -> None:
    """Where no line has a price the cost is null and the lines are counted as unpriced: never "0"."""
    job.write_text('{"model": "nobody-priced-this", "input": "word"}\n', encoding="utf-8")
    ended = ratecard("estimate", str(job), "--at", AT, "--json")
    assert ended.code == 1
    assert (ended.document["lines"], ended.document["unpriced"], ended.document["cost"]) == (1, 1, None)
    text = ratecard("estimate", str(job), "--at", AT)
    assert "$" not in text.out
    assert "unpriced  1 line: " in text.out


def test_estimate_tells_bad_lines_and_does_the_rest(ratecard: Callable[..., Any], job: Path) -> None:
    """A bad line is named with its number on stderr, the sum of the others stands, and the exit code is 1."""
    job.write_text("nonsense\n" + job.read_text(encoding="utf-8"), encoding="utf-8")
    ended = ratecard("estimate", str(job), "--at", AT, "--json")
    assert ended.code == 1
    assert Decimal(ended.document["cost"]["worst"]) == hand_cost()
    assert [bad["line"] for bad in ended.document["bad_lines"]] == [1]
    assert ratecard("estimate", str(job), "--at", AT).err.startswith("line 1: not JSON")


def test_ledger_report_splits_what_run_spent(ratecard: Callable[..., Any], job: Path) -> None:
    """`ledger report` totals a run's ledger by model, state and day; its sum is the sum of its parts and of the run."""
    with Emulator(limits={"rpm": 1_000, "tpm": 1_000_000}, latency=0) as server:
        to = ["-o", "out.jsonl", "--rpm", "1000", "--base-url", server.url, "--at", AT, "--json"]
        ran = ratecard("run", str(job), *to)
        assert (ran.code, ran.err) == (0, "")
        usage = server.counters()["usage_by_model"]
    cost = {
        model: Decimal(usage[served]["input_tokens"]) * Decimal(USD_PER_MTOK[model][0]) / 1_000_000
        + Decimal(usage[served]["output_tokens"]) * Decimal(USD_PER_MTOK[model][1]) / 1_000_000
        for model in USD_PER_MTOK
        for served in usage
        if served[: len(model) + 2] == f"{model}-2"
    }
    report = ratecard("ledger", "report", "out.jsonl.costs.db", "--json").document
    assert Decimal(report["total"]["posted"]) == sum(cost.values()) == Decimal(ran.document["cost"]["posted"])
    assert sorted(Decimal(part["posted"]) for part in report["by"].values()) == sorted(cost.values())
    by_state = ratecard("ledger", "report", "out.jsonl.costs.db", "--by", "state", "--json").document["by"]
    assert {state: part["posted_count"] for state, part in by_state.items()} == {"posted": 3}
    text = ratecard("ledger", "report", "out.jsonl.costs.db", "--by", "day").out.splitlines()
    assert text[-1].startswith("total")
    assert "3 calls" in text[-1]
    assert "as requested" not in ratecard("ledger", "report", "out.jsonl.costs.db").err
    with Ledger("out.jsonl.costs.db") as ledger:
        ledger.pend(model="o3-pro", endpoint="/v1/responses", estimate=None)
    open_one = ratecard("ledger", "report", "out.jsonl.costs.db")
    assert "models are named as served; where no reply told, as requested" in open_one.err
    assert {"o3-pro", "o3-pro-2025-06-10"} <= {line.split()[0] for line in open_one.out.splitlines()}


def test_run_explains_what_the_requests_waited_for(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """--explain names the limit, how many waited for it and for how long, and who waited longest."""
    job = tmp_path / "explain.jsonl"
    line = json.dumps({"model": "o3", "input": "word " * 2_000})
    job.write_text(f"{line}\n" * 4, encoding="utf-8")
    with Emulator(limits={"rpm": 3_000, "tpm": 1_000_000}, latency=0) as server:
        # Each takes 2,000 tokens, and 130 come back per second: the fourth has to wait for two seconds or so.
        arguments = ["-o", str(tmp_path / "waits.jsonl"), "--rpm", "3000", "--tpm", "7800"]
        to = ["--base-url", server.url, "--at", AT, "--explain"]
        ended = ratecard("run", str(job), *arguments, *to)
    assert ended.code == 0
    assert re.search(
        r"^waits     1 of 4 requests for tpm, \d+\.\d s each on average \(\d+\.\d s over all\)$",
        ended.out,
        re.MULTILINE,
    )
    assert re.search(r"^ +\d+\.\d s  line-\d+-\w+ for tpm \([\d,]+ tokens\)$", ended.out, re.MULTILINE)


def test_tables_check_and_schema(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """The shipped tables are sound and lie where `schema` says, beside their JSON Schemas; a broken one is one line."""
    checked = ratecard("tables", "check")
    assert checked.code == 0
    assert [line.rpartition(": ")[2] for line in checked.out.splitlines()] == ["ok"] * 3
    paths = [Path(line) for line in ratecard("tables", "schema").out.splitlines()]
    assert [path.name for path in paths] == [
        *(f"{name}.{kind}" for name in ("models", "prices", "tiers") for kind in ("yaml", "schema.json")),
        *(f"{name}.schema.json" for name in ("gate", "gate_report", "gate_verdict")),
    ]
    assert all(json.loads(path.read_text(encoding="utf-8"))["$schema"] for path in paths if path.suffix == ".json")
    broken = tmp_path / "prices.yaml"
    broken.write_text(paths[2].read_text(encoding="utf-8").replace('output: "80.00"', "output: -80"), encoding="utf-8")
    line = one_error_line(ratecard("tables", "check", str(broken)))
    assert str(broken) in line
    assert "output" in line


# -- emulate and demo as a stranger runs them --------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_emulate_prints_its_url_answers_and_ends_cleanly(ending: signal.Signals, spawn: Callable[..., Any]) -> None:
    """The URL is the first line, and works; SIGTERM and SIGINT end the process without a word, even during a reply."""
    where = ["--host", "127.0.0.2", "--port", "0"]
    replies = ["--latency", "0", "--output-tokens", "7"]
    child = spawn("emulate", "--tier", "tier_1", "--model", "o3-pro", *where, "--at", AT, *replies)
    url = child.stdout.readline().strip()
    assert url.startswith("http://127.0.0.2:")
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["o3-pro"]
        reply = client.responses.with_raw_response.create(model="o3-pro", input="word")
        assert reply.headers["x-ratelimit-limit-tokens"] == "30000"
        usage = reply.parse().usage
        assert (usage.input_tokens, usage.output_tokens - usage.output_tokens_details.reasoning_tokens) == (7, 7)
        with pytest.raises(openai.RateLimitError, match="Request too large"):
            client.responses.create(model="o3-pro", input="word " * 40_000)
    with urllib.request.urlopen(url.removesuffix("/v1") + "/_emulator", timeout=10) as answer:
        counters = json.load(answer)
    assert (counters["admitted"], counters["refused_total"], counters["tier"]) == (1, 1, "tier_1")
    child.send_signal(ending)
    out, err = child.communicate(timeout=10)
    assert (out, err) == ("", "")
    assert child.returncode in (0, -ending)


def test_emulate_on_a_port_in_use_is_one_line(ratecard: Callable[..., Any]) -> None:
    """A port that another program has is an error with its address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = one_error_line(ratecard("emulate", "--rpm", "5", "--port", port))
    assert f"cannot listen on 127.0.0.1:{port}" in line


THREE_YEARS_ON = """
import datetime, sys

class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz).replace(year=2029, day=1)

datetime.datetime = Later
from ratelimit.cli import main
main(sys.argv[1:])
"""
"""The command line on a day when every model of the tables has been shut down for years."""


def test_demo_works_when_its_models_are_long_gone() -> None:
    """The demo lives on a day of its own: after the shutdown of o3-pro it sends, prices and checks the same."""
    later = [sys.executable, "-c", THREE_YEARS_ON]
    ended = subprocess.run([*later, "demo", "--json", "--requests", "3"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    shown = json.loads(ended.stdout)
    assert (shown["ratecard"]["lines"]["done"], shown["ledger_adds_up"]) == (3, True)
    # What the child believes: without a day of its own, a job of that model is refused.
    gone = subprocess.run([*later, "models", "o3-pro", "--json"], capture_output=True, text=True, timeout=60)
    assert json.loads(gone.stdout)["shutdown"] < "2029"


def test_a_job_on_a_day_of_one_s_own_works_when_its_models_are_gone(ratecard: Callable[..., Any], job: Path) -> None:
    """`--at DAY` reads all tables as of that day, and `--preflight off` sends whatever the cards say."""
    with Emulator(limits={"rpm": 1_000, "tpm": 1_000_000}, latency=0) as server:
        for number, (how, code) in enumerate(
            [(["--at", "2029-01-01"], 1), (["--at", "2029-01-01", "--preflight", "off"], 0), (["--at", AT], 0)]
        ):
            to = ["-o", f"{number}.jsonl", "--rpm", "1000", "--base-url", server.url]
            ended = ratecard("run", str(job), *to, *how)
            assert ended.code == code
            assert ("was shut down on" in ended.err) == (code == 1)


def test_demo_shows_naive_code_fail_and_ours_pass(spawn: Callable[..., Any]) -> None:
    """`demo --json`: the bare client meets 429s, ours none; everything is done, and the ledger adds up."""
    # At the speed people see: a faster clock would make this machine's hiccups longer than any network's.
    child = spawn("demo", "--json", "--requests", "44", "--seed", "10")
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    shown = json.loads(out, parse_float=lambda text: pytest.fail(f"a decimal is a text, not {text}"))
    assert shown["naive"]["refused_429"] > 0
    assert shown["ratecard"]["requests"]["refused_429"] == 0
    assert shown["server"] == {"admitted": 44, "refused": {}}
    assert shown["ratecard"]["lines"]["done"] == 44
    assert shown["ledger_adds_up"] is True
    assert 0 < Decimal(shown["ratecard"]["cost"]["posted"]) <= Decimal(shown["estimated_cost"]["worst"])
