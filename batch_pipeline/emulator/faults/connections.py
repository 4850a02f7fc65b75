"""Connections that break, and replies that come late."""

import asyncio
import json
import time
from collections.abc import Iterator

from batch_pipeline.emulator.faults.kind import Scene, kind
from batch_pipeline.emulator.replies import ConnectionDropped, Reply


@kind("before")
async def drop_before(*, while_sending: bool = False) -> Reply | None:
    """The connection is closed without a reply; nothing was done. `while_sending`: already while
    the client sends its request."""
    raise ConnectionDropped(while_sending)


@kind("after")
async def drop_after(reply: Reply) -> Reply:
    """The call is done, then the connection is closed without a reply."""
    raise ConnectionDropped


@kind("reply", when="after")
async def slow_reply(scene: Scene) -> Reply:
    """The reply is slower than the client's time-out: nothing comes until the client gives up."""
    raise ConnectionDropped(waiting=True)


@kind("before")
async def delay_before(*, seconds: float = 1.0) -> Reply | None:
    """The call waits (real time) before it is done."""
    await asyncio.sleep(seconds)
    return None


@kind("after")
async def delay_after(reply: Reply, *, seconds: float = 1.0) -> Reply:
    """The call is done, its reply comes late (real time)."""
    await asyncio.sleep(seconds)
    return reply


@kind("after")
async def trickle_body(reply: Reply, *, seconds: float = 1.0) -> Reply:
    """The reply comes byte by byte, each after some seconds (real time), so that no read of it
    takes long."""
    whole = reply.body if reply.body is not None else json.dumps(reply.document).encode()
    lines = reply.lines if reply.lines is not None else iter([whole])
    if reply.document is not None:
        reply.headers["content-type"] = "application/json"
    reply.document = reply.body = None
    reply.lines = _bytewise(lines, seconds)
    reply.bytewise = True
    return reply


def _bytewise(lines: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    for line in lines:
        for place in range(len(line)):
            time.sleep(seconds)
            yield line[place : place + 1]
