"""Law: a file that cannot be used is one clear error, and never limits that nobody keeps.

And the other way round: what is written survives restarts of processes, and of the machine as if no time had passed.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

import ratelimit
from pricing import Ledger
from ratelimit.clock import HostClock
from ratelimit.errors import ConfigError, StoreUnavailable
from ratelimit.limit import Limit
from ratelimit.stores import open_store
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.sqlite import SqliteStore
from ratelimit.testing import ManualClock, ask

MODEL = "a-model-with-limits-of-its-own"
TPM = Limit("tpm", "tokens", 600)


UNPRIVILEGED = """
    import os, sys
    from ratelimit.errors import StoreUnavailable
    from ratelimit.stores.sqlite import SqliteStore
    SqliteStore(sys.argv[2]).disconnect()  # all is imported before the rights are gone
    if os.geteuid() == 0:
        try:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        except OSError:
            sys.exit(77)
    try:
        SqliteStore(sys.argv[1])
    except StoreUnavailable as error:
        print(error)
"""


def lane() -> Lane:
    return Lane("m", (TPM,), ("m:tpm",))


class Machine(HostClock):
    """A machine's time by hand, and which start of it this is."""

    def __init__(self, now_us: int, boot: str = "first") -> None:
        self.us, self.name = now_us, boot

    def now_us(self) -> int:
        return self.us

    def boot(self) -> str:
        return self.name


def damaged(path: Path, damage: bytes, at: int = 0) -> None:
    """Make a store's file, and write over a part of it."""
    SqliteStore(path).disconnect()
    content = path.read_bytes()
    path.write_bytes(content[:at] + damage + content[at + len(damage) :])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("limits.db", "a URL such as sqlite"),
        ("redis://localhost", "a URL such as sqlite"),
        ("sqlite://limits.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///:memory:", "three slashes"),
        ("sqlite:///limits.db?mode=ro", "three slashes"),
    ],
)
def test_a_url_that_names_no_file_is_a_setting_to_fix(url: str, says: str) -> None:
    """It is told with an example, before anything is made."""
    with pytest.raises(ConfigError, match=says):
        ratelimit.Limiter(limits={"rpm": 1}, store=url)


def test_paths_in_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes and a path from here, or four from the root; %20 is a space."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///here.db", f"sqlite:///{tmp_path}/a%20space.db"):
        open_store(url).disconnect()  # type: ignore[attr-defined]
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["a space.db", "here.db"]


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: path.mkdir(), "unable to open"),
        (lambda path: path.write_text("a table,\nof something else\n" * 200), "damaged or is something else"),
        (lambda path: damaged(path, b"\xff" * 3_000, 100), "damaged or is something else"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE mine (x)").close(), "of something else"),
        (
            lambda path: (SqliteStore(path).disconnect(), sqlite3.connect(path).executescript(
                "UPDATE limits_about SET version = 99").close()),
            "newer ratecard .limits version 99",
        ),
    ],
    ids=["a folder", "text", "rot", "another program's", "newer"],
)  # fmt: skip
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, prepare: object, says: str) -> None:
    """The message names the file and says what is wrong."""
    path = tmp_path / "limits.db"
    prepare(path)  # type: ignore[operator]
    with pytest.raises(StoreUnavailable, match=says) as error:
        ratelimit.Limiter(limits={"rpm": 1}, store=f"sqlite:///{path}")
    assert str(path) in str(error.value)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """Nothing is made in its place."""
    with pytest.raises(StoreUnavailable, match="is its folder missing"):
        SqliteStore(tmp_path / "none" / "limits.db")


def test_a_file_that_another_process_holds_for_long_refuses_and_then_goes_on(tmp_path: Path) -> None:
    """Admissions raise when their patience is over; ends do not, and are written when the file is free again."""
    path = tmp_path / "limits.db"
    store = SqliteStore(path, initial_slack_us=0, busy_s=0.05)
    booking, held = ask(store, where := lane(), [50_000_000]), Limit("concurrency", "concurrent", 1)
    assert isinstance(booking, Booking)
    slot = ask(store, air := Lane("n", (held,), ("n:c",)), [1])
    assert isinstance(slot, Booking)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"another process has held it for 0\.05 s"):
        ask(store, where, [1])
    store.settle(booking, [1_000])
    store.finish(slot)
    store.close("m:tpm", 1_000)
    assert store.backlog_us("m:tpm") > 40_000_000
    other.execute("ROLLBACK")
    other.close()
    assert isinstance(ask(store, air, [1]), Booking)
    assert store.backlog_us("m:tpm") == 0, "the rest of the 1 ms is over by now"
    store.disconnect()


