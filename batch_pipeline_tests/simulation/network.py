"""The API without sockets: the SDK's transport calls the emulator in this process."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import httpx2

from batch_pipeline.emulator import app as app_module
from batch_pipeline.emulator import calls as calls_module
from batch_pipeline.emulator.app import build_app
from batch_pipeline.emulator.calls import TRANSPORT, Server
from batch_pipeline.emulator.clock import Clock
from batch_pipeline.emulator.database import open_database
from batch_pipeline.emulator.emulator import Emulator
from batch_pipeline.emulator.faults import connections as connections_module
from batch_pipeline.emulator.faults import table as table_module
from batch_pipeline.emulator.options import Options

BASE_URL = "http://emulator"
NOWHERE = Path("/nonexistent/emulator")
"""Where large bodies would go; here there are none."""
CHUNK = 200  # bytes of a reply that come at once: so results arrive in several pieces


async def _directly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Do what ``run_in_threadpool`` does, without a thread."""
    return function(*args, **kwargs)


class Wire:
    """What becomes of one call between the client and the API; the plain one loses nothing.

    A simulation gives another one, at whose steps it may let others work, lose the call, or end the
    process.
    """

    def request(self, request: httpx2.Request, body: bytes) -> None:
        """The client has the whole request, and is about to send it."""

    def done(self, request: httpx2.Request) -> None:
        """The API has done the call; nobody has read its reply."""

    def chunk(self, request: httpx2.Request) -> None:
        """A piece of the reply has come."""

    def wait(self, seconds: float) -> None:
        """The client waits for so long, and gives up."""


class Api:
    """An emulator in this process, and what tests ask of one.

    Args:
        now: its time, which only ``advance`` moves.
        **options: fields of ``Options``.
    """

    base_url = BASE_URL

    def __init__(self, now: float, **options: Any) -> None:
        self._emulator = Emulator(
            NOWHERE, Options().changed(**options), open_database(Path(":memory:"))
        )
        self._emulator.clock = Clock(frozen_at=now)
        self._server = Server(self._emulator)
        self._app = build_app(self._server)
        self._loop = asyncio.new_event_loop()
        self.wire = Wire()

    def close(self) -> None:
        """Forget everything."""
        self._loop.close()
        self._emulator._db.close()

    # Steering it, and asking it

    def advance(self, seconds: float) -> None:
        """Move its clock."""
        self._emulator.clock.advance(seconds)

    def configure(self, **options: Any) -> None:
        """Change options."""
        self._emulator.change_options(**options)

    @property
    def options(self) -> Options:
        """How it behaves."""
        return self._emulator.options

    def fault(self, on: str, kind: str, **settings: Any) -> None:
        """Lay a fault."""
        self._server.faults.add({"on": on, "kind": kind, **settings})

    def faults(self) -> list[dict[str, Any]]:
        """The faults that were laid, each with its hits."""
        return self._server.faults.listed()

    def clear_faults(self) -> None:
        """Take all faults away."""
        self._server.faults.clear()

    def end(self, batch_id: str | None = None, share: float = 1.0) -> None:
        """End a batch, or all."""
        self._emulator.end(batch_id, share)

    def withdraw(self, batch_id: str) -> None:
        """Cancel a batch, as somebody in the Console."""
        self._emulator.withdraw(batch_id)

    def remove(self, batch_id: str) -> None:
        """Delete an ended batch, as somebody in the Console."""
        self._emulator.remove(batch_id)

    def batches(self) -> list[dict[str, Any]]:
        """All batches it ever took."""
        return self._emulator.batches("emulator")

    def requests(self, batch_id: str) -> list[dict[str, Any]]:
        """The requests of a batch."""
        return [json.loads(line) for line in self._emulator.requests(batch_id)]

    def billed_requests(self) -> list[dict[str, Any]]:
        """A line for each request of an ended batch."""
        self._emulator.settle()
        return [json.loads(line) for line in self._emulator.bill.lines()]

    # Calls

    def create_as_another(self, size: int, name: str) -> None:
        """Let another program of the account create a batch."""
        params = {
            "model": "claude-haiku-4-5",
            "max_tokens": 20,
            "messages": [{"role": "user", "content": "of another program"}],
        }
        requests = [{"custom_id": f"{name}-{number}", "params": params} for number in range(size)]
        body = json.dumps({"requests": requests}).encode()
        headers = {"x-api-key": "another", "anthropic-version": "2023-06-01"}
        self.call("POST", f"{BASE_URL}/v1/messages/batches", headers, body)

    def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> "Reply":
        """Call the application as a server would."""
        return self._loop.run_until_complete(self._call(method, url, headers, body))

    async def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> "Reply":
        parts = urlsplit(url)
        reply = Reply()

        class _Connection:
            def close(self) -> None:
                reply.broken = True

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "extensions": {TRANSPORT: {"transport": _Connection()}},
        }
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            reply.waited = not reply.broken
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = [(key, value) for key, value in message["headers"]]
            elif message.get("body"):
                reply.body += message["body"]

        await self._app(scope, receive, send)
        return reply

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Do what the transport of an HTTP client does with a request."""
        body = request.read()
        wire = self.wire
        wire.request(request, body)
        reply = self.call(request.method, str(request.url), dict(request.headers), body)
        wire.done(request)
        if reply.status is None:
            if reply.waited:
                wire.wait(request.extensions.get("timeout", {}).get("read") or 600.0)
                raise httpx2.ReadTimeout("timed out", request=request)
            raise httpx2.RemoteProtocolError(
                "Server disconnected without sending a response.", request=request
            )
        return httpx2.Response(
            reply.status, headers=reply.headers, stream=_Stream(reply, wire, request)
        )


class Reply:
    """What the application sent.

    Attributes:
        broken: it closed the connection.
        waited: it sent nothing and waited for the client to give up.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.broken = self.waited = False


class _Stream(httpx2.SyncByteStream):
    def __init__(self, reply: Reply, wire: Wire, request: httpx2.Request) -> None:
        self._reply, self._wire, self._request = reply, wire, request

    def __iter__(self) -> Iterator[bytes]:
        body = self._reply.body
        for start in range(0, len(body), CHUNK):
            if start:
                self._wire.chunk(self._request)
            yield body[start : start + CHUNK]
        if self._reply.broken:
            raise httpx2.RemoteProtocolError(
                "peer closed connection without sending complete message body",
                request=self._request,
            )


class Network:
    """Where the calls of this process go.

    Attributes:
        api: who answers them now.
    """

    def __init__(self) -> None:
        self.api: Api | None = None

    def handle(self, _transport: Any, request: httpx2.Request) -> httpx2.Response:
        """Do what ``HTTPTransport.handle_request`` does."""
        assert self.api is not None, "no episode is being played"
        assert request.url.host == "emulator", f"{request.url} is no address of the simulation"
        return self.api.handle(request)


@contextmanager
def without_sockets() -> Iterator[Network]:
    """Let every call of the block go to an emulator in this process; nothing of it has threads or waits."""
    network = Network()

    async def sleep(seconds: float) -> None:
        assert network.api is not None
        network.api.wire.wait(seconds)

    def handle(transport: Any, request: httpx2.Request) -> httpx2.Response:
        return network.handle(transport, request)

    with ExitStack() as stack:
        for owner, name, value in (
            (httpx2.HTTPTransport, "handle_request", handle),
            (app_module, "run_in_threadpool", _directly),
            (calls_module, "run_in_threadpool", _directly),
            (table_module, "run_in_threadpool", _directly),
            (connections_module, "asyncio", SimpleNamespace(sleep=sleep)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield network
