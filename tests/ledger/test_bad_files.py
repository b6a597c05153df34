"""Law: a file that cannot be a ledger is refused by one clear LedgerError that names it, and is left as it was.

And: what a ledger is given is kept exactly or refused whole, nothing else is kept, and a full disk breaks nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import Budget, Cost, Entry, Ledger, Usage, Usd
from pricing.errors import LedgerError, OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
TOP = 2**63 - 1


def priced(pico: int) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), {"input": Usd(pico)}, ROW, "table")


def pend(ledger: Ledger, **given: Any) -> int:
    return ledger.pend(**{"model": "m", "endpoint": "e", "estimate": Usd(1), "worst": Usd(2)} | given)


def new_ledger(path: Path, calls: int = 40) -> Path:
    """A ledger file with some calls in it."""
    with Ledger(path) as ledger:
        for number in range(calls):
            entry_id = pend(ledger, tags={"team": "x" * number}, run=f"run {number}")
            if number % 4:
                ledger.post(entry_id, usage=Usage(number), cost=priced(number), response_id=f"resp {number}")
    return path


def foreign(path: Path, *statements: str) -> Path:
    """A SQLite database of something else."""
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement).fetchall()
    db.close()
    return path


def folder_of(path: Path) -> dict[str, bytes]:
    """Every file beside this one, and this one, with its content."""
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


def refused_untouched(path: Path) -> str:
    """Open a file that is no ledger: the message; the file, and its folder, must be what they were."""
    before = folder_of(path)
    with pytest.raises(LedgerError) as caught:
        Ledger(path)
    assert folder_of(path) == before
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def damaged(path: Path, damage: Callable[[bytes], bytes]) -> Path:
    new_ledger(path)
    path.write_bytes(damage(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"model,cost\no3-pro,0.06\n" * 50, "damaged or is something else"),
        (lambda data: b"xy", "damaged or is something else"),
        (lambda data: random.Random(1).randbytes(8_192), "damaged or is something else"),
        (lambda data: data[:16] + random.Random(2).randbytes(len(data) - 16), "damaged or is something else"),
        (lambda data: data[:100], "damaged or is something else"),
        (lambda data: data[: len(data) // 2], "damaged or is something else"),
        (lambda data: data[:100] + bytes(len(data) - 100), "damaged or is something else"),
    ],
    ids=["csv", "two bytes", "noise", "noise after the magic", "header only", "cut in half", "zeros after the header"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    """Text, noise, and a ledger of which a part is missing are refused with advice, and not a byte is changed."""
    assert says in refused_untouched(damaged(tmp_path / "costs.db", damage))


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)"],
        ["CREATE TABLE entries (id INTEGER PRIMARY KEY)"],
        ["PRAGMA application_id = 1234"],
        ["PRAGMA journal_mode = WAL", "CREATE TABLE mine (x)"],
        ["PRAGMA application_id = 1234", "PRAGMA user_version = 99", "CREATE TABLE mine (x)"],
    ],
    ids=["tables", "a table called entries", "an application id", "WAL", "id and version"],
)
def test_a_database_of_something_else_is_refused(tmp_path: Path, statements: list[str]) -> None:
    """Another program's SQLite file is never written to, even when it looks a little like a ledger."""
    message = refused_untouched(foreign(tmp_path / "places.sqlite", *statements))
    assert "something else" in message


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A file that a newer ratecard wrote is refused with its version, and not a byte is changed."""
    path = foreign(new_ledger(tmp_path / "costs.db"), "PRAGMA user_version = 1000")
    message = refused_untouched(path)
    assert "newer" in message
    assert "1000" in message


@pytest.mark.parametrize("place", ["", "missing/costs.db", "file/costs.db"])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, place: str) -> None:
    """A folder, and a file in a folder that is missing or is a file, are refused, and nothing is made."""
    (tmp_path / "file").write_text("")
    path = tmp_path / place
    with pytest.raises(LedgerError) as caught:
        Ledger(path)
    assert str(path) in str(caught.value)
    assert "folder" in str(caught.value)
    assert [each.name for each in tmp_path.rglob("*")] == ["file"]


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    """A file of no bytes, as mktemp makes it, is written as a new ledger."""
    (tmp_path / "costs.db").touch()
    with Ledger(new_ledger(tmp_path / "costs.db")) as ledger:
        assert ledger.totals().posted_count == 30


def test_threads_make_one_new_file_together(tmp_path: Path, at_once: Callable[..., Any]) -> None:
    """Eight that open one new file at the same instant each find, or make, the same whole ledger, and write to it."""
    for number in range(20):
        path = tmp_path / f"costs {number}.db"

        def write(i: int, path: Path = path) -> int:
            with Ledger(path) as ledger:
                return pend(ledger, run=f"run {i}")

        ids = at_once(write)
        assert sorted(ids) == list(range(1, 9))
        with Ledger(path) as ledger:
            assert [entry.run for entry in ledger.entries()] == [f"run {ids.index(n)}" for n in range(1, 9)]


def test_processes_make_one_new_file_together(tmp_path: Path) -> None:
    """Five processes that open the same new file at the same instant, sixty times, all become writers of it."""
    code = """
        import os, sys
        from pricing import Ledger, Usd
        os.write(1, b"ready\\n")
        for line in sys.stdin:
            with Ledger(line.strip()) as ledger:
                ledger.pend(model="m", endpoint="e", estimate=Usd(1))
            os.write(1, b"done\\n")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with contextlib.ExitStack() as stack:
        openers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
            for _ in range(5)
        ]
        answers = [each.stdout.readline() for each in openers if each.stdout is not None]
        for number in range(60):
            for each in openers:
                assert each.stdin is not None
                each.stdin.write(f"{tmp_path}/costs {number}.db\n".encode())
            answers += [each.stdout.readline() for each in openers if each.stdout is not None]
    assert answers == [b"ready\n"] * 5 + [b"done\n"] * 300
    for number in range(60):
        with Ledger(tmp_path / f"costs {number}.db") as ledger:
            assert ledger.totals().pending_count == 5