@pytest.mark.parametrize("new", [False, True], ids=["deleted", "replaced"])
def test_a_file_that_was_deleted_or_replaced_admits_nothing(tmp_path: Path, new: bool) -> None:
    """Whoever went on would not know what others spend: every process has to be started again."""
    path = tmp_path / "limits.db"
    limiter = ratelimit.Limiter(limits={"tpm": 600}, store=f"sqlite:///{path}")
    with limiter.reserve(model=MODEL, tokens=100) as reservation:
        for each in tmp_path.iterdir():
            each.unlink()
        if new:
            SqliteStore(path).disconnect()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="deleted or replaced"):
                limiter.reserve(model=MODEL, tokens=1)
        reservation.settle(tokens=50)


def test_a_damaged_row_admits_nothing(tmp_path: Path) -> None:
    """A row that says what no store writes is told like other damage."""
    path = tmp_path / "limits.db"
    store = SqliteStore(path)
    ask(store, where := lane(), [1])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE limits_cells SET state = x'0102'")
    db.close()
    with pytest.raises(StoreUnavailable, match=r"a malformed row .*the file is damaged"):
        ask(store, where, [1])
    store.disconnect()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no users to take the right to write from")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written_is_told(tmp_path: Path, what: str) -> None:
    """Without the right to write a file, or to make it in its folder, opening is one StoreUnavailable."""
    with tempfile.TemporaryDirectory(prefix="limits") as name:  # pytest's own folders are closed to other users
        path = Path(name, "limits.db")
        if what == "file":
            SqliteStore(path).disconnect()
            path.chmod(0o444)
        Path(name).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(UNPRIVILEGED), path, tmp_path / "other.db"],
            capture_output=True,
            text=True,
            check=False,
        )
        Path(name).chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root may write read-only files, and cannot become another user here")
    assert done.stderr == ""
    assert str(path) in done.stdout
    assert "cannot be written" in done.stdout or "unable to open" in done.stdout


