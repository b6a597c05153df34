"""A trace: requests with the times at which they come. CSV, Parquet or a DataFrame in, columns of integers out."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.export import needed

from ..clock import US_PER_S
from ..errors import ConfigError
from ..job import BadLine
from .workload import MOST_TOKENS

if TYPE_CHECKING:
    from .workload import Ints

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "time": ("t_s", "t_ms", "t_us", "time", "timestamp", "datetime", "arrival", "arrival_s", "arrival_ms", "arrival_us",
             "arrived_at", "created", "created_at", "created_us", "request_time", "start", "start_time", "begun_at"),
    "model": ("model", "model_name", "asked_model"),
    "input": ("input_tokens", "input", "prompt_tokens", "contexttokens", "context_tokens", "request_tokens",
              "tokens_in", "input_length", "usage.input_tokens", "usage.prompt_tokens"),
    "output": ("output_tokens", "output", "completion_tokens", "generatedtokens", "generated_tokens",
               "response_tokens", "tokens_out", "output_length", "usage.output_tokens", "usage.completion_tokens"),
    "cached": ("cached_tokens", "cached_input_tokens", "cached", "prefix_seen_tokens", "usage.cached_input_tokens"),
    "latency": ("latency_us", "latency_ms", "latency_s", "latency", "duration_us", "duration_ms", "duration_s",
                "duration"),
    "tier": ("service_tier",),
}  # fmt: skip
"""What columns are called, in lower case; the first that is there counts."""
NEEDED = ("time", "input")
EXPORTED = "usage.input_tokens"
"""The column of a ledger's export, where `input` has neither the cached tokens nor those written to a cache."""
CHUNK = 1_000_000
MOST_BAD = 1_000
"""Bad rows that are kept with their reasons; all are counted."""
_PER_UNIT_US = {"s": US_PER_S, "ms": 1_000, "us": 1}
_SINCE_1970 = ((10**17, 1_000), (10**14, 1), (10**11, -1_000), (10**8, -US_PER_S))
"""From so large a number on a time is one since 1970: in ns, µs, ms, s. Below that it counts seconds of its own."""
_ZONED = r"(?:[Zz]|[Tt ]\s*\d[\d:.,]*\s*[+-]\d\d(?::?\d\d){0,2})\s*$"
"""What ends a time with a zone, of hours alone too, as databases write it; the end of a date is none."""
_FIRST_US, _LAST_US = -62_135_596_800 * US_PER_S, 253_402_300_799 * US_PER_S
"""The years 1 to 9999, as µs since 1970."""
_FAR = "a time before the year 1 or after 9999"
_LONGEST_US = 10**9 * US_PER_S
"""No reply takes thirty years."""


class Trace(NamedTuple):
    """Requests in the order of their times; a column has (n,) numbers.

    start                 of the first, in UTC; None where times count from nowhere
    models, tiers         the names that `model` and `tier` point at; "" for none
    row                   number of the row in its file, from 1
    arrival_us            µs after the first
    input, cached, output tokens; output -1: not known
    latency_us            -1: not known
    bad, bad_rows         rows that are no requests: the first of them, and how many
    notes                 what was taken for granted
    """

    start: datetime | None
    models: tuple[str, ...]
    tiers: tuple[str, ...]
    row: Ints
    model: Ints
    tier: Ints
    arrival_us: Ints
    input: Ints
    cached: Ints
    output: Ints
    latency_us: Ints
    bad: tuple[BadLine, ...]
    bad_rows: int
    notes: tuple[str, ...]


