"""Law: what one process learns from the server's answers, all that share its file obey."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

import ratelimit
from ratelimit.cli import cli
from ratelimit.emulator import Emulator
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.sqlite import SqliteStore
from ratelimit.testing import ManualClock, ask

TPM = Limit("tpm", "tokens", 600)
SECOND = Limit("tpm", "tokens", 600, burst_us=1_000_000, window=True)
KEY = "m:tpm"


def lane(limit: Limit = TPM) -> Lane:
    return Lane("m", (limit,), (KEY,))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def two(tmp_path: Path, clock: ManualClock) -> tuple[SqliteStore, SqliteStore]:
    stores = [SqliteStore(tmp_path / "limits.db", clock, initial_slack_us=1_000) for _ in range(2)]
    for store in stores:
        store.open(lane())
    return stores[0], stores[1]


def test_margins_are_shared_and_only_grow(two: tuple[SqliteStore, SqliteStore]) -> None:
    """A late request that one has seen widens the margin of all; a smaller one changes nothing, a huge one is cut."""
    one, other = two
    one.widen(KEY, 50_000)
    other.widen(KEY, 20_000)
    assert [store.slack_us(KEY) for store in two] == [50_000, 50_000]
    other.widen(KEY, 60_000_000)
    assert [store.slack_us(KEY) for store in two] == [3_000_000, 3_000_000]


def test_a_margin_for_cold_connections_is_its_owner_s_and_ends(
    two: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    """While one process opens connections all keep its margin; one that is never taken back ends after a minute."""
    one, _ = two
    one.brace(KEY, 400_000)
    assert [store.slack_us(KEY) for store in two] == [400_000, 400_000]
    one.brace(KEY, 0)
    assert [store.slack_us(KEY) for store in two] == [1_000, 1_000]
    one.brace(KEY, 400_000)
    clock.advance(60_000_000)
    assert [store.slack_us(KEY) for store in two] == [1_000, 1_000]


def test_a_window_that_one_has_found_out_binds_those_who_do_not_know(
    two: tuple[SqliteStore, SqliteStore], clock: ManualClock
) -> None:
    """Whoever takes it for a bucket is let through by the window too, also when it comes anew; unlearned, it is a
    bucket for all."""
    one, other = two
    one.open(lane(SECOND))
    assert isinstance(ask(one, lane(SECOND), [600_000]), Booking)
    newcomer = lane()
    assert ask(other, newcomer, [600_000]) == 1_000_000 + 1_000
    clock.advance(1_001_000)
    assert isinstance(ask(other, newcomer, [600_000]), Booking)
    one.open(lane())
    assert isinstance(ask(other, newcomer, [600_000]), Booking)
    assert other.backlog_us(KEY) == 1_200_000


def test_an_unused_window_is_forgotten(
    two: tuple[SqliteStore, SqliteStore], clock: ManualClock, tmp_path: Path
) -> None:
    """Ten minutes after anybody used it, it is what the next process says; what is declared a window is one at once."""
    one, _ = two
    one.open(lane(SECOND))
    ask(one, lane(SECOND), [600_000])
    clock.advance(600_000_001)
    late = SqliteStore(tmp_path / "limits.db", clock, initial_slack_us=1_000)
    for _ in range(2):
        assert isinstance(ask(late, lane(), [900_000]), Booking)
    late.disconnect()


def test_a_crowded_window_stays_small_in_the_file_and_holds(clock: ManualClock, tmp_path: Path) -> None:
    """Five thousand requests in a minute's window are a row of some 16 kB, and never more than fit."""
    store = SqliteStore(tmp_path / "limits.db", clock, initial_slack_us=0)
    limit = Limit("rpm", "requests", 5_000, window=True)
    where, charge_us = Lane("m", (limit,), (KEY,)), limit.charge_us(1)
    admitted: list[int] = []
    while len(admitted) < 7_000:
        answer = ask(store, where, [charge_us])
        if isinstance(answer, Booking):
            admitted.append(clock.now_us())
            clock.advance(7_000)
        else:
            clock.advance(answer)
    assert all(then - now >= 60_000_000 for now, then in zip(admitted, admitted[5_000:], strict=False))
    assert admitted[-1] - admitted[0] < 1.02 * 60_000_000 * 7_000 / 5_000
    (length,) = store._file.reading().execute("SELECT MAX(LENGTH(state)) FROM limits_cells").fetchone()
    assert length <= 513 * 32
    store.disconnect()


def test_a_run_takes_a_store_and_the_next_one_knows_what_it_spent(tmp_path: Path) -> None:
    """`ratecard run --store` leaves in the file what it was admitted; a URL that is none is exit code 2."""
    job = tmp_path / "job.jsonl"
    job.write_text('{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}\n')
    path = tmp_path / "limits.db"
    url = f"sqlite:///{path}"
    with Emulator(limits={"rpm": 2}, latency=0, at=date(2026, 9, 15)) as emulator:
        run = ["run", str(job), "-o", str(tmp_path / "out.jsonl"), "--rpm", "2", "--base-url", emulator.url]
        done = CliRunner().invoke(cli, [*run, "--at", "2026-09-15", "--store", url])
    assert done.exit_code == 0, done.output
    limiter = ratelimit.Limiter(limits={"rpm": 2}, store=url)
    limiter.gate("gpt-4o-mini")
    assert limiter.store.backlog_us("gpt-4o-mini:rpm") > 0
    limiter.store.disconnect()  # type: ignore[attr-defined]
    wrong = CliRunner().invoke(cli, [*run, "--store", "limits.db"])
    assert (wrong.exit_code, "sqlite:///limits.db" in wrong.output) == (2, True)