def use(path: Path) -> None:
    """Open a ledger, read it in every way, and write to it."""
    with Ledger(path) as ledger:
        list(ledger.entries())
        for by in (None, "model", "day", "state", "tag:team"):
            ledger.totals(by)
        small = Budget(Usd(1), tag="team", action="warn")  # of which every threshold is reached
        budgets = [Budget(Usd(TOP), "day"), Budget(Usd(TOP), "total", "run 1"), small]
        pend(ledger, budgets=budgets, run="run 1", tags={"team": "xxx"})
        for entry_id in range(1, 45):
            ledger.attach(entry_id, f"new {entry_id}")
            ledger.post(entry_id, usage=Usage(1), cost=priced(1), response_id=f"resp {entry_id + 1}")
        ledger.post_response("resp 8", endpoint="e", usage=None, cost=priced(2), model="m")
        ledger.sync()


def test_a_page_of_no_known_kind_is_reported(tmp_path: Path) -> None:
    """Whichever page of a file has lost its kind, reading and writing the ledger ends in one LedgerError."""
    whole = new_ledger(tmp_path / "whole.db").read_bytes()
    path = tmp_path / "rotten" / "costs.db"
    path.parent.mkdir()
    for page in range(0, len(whole), 4096):
        data = bytearray(whole)
        data[page or 100] = 0xEE
        path.write_bytes(data)
        with pytest.raises(LedgerError, match="damaged") as caught:
            use(path)
        assert str(path) in str(caught.value)


def test_rot_anywhere_is_reported_as_a_ledger_error(tmp_path: Path) -> None:
    """Whatever bytes of a file are overwritten, reading and writing it works or is a LedgerError."""
    chance = random.Random(1)
    whole = new_ledger(tmp_path / "whole.db").read_bytes()
    path = tmp_path / "costs.db"
    for _ in range(200):
        data = bytearray(whole)
        start, length = chance.randrange(100, len(data)), chance.choice([1, 4, 16])
        data[start : start + length] = chance.randbytes(length)
        path.write_bytes(data)
        with contextlib.suppress(LedgerError):
            use(path)
        for rest in tmp_path.glob("costs.db*"):
            rest.unlink()


@pytest.mark.parametrize(
    "content", ["tags = '{bad'", "usage = ''", "components = '[1]'", """components = '{"a": 1.5}'"""]
)
def test_rot_in_a_column_is_reported_as_a_ledger_error(tmp_path: Path, content: str) -> None:
    """A column that holds what no ledger writes is a LedgerError that names the file, whichever column it is."""
    path = foreign(new_ledger(tmp_path / "costs.db"), f"UPDATE entries SET {content} WHERE id = 7")
    with Ledger(path) as ledger, pytest.raises(LedgerError, match=str(path)):
        ledger.totals()