def read_trace(
    source: Any,
    *,
    model: str | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Trace:
    """Read a trace.

    source    path of a CSV (packed or not; by comma, semicolon or tab) or Parquet file, or a pandas DataFrame
    model     of every row, where there is no such column
    columns   ours → theirs, where they go by other names: {"input": "n_ctx"}
    progress  told how many more rows were read

    Raises  ConfigError when it cannot be read, has no such columns, or mixes times with and without a zone
    """
    pandas = needed("pandas")
    name = "the frame" if isinstance(source, pandas.DataFrame) else os.fspath(source)
    if isinstance(source, pandas.DataFrame) and not source.columns.is_unique:
        twice = source.columns[source.columns.duplicated()][0]
        raise ConfigError(f"the frame has two columns {twice!r}; leave one of them out")
    reader = _Reader(pandas, name, model)
    for chunk in _chunks(pandas, source, name):
        if not reader.names:
            reader.names = _names(list(map(str, chunk.columns)), name, columns or {}, model)
        reader.add(chunk)
        if progress is not None:
            progress(len(chunk))
    return reader.trace()


def _chunks(pandas: Any, source: Any, name: str) -> Iterator[Any]:
    """The rows, so many at a time."""
    if isinstance(source, pandas.DataFrame):
        yield source
        return
    try:
        with open(source, "rb") as file:
            head = file.read(4)
        if head == b"PAR1":
            parquet = needed("pyarrow.parquet", extra="pyarrow").ParquetFile(source)
            found = list(parquet.schema_arrow.names)
            wanted = [one for one in found if one.lower() in _KNOWN] or found
            for batch in parquet.iter_batches(CHUNK, columns=wanted):
                yield batch.to_pandas()
            if not parquet.metadata.num_rows:
                yield parquet.schema_arrow.empty_table().to_pandas()
            return
        packed = "gzip" if head[:2] == b"\x1f\x8b" else None
        first = pandas.read_csv(source, sep="\0", nrows=0, compression=packed, encoding="utf-8-sig", engine="c")
        line = str(first.columns[0]) if len(first.columns) else ""
        sign = max(",;\t|", key=line.count)
        yield from pandas.read_csv(
            source, sep=sign, compression=packed, encoding="utf-8-sig", chunksize=CHUNK, low_memory=False,
            skipinitialspace=True,
        )  # fmt: skip
    except pandas.errors.EmptyDataError as error:
        raise ConfigError(f"{name}: the file is empty") from error
    except pandas.errors.ParserError as error:
        raise ConfigError(f"{name}: no table: {str(error).strip()}") from error
    except UnicodeError as error:
        raise ConfigError(f"{name}: not UTF-8: {error}") from error
    except (OSError, EOFError) as error:
        raise ConfigError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("pyarrow", "zlib"):
            raise ConfigError(f"{name}: cannot be read: {error}") from error
        raise


_KNOWN = frozenset(one for names in SYNONYMS.values() for one in names) | {
    "usage.cache_write_tokens", "usage.reasoning_tokens",
}  # fmt: skip


def _names(found: list[str], name: str, given: Mapping[str, str], model: str | None) -> dict[str, str]:
    """Which of their columns is which of ours."""
    lower = {one.strip().lower(): one for one in reversed(found)}
    names = {}
    for ours, synonyms in SYNONYMS.items():
        if ours in given:
            if given[ours] not in found:
                raise ConfigError(f"{name}: there is no column {given[ours]!r}; there are {', '.join(found)}")
            names[ours] = given[ours]
        elif theirs := next((lower[one] for one in synonyms if one in lower), None):
            names[ours] = theirs
    if unknown := given.keys() - SYNONYMS.keys():
        raise ConfigError(f"columns: {sorted(unknown)[0]!r} is none of {', '.join(SYNONYMS)}")
    for ours in NEEDED:
        if ours not in names:
            close = difflib.get_close_matches(SYNONYMS[ours][0], lower, 1, 0.5)
            hint = f"; is it {lower[close[0]]!r}?" if close else ""
            expected = ", ".join(SYNONYMS[ours][:4])
            raise ConfigError(
                f"{name}: no column of {'times' if ours == 'time' else 'input tokens'} ({expected}, …){hint} "
                f"There are: {', '.join(found) or 'none'}"
            )
    if "model" not in names and model is None:
        raise ConfigError(f"{name}: no column names the model; say which it is: --model MODEL")
    return names


class _Reader:
    """Rows on their way into columns."""

    def __init__(self, pandas: Any, name: str, model: str | None) -> None:
        self._pandas, self._np, self._name, self._given = pandas, needed("numpy", extra="pandas"), name, model
        self.names: dict[str, str] = {}
        self._rows = 0
        self._models: dict[str, int] = {}
        self._tiers: dict[str, int] = {}
        self._parts: list[tuple[Ints, ...]] = []
        self._bad: list[BadLine] = []
        self._bad_rows = 0
        self._zoned: int | None = None  # the first row whose time has a zone, and that whose time has none
        self._naive: int | None = None
        self._since_1970 = True
        self._notes: dict[str, None] = {}

    def add(self, chunk: Any) -> None:
        np, count = self._np, len(chunk)
        row = np.arange(self._rows + 1, self._rows + count + 1)
        self._rows += count
        self._wrong = np.full(count, -1, np.int64)
        self._reasons: list[str] = []
        times = self._times(chunk[self.names["time"]], row)
        tokens = self._tokens(chunk, "input", needed=True)
        cached = self._tokens(chunk, "cached", missing=0)
        output = self._tokens(chunk, "output")
        if self.names["input"] == EXPORTED:  # a ledger counts every token once
            tokens = tokens + cached + self._tokens(chunk, "usage.cache_write_tokens", missing=0)
            output = np.where(output < 0, output, output + self._tokens(chunk, "usage.reasoning_tokens", missing=0))
        latency = self._latency(chunk)
        self._refuse(cached > tokens, "more cached tokens than input tokens")
        model = self._codes(chunk, "model", self._models, self._given)
        tier = self._codes(chunk, "tier", self._tiers, "")
        good = self._wrong < 0
        for place in np.flatnonzero(~good)[: MOST_BAD - len(self._bad)].tolist():
            self._bad.append(BadLine(int(row[place]), self._reasons[self._wrong[place]]))
        self._bad_rows += int((~good).sum())
        self._parts.append(tuple(one[good] for one in (row, model, tier, times, tokens, cached, output, latency)))

    def _refuse(self, which: Any, reason: str) -> None:
        which = which & (self._wrong < 0)
        if which.any():
            self._wrong[which] = len(self._reasons)
            self._reasons.append(reason)

    def _tokens(self, chunk: Any, ours: str, *, needed: bool = False, missing: int = -1) -> Ints:
        """Read a column of whole numbers; what is no such number makes its row a bad one."""
        np, theirs = self._np, self.names.get(ours, ours)
        if theirs not in chunk.columns:
            return np.full(len(chunk), missing, np.int64)  # type: ignore[no-any-return]
        column = chunk[theirs]
        empty = column.isna().to_numpy()
        numbers = self._pandas.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = np.isnan(numbers)
        self._refuse(wrong & ~empty, f"{theirs}: not a number")
        if needed:
            self._refuse(empty, f"{theirs}: is empty")
        with np.errstate(invalid="ignore"):
            self._refuse(numbers < 0, f"{theirs}: a negative number of tokens")
            self._refuse(numbers > MOST_TOKENS, f"{theirs}: more tokens than there can be")
            self._refuse((numbers % 1 != 0) & ~wrong, f"{theirs}: not a whole number of tokens")
        known = np.abs(numbers) <= MOST_TOKENS  # what is more was refused
        return np.where(known, numbers, missing).astype(np.int64)  # type: ignore[no-any-return]

    def _latency(self, chunk: Any) -> Ints:
        np, theirs = self._np, self.names.get("latency")
        if theirs is None:
            return np.full(len(chunk), -1, np.int64)  # type: ignore[no-any-return]
        column = chunk[theirs]
        if self._pandas.api.types.is_timedelta64_dtype(column):
            column, unit = column / self._pandas.Timedelta(seconds=1), "s"
        else:
            unit = theirs.rpartition("_")[2]
            if unit not in _PER_UNIT_US:
                unit = "s"
                self._notes[f"{theirs} is read as seconds"] = None
        numbers = self._pandas.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
        self._refuse(np.isnan(numbers) & ~column.isna().to_numpy(), f"{theirs}: not a number")
        self._refuse(numbers < 0, f"{theirs}: a negative duration")
        took_us = numbers * _PER_UNIT_US[unit]
        self._refuse(took_us > _LONGEST_US, f"{theirs}: longer than any reply takes")
        known = np.isfinite(took_us) & (took_us <= _LONGEST_US)
        return np.where(known, took_us, -1).round().astype(np.int64)  # type: ignore[no-any-return]

    def _times(self, column: Any, row: Ints) -> Ints:
        """Read times as µs, since 1970 or since some instant."""
        np, pandas, theirs = self._np, self._pandas, self.names["time"]
        if pandas.api.types.is_datetime64_any_dtype(column):
            zoned = getattr(column.dt, "tz", None) is not None
            self._seen(row, np.full(len(column), zoned), np.ones(len(column), bool))
            stamps = column if zoned else column.dt.tz_localize("UTC")
            return self._instants(stamps, theirs)
        if pandas.api.types.is_timedelta64_dtype(column):
            self._since_1970 = False
            self._refuse(column.isna().to_numpy(), f"{theirs}: no time")
            return self._near((column / pandas.Timedelta(microseconds=1)).to_numpy(float, na_value=0.0), theirs)
        numbers = pandas.to_numeric(column, errors="coerce")
        if numbers.notna().sum() >= column.notna().sum() * 0.5 and len(column):
            self._refuse(numbers.isna().to_numpy(), f"{theirs}: no time")
            return self._numbers(numbers.to_numpy(float, na_value=np.nan), theirs)
        texts = column.astype("string")
        there = texts.notna().to_numpy()
        zoned = texts.str.contains(_ZONED, regex=True, na=False).to_numpy(bool)
        self._seen(row, zoned, there)
        return self._instants(pandas.to_datetime(texts, format="ISO8601", utc=True, errors="coerce"), theirs)

    def _seen(self, row: Ints, zoned: Any, there: Any) -> None:
        """Refuse a column in which some times have a zone and others have none: hours would be lost between them."""
        if self._zoned is None and (zoned & there).any():
            self._zoned = int(row[(zoned & there).argmax()])
        if self._naive is None and (~zoned & there).any():
            self._naive = int(row[(~zoned & there).argmax()])
        if self._zoned is not None and self._naive is not None:
            raise ConfigError(
                f"{self._name}: {self.names['time']} has a time zone on row {self._zoned:,} and none on row "
                f"{self._naive:,}; write all times with one, such as 2026-11-25T09:30:00Z"
            )
        if self._naive is not None:
            self._notes["times without a zone are read as UTC"] = None

    def _instants(self, stamps: Any, theirs: str) -> Ints:
        np = self._np
        self._refuse(stamps.isna().to_numpy(), f"{theirs}: no time such as 2026-11-25T09:30:00Z")
        whole: Ints = stamps.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
        whole = np.where(stamps.isna().to_numpy(), 0, whole)
        far = (whole < _FIRST_US) | (whole > _LAST_US)
        self._refuse(far, f"{theirs}: {_FAR}")
        return np.where(far, 0, whole)  # type: ignore[no-any-return]

    def _near(self, micros: Any, theirs: str) -> Ints:
        """Whole µs of times that can be reckoned with."""
        np = self._np
        far = ~((micros >= _FIRST_US) & (micros <= _LAST_US))
        self._refuse(far, f"{theirs}: {_FAR}")
        return np.where(far, 0.0, micros).round().astype(np.int64)  # type: ignore[no-any-return]

    def _numbers(self, numbers: Any, theirs: str) -> Ints:
        np = self._np
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(numbers)
        # What is in the middle tells the unit: one time that is none would tell another one.
        largest = float(np.median(np.abs(numbers[finite]))) if finite.any() else 0.0
        unit = re.split(r"[_ ]", theirs.lower())[-1]
        if unit in _PER_UNIT_US:
            scale: float = _PER_UNIT_US[unit]
            self._since_1970 &= largest * scale > 10**14
        else:
            known = next((each for least, each in _SINCE_1970 if largest >= least), None)
            self._since_1970 &= known is not None
            scale = US_PER_S if known is None else 1 / known if known > 0 else -known
            if known is None:
                self._notes[f"{theirs} is read as seconds"] = None
        self._refuse(~finite, f"{theirs}: no time")
        return self._near(np.where(finite, numbers, 0.0) * scale, theirs)

    def _codes(self, chunk: Any, ours: str, known: dict[str, int], given: str | None) -> Ints:
        """Turn names into places among those known."""
        np, theirs = self._np, self.names.get(ours)
        if theirs is None or (ours == "model" and given is not None):
            return np.full(len(chunk), known.setdefault(given or "", len(known)), np.int64)  # type: ignore[no-any-return]
        codes, names = self._pandas.factorize(chunk[theirs].astype("string").str.strip(), use_na_sentinel=True)
        if ours == "model":
            self._refuse(codes < 0, f"{theirs}: is empty")
        places = np.array([*(known.setdefault(str(one), len(known)) for one in names), 0], np.int64)
        if ours != "model" and (codes < 0).any():
            places[-1] = known.setdefault("", len(known))
        return places[codes]  # type: ignore[no-any-return]

    def trace(self) -> Trace:
        np = self._np
        if not self._rows:
            raise ConfigError(f"{self._name}: there are no rows")
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        self._parts.clear()
        times = columns[3]
        if late := int((np.diff(times) < 0).sum()):
            self._notes[f"{late:,} rows came before the one above them: all were put in order"] = None
            order = np.argsort(times, kind="stable")
            columns = [column[order] for column in columns]
            times = columns[3]
        first = int(times[0]) if len(times) else 0
        start = datetime.fromtimestamp(first / US_PER_S, UTC) if self._since_1970 and len(times) else None
        row, model, tier, _, tokens, cached, output, latency = columns
        return Trace(
            start, tuple(self._models), tuple(self._tiers), row, model, tier, times - first, tokens, cached, output,
            latency, tuple(self._bad), self._bad_rows, tuple(self._notes),
        )  # fmt: skip
