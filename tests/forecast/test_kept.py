"""What a cache of token counts meets in its folder: rot, rivals, others' files, no room. The counts are right."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing.tokens import Count, count_input
from ratelimit import _kept, counted
from ratelimit.counted import counts
from ratelimit.job import Line

from .test_counted import line

LINES = [line({"model": "o3", "input": "word " * number}) for number in range(1, 41)]
IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/"}]}
LINES += [line({"model": "gpt-4o", "input": [IMAGE] * number}) for number in (1, 2)]
PLAIN = [count_input(one.body, one.endpoint) for one in LINES]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a cache of its own will be."""
    monkeypatch.setenv(counted.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "counts.db"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a cache that knows LINES."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("full")
        patch.setenv(counted.VARIABLE, str(folder))
        counts(LINES)
        return folder / "counts.db"


def known(lines: list[Line]) -> int:
    """How many lines the cache knows."""
    return sum(counted.known(lines))


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rot_is_never_a_wrong_count(cache: Path, full: Path, data: st.DataObject) -> None:
    """Whatever bits or bytes of the file are others, every count is right, and nothing is left beside the file."""
    rotten = bytearray(full.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(rotten) - 1))
        rotten[at : at + 1] = data.draw(
            st.sampled_from([bytes([rotten[at] ^ 1 << bit]) for bit in range(8)]) | st.binary(min_size=1, max_size=1)
        )
    cache.parent.mkdir(exist_ok=True)
    cache.write_bytes(rotten)
    for _ in range(3):
        assert counts(LINES) == PLAIN
    assert [path.name for path in cache.parent.iterdir()] == ["counts.db"]


def test_no_bit_of_a_row_can_turn_unseen(cache: Path, full: Path) -> None:
    """Each bit of the last rows of the file is turned on its own: it is a right count or none."""
    cache.parent.mkdir()
    whole = full.read_bytes()
    for bit in range(8 * (len(whole) - 150), 8 * len(whole)):
        rotten = bytearray(whole)
        rotten[bit // 8] ^= 1 << bit % 8
        cache.write_bytes(rotten)
        assert counts(LINES) == PLAIN


ROT = {
    "a header of a later format": (18, b"\x09"),
    "a header of a write-ahead log": (18, b"\x02\x02"),
    "other fractions of a page": (21, b"\x00"),
    "another name of a column": (4040, b"c"),
    "a page of zeros": (4096, bytes(4096)),
    "no page any more": (4096, None),
}


@pytest.mark.parametrize("rot", ROT)
def test_a_rotten_file_is_replaced(cache: Path, full: Path, rot: str) -> None:
    """Rot in the header, in the schema and in a page: the run after the next knows everything again."""
    whole, (at, other) = full.read_bytes(), ROT[rot]
    cache.parent.mkdir()
    cache.write_bytes(whole[:at] if other is None else whole[:at] + other + whole[at + len(other) :])
    for _ in range(2):
        assert counts(LINES) == PLAIN
    assert known(LINES) == len(LINES)


FORGED: list[Any] = [
    b"",
    "text",
    7,
    2.5,
    None,
    b"\xff" * 200,
    *(
        lambda key, text=text: _kept.checksum(key, text) + text
        for text in (
            b'[-5,-5,-5,true,""]',
            b'[5,6,7,true,""]',
            b'[5,1,4,true,""]',
            b'[5,5,5,1,""]',
            b'[5.0,5,5,true,""]',
            b'[true,0,5,false,""]',
            b"[5,5,5,true,null]",
            b"[5,5,5,true]",
            b"{}",
            b"5",
            b"\xff",
            b"[" * 9_999,
        )
    ),
]


@pytest.mark.parametrize("forged", FORGED)
def test_what_is_no_count_is_counted_again_and_replaced(cache: Path, forged: Any) -> None:
    """Rows of other types, without a checksum, or with one over what no count can be."""
    counts(LINES)
    with closing(sqlite3.connect(cache)) as db, db:
        db.execute("CREATE TABLE other (key BLOB PRIMARY KEY, value) WITHOUT ROWID")
        for (key,) in db.execute("SELECT key FROM counts").fetchall():
            db.execute("INSERT INTO other VALUES (?, ?)", (key, forged(key) if callable(forged) else forged))
        db.execute("DROP TABLE counts")
        db.execute("ALTER TABLE other RENAME TO counts")
    assert known(LINES) == 0
    assert counts(LINES) == PLAIN
    assert known(LINES) == len(LINES)


def test_rows_that_change_places_are_not_believed(cache: Path) -> None:
    """A row that verifies under one key is nothing under another."""
    counts(LINES)
    with closing(sqlite3.connect(cache)) as db, db:
        rows = db.execute("SELECT key, value FROM counts ORDER BY key").fetchall()
        values = [value for _, value in rows]
        db.executemany(
            "UPDATE counts SET value = ? WHERE key = ?",
            [(value, key) for (key, _), value in zip(rows, [*values[1:], values[0]], strict=True)],
        )
    assert counts(LINES) == PLAIN
    assert known(LINES) == len(LINES)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE counts (key BLOB PRIMARY KEY, tokens INTEGER, low INTEGER, high INTEGER, why TEXT)",
        "CREATE TABLE something (else_ TEXT)",
        "CREATE VIEW counts AS SELECT x'00' AS key, x'00' AS value",
        "PRAGMA journal_mode = WAL; CREATE TABLE counts (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
    ],
)
def test_a_file_of_another_layout_is_begun_anew(cache: Path, schema: str) -> None:
    """Tables of an older or a foreign program in a file of ours: the counts are right, and kept from now on."""
    cache.parent.mkdir()
    with closing(sqlite3.connect(cache)) as db:
        db.executescript(schema)
    assert counts(LINES) == PLAIN
    assert known(LINES) == len(LINES)
    assert [path.name for path in cache.parent.iterdir()] == ["counts.db"]


