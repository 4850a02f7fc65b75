"""Replies that say something else than what is so."""

import json
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from batch_pipeline.emulator.faults.kind import Scene, kind
from batch_pipeline.emulator.replies import ConnectionDropped, Reply

# A name that no resolver knows (RFC 2606): a key that is sent there by mistake reaches nobody.
_ELSEWHERE = "https://elsewhere.invalid"


@kind("reply")
async def redirect(scene: Scene, *, location: str | None = None, status: int = 307) -> Reply:
    """307: the call is to be made elsewhere, by default on a host that does not exist."""
    there = location or _ELSEWHERE + scene.path
    return Reply(status=status, body=b"", headers={"location": there})


@kind("after", "retrieve", "list", "cancel")
async def results_elsewhere(reply: Reply, *, url: str = _ELSEWHERE) -> Reply:
    """`results_url` is on another host, by default on one that does not exist."""
    document = reply.document or {}
    for batch in document.get("data", [document]):
        if batch.get("results_url"):
            batch["results_url"] = url.rstrip("/") + urlsplit(batch["results_url"]).path
    return reply


@kind("scene", "list")
def list_lag(scene: Scene, *, seconds: float | None = None, newest: int = 0) -> None:
    """The list lacks its newest batches: those younger than `seconds` (60 when nothing else is
    said), or the `newest` so many."""
    if seconds is None:
        seconds = 0.0 if newest else 60.0
    scene.unlisted_seconds = max(seconds, scene.unlisted_seconds)
    scene.unlisted_newest = max(newest, scene.unlisted_newest)


@kind("scene", "list")
def list_circles(scene: Scene) -> None:
    """The list never ends: each page says that there is more, and the next is the first again."""
    scene.circles = True


@kind("after", "list", "retrieve", "create", "cancel")
async def change_batches(reply: Reply, *, fields: dict[str, Any]) -> Reply:
    """Fields of each batch in the reply are replaced, such as wrong `request_counts` in a list."""
    document = reply.document or {}
    for batch in document.get("data", [document]):
        if batch.get("type") == "message_batch":
            batch.update(fields)
    return reply


@kind("after")
async def swollen_body(
    reply: Reply,
    *,
    megabytes: int = 1000,
    text: str = "x",
    lines: bool = False,
    encoding: str = "gzip",
) -> Reply:
    """The reply is small, packed, and unpacks to so many megabytes of a `text` again and again: one
    line without an end, or `lines` of a thousand bytes or so. `encoding`: what its header says."""
    if reply.document is not None:
        reply.headers["content-type"] = "application/json"
    reply.document = reply.body = None
    reply.lines = _packed(
        megabytes, text.encode() * max(1, 999 // len(text)), b"\n" if lines else b""
    )
    reply.headers = {**reply.headers, "content-encoding": encoding}
    return reply


def _packed(megabytes: int, text: bytes, end: bytes) -> Iterator[bytes]:
    pack = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    for _ in range(megabytes):
        yield pack.compress((text + end) * 1000)
    yield pack.flush()


@kind("after")
async def date_header(reply: Reply, *, seconds: float = 0.0) -> Reply:
    """The `Date` header alone is off by some seconds; see `clock_skew`."""
    reply.date_offset += seconds
    return reply


@kind("after")
async def change_fields(reply: Reply, *, fields: dict[str, Any]) -> Reply:
    """Fields of the JSON reply are replaced, such as wrong `request_counts`."""
    reply.document = {**(reply.document or {}), **fields}
    return reply


@kind("after")
async def replace_body(reply: Reply, *, body: str = "<html>", status: int = 200) -> Reply:
    """The reply is something else than JSON."""
    return Reply(status=status, body=body.encode(), headers={"content-type": "text/html"})


@kind("after")
async def cut_body(reply: Reply, *, keep: int = 20, clean: bool = False) -> Reply:
    """The reply stops after some bytes. `clean`: its length fits the bytes that come."""
    whole = json.dumps(reply.document).encode()
    if clean:
        return Reply(status=reply.status, body=whole[:keep], headers=reply.headers)
    return Reply(status=reply.status, lines=_cut_off(whole[:keep]), headers=reply.headers)


def _cut_off(text: bytes) -> Iterator[bytes]:
    yield text
    raise ConnectionDropped
