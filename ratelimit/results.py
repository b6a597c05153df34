"""The output of a job: Batch-format lines, appended as each request ends, so that a crash loses nothing that was
written.

Each line is written whole at once and handed to the kernel, which survives the death of this process; `sync` forces
it to disk, which survives the death of the machine. On resume, a torn last line is cut off, and lines of failed
requests are taken out to be tried again: a finished file has exactly one line per custom_id.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError


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


class Results:
    """The output file of one run.

    path    where the lines go
    resume  go on with an existing file; without it an existing, non-empty file is an error

    Raises  ConfigError when the file exists, is not a results file, or cannot be written
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.retrying = 0
        self.torn = False
        try:
            if self.path.exists() and self.path.stat().st_size:
                if not resume:
                    raise ConfigError(
                        f"{self.path} exists already: use --resume to go on with it, or name another output file"
                    )
                self._take_over()
            self._file: IO[bytes] = self.path.open("ab")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._dirty = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; it survives the death of this process when this returns."""
        self._file.write(
            json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"
        )
        self._file.flush()
        self._dirty = True

    def sync(self) -> None:
        """Force what was written to disk; cheap when there is nothing new."""
        if self._dirty:
            self._dirty = False
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _take_over(self) -> None:
        """Read an earlier run's file: keep the lines that succeeded, drop the torn and the failed."""
        fresh = self.path.with_name(self.path.name + ".resuming")
        with self.path.open("rb") as old, fresh.open("wb") as new:
            for number, raw in enumerate(old, 1):
                if not raw.endswith(b"\n"):
                    self.torn = True
                elif self._succeeded(number, raw):
                    new.write(raw)
            new.flush()
            os.fsync(new.fileno())
        # Moved into place whole: a crash before this leaves the old file untouched.
        fresh.replace(self.path)

    def _succeeded(self, number: int, raw: bytes) -> bool:
        try:
            line = json.loads(raw)
            custom_id, response = line["custom_id"], line["response"]
            good = response is not None and response["status_code"] < 400
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{self.path}:{number}: not a line of results; is this the right file?") from error
        if not good:
            self.retrying += 1
        elif custom_id not in self.done:
            self.done.add(custom_id)
            return True
        return False
