"""What is in a batch, and what comes out of it: the input file is checked line by line, and so are the results written.

Nothing of a body or a reply is kept between the two: of each line the place in the file, its tokens, and whether it
will fail. 50,000 lines take about two megabytes.

The words of what is wrong with a file are those of failed batches that people reported; where none was found, they are
ours (`OURS`).
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from pricing.tokens import Count, count_input
from ratelimit.errors import ConfigError

from . import errors, replies
from .errors import ErrorReply
from .faults import LINE, FaultPlan
from .plan import CHAT, EMBEDDINGS, Planner
from .replies import Stamp

if TYPE_CHECKING:
    from .account import Account, Model
    from .batch_queues import Queues
    from .files import Drafts, Stored

US_PER_S = 1_000_000
MOST_REQUESTS = 50_000
MOST_INPUTS = 50_000
"""Embedding inputs of all lines together."""
_MOST_ERRORS = 1_000
"""Errors that a failed batch lists."""

OURS = ("too_many_requests", "too_many_inputs", "invalid_method", "invalid_type")
"""Codes of which no report was found: that such a file is refused is documented, not how."""

_SORTS = {CHAT: "Chat Completions", EMBEDDINGS: "Embeddings"}
_FIELDS = {CHAT: "messages"}

EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}
CANCELLED = {
    "code": "batch_cancelled",
    "message": "This request was not executed before the batch was cancelled.",
}


@dataclass(slots=True)
class Scan:
    """An input file, read once.

    model   as its lines name it, and as replies name it; "" when no line has one
    starts  (n,) bytes   where each line begins
    tokens  (n,)         of input, of each line
    fails   (n,)         1 for a line that will go to the error file
    faults               of lines that meet one, by position
    wanted               input tokens by queue
    errors               what is wrong with it: the batch fails
    """

    model: str = ""
    served: str = ""
    starts: array[int] = field(default_factory=lambda: array("Q"))
    tokens: array[int] = field(default_factory=lambda: array("Q"))
    fails: bytearray = field(default_factory=bytearray)
    faults: dict[int, str] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def forget(self) -> None:
        """Keep nothing of single lines: the batch has ended."""
        self.starts, self.tokens, self.fails, self.faults = array("Q"), array("Q"), bytearray(), {}


class _Wrong(Exception):
    """A line that makes its batch fail."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def problem(code: str, message: str, param: str | None = None, line: int | None = None) -> dict[str, Any]:
    """Spell out an entry of a batch's errors."""
    return {"code": code, "message": message, "param": param, "line": line}


def scan(
    stored: Stored, endpoint: str, *, account: Account, planner: Planner, queues: Queues, check: Callable[[], None]
) -> Scan:
    """Check an input file as the real server was seen to, and count its tokens.

    check  is called at each line and may raise to stop
    """
    found, seen, inputs = Scan(), set[str](), 0
    model: Model | None = None
    for number, start, raw in _lines(stored):
        check()
        if len(found.starts) == MOST_REQUESTS:
            text = f"The batch contains more than the {MOST_REQUESTS:,} requests that a batch may have."
            found.errors = [problem("too_many_requests", text)]
            return found
        found.starts.append(start)
        try:
            line = _parsed(raw)
            body = _checked(line, endpoint, seen)
            name = body["model"]
            if not found.model:
                found.model = name
            elif name != found.model:
                raise _Wrong(
                    "mismatched_model",
                    f"The provided model '{name}' does not match the rest of the batch. Each batch must contain "
                    "requests for a single model.",
                    "body.model",
                )
            if model is None:
                model = _model(account, name)
                found.served = model.served
            if endpoint == EMBEDDINGS:
                inputs += _inputs(body["input"])
        except _Wrong as wrong:
            if len(found.errors) < _MOST_ERRORS:
                found.errors.append(problem(wrong.code, str(wrong), wrong.param, number))
            continue
        if found.errors:
            continue  # it fails anyhow: its tokens are nobody's
        counted = count_input(body, endpoint)
        plan = planner.fresh(endpoint, body, canonical_body(body), counted)
        found.tokens.append(counted.tokens)
        found.fails.append(isinstance(plan, ErrorReply))
        queue = queues.of(model, counted.tokens).name
        found.wanted[queue] = found.wanted.get(queue, 0) + counted.tokens
    if not found.starts:
        text = "The input file is empty. Please ensure that the batch contains at least one request."
        found.errors.append(problem("empty_file", text, "input_file_id"))
    elif inputs > MOST_INPUTS and not found.errors:
        text = f"The batch contains {inputs:,} embedding inputs, more than the {MOST_INPUTS:,} that a batch may have."
        found.errors.append(problem("too_many_inputs", text))
    return found


def meet_faults(stored: Stored, found: Scan, faults: FaultPlan) -> None:
    """Ask of each line whether it meets a fault; it will then be in the error file."""
    for position, (_, _, raw) in enumerate(_lines(stored)):
        fault = faults.pick(LINE, found.model, custom_id=json.loads(raw)["custom_id"])
        if fault is not None:
            found.faults[position] = fault
            found.fails[position] = 1


