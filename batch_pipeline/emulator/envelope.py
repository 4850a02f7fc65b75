"""The body of a create call: checked, and written as one request per line.

A body may be 256 MB with 100,000 requests. It is never built as one object: each request is cut
out of the text and parsed alone, which keeps memory flat and lets other threads run in between.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.spool import Spool, Text

_OPENING = re.compile(rb'\s*\{\s*"requests"\s*:\s*\[\s*(?=\{)')
_CLOSING = re.compile(rb"\s*\]\s*\}\s*")
# Where one request may stop and the next begin. It can also match inside a request; whether the
# piece up to it parses tells which, as no JSON object is the beginning of a longer one.
_BOUNDARY = re.compile(rb'\}(?=(\s*,\s*)\{\s*"(?:custom_id|params)"\s*:)')
# A body broken at its first request would else be parsed anew up to each later boundary.
_MOST_FAILURES = 100
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def write_requests(body: Text, lines: Spool, max_requests: int) -> int:
    """Check the envelope of a create call and write its requests as lines.

    Args:
        body: The body as it was received.
        lines: Where to write them, one `{"custom_id": ..., "params": {...}}` a line.
        max_requests: Most requests that a batch may have.

    Returns:
        The number of requests.

    Raises:
        ApiError: The envelope is not acceptable. What `params` holds is not looked at here: the
            API judges it while it processes the batch.
    """
    custom_ids: set[str] = set()
    for index, (request, raw) in enumerate(_requests_of(body)):
        if index >= max_requests:
            raise invalid(f"requests: List should have at most {max_requests} items")
        custom_id = _checked_custom_id(index, request)
        if custom_id in custom_ids:
            raise invalid(f"requests.{index}.custom_id: Duplicate custom_id: {custom_id!r}")
        custom_ids.add(custom_id)
        # Between the values of JSON a line end is a blank, and inside of them it cannot be.
        lines.write(raw.replace(b"\n", b" "))
        lines.write(b"\n")
    if not custom_ids:
        raise invalid("requests: List should have at least 1 item after validation, not 0")
    return len(custom_ids)


def _checked_custom_id(index: int, request: Any) -> str:
    where = f"requests.{index}"
    if not isinstance(request, dict):
        raise invalid(f"{where}: Input should be an object")
    for name in ("custom_id", "params"):
        if name not in request:
            raise invalid(f"{where}.{name}: Field required")
    for name in request:
        if name not in ("custom_id", "params"):
            raise invalid(f"{where}.{name}: Extra inputs are not permitted")
    custom_id = request["custom_id"]
    if not isinstance(custom_id, str):
        raise invalid(f"{where}.custom_id: Input should be a valid string")
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise invalid(
            f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$', "
            f"not {custom_id[:80]!r}"
        )
    if not isinstance(request["params"], dict):
        raise invalid(f"{where}.params: Input should be an object")
    return custom_id


def _requests_of(body: Text) -> Iterator[tuple[Any, bytes]]:
    """Each request of the body, parsed and as bytes."""
    if not len(body):
        raise invalid("The request body is empty")
    opening = _OPENING.match(body)
    if opening is None:
        yield from _requests_of_small(body[:])
        return
    start = opening.end()
    failures = 0
    for boundary in _BOUNDARY.finditer(body, start):
        raw = body[start : boundary.end()]
        try:
            request = orjson.loads(raw)
        except orjson.JSONDecodeError:
            failures += 1
            if failures > _MOST_FAILURES:
                break
            continue
        yield request, raw
        failures = 0
        start = boundary.end(1)
    rest = body[start:]
    last = rest.rstrip().removesuffix(b"}").rstrip().removesuffix(b"]").rstrip()
    try:
        if _CLOSING.fullmatch(rest, len(last)):
            yield orjson.loads(last), last
            return
    except orjson.JSONDecodeError:
        pass
    # Keys beside `requests`, requests with foreign keys, broken JSON: the rest of the file read
    # as a body of its own gives the same requests, or says what is wrong with them.
    yield from _requests_of_small(b'{"requests":[' + rest)


def _requests_of_small(body: bytes) -> Iterator[tuple[Any, bytes]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid("Input should be an object")
    if "requests" not in document:
        raise invalid("requests: Field required")
    for name in document:
        if name != "requests":
            raise invalid(f"{name}: Extra inputs are not permitted")
    if not isinstance(document["requests"], list):
        raise invalid("requests: Input should be a valid list")
    for index, request in enumerate(document["requests"]):
        try:
            yield request, orjson.dumps(request)
        except TypeError:
            raise invalid(f"requests.{index}: Input is nested too deeply") from None
