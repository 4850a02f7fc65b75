"""The emulator's own calls under `/_emulator/`: clock, faults, options, bill, statistics."""

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from batch_pipeline.emulator.calls import Server
from batch_pipeline.emulator.clock import from_rfc3339, to_rfc3339
from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.faults import KINDS
from batch_pipeline.emulator.options import Options

_JSONL = "application/x-jsonl"
_LINES_PER_BLOCK = 500


def admin_routes(server: Server) -> list[Route]:
    """The routes by which tests and demos watch and steer the emulator."""
    admin = _Admin(server)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "health", admin.health),
        ("GET", "clock", admin.clock),
        ("POST", "clock", admin.move_clock),
        ("GET", "options", admin.options),
        ("POST", "options", admin.change_options),
        ("GET", "faults", admin.faults),
        ("POST", "faults", admin.add_fault),
        ("DELETE", "faults", admin.clear_faults),
        ("GET", "kinds", admin.kinds),
        ("POST", "end", admin.end),
        ("POST", "batches/{batch_id}/end", admin.end),
        ("GET", "batches", admin.batches),
        ("GET", "batches/{batch_id}/requests", admin.requests),
        ("GET", "bill", admin.bill),
        ("GET", "bill/requests", admin.bill_requests),
        ("GET", "stats", admin.stats),
        ("POST", "reset", admin.reset),
    ]
    return [
        Route(f"/_emulator/{path}", endpoint, methods=[method]) for method, path, endpoint in table
    ]


class _Admin:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "pid": os.getpid()})

    async def clock(self, request: Request) -> Response:
        clock = self._server.emulator.clock
        return JSONResponse(
            {
                "now": to_rfc3339(clock.now()),
                "epoch_seconds": clock.now(),
                "frozen": clock.frozen_at is not None,
            }
        )

    async def move_clock(self, request: Request) -> Response:
        """`{"advance_seconds": 3600}`, `{"set": "2026-11-20T23:00:00Z"}`, `{"freeze": true}`."""
        asked = await _json_of(request)
        clock = self._server.emulator.clock
        if "freeze" in asked:
            (clock.freeze if asked["freeze"] else clock.resume)()
        if "set" in asked:
            moment = asked["set"]
            clock.set(from_rfc3339(moment) if isinstance(moment, str) else float(moment))
        if "advance_seconds" in asked:
            clock.advance(float(asked["advance_seconds"]))
        self._server.emulator.save_clock()
        return await self.clock(request)

    async def options(self, request: Request) -> Response:
        return JSONResponse(self._server.emulator.options.as_dict())

    async def change_options(self, request: Request) -> Response:
        changes = await _json_of(request)
        try:
            self._server.emulator.change_options(**changes)
        except ValueError as error:
            raise invalid(str(error)) from None
        return await self.options(request)

    async def faults(self, request: Request) -> Response:
        return JSONResponse(self._server.faults.listed())

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = self._server.faults.add(await _json_of(request))
        except ValueError as error:
            raise invalid(str(error)) from None
        return JSONResponse(fault.as_dict())

    async def clear_faults(self, request: Request) -> Response:
        self._server.faults.clear(request.query_params.get("kind"))
        return JSONResponse(self._server.faults.listed())

    async def kinds(self, request: Request) -> Response:
        return JSONResponse(
            {
                kind.name: {
                    "does": kind.does,
                    "on": kind.on,
                    "calls": kind.calls,
                    "settings": {
                        name: "(required)" if one.required else one.default
                        for name, one in {**kind.settings, **kind.common}.items()
                    },
                }
                for kind in KINDS.values()
            }
        )

    async def end(self, request: Request) -> Response:
        """End one batch or all that are open; `finished_share` of their requests are answered."""
        asked = await _json_of(request)
        id = request.path_params.get("batch_id", asked.get("batch_id"))
        share = float(asked.get("finished_share", 1.0))
        ended = await run_in_threadpool(self._server.emulator.end, id, share)
        return JSONResponse({"ended": ended})

    async def batches(self, request: Request) -> Response:
        host = request.headers.get("host", "")
        return JSONResponse(await run_in_threadpool(self._server.emulator.batches, host))

    async def requests(self, request: Request) -> Response:
        lines = self._server.emulator.requests(request.path_params["batch_id"])
        return StreamingResponse(_blocks(lines), media_type=_JSONL)

    async def bill(self, request: Request) -> Response:
        emulator = self._server.emulator
        await run_in_threadpool(emulator.settle)
        return JSONResponse(await run_in_threadpool(emulator.bill.total))

    async def bill_requests(self, request: Request) -> Response:
        emulator = self._server.emulator
        await run_in_threadpool(emulator.settle)
        return StreamingResponse(_blocks(emulator.bill.lines()), media_type=_JSONL)

    async def stats(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._server.emulator.bill.stats))

    async def reset(self, request: Request) -> Response:
        """Forget everything; the body holds the options to go on with."""
        try:
            options = Options().changed(**await _json_of(request))
        except ValueError as error:
            raise invalid(str(error)) from None
        await self._server.reset(options)
        return await self.options(request)


async def _json_of(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid("The body must be a JSON object")
    return document


def _blocks(lines: Iterator[bytes]) -> Iterator[bytes]:
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        if len(block) == _LINES_PER_BLOCK:
            yield b"".join(block)
            block.clear()
    yield b"".join(block)
