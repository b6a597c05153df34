"""The output of a job: Batch-format lines, appended as each request ends, so that a crash loses nothing that was
written.

Each line is written whole at once and handed to the kernel, which survives the death of this process; `sync` forces
it to disk, which survives the death of the machine. On resume, a torn last line is cut off, and lines of failed
requests are taken out to be tried again: a finished file has exactly one line per custom_id.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_OURS = b'{"id":"batch_req_'
_MARK, _MARKED = "batch_req_rc", 12
"""What the id of a line of ours begins with, and the length of the request's fingerprint that follows."""


def result_line(
    custom_id: str,
    *,
    status: int | None = None,
    request_id: str | None = None,
    body: Any = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build an output line as the Batch API writes them: a response of any status, or an error when there was none."""
    response = None if status is None else {"status_code": status, "request_id": request_id or "", "body": body}
    return {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}


def marked(line: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Put the fingerprint of its request into the id of an output line: a resumed job knows the line again."""
    return {**line, "id": f"{_MARK}{fingerprint}{line['id'][-20:]}"}


class Results:
    """The output file of one run, held for this process alone.

    path    where the lines go
    resume  go on with an existing file; without it an existing, non-empty file is an error
    check   called with what an existing file holds, before it is touched: custom_id → fingerprint of its request
            ("" where that is not known, or the line is to be tried again); may raise ConfigError

    Raises  ConfigError when the file exists, is not a results file, is held by another run, or cannot be written
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        check: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.retrying = 0
        self._check = check
        self._held: dict[str, str] = {}
        self.torn = False
        self._dirty = False
        self._file = self._opened()
        try:
            if os.fstat(self._file.fileno()).st_size:
                if not resume:
                    raise ConfigError(
                        f"{self.path} exists already: use --resume to go on with it, or name another output file"
                    )
                self._take_over()
        except OSError as error:
            self._file.close()
            raise self._unwritable(error) from error
        except ConfigError:
            self._file.close()
            raise

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; it survives the death of this process when this returns.

        Raises  ConfigError when the disk is full or gone
        """
        raw = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"
        try:
            while raw:
                raw = raw[self._file.write(raw) :]
        except OSError as error:
            raise self._unwritable(error) from error
        self._dirty = True

    def sync(self) -> None:
        """Force what was written to disk; cheap when there is nothing new. Raises ConfigError as `write` does."""
        if self._dirty:
            self._dirty = False
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                if error.errno != errno.EINVAL:  # a pipe or a terminal has no disk
                    raise self._unwritable(error) from error

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.path}: cannot be written: {error.strerror}")

    def _opened(self) -> FileIO:
        """Open the file to append to it, unbuffered and locked."""
        while True:
            try:
                file = FileIO(self.path, "a")
            except OSError as error:
                raise self._unwritable(error) from error
            if not locked(file):
                file.close()
                raise ConfigError(f"{self.path} is being written by another run: wait for it, or name another file")
            # Another run may have moved a new file into its place between the opening and the lock.
            if _is_at(file, self.path):
                return file
            file.close()

    def _take_over(self) -> None:
        """Read an earlier run's file: keep the lines that succeeded, drop the torn and the failed."""
        fresh = self.path.with_name(self.path.name + ".resuming")
        try:
            with self.path.open("rb") as old, fresh.open("wb") as new:
                for number, raw in enumerate(old, 1):
                    if not raw.endswith(b"\n"):
                        self._check_torn(number, raw)
                    elif self._succeeded(number, raw):
                        new.write(raw)
                new.flush()
                os.fsync(new.fileno())
            if self._check is not None and self._held:
                self._check(self._held)
            self._held.clear()
            taken = FileIO(fresh, "a")
            locked(taken)
            # Moved into place whole: a crash before this leaves the old file untouched.
            fresh.replace(self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = taken

    def _check_torn(self, number: int, raw: bytes) -> None:
        """A last line without its end is cut off, unless it is all there is and not ours."""
        if number == 1 and not (raw.startswith(_OURS) or _OURS.startswith(raw)):
            raise self._foreign(number)
        self.torn = True

    def _succeeded(self, number: int, raw: bytes) -> bool:
        try:
            line = json.loads(raw)
            custom_id, response = line["custom_id"], line["response"]
            good = response is not None and response["status_code"] < 400
        except (ValueError, LookupError, TypeError) as error:
            raise self._foreign(number) from error
        if not good:
            self.retrying += 1
            self._held.setdefault(custom_id, "")
        elif custom_id not in self.done:
            self.done.add(custom_id)
            name = str(line.get("id"))
            self._held[custom_id] = name[len(_MARK) :][:_MARKED] if name.startswith(_MARK) else ""
            return True
        return False

    def _foreign(self, number: int) -> ConfigError:
        return ConfigError(f"{self.path}:{number}: not a line of results; is this the right file?")


def locked(file: FileIO) -> bool:
    """Lock a file for this process until it is closed, where the system can."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # some network file systems have no locks
    return True


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
