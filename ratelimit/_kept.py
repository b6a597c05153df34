"""Values kept between runs in a SQLite file that nobody has to trust: what does not verify is not there.

Each value stands behind a checksum over its key and itself, so that rot, tampering and a reader in the midst of a write
come to the same: a value that is missing. Therefore nothing is locked for reading, nothing is synced, and the journal
is in memory: there is one file, and none beside it. Where others hold that file, or it cannot be written, this process
writes to it no more. Links, pipes, folders and other people's files in its place are left alone.

Law  no call raises, and what is found is what was kept (tests/forecast/test_kept.py)
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

MOST_BYTES = 256 * 1024 * 1024
"""A larger file is begun anew."""
LOCK_S = 0.1
"""How long others are waited for, once in a process."""
_AT_ONCE = 500  # keys of one question, and values of one transaction
_LONGEST = 64 * 1024  # bytes of a value; what claims to be longer is rot
_SUM_BYTES = 8
_BESIDE = ("-journal", "-wal", "-shm")
_given_up: set[Path] = set()


def find(path: Path, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """Find the values of these keys; those that are not there, or do not verify, are left out."""
    found: dict[bytes, bytes] = {}
    left = iter(set(keys))
    with suppress(Exception):  # rot has many faces, one of them an error message that is not UTF-8
        if _size(path) is None:
            return found
        with closing(_open(path, "immutable=1")) as db:
            while some := list(islice(left, _AT_ONCE)):
                found.update(_verified(db, some))
    return found


def keep(path: Path, values: Mapping[bytes, bytes]) -> None:
    """Keep these values under their keys, in the place of what is there."""
    if path in _given_up:
        return
    left = iter(values.items())
    try:
        while some := [(key, checksum(key, text) + text) for key, text in islice(left, _AT_ONCE)]:
            _write(path, some)
    except Exception:  # locked, read-only, full, forbidden: the next run will count again
        _given_up.add(path)


def _verified(db: Connection, keys: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in db.execute(f"SELECT key, value FROM counts WHERE key IN ({','.join('?' * len(keys))})", keys):
        if isinstance(key, bytes) and isinstance(value, bytes):
            text = value[_SUM_BYTES:]
            if value[:_SUM_BYTES] == checksum(key, text):
                yield key, text


def checksum(key: bytes, text: bytes) -> bytes:
    """The bytes before a value that show it to be whole and its key's own."""
    return hashlib.blake2b(text, digest_size=_SUM_BYTES, key=key).digest()


def _write(path: Path, rows: list[tuple[bytes, bytes]]) -> None:
    size = _size(path)
    if size is None or size > MOST_BYTES:
        _begin(path)
    for suffix in _BESIDE:  # not ours: SQLite would take what is in them for a part of the file
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        _insert(path, rows)
    except Exception as error:
        if _is_others_fault(error):
            raise
        _begin(path)
        _insert(path, rows)


def _size(path: Path) -> int | None:
    """The bytes of the file; None where there is nothing. Raises OSError for what is no file of this user's."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        raise PermissionError(f"{path}: not a file of this user's")
    return found.st_size


def _begin(path: Path) -> None:
    """Put an empty cache in the place of the file, or of nothing; who still has the old one open loses his rows."""
    from tempfile import mkstemp

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = mkstemp(prefix=path.name + ".", dir=path.parent)  # nobody else may read it, from the beginning
    os.close(handle)
    try:
        with closing(_open(Path(name), "mode=rw")) as db:
            db.execute("CREATE TABLE counts (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _insert(path: Path, rows: list[tuple[bytes, bytes]]) -> None:
    if stat.S_IMODE(path.stat().st_mode) != 0o600:
        path.chmod(0o600)
    with closing(_open(path, "mode=rw")) as db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO counts (key, value) VALUES (?, ?)", rows)
        if len(dict(_verified(db, [key for key, _ in rows]))) < len(rows):
            raise ValueError("the file is rotten: it does not give back what it takes")
        db.execute("COMMIT")


def _open(path: Path, how: str) -> Connection:
    import sqlite3

    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=LOCK_S, isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    if how == "mode=rw":
        db.execute("PRAGMA journal_mode = MEMORY")
        db.execute("PRAGMA synchronous = OFF")  # what a crash loses, or leaves half written, is counted again
    return db


def _is_others_fault(error: Exception) -> bool:
    """Whether somebody else, the disk or a permission is in the way, and not what is in the file."""
    import sqlite3

    if isinstance(error, OSError):
        return True
    blocked = (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    )
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in blocked
