"""What one call to the API may take: a deadline for all of it, and a size that its reply may unpack to.

A time-out of the HTTP client begins anew with every byte, so a reply that trickles outlives any. And
a compressed reply may unpack to a thousand times its size. Both end here, whoever sends them.
"""

import math
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2

MOST_REPLY_BYTES = 8_000_000  # of a reply that is no results: a page of 1,000 batches has 0.7 MB
PIECE_BYTES = 1 << 20
STREAM_HEADER = "X-Stainless-Raw-Response"  # the SDK's own mark of a reply that is not read at once


class Deadline:
    """Until when the call that is under way may last, by the machine's steady clock."""

    def __init__(self, budget_seconds: float = math.inf):
        self._last = time.monotonic() + budget_seconds
        self.until = self._last

    def begin(self, seconds: float) -> float:
        """Let a call begin; returns until when it may last."""
        self.until = min(time.monotonic() + seconds, self._last)
        return self.until

    def left(self, timeout: float | None, late: type[httpx2.TimeoutException]) -> float:
        """Return how long one read or write may take.

        Raises:
            TimeoutException: the call has had its time.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise late(
                "the call had all its time, which is ClaudeBatches(timeout_seconds=...) or what a "
                "sensor's tick has, and was not over"
            )
        return left if timeout is None else min(timeout, left)


class _Stream:
    """A connection whose reads and writes end at the call's deadline."""

    def __init__(self, inner: Any, deadline: Deadline):
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._deadline.left(timeout, httpx2.ReadTimeout)
        try:
            return self._inner.read(max_bytes, left)
        except Exception:
            self._deadline.left(timeout, httpx2.ReadTimeout)  # says so, if that is why
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left(timeout, httpx2.WriteTimeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        left = self._deadline.left(timeout, httpx2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Backend:
    """Makes connections that know the call's deadline."""

    def __init__(self, inner: Any, deadline: Deadline):
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(self, *args: Any, timeout: float | None = None, **more: Any) -> _Stream:
        left = self._deadline.left(timeout, httpx2.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(*args, timeout=left, **more), self._deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def bind(client: httpx2.Client, deadline: Deadline) -> None:
    """Let all connections of a client end at a deadline.

    The pool takes a backend only when it is made, and the client makes its pools itself, one for each
    proxy of the environment. So it is put in afterwards.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend, deadline)  # noqa: SLF001


def bound_reply(response: httpx2.Response) -> None:
    """Let a reply be unpacked piece by piece, and no further than it may; a hook of the client.

    Raises:
        DecodingError: it is packed in a way that was not asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise httpx2.DecodingError(
            f"the reply is packed as {encoding!r:.50}, which nobody asked for"
        )
    if "content-encoding" in response.headers:
        del response.headers["content-encoding"]
    streamed = response.request.headers.get(STREAM_HEADER) == "stream" and response.is_success
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Unpacked(
        response.stream, "gzip" in encoding, math.inf if streamed else MOST_REPLY_BYTES
    )


class _Unpacked(httpx2.SyncByteStream):
    def __init__(self, packed: httpx2.SyncByteStream, gzip: bool, most: float):
        self._packed = packed
        self._gzip = gzip
        self._most = most

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in _gunzipped(self._packed) if self._gzip else self._packed:
            size += len(piece)
            if size > self._most:
                raise httpx2.DecodingError(
                    f"the reply is larger than {self._most / 1e6:.0f} MB, and no results"
                )
            yield piece

    def close(self) -> None:
        self._packed.close()


def _gunzipped(packed: httpx2.SyncByteStream) -> Iterator[bytes]:
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    begun = False
    for raw in packed:
        begun = begun or bool(raw)
        while raw:
            if unpack.eof:  # one member may follow another
                unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                piece = unpack.decompress(raw, PIECE_BYTES)
            except zlib.error as error:
                raise httpx2.DecodingError(f"the reply cannot be unpacked ({error})") from None
            raw = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if piece:
                yield piece
            elif not raw:
                break
    if begun and not unpack.eof:
        raise httpx2.DecodingError("the packed reply ends too early")