def used(folder: Path) -> int:
    """Bytes of everything in a folder, while others add and take away."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


MUCH = """
import os, pathlib, sys
from ratelimit import _kept
from ratelimit.counted import counts
from tests.forecast.test_counted import line
from tests.forecast.test_kept import used
_kept.MOST_BYTES, most = 200_000, 0
for turn in range(12):
    counts([line({"model": "o3", "input": f"{sys.argv[1]} {turn} {place}"}) for place in range(400)])
    most = max(most, used(pathlib.Path(os.environ["RATECARD_CACHE"])) if turn else 0)
print(most)
"""


def test_the_size_is_bounded_whoever_writes(cache: Path) -> None:
    """Four processes write five times as much as there is to be: the folder holds little more at any time."""
    cache.parent.mkdir()
    for suffix in ("-wal", "-journal", "-shm"):
        cache.with_name(cache.name + suffix).write_bytes(bytes(3_000_000))
    with ExitStack() as all_of_them:
        writers = [
            all_of_them.enter_context(
                subprocess.Popen([sys.executable, "-c", MUCH, str(number)], stdout=subprocess.PIPE, text=True)
            )
            for number in range(4)
        ]
        told = [writer.communicate()[0] for writer in writers]
    assert max(map(int, told)) < 600_000
    assert [path.name for path in cache.parent.iterdir()] == ["counts.db"]


def test_many_lines_at_once_are_bounded_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call that brings more than the file may hold."""
    monkeypatch.setattr(_kept, "MOST_BYTES", 100_000)
    counts([line({"model": "o3", "input": str(number)}) for number in range(5_000)])
    assert used(cache.parent) < 250_000


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "BEGIN; SELECT * FROM counts"])
def test_a_locked_cache_is_waited_for_once(cache: Path, lock: str) -> None:
    """Others hold the file for good: what it knows is found, and 40 pieces take less than they would waiting."""
    counts(LINES)
    with closing(sqlite3.connect(cache, isolation_level=None)) as db:
        for statement in lock.split("; "):
            db.execute(statement).fetchone()
        start = time.perf_counter()
        for turn in range(40):
            fresh = [line({"model": "o3", "input": f"{lock} {turn}"})]
            assert counts([*LINES, *fresh]) == [*PLAIN, count_input(fresh[0].body, fresh[0].endpoint)]
        assert time.perf_counter() - start < 2
        assert known(LINES) == len(LINES)


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard_to_read(path: Path, target: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, target: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("mine")


def loop(path: Path, target: Path) -> None:
    path.symlink_to(path)


def journal(path: Path, target: Path) -> None:
    path.with_name(path.name + "-journal").symlink_to(target)


def journal_folder(path: Path, target: Path) -> None:
    folder(path.with_name(path.name + "-wal"), target)


def database(target: Path) -> None:
    with closing(sqlite3.connect(target)) as db:
        db.executescript("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")
@pytest.mark.parametrize("make", [link, hard_to_read, folder, loop, journal, journal_folder])
@pytest.mark.parametrize("fill", [lambda target: None, lambda target: target.write_text("mine"), database])
def test_what_is_not_ours_stays_as_it_is(
    cache: Path, tmp_path: Path, make: Callable[[Path, Path], None], fill: Callable[[Path], None]
) -> None:
    """Links, pipes and folders in the file's place: nothing is written or deleted elsewhere, and nobody waits."""
    target = tmp_path / "elsewhere"
    fill(target)
    cache.parent.mkdir()
    make(cache, target)
    before = target.read_bytes() if target.exists() else None
    inside = {path: path.read_text() for path in cache.parent.glob("*/precious")}
    for _ in range(2):
        assert counts(LINES) == PLAIN
    assert (target.read_bytes() if target.exists() else None) == before
    assert {path: path.read_text() for path in cache.parent.glob("*/precious")} == inside
    if make in (link, loop):
        assert cache.is_symlink()


def test_the_folder_and_the_file_are_the_owners_alone(cache: Path) -> None:
    """Mode 0700 and 0600, whatever the umask, and again 0600 after somebody opened it to others."""
    before = os.umask(0)
    try:
        counts(LINES)
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    cache.chmod(0o666)
    counts([line({"model": "o3", "input": "one more"})])
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600


def test_a_folder_that_was_there_keeps_its_mode(cache: Path) -> None:
    """RATECARD_CACHE may name a folder that others use as well."""
    cache.parent.mkdir(mode=0o755)
    counts(LINES)
    assert known(LINES) == len(LINES)
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o755


@pytest.fixture
def closed(cache: Path) -> Iterator[Path]:
    """A cache whose folder nobody writes into any more (but root)."""
    counts(LINES)
    cache.chmod(0o400)
    cache.parent.chmod(0o500)
    yield cache
    cache.parent.chmod(0o700)


def test_a_cache_to_be_read_only_is_read(closed: Path) -> None:
    """What it knows is found, what it does not know is counted."""
    assert known(LINES) == len(LINES)
    fresh = line({"model": "o3", "input": "one more"})
    assert counts([*LINES, fresh]) == [*PLAIN, count_input(fresh.body, fresh.endpoint)]


FULL = """
import resource, sys
from ratelimit.counted import counts, known
from ratelimit.job import Line
import json, hashlib
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
lines = []
for number in range(3000):
    body = {"model": "o3", "input": f"number {number}"}
    lines.append(Line(1, "a", "/v1/responses", body, hashlib.blake2b(json.dumps(body).encode()).digest()[:16]))
print(sum(count.tokens for count in counts(lines)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize("room", [0, 5_000, 20_000, 100_000])
def test_a_full_disk_is_no_error(cache: Path, room: int) -> None:
    """A process that may write no more bytes to a file counts on, and says nothing."""
    done = subprocess.run([sys.executable, "-c", FULL, str(room)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    bodies = ({"model": "o3", "input": f"number {number}"} for number in range(3000))
    assert int(done.stdout) == sum(count_input(body, "/v1/responses").tokens for body in bodies)
    assert counts(LINES) == PLAIN
    assert known(LINES) == len(LINES)


def test_writers_that_are_killed_leave_a_cache_or_none(cache: Path) -> None:
    """kill -9 at any moment: the counts of whoever comes next are right, and are kept."""
    code = (
        "import itertools\nfrom tests.forecast.test_counted import line\nfrom ratelimit.counted import counts\n"
        "print(flush=True)\n"
        "for n in itertools.count(): counts([line({'model': 'o3', 'input': f'{n} {m}'}) for m in range(50)])"
    )
    moments = random.Random(5)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(moments.randint(0, 60)):
                counts(LINES[:5])
            writer.kill()
        assert counts(LINES) == PLAIN
        assert known(LINES) == len(LINES)


def test_nothing_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    """Importing the module opens no file but code, and loads neither SQLite nor the list of what is installed."""
    code = (
        "import sys\nopened = []\n"
        "sys.addaudithook(lambda event, given: event in ('open', 'sqlite3.connect') and opened.append(str(given[0])))\n"
        "import ratelimit.counted, ratelimit.pieces\n"
        "print([name for name in opened if not name.endswith(('.py', '.pyc', '.so'))])\n"
        "print([name for name in ('sqlite3', 'importlib.metadata', 'tiktoken', 'fastokens') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n") == ["[]", "[]", ""]


def test_a_cache_moves_with_its_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy in a folder with a strange name is a cache as well."""
    counts(LINES)
    strange = tmp_path / "a ?mode=rw&x#%41 é"
    shutil.copytree(cache.parent, strange)
    monkeypatch.setenv(counted.VARIABLE, str(strange))
    assert known(LINES) == len(LINES)
    assert Count(*PLAIN[0]) == counts(LINES)[0]
