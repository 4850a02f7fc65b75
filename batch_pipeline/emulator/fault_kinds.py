"""The ways in which a call can go wrong.

To add one, write a function and register it with one of the decorators below: its name is what
admin HTTP calls it, its keyword arguments are what it can be told there.
"""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from batch_pipeline.emulator.clock import from_rfc3339
from batch_pipeline.emulator.errors import STATUS_OF_TYPE, error_document
from batch_pipeline.emulator.replies import ConnectionDropped, Reply

Stage = Literal["before", "after", "lines"]
Lines = Iterator[bytes]


@dataclass(frozen=True)
class Kind:
    """One way in which a call can go wrong.

    Attributes:
        name: What admin HTTP calls it.
        stage: `before` the call is done, `after` it was done, or on the `lines` of its results.
        apply: The function that does it.
    """

    name: str
    stage: Stage
    apply: Callable[..., Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What it can be told, with the defaults."""
        parameters = inspect.signature(self.apply).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


KINDS: dict[str, Kind] = {}

Before = Callable[..., Awaitable[Reply | None]]
After = Callable[..., Awaitable[Reply]]


def before(function: Before) -> Before:
    """Register a kind that acts before the call is done; a reply it returns is the answer."""
    KINDS[function.__name__] = Kind(function.__name__, "before", function)
    return function


def after(function: After) -> After:
    """Register a kind that acts on the reply of a call that was done."""
    KINDS[function.__name__] = Kind(function.__name__, "after", function)
    return function


def on_lines(function: Callable[..., Lines]) -> Callable[..., Lines]:
    """Register a kind that changes the lines of the results."""
    KINDS[function.__name__] = Kind(function.__name__, "lines", function)
    return function


@before
async def drop_before(*, while_sending: bool = False) -> Reply | None:
    """The connection is closed without a reply; nothing was done."""
    raise ConnectionDropped(while_sending)


@after
async def drop_after(reply: Reply) -> Reply:
    """The call is done, then the connection is closed without a reply."""
    raise ConnectionDropped


@before
async def status_before(
    *,
    status: int = 500,
    type: str | None = None,
    message: str = "The emulator was told to fail",
    error_code: str | None = None,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Reply | None:
    """An error instead of the call. `body` replaces the JSON body, as a proxy's page would."""
    return _error_reply(status, type, message, error_code, headers, body)


@after
async def status_after(
    reply: Reply,
    *,
    status: int = 500,
    type: str | None = None,
    message: str = "The emulator was told to fail",
    error_code: str | None = None,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Reply:
    """The call is done, but an error is answered."""
    return _error_reply(status, type, message, error_code, headers, body)


def _error_reply(
    status: int,
    type: str | None,
    message: str,
    error_code: str | None,
    headers: dict[str, str] | None,
    body: str | None,
) -> Reply:
    if body is not None:
        html = {"content-type": "text/html", **(headers or {})}
        return Reply(status=status, body=body.encode(), headers=html)
    types = {known: name for name, known in STATUS_OF_TYPE.items()}
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    details = {"error_code": error_code} if error_code else None
    document = error_document(type or types.get(status, fallback), message, None, details)
    return Reply(status=status, document=document, headers=headers or {})


@before
async def delay_before(*, seconds: float = 1.0) -> Reply | None:
    """The call waits (real time) before it is done."""
    await asyncio.sleep(seconds)
    return None


@after
async def delay_after(reply: Reply, *, seconds: float = 1.0) -> Reply:
    """The call is done, its reply comes late (real time)."""
    await asyncio.sleep(seconds)
    return reply


@after
async def redirect(reply: Reply, *, location: str, status: int = 307) -> Reply:
    """The reply points elsewhere."""
    return Reply(status=status, body=b"", headers={"location": location})


@after
async def replace_body(reply: Reply, *, body: str = "<html>", status: int = 200) -> Reply:
    """The reply is something else than JSON."""
    return Reply(status=status, body=body.encode(), headers={"content-type": "text/html"})


@after
async def cut_body(reply: Reply, *, keep: int = 20, clean: bool = False) -> Reply:
    """The reply stops after some bytes; `clean`: its length fits the bytes that come."""
    whole = json.dumps(reply.document).encode()
    if clean:
        return Reply(status=reply.status, body=whole[:keep], headers=reply.headers)
    return Reply(status=reply.status, lines=_cut_off(whole[:keep]), headers=reply.headers)


def _cut_off(text: bytes) -> Lines:
    yield text
    raise ConnectionDropped


@after
async def change_fields(reply: Reply, *, fields: dict[str, Any]) -> Reply:
    """Fields of the JSON reply are replaced: a `results_url` elsewhere, wrong counts, ..."""
    reply.document = {**(reply.document or {}), **fields}
    return reply


@after
async def date_header(reply: Reply, *, seconds: float = 0.0) -> Reply:
    """The `Date` of the reply is off by some seconds."""
    reply.date_offset += seconds
    return reply


@after
async def list_lag(reply: Reply, *, seconds: float | None = None, newest: int = 0) -> Reply:
    """The list lacks its newest batches: some number, or those younger than some seconds."""
    document = reply.document or {}
    data = document.get("data", [])[newest:]
    if seconds is not None:
        data = [one for one in data if reply.now - from_rfc3339(one["created_at"]) >= seconds]
    document["data"] = data
    document["first_id"] = data[0]["id"] if data else None
    document["last_id"] = data[-1]["id"] if data else None
    return reply


@on_lines
def cut_results_at_line(lines: Lines, *, line: int = 1, clean: bool = True) -> Lines:
    """The results end after some lines; `clean`: without any sign that something is missing."""
    for index, text in enumerate(lines):
        if index == line:
            if not clean:
                raise ConnectionDropped
            return
        yield text


@on_lines
def cut_results_mid_line(lines: Lines, *, line: int = 1, clean: bool = True) -> Lines:
    """The results end in the middle of a line (the first is 1)."""
    for index, text in enumerate(lines, start=1):
        if index == line:
            yield text[: len(text) // 2]
            if not clean:
                raise ConnectionDropped
            return
        yield text


@on_lines
def line_twice(lines: Lines, *, line: int = 1) -> Lines:
    """A line comes twice (the first is 1)."""
    for index, text in enumerate(lines, start=1):
        yield text
        if index == line:
            yield text


@on_lines
def line_missing(lines: Lines, *, line: int = 1) -> Lines:
    """A line is left out (the first is 1)."""
    return (text for index, text in enumerate(lines, start=1) if index != line)


@on_lines
def line_replaced(lines: Lines, *, line: int = 1, text: str = "not JSON") -> Lines:
    """A line is replaced by a text, such as garbage or nothing (the first is 1)."""
    return (
        text.encode() + b"\n" if index == line else original
        for index, original in enumerate(lines, start=1)
    )


@on_lines
def line_added(lines: Lines, *, text: str, line: int = 1) -> Lines:
    """A text is put in as a line of its own, such as another batch's (the first is 1)."""
    for index, original in enumerate(lines, start=1):
        if index == line:
            yield text.encode() + b"\n"
        yield original
