"""The emulator without a process, a port or a client: calls as the server hands them over."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_pipeline.emulator.app import build_app
from batch_pipeline.emulator.calls import Server
from batch_pipeline.emulator.emulator import Emulator
from batch_pipeline.emulator.options import Options

_HEADERS = [("x-api-key", "k"), ("anthropic-version", "2026-10-21")]


class Answer(NamedTuple):
    """What a call was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


class InProcess:
    """An emulator whose application is called directly.

    Args:
        state_dir: Directory that holds its batches.
        **options: Fields of `Options`.
    """

    def __init__(self, state_dir: Path, **options: Any) -> None:
        self.emulator = Emulator(state_dir, Options().changed(**options))
        self._app = build_app(Server(self.emulator))

    def calls(self, calls: Iterable[dict[str, Any]]) -> list[Answer]:
        """Make calls one after the other; each is a dict of the arguments of `call`."""

        async def all_of_them() -> list[Answer]:
            return [await self._call(**one) for one in calls]

        return asyncio.run(all_of_them())

    def call(self, method: str, path: str, body: Any = b"", **further: Any) -> Answer:
        """Make one call; a body that is no bytes is sent as JSON."""
        return self.calls([{"method": method, "path": path, "body": body, **further}])[0]

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = b"",
        query: str = "",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        sent = body if isinstance(body, bytes) else orjson.dumps(body)
        given = list(headers)
        named = {name for name, _ in given}
        given += [one for one in _HEADERS if one[0] not in named]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {},
        }
        waiting = [{"type": "http.request", "body": sent, "more_body": False}]
        got: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            got.append(message)

        await self._app(scope, receive, send)
        told = {name.decode(): value.decode("latin-1") for name, value in got[0]["headers"]}
        return Answer(got[0]["status"], told, b"".join(one.get("body", b"") for one in got[1:]))