def test_a_read_only_connection_is_told(tmp_path: Path) -> None:
    """What nobody writes down nobody else can obey: an admission that cannot be written is none."""
    store = SqliteStore(tmp_path / "limits.db")
    where = lane()
    ask(store, where, [1])
    store._file.reading().execute("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        ask(store, where, [1])
    store.disconnect()


def test_what_was_spent_survives_the_process(tmp_path: Path) -> None:
    """A new process finds the bucket as the one before it has left it, less what has passed."""
    path, clock = tmp_path / "limits.db", ManualClock()
    for spent in (0, 20_000_000, 30_000_000):
        store = SqliteStore(path, clock, initial_slack_us=0)
        store.open(where := lane())
        assert store.backlog_us("m:tpm") == spent
        assert isinstance(ask(store, where, [20_000_000 if not spent else 15_000_000]), Booking)
        store.disconnect()
        clock.advance(0 if not spent else 5_000_000)


def test_after_a_start_of_the_machine_nothing_is_forgiven(tmp_path: Path) -> None:
    """Its clock starts anew, and nobody knows how long it stood: buckets are as spent as they were when last written,
    cool-downs as long, and nobody holds a slot any more."""
    path, air = tmp_path / "limits.db", Limit("concurrency", "concurrent", 1)
    keys = ("m:tpm", "m:window", "n:c")
    window = Limit("window", "tokens", 600, window=True)
    before = SqliteStore(path, Machine(9_000_000_000_000), initial_slack_us=0)
    where = Lane("m", (TPM, window, air), keys)
    assert isinstance(ask(before, where, [40_000_000, 30_000_000, 1]), Booking)
    before.close("m:tpm", 70_000_000)
    before._file.disconnect()
    machine = Machine(5_000_000, "second")
    after = SqliteStore(path, machine, initial_slack_us=0)
    assert [after.backlog_us(key) for key in keys] == [40_000_000, 30_000_000, 0]
    where = Lane("m", (TPM, window, air), keys)
    assert ask(after, where, [1, 1, 1]) == 70_000_000
    machine.us += 70_000_000
    assert isinstance(holder := ask(after, where, [1, 1, 1]), Booking)
    again = SqliteStore(path, Machine(machine.us, "second"), initial_slack_us=0)
    assert ask(again, Lane("m", (TPM, window, air), keys), [1, 1, 1]) == 0
    assert holder.open
    for store in (before, after, again):
        store.disconnect()


def test_a_clock_that_is_set_back_forgives_nothing_twice(tmp_path: Path) -> None:
    """Whoever comes with an earlier time goes on from the latest one in the file."""
    path = tmp_path / "limits.db"
    one = SqliteStore(path, ManualClock(2_000_000_000), initial_slack_us=0)
    assert isinstance(ask(one, lane(), [60_000_000]), Booking)
    clock = ManualClock(1_000_000_000)
    other = SqliteStore(path, clock, initial_slack_us=0)
    assert ask(other, where := lane(), [10_000_000]) == 10_000_000
    clock.advance(10_000_000)
    assert isinstance(ask(other, where, [10_000_000]), Booking)
    for store in (one, other):
        store.disconnect()


@pytest.mark.parametrize("first", ["ledger", "limits"])
def test_a_ledger_s_file_keeps_limits_too(tmp_path: Path, first: str) -> None:
    """Whichever was there first, both go on, and so they do when they are opened again."""
    path = tmp_path / "costs.db"
    for kind in (first, "ledger", "limits"):
        if kind == "ledger":
            Ledger(path).close()
        else:
            store = SqliteStore(path)
            assert isinstance(ask(store, lane(), [1]), Booking)
            store.disconnect()
    with Ledger(path) as ledger:
        assert ledger.totals().posted_count == 0
        limiter = ratelimit.Limiter(limits={"tpm": 600}, store=f"sqlite:///{path}")
        limiter.reserve(model=MODEL, tokens=1)
        limiter.store.disconnect()  # type: ignore[attr-defined]


def test_abandoned_slots_come_back_whatever_the_garbage_interrupts(tmp_path: Path) -> None:
    """A booking that is collected amid a transaction of the same thread is ended right after it."""
    store = SqliteStore(tmp_path / "limits.db")
    air = Lane("n", (Limit("concurrency", "concurrent", 2),), ("n:c",))
    booking = ask(store, air, [1])

    def collect(db: sqlite3.Connection) -> int:
        nonlocal booking
        booking = 0
        gc.collect()
        return store.backlog_us("n:c")

    assert store._change(collect) == 1
    assert store.backlog_us("n:c") == 0
    store.disconnect()


def test_threads_share_one_handle(tmp_path: Path) -> None:
    """Eight threads reserve, settle and hold slots at once: what is spent is the sum of what they say."""
    store = SqliteStore(tmp_path / "limits.db", ManualClock(), initial_slack_us=0)
    limits = (Limit("tpm", "tokens", 60_000_000), Limit("concurrency", "concurrent", 8))

    def work() -> None:
        where = Lane("m", limits, ("m:tpm", "m:c"))
        for _ in range(50):
            booking = ask(store, where, [1_000, 1])
            assert isinstance(booking, Booking)
            store.settle(booking, [900, 1])
            store.finish(booking)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.backlog_us("m:tpm"), store.backlog_us("m:c")) == (8 * 50 * 900, 0)
    store.disconnect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_ends_nothing_of_its_parent_s(tmp_path: Path) -> None:
    """After a fork both go on with the same file; what the parent holds and has booked only the parent ends."""
    store = SqliteStore(tmp_path / "limits.db", ManualClock(), initial_slack_us=0)
    where = Lane("m", (TPM, Limit("concurrency", "concurrent", 2)), ("m:tpm", "m:c"))
    booking = ask(store, where, [20_000_000, 1])
    assert isinstance(booking, Booking)
    child = os.fork()
    if not child:
        code = 1
        try:
            store.release(booking)
            mine = ask(store, where, [10_000_000, 1])
            code = 0 if isinstance(mine, Booking) and store.backlog_us("m:c") == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.backlog_us("m:tpm") == 30_000_000
    store.release(booking)
    assert store.backlog_us("m:tpm") == 10_000_000
    assert isinstance(ask(store, where, [1, 1]), Booking)
    assert isinstance(ask(store, where, [1, 1]), Booking), "the child's slot is free, for it has ended"
    store.disconnect()


def test_numbers_that_no_column_holds_change_nothing_and_stop_nothing(tmp_path: Path) -> None:
    """A reply that states an absurd amount leaves what was charged; the next request is served as before."""
    store = SqliteStore(tmp_path / "limits.db", ManualClock(), initial_slack_us=0)
    booking = ask(store, where := lane(), [10_000_000])
    assert isinstance(booking, Booking)
    store.settle(booking, [10**40])
    store.observe("m:tpm", 10**40)
    assert store.backlog_us("m:tpm") == 10_000_000
    assert isinstance(ask(store, where, [10_000_000]), Booking)
    store.disconnect()
