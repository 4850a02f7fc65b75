"""One HTTP call of the API: its key, its faults, its headers, its reply."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from batch_pipeline.emulator.clock import to_rfc3339
from batch_pipeline.emulator.emulator import Emulator, EmulatorClosed
from batch_pipeline.emulator.errors import ApiError, error_document, invalid
from batch_pipeline.emulator.faults import FaultTable, apply_after, apply_before
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.replies import ConnectionDropped, Reply

TRANSPORT = "batch_pipeline.emulator.transport"
_BLOCK_BYTES = 256 * 1024
_REPORTED_LIMIT = 1000


@dataclass
class Server:
    """What all calls share.

    Attributes:
        emulator: The emulator that answers now; a reset puts a new one here.
        faults: Faults that lie in wait.
        in_flight: Calls that are being answered.
        minutes: Workspace -> minute and number of calls in it.
        ready: Not set while it is being reset: calls that come then wait.
    """

    emulator: Emulator
    faults: FaultTable = field(default_factory=FaultTable)
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set)
    minutes: dict[str, tuple[int, int]] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ready.set()

    async def reset(self, options: Options) -> None:
        """Forget everything: calls in flight are dropped, nothing of them is left behind."""
        self.ready.clear()
        old = self.emulator
        for task in self.in_flight:
            task.cancel()
        clearing = run_in_threadpool(old.clear)
        await asyncio.gather(clearing, *self.in_flight, return_exceptions=True)
        self.faults.clear()
        self.minutes.clear()
        self.emulator = await run_in_threadpool(Emulator, old.state_dir, options)
        self.ready.set()

    def count_in_minute(self, workspace: str) -> int:
        """Count a call; how many there were in this minute."""
        minute = int(self.emulator.clock.now() // 60)
        counted, calls = self.minutes.get(workspace, (minute, 0))
        calls = calls + 1 if counted == minute else 1
        self.minutes[workspace] = minute, calls
        return calls


@dataclass
class Call:
    """One call, as its handler sees it."""

    request: Request
    emulator: Emulator
    workspace: str

    @property
    def host(self) -> str:
        return self.request.headers.get("host", "")

    @property
    def batch_id(self) -> str:
        return self.request.path_params["batch_id"]


Handler = Callable[[Call], Awaitable[Reply]]


class ApiCall:
    """The ASGI application of one route: every call of the API passes through here.

    Args:
        server: What all calls share.
        name: What faults call it.
        route: What the statistics call it.
        handler: Does what the call is about.
    """

    def __init__(self, server: Server, name: str, route: str, handler: Handler) -> None:
        self.server = server
        self.name = name
        self.route = route
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await self.server.ready.wait()
        emulator = self.server.emulator
        task = asyncio.current_task()
        assert task is not None
        self.server.in_flight.add(task)
        try:
            reply, headers = await self._answer(request, emulator)
            emulator.count_call(self.route, str(reply.status))
            await _send(reply, headers, send)
        except (ConnectionDropped, EmulatorClosed, ClientDisconnect) as error:
            if not isinstance(error, _CutOff):
                emulator.count_call(self.route, "dropped")
            if isinstance(error, ConnectionDropped) and not error.while_sending:
                await _drain(request)
            await _close(request)
        except asyncio.CancelledError:
            task.uncancel()
            await _close(request)
        finally:
            self.server.in_flight.discard(task)

    async def _answer(self, request: Request, emulator: Emulator) -> tuple[Reply, dict[str, str]]:
        request_id = "req_" + secrets.token_hex(12)
        headers = {
            "request-id": request_id,
            "anthropic-organization-id": emulator.options.organization,
        }
        faults = self.server.faults.take(self.name, request.path_params.get("batch_id"))
        reply = await apply_before(faults)
        if reply is not None:
            # A client that is still sending would see a broken connection, not the reply.
            await _drain(request)
        else:
            reply = await self._handle(request, emulator, headers)
            reply.now = emulator.clock.now()
            reply = await apply_after(faults, reply)
        if reply.document is not None and reply.document.get("type") == "error":
            reply.document["request_id"] = request_id
        now = emulator.clock.now() + reply.date_offset
        return reply, {"date": formatdate(now, usegmt=True), **headers, **reply.headers}

    async def _handle(self, request: Request, emulator: Emulator, headers: dict[str, str]) -> Reply:
        try:
            workspace = _workspace_of(request, emulator.options)
            headers["anthropic-workspace-id"] = workspace
            headers |= self._check_rate(workspace, emulator)
            if "anthropic-version" not in request.headers:
                raise invalid("anthropic-version: header is required")
            return await self.handler(Call(request, emulator, workspace))
        except ApiError as error:
            await _drain(request)
            document = error_document(error.type, error.message, None, error.details)
            return Reply(status=error.status, document=document, headers=error.headers)

    def _check_rate(self, workspace: str, emulator: Emulator) -> dict[str, str]:
        options = emulator.options
        calls = self.server.count_in_minute(workspace)
        limit = options.requests_per_minute or _REPORTED_LIMIT
        next_minute = (emulator.clock.now() // 60 + 1) * 60
        if options.requests_per_minute and calls > limit:
            raise ApiError(
                "rate_limit_error",
                f"This workspace has made {calls} calls in this minute; the limit is {limit}",
                headers={"retry-after": str(options.retry_after_seconds)},
            )
        return {
            "anthropic-ratelimit-requests-limit": str(limit),
            "anthropic-ratelimit-requests-remaining": str(max(0, limit - calls)),
            "anthropic-ratelimit-requests-reset": to_rfc3339(next_minute) or "",
        }


def _workspace_of(request: Request, options: Options) -> str:
    """Whose call it is, by either of the headers that may carry the key."""
    bearer = request.headers.get("authorization", "")
    key = request.headers.get("x-api-key", "").strip()
    if not key and bearer.lower().startswith("bearer "):
        key = bearer[len("bearer ") :].strip()
    if not key:
        raise ApiError("authentication_error", "x-api-key header is required")
    if not options.keys:
        return "default"
    if key not in options.keys:
        raise ApiError("authentication_error", "invalid x-api-key")
    workspace = options.keys[key]
    if workspace == "*":
        return request.headers.get("anthropic-workspace-id", "default")
    return workspace


async def _drain(request: Request) -> None:
    try:
        async for _ in request.stream():
            pass
    except (RuntimeError, ClientDisconnect):
        pass  # The handler has read it already, or the client has gone.


class _CutOff(ConnectionDropped):
    """Dropped in the middle of a reply that has been counted already."""


async def _send(reply: Reply, headers: dict[str, str], send: Send) -> None:
    if reply.lines is not None:
        headers = {"content-type": "application/x-jsonl", **headers}
        await _start(reply.status, headers, send)
        await _send_lines(reply, send)
        return
    body = reply.body if reply.body is not None else orjson.dumps(reply.document)
    headers = {"content-type": "application/json", **headers, "content-length": str(len(body))}
    await _start(reply.status, headers, send)
    await send({"type": "http.response.body", "body": body})


async def _start(status: int, headers: dict[str, str], send: Send) -> None:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _send_lines(reply: Reply, send: Send) -> None:
    lines = reply.lines
    assert lines is not None
    more = True
    while more:
        block, more, dropped = await run_in_threadpool(_next_block, lines)
        if block:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        if dropped:
            raise _CutOff
    await send({"type": "http.response.body", "body": b""})


def _next_block(lines: Any) -> tuple[bytes, bool, bool]:
    """The next lines as one block, whether there may be more, whether to cut off after it."""
    block = bytearray()
    try:
        for line in lines:
            block += line
            if len(block) >= _BLOCK_BYTES:
                return bytes(block), True, False
    except ConnectionDropped:
        return bytes(block), False, True
    return bytes(block), False, False


async def _close(request: Request) -> None:
    """Close the connection as a broken network would: the client gets no (further) reply."""
    request.scope["extensions"][TRANSPORT]["transport"].close()
    # Until the server has noticed, returning would make it answer with a 500.
    while (await request.receive())["type"] != "http.disconnect":
        pass