def script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def open_folder() -> Any:
    """A folder that every user can reach; pytest's own are closed to all but one."""
    with tempfile.TemporaryDirectory(prefix="ledger") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no users to take the right to write from")
@pytest.mark.parametrize("what", ["file", "folder", "file and folder"])
def test_a_read_only_file_is_refused(tmp_path: Path, open_folder: Path, what: str) -> None:
    """Without the right to write the file, or to make it in its folder, opening or writing is one LedgerError."""
    path = open_folder / "costs.db"
    if "file" in what:
        new_ledger(path).chmod(0o444)
    open_folder.chmod(0o555 if "folder" in what else 0o777)
    before = folder_of(path)
    done = script(
        """
        import os, sys
        from pricing import Ledger, Usd
        from pricing.errors import LedgerError
        with Ledger(sys.argv[2]) as ledger:  # all is imported before the rights are gone
            ledger.pend(model="m", endpoint="e", estimate=Usd(1))
        if os.geteuid() == 0:
            try:
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
            except OSError:
                sys.exit(77)
        try:
            with Ledger(sys.argv[1]) as ledger:
                ledger.pend(model="m", endpoint="e", estimate=Usd(1))
        except LedgerError as error:
            print(error)
        """,
        path,
        tmp_path / "other.db",
    )
    open_folder.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root may write read-only files, and cannot become another user here")
    assert done.stderr == ""
    assert str(path) in done.stdout
    assert "cannot be written" in done.stdout or "unable to open" in done.stdout
    assert folder_of(path).get("costs.db") == before.get("costs.db")


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When the disk is full the call at hand is a LedgerError; the entries before it are whole, and it can go on."""
    path = tmp_path / "costs.db"
    done = script(
        """
        import resource, sys
        from pricing import Ledger, Usd
        from pricing.errors import LedgerError
        with Ledger(sys.argv[1]) as ledger:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            written = 0
            try:
                while written < 10_000:
                    entry = ledger.pend(model="m", endpoint="e", estimate=Usd(1), tags={"fill": "x" * 500})
                    written += 1
                    ledger.expire(entry, "")
            except LedgerError as error:
                message = str(error)
            pending = len(list(ledger.entries(state="pending")))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            ledger.expire(ledger.pend(model="m", endpoint="e", estimate=Usd(1)), "")
            print(written, pending, len(list(ledger.entries())), message)
        """,
        path,
    )
    assert done.stderr == ""
    written, pending, found, message = done.stdout.split(maxsplit=3)
    assert str(path) in message
    assert 10 < int(written) < 10_000
    assert int(pending) in (0, 1)
    assert int(found) == int(written) + 1
    with Ledger(path) as ledger:
        assert [entry.id for entry in ledger.entries()] == list(range(1, int(found) + 1))


def test_sums_of_entries_have_no_limit(tmp_path: Path) -> None:
    """Entries of different hours that fit one by one are summed beyond 64 bits, exactly, in totals and in budgets."""
    now_us = 0
    with Ledger(tmp_path / "costs.db", now_us=lambda: now_us, lease_s=10**6) as ledger:
        for hour in range(5):
            now_us = hour * 3_600_000_000
            ledger.post(pend(ledger, worst=Usd(TOP)), usage=None, cost=priced(TOP))
            pend(ledger, worst=Usd(TOP), estimate=Usd(TOP))
        assert ledger.totals().posted == ledger.totals().pending_estimate == Usd(5 * TOP)
        with pytest.raises(OverBudget) as refused:
            pend(ledger, budgets=[Budget(Usd(10 * TOP))])
        assert (refused.value.spent, refused.value.held) == (Usd(5 * TOP), Usd(5 * TOP))


def test_sums_within_an_hour_have_no_limit(tmp_path: Path) -> None:
    """Entries of one hour and run that fit one by one are all posted, and summed exactly."""
    with Ledger(tmp_path / "costs.db", now_us=lambda: 0) as ledger:
        for _ in range(3):
            assert ledger.post(pend(ledger), usage=None, cost=priced(TOP // 2))
        assert ledger.totals().posted == Usd(TOP // 2 * 3)


texts = st.text(max_size=20) | st.sampled_from(
    ["\0", "a\0b", "'; DROP TABLE entries; --", "🙂", "\ufeff", "null", "\r\n"]
)
wild = texts | st.text(st.characters(), max_size=5) | st.just("\ud800") | st.just("\udcff x")


@given(model=texts, endpoint=texts, run=texts, custom_id=texts, response_id=texts, why=texts,
       tags=st.dictionaries(wild, wild, max_size=4))  # fmt: skip
@settings(max_examples=100)
def test_every_text_is_read_back_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, tags: dict[str, str], **texts: str
) -> None:
    """Names, ids and reasons with quotes, NULs and any script, and tags even with lone surrogates, lose nothing."""
    path = tmp_path_factory.mktemp("texts") / "costs.db"
    with Ledger(path) as ledger:
        given = {name: texts[name] for name in ("model", "endpoint", "run", "custom_id")}
        entry_id = pend(ledger, tags=tags, **given)
        attached = ledger.attach(entry_id, texts["response_id"])
        ledger.void(entry_id, texts["why"])
    with Ledger(path) as ledger:
        (entry,) = ledger.entries()
        assert attached is bool(texts["response_id"])
        assert entry.response_id == (texts["response_id"] or None)
        assert (entry.model, entry.endpoint, entry.custom_id) == (given["model"], given["endpoint"], given["custom_id"])
        assert (entry.tags, entry.why, entry.run) == (tags, texts["why"], texts["run"] or None)
        if entry.run:
            assert [each.id for each in ledger.entries(run=entry.run)] == [entry_id]
        for name in filter(None, tags):
            assert list(ledger.totals(by=f"tag:{name}")) == [tags[name]]


@pytest.mark.parametrize("field", ["model", "endpoint", "run", "custom_id", "service_tier"])
def test_a_lone_surrogate_outside_of_tags_is_spelt_out(tmp_path: Path, field: str) -> None:
    """A text that UTF-8 cannot write stops no call and no ending: the half character is kept as its number."""
    with Ledger(tmp_path / "costs.db") as ledger:
        given, kept = "\ud800 here", r"\ud800 here"
        entry_id = pend(ledger, **{field: given}, budgets=[Budget(Usd(100))])
        assert ledger.attach(entry_id, given)
        assert ledger.post(entry_id, usage=None, cost=priced(1), response_id=given, model=given, why=given)
        assert not ledger.post_response(given, endpoint=given, usage=None, cost=priced(1), model=given)
        assert ledger.void(pend(ledger), given)
        entry, other = ledger.entries()
        assert (entry.response_id, entry.model, other.why) == (kept, kept, kept)
        if field not in ("model", "service_tier"):
            assert getattr(entry, field) == kept
        assert ledger.find(given) == entry
        assert len(list(ledger.entries(run=given))) == (field == "run")


def test_huge_tags_are_kept(tmp_path: Path) -> None:
    """A megabyte of tag, and a thousand tags, are kept whole and can be summed by."""
    tags = {"large": "é" * 1_000_000} | {f"tag {number}": str(number) for number in range(1_000)}
    with Ledger(tmp_path / "costs.db") as ledger:
        pend(ledger, tags=tags)
    with Ledger(tmp_path / "costs.db") as ledger:
        assert [entry.tags for entry in ledger.entries()] == [tags]
        assert list(ledger.totals(by="tag:large")) == [tags["large"]]


def test_only_what_was_given_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has a column for each field of an entry, sums for budgets, and no room for a prompt, reply or key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    path = new_ledger(tmp_path / "costs.db")
    columns = {}
    db = sqlite3.connect(path)
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns[table] = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    db.close()
    assert columns.pop("entries") == {
        "id", "state", "model", "endpoint", "response_id", "custom_id", "run", "tags", "service_tier", "batch",
        "created_us", "closed_us", "estimate", "worst", "cost", "components", "row_id", "table_version", "usage",
        "exact", "why",
        "request_id", "asked_model", "asked_tier", "effort", "attempt", "wait_us", "latency_us", "expected",
    } == set(Entry._fields)  # fmt: skip
    assert columns == {
        "sums": {"scope", "value", "kind", "slot", "usd", "pico"},
        "watched": {"tag", "path"},
        "alerts": {"budget", "percent", "mark_us"},
    }
    data = b"".join(folder_of(path).values())
    assert b"run 39" in data
    for secret in ("sk-secret", str(Path.cwd()), sys.executable, str(tmp_path)):
        assert secret.encode() not in data


def test_who_only_reads_makes_no_ledger_of_an_empty_file(tmp_path: Path) -> None:
    """An empty file is no ledger yet: reading it is an error and leaves it empty."""
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(LedgerError, match="not a ledger: the file is empty"):
        Ledger(path, create=False)
    assert path.read_bytes() == b""