def canonical_body(body: Any) -> bytes:
    """Encode the body of a line as the openai client would send it: so the reply is the one it gets online."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def turns(seed: int, number: int, lines: int) -> array[int]:
    """Say in which order the lines of the n-th batch are answered."""
    order = list(range(lines))
    random.Random(f"batch {seed} {number}").shuffle(order)
    return array("L", order)


@dataclass(slots=True)
class Results:
    """What a batch came to: its files (None where one has no line), counts of lines, tokens as the bill counts them."""

    output: Any = None
    errors: Any = None
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


def write(
    stored: Stored,
    endpoint: str,
    found: Scan,
    order: array[int],
    *,
    done: int,
    done_us: Callable[[int], int],
    rest: dict[str, str] | None,
    tail: str,
    planner: Planner,
    drafts: Drafts,
    check: Callable[[], None],
) -> Results:
    """Write the results of the lines in their order, one at a time.

    done     how many of them were answered; the others go to the error file with the error `rest`
    done_us  when the k-th of them was (µs, emulated)
    tail     what ids of this batch begin with

    →  the paths of the drafts it wrote, and the counts
    """
    results = Results()
    opened: dict[str, tuple[Any, BinaryIO]] = {}
    whole = False
    try:
        with stored.path.open("rb") as source:
            for turn, position in enumerate(order):
                check()
                source.seek(found.starts[position])
                line = json.loads(source.readline())
                request = f"{tail}{position:08x}"
                head = {"id": f"batch_req_{request}", "custom_id": line["custom_id"]}
                if turn >= done:
                    kind, record = "errors", replies.dumps({**head, "response": None, "error": rest})
                else:
                    kind, record = _answer(
                        line["body"], endpoint, found, position, head, request, done_us(turn), planner, results
                    )
                if kind not in opened:
                    opened[kind] = drafts.open()
                opened[kind][1].write(record + b"\n")
                if kind == "output":
                    results.completed += 1
                else:
                    results.failed += 1
        whole = True
    finally:
        for path, file in opened.values():
            file.close()
            if not whole:
                path.unlink(missing_ok=True)
    results.output = opened["output"][0] if "output" in opened else None
    results.errors = opened["errors"][0] if "errors" in opened else None
    return results


def _answer(
    body: Any,
    endpoint: str,
    found: Scan,
    position: int,
    head: dict[str, Any],
    request: str,
    at_us: int,
    planner: Planner,
    results: Results,
) -> tuple[str, bytes]:
    """The record of a line that was executed, and which file it goes to."""
    fault = found.faults.get(position)
    if fault == "drop_connection":
        error = {"code": "server_error", "message": "The server had an error while processing this request."}
        return "errors", replies.dumps({**head, "response": None, "error": error})
    if fault is not None:
        plan: Any = errors.fault(fault)
    else:
        tokens = found.tokens[position]
        plan = planner.fresh(endpoint, body, canonical_body(body), Count(tokens, tokens, tokens))
    if isinstance(plan, ErrorReply):
        told = {"status_code": plan.status, "request_id": f"req_{request}", "body": json.loads(plan.body)}
        return "errors", replies.dumps({**head, "response": told, "error": None})
    reads, writes, thoughts = plan.tokens
    results.input_tokens += reads
    results.output_tokens += writes
    results.reasoning_tokens += thoughts
    at_s = at_us // US_PER_S
    document = replies.document(plan, Stamp(f"{request:0>50}", at_s, at_s))
    opening = (
        replies.dumps(head)[:-1] + f',"response":{{"status_code":200,"request_id":"req_{request}","body":'.encode()
    )
    return "output", opening + document + b'},"error":null}'


# -- one line ----------------------------------------------------------------------------------------------------------


def _lines(stored: Stored) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, where it begins, its bytes) of each line that is not blank."""
    start = 0
    with stored.path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.isspace():
                yield number, start, raw
            start += len(raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise _Wrong("invalid_json_line", "This line is not parseable as valid JSON.")
    return line


def _checked(line: dict[str, Any], endpoint: str, seen: set[str]) -> dict[str, Any]:
    """The body of a line, once everything else of it is right."""
    for key in ("custom_id", "method", "url", "body"):
        if line.get(key) is None or line[key] == "":
            raise _Wrong("missing_required_parameter", f"Missing required parameter: '{key}'.", key)
        wanted, words = (dict, "an object") if key == "body" else (str, "a string")
        if not isinstance(line[key], wanted):
            raise _Wrong("invalid_type", f"Invalid type for '{key}': expected {words}.", key)
        if key == "custom_id":
            name = line[key]
            if name in seen:
                raise _Wrong(
                    "duplicate_custom_id",
                    f"The custom_id '{name}' for this request is a duplicate of another request. The custom_id "
                    "parameter must be unique for each request in a batch.",
                    key,
                )
            seen.add(name)
    if line["method"] != "POST":
        raise _Wrong("invalid_method", f"Invalid method '{line['method']}': the only one supported is POST.", "method")
    if line["url"] != endpoint:
        raise _Wrong("invalid_url", "The URL provided for this request does not match the batch endpoint.", "url")
    body: dict[str, Any] = line["body"]
    if body.get("stream"):
        sort = _SORTS.get(endpoint, "Responses")
        raise _Wrong("streaming_unsupported", f"{sort}: Streaming is not supported in the Batch API.", "body.stream")
    for key in ("model", _FIELDS.get(endpoint, "input")):
        if not body.get(key):
            raise _Wrong("invalid_request", f"{key.capitalize()} parameter is required.", f"body.{key}")
    if not isinstance(body["model"], str):
        raise _Wrong("invalid_type", "Invalid type for 'body.model': expected a string.", "body.model")
    return body


def _model(account: Account, name: str) -> Model:
    try:
        model = account.find(name)
    except ConfigError as reason:
        raise _Wrong("emulator_no_limits", f"ratecard emulator: {reason}", "body.model") from None
    if model is None or not model.offers("/v1/batch"):
        raise _Wrong("model_not_found", f"The provided model '{name}' is not supported by the Batch API.", "body.model")
    return model


def _inputs(given: Any) -> int:
    """How many texts an embeddings request has: a text, texts, tokens, or lists of tokens."""
    return len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
