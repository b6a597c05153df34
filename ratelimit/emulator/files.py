"""The files of the account: uploads and the results of batches, on disk and never in memory.

They lie in a directory of their own that is made with the first file and removed with the emulator.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

US_PER_S = 1_000_000

MOST_BATCH_BYTES = 209_715_200
"""200 MB: the largest input file of a batch."""

MOST_BYTES = 512 * 1024 * 1024
"""512 MB: the largest file of any other purpose."""

KEPT_S = 30 * 86_400
"""How long (seconds) the files of batches are kept unless somebody says otherwise."""

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


@dataclass(slots=True, eq=False)
class Stored:
    """A file.

    created_us, expires_us  µs, emulated; None: kept until it is deleted
    pins                    batches that still read it: the bytes stay until the last is done, even when it is deleted
    """

    id: str
    number: int
    filename: str
    purpose: str
    bytes: int
    created_us: int
    expires_us: int | None
    path: Path
    pins: int = 0
    gone: bool = False

    def document(self) -> dict[str, Any]:
        """Spell it out as the API does."""
        return {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.filename,
            "bytes": self.bytes,
            "created_at": self.created_us // US_PER_S,
            "expires_at": None if self.expires_us is None else self.expires_us // US_PER_S,
            "status": "processed",
            "status_details": None,
        }


class Drafts:
    """Temporary files, in a directory that goes when this object does."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._remove: Callable[[], Any] = lambda: None

    def open(self) -> tuple[Path, BinaryIO]:
        """Open a new file for writing."""
        with self._lock:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="ratecard-emulator-"))
                self._remove = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
            path = self._root / str(next(self._numbers))
        return path, path.open("wb")

    @property
    def root(self) -> Path | None:
        """Where they lie; None before the first."""
        return self._root

    def remove(self) -> None:
        """Remove the directory and all that is in it."""
        with self._lock:
            self._remove()
            self._root = None


class FileStore:
    """Finds files by id. Not locked: its owner is.

    now_us  the emulated clock
    nonce   what makes ids differ between emulators
    """

    def __init__(self, now_us: Callable[[], int], nonce: str) -> None:
        self.drafts = Drafts()
        self._now_us = now_us
        self._nonce = nonce
        self._numbers = count(1)
        self._files: dict[str, Stored] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(
        self, path: Path, filename: str, purpose: str, keep_s: int | None = None, at_us: int | None = None
    ) -> Stored:
        """Take over a draft.

        keep_s  seconds after which it expires; None: 30 days for the files of batches, for ever for others
        at_us   the instant of its making; now unless told
        """
        created_us = self._now_us() if at_us is None else at_us
        if keep_s is None and purpose.startswith("batch"):
            keep_s = KEPT_S
        number = next(self._numbers)
        stored = Stored(
            id=f"file-{self._nonce}{number:08x}",
            number=number,
            filename=filename,
            purpose=purpose,
            bytes=path.stat().st_size,
            created_us=created_us,
            expires_us=None if keep_s is None else created_us + keep_s * US_PER_S,
            path=path,
        )
        self._files[stored.id] = stored
        return stored

    def get(self, key: str) -> Stored | None:
        """Find a file; None when there is none, or it has expired."""
        stored = self._files.get(key)
        if stored is not None and stored.expires_us is not None and stored.expires_us <= self._now_us():
            self.delete(key)
            return None
        return stored

    def listed(self, purpose: str | None, newest_first: bool) -> list[Stored]:
        """List the files, by the instant of their making."""
        found = [stored for key in list(self._files) if (stored := self.get(key)) is not None]
        found = [stored for stored in found if purpose is None or stored.purpose == purpose]
        return sorted(found, key=lambda one: (one.created_us, one.number), reverse=newest_first)

    def delete(self, key: str) -> bool:
        """Forget a file; False when there is none. Its bytes go when the last batch has read them."""
        stored = self._files.pop(key, None)
        if stored is None:
            return False
        stored.gone = True
        if not stored.pins:
            stored.path.unlink(missing_ok=True)
        return True

    def unpin(self, stored: Stored) -> None:
        """Say that one of its batches has no more to read."""
        stored.pins -= 1
        if stored.gone and not stored.pins:
            stored.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget and remove all."""
        self._files.clear()
        self.drafts.remove()
