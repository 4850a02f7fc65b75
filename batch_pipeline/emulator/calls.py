"""One HTTP call of the API: its key, its faults, its headers, its reply."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from batch_pipeline.emulator.betas import check_betas, check_version
from batch_pipeline.emulator.clock import from_rfc3339, to_rfc3339
from batch_pipeline.emulator.database import EmulatorClosed
from batch_pipeline.emulator.emulator import Emulator
from batch_pipeline.emulator.errors import ApiError, error_document
from batch_pipeline.emulator.faults import FaultTable, Scene, apply_after, apply_before
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.replies import ConnectionDropped, Reply

TRANSPORT = "batch_pipeline.emulator.transport"
_logger = logging.getLogger(__name__)
_BLOCK_BYTES = 256 * 1024
_REPORTED_LIMIT = 1000
ADMIN_KEY = "sk-ant-admin"
"""How the keys of the Admin API begin; they belong to no workspace."""


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
    _resetting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.ready.set()

    async def reset(self, options: Options) -> None:
        """Forget everything: calls in flight are dropped, nothing of them is left behind."""
        async with self._resetting:
            self.ready.clear()
            for task in self.in_flight:
                task.cancel()
            emptying = run_in_threadpool(self.emulator.emptied, options)
            dropping = asyncio.gather(*self.in_flight, return_exceptions=True)
            self.emulator, _ = await asyncio.gather(emptying, dropping)
            self.faults.clear()
            self.minutes.clear()
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
    """One call, as its handler sees it.

    Attributes:
        request: The call itself.
        emulator: Who answers it.
        workspace: Whose it is.
        scene: How faults see it.
        version: The API version that it asks for.
        betas: The betas that it names.
    """

    request: Request
    emulator: Emulator
    workspace: str
    scene: Scene
    version: str
    betas: frozenset[str]

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
            await self._reply(request, emulator, send)
        except asyncio.CancelledError:
            task.uncancel()
            await _close(request)
        finally:
            self.server.in_flight.discard(task)

    async def _reply(self, request: Request, emulator: Emulator, send: Send) -> None:
        try:
            reply, headers = await self._answer(request, emulator)
            emulator.count_call(self.route, str(reply.status))
            await _send(reply, headers, send)
        except (ConnectionDropped, EmulatorClosed, ClientDisconnect) as error:
            if not isinstance(error, _CutOff):
                emulator.count_call(self.route, "dropped")
            if isinstance(error, ConnectionDropped) and not error.while_sending:
                await _drain(request)
            await _close(request, by_client=isinstance(error, ConnectionDropped) and error.waiting)

    async def _answer(self, request: Request, emulator: Emulator) -> tuple[Reply, dict[str, str]]:
        scene = _scene_of(self.name, request, emulator)
        faults = self.server.faults.take(scene)
        limits: dict[str, str] = {}
        reply = await apply_before(faults, scene)
        if reply is not None:
            # A client that is still sending would see a broken connection, not the reply.
            await _drain(request)
        else:
            reply = await self._handle(request, scene, limits)
            if self.name == "create" and reply.status == 200:
                scene.batch_id = (reply.document or {}).get("id")
            if scene.clock_offset and reply.document is not None:
                _shift_times(reply.document, scene.clock_offset)
            reply = await apply_after(faults, scene, reply)
        if reply.status == 429 and not limits and "retry-after" in reply.headers:
            limits = self._limits(scene, 0)
        now = emulator.clock.now() + scene.clock_offset + reply.date_offset
        date = {"date": formatdate(now, usegmt=True)}
        if reply.by_proxy:
            return reply, {**date, **reply.headers}
        request_id = new_request_id()
        if reply.document is not None and reply.document.get("type") == "error":
            reply.document["request_id"] = request_id
        whose = {"anthropic-organization-id": emulator.options.organization}
        if scene.workspace and reply.status != 401:
            whose["anthropic-workspace-id"] = scene.workspace
        return reply, {**date, "request-id": request_id, **whose, **limits, **reply.headers}

    async def _handle(self, request: Request, scene: Scene, limits: dict[str, str]) -> Reply:
        try:
            if scene.workspace is None:
                raise scene.refusal or ApiError("authentication_error", "invalid x-api-key")
            self._check_rate(scene, limits)
            version = check_version(request.headers.get("anthropic-version"))
            betas = check_betas(request.headers.getlist("anthropic-beta"))
            call = Call(request, scene.emulator, scene.workspace, scene, version, betas)
            return await self.handler(call)
        except ApiError as error:
            refusal = error
        except (ConnectionDropped, EmulatorClosed, ClientDisconnect):
            raise
        except Exception:
            # A fault of the emulator's own: shown as the API shows its own, and never hidden.
            _logger.exception("The emulator failed at %s", self.route)
            refusal = ApiError("api_error", "Internal server error")
        await _drain(request)
        document = error_document(refusal.type, refusal.message, None, refusal.details)
        return Reply(status=refusal.status, document=document, headers=refusal.headers)

    def _check_rate(self, scene: Scene, limits: dict[str, str]) -> None:
        """Count the call; say in `limits` what may still come, also when this one is too many."""
        options = scene.emulator.options
        calls = self.server.count_in_minute(scene.workspace or "")
        limit = options.requests_per_minute or _REPORTED_LIMIT
        limits |= self._limits(scene, max(0, limit - calls))
        if options.requests_per_minute and calls > limit:
            raise ApiError(
                "rate_limit_error",
                f"This workspace has made {calls} calls in this minute; the limit is {limit}",
                headers={"retry-after": str(options.retry_after_seconds)},
            )

    def _limits(self, scene: Scene, remaining: int) -> dict[str, str]:
        emulator = scene.emulator
        limit = emulator.options.requests_per_minute or _REPORTED_LIMIT
        next_minute = (emulator.clock.now() // 60 + 1) * 60 + scene.clock_offset
        return {
            "anthropic-ratelimit-requests-limit": str(limit),
            "anthropic-ratelimit-requests-remaining": str(remaining),
            "anthropic-ratelimit-requests-reset": to_rfc3339(next_minute) or "",
        }


def new_request_id() -> str:
    return "req_" + secrets.token_hex(12)


def _scene_of(name: str, request: Request, emulator: Emulator) -> Scene:
    key = _key_of(request)
    workspace = refusal = None
    try:
        if name == "reports" and key.startswith(ADMIN_KEY):
            workspace = ""
        else:
            workspace = _workspace_of(key, request, emulator.options)
    except ApiError as error:
        refusal = error
    batch_id = request.path_params.get("batch_id")
    return Scene(emulator, name, request.scope["path"], key, workspace, refusal, batch_id)


def _key_of(request: Request) -> str:
    """The API key, from either of the headers that may carry it."""
    bearer = request.headers.get("authorization", "")
    key = request.headers.get("x-api-key", "").strip()
    if not key and bearer.lower().startswith("bearer "):
        key = bearer[len("bearer ") :].strip()
    return key


def _workspace_of(key: str, request: Request, options: Options) -> str:
    """Whose call it is."""
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


_TIMES = ("created_at", "expires_at", "ended_at", "archived_at", "cancel_initiated_at")


def _shift_times(document: dict[str, Any], seconds: float) -> None:
    """Show batches as a server would whose clock is off."""
    for batch in document.get("data", [document]):
        if batch.get("type") == "message_batch":
            for name in _TIMES:
                if batch[name] is not None:
                    batch[name] = to_rfc3339(from_rfc3339(batch[name]) + seconds)


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
        most = 1 if reply.bytewise else _BLOCK_BYTES
        block, more, dropped = await run_in_threadpool(_next_block, lines, most)
        if block:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        if dropped:
            raise _CutOff
    await send({"type": "http.response.body", "body": b""})


def _next_block(lines: Any, most: int) -> tuple[bytes, bool, bool]:
    """The next lines as one block, whether there may be more, whether to cut off after it."""
    block = bytearray()
    try:
        for line in lines:
            block += line
            if len(block) >= most:
                return bytes(block), True, False
    except ConnectionDropped:
        return bytes(block), False, True
    return bytes(block), False, False


async def _close(request: Request, *, by_client: bool = False) -> None:
    """Close the connection as a broken network would: the client gets no (further) reply.

    Args:
        request: The call.
        by_client: Leave it open until the client gives up.
    """
    if not by_client:
        request.scope["extensions"][TRANSPORT]["transport"].close()
    # Until the server has noticed, returning would make it answer with a 500.
    while (await request.receive())["type"] != "http.disconnect":
        pass
