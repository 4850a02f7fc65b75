"""Watching and steering an emulator that runs, over its admin calls."""

import http.client
import json
import os
import threading
from typing import Any, overload
from urllib.parse import urlsplit

_HEADERS = {"content-type": "application/json"}


class EmulatorError(Exception):
    """The emulator did not start, or did not do what it was asked."""


class RunningEmulator:
    """An emulator that somebody started: from the shell, or in another process.

    Every method raises `EmulatorError` when the emulator refuses what it is asked, and `OSError`
    when it does not answer.

    Args:
        base_url: Where it is, such as `http://127.0.0.1:8787`.

    Raises:
        ValueError: `base_url` does not look like that.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(
                f"an emulator's address is like http://127.0.0.1:8787, not {base_url!r}"
            )
        self._base_url = base_url.rstrip("/")
        self._kept = _Kept()

    @property
    def base_url(self) -> str:
        """Where it is; what clients of the API take as their `base_url`."""
        return self._base_url

    # Steering it

    def advance(self, seconds: float) -> None:
        """Move its clock forward."""
        self._call("POST", "clock", {"advance_seconds": seconds})

    def set_clock(self, moment: float | str) -> None:
        """Set its clock to a moment: seconds since 1970 or RFC 3339."""
        self._call("POST", "clock", {"set": moment})

    def freeze_clock(self, frozen: bool = True) -> None:
        """Let its clock stand still, or run on."""
        self._call("POST", "clock", {"freeze": frozen})

    def now(self) -> float:
        """Its time, in seconds since 1970."""
        return self._call("GET", "clock")["epoch_seconds"]

    def configure(self, **options: Any) -> None:
        """Change options while it runs; see `Options`."""
        self._call("POST", "options", options)

    def end(self, batch_id: str | None = None, finished_share: float = 1.0) -> int:
        """End a batch, or all that are open; how many ended."""
        asked = {"batch_id": batch_id, "finished_share": finished_share}
        return self._call("POST", "end", asked)["ended"]

    @overload
    def fault(self, kind: str, /, **settings: Any) -> None: ...

    @overload
    def fault(self, on: str, kind: str, **settings: Any) -> None: ...

    def fault(self, *names: str, **settings: Any) -> None:
        """Lay a fault: `fault("create", "drop_after", nth=2)`, `fault("queue_full")`.

        It lies until it has hit as often as it should, or until it is cleared; a reset or a restart
        forgets it.

        Args:
            *names: The call that it waits for, and its kind; or the kind alone, which then waits
                for the call that it is usually about. `batch-pipeline emulator --list-faults` shows
                all kinds.
            **settings: `nth`, `times` (None: all), `batch_id`, `key`, and settings of the kind.

        Raises:
            EmulatorError: There is no such call, kind or setting.
        """
        named = dict(zip(("kind",) if len(names) == 1 else ("on", "kind"), names, strict=False))
        self._call("POST", "faults", {**named, **settings})

    def faults(self) -> list[dict[str, Any]]:
        """The faults that were laid, each with how many calls it has hit."""
        return self._call("GET", "faults")

    def clear_faults(self, kind: str | None = None) -> None:
        """Take away all faults, or those of one kind."""
        self._call("DELETE", "faults" if kind is None else f"faults?kind={kind}")

    def reset(self, **options: Any) -> None:
        """Forget everything, as if it were new with these options."""
        self._call("POST", "reset", options)

    # Asking it

    def bill(self) -> dict[str, Any]:
        """What was charged: `requests`, `batches`, `usd`, ..."""
        return self._call("GET", "bill")

    def billed_requests(self) -> list[dict[str, Any]]:
        """One row per request of an ended batch, with its tokens and dollars."""
        return self._lines("bill/requests")

    def stats(self) -> dict[str, Any]:
        """`calls` and `outcomes` by route, `max_queued`, `queued`, `batches`."""
        return self._call("GET", "stats")

    def batches(self) -> list[dict[str, Any]]:
        """Every batch it ever took, oldest first."""
        return self._call("GET", "batches")

    def requests(self, batch_id: str) -> list[dict[str, Any]]:
        """The requests of a batch, as they were sent."""
        return self._lines(f"batches/{batch_id}/requests")

    def _lines(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._send("GET", path).splitlines()]

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 300
    ) -> Any:
        return json.loads(self._send(method, path, body, timeout))

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 300
    ) -> bytes:
        connection = self._kept.connection(self.base_url, timeout)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/_emulator/{path}", data, _HEADERS)
            reply = connection.getresponse()
            text = reply.read()
        except http.client.HTTPException as error:
            self._kept.close()
            if isinstance(error, OSError):
                raise
            raise EmulatorError(f"{method} {path}: no reply of an emulator: {error!r}") from error
        except BaseException:
            self._kept.close()
            raise
        if reply.status >= 400:
            raise EmulatorError(f"{method} {path}: {reply.status} {_message(text)}")
        return text


def _message(text: bytes) -> str:
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")


class _Kept(threading.local):
    """The connection of one thread to one emulator, kept open: half of a call is opening one."""

    _connection: http.client.HTTPConnection | None = None
    _base_url = ""
    _process = 0

    def connection(self, base_url: str, timeout: float) -> http.client.HTTPConnection:
        """One that works, as far as can be told without using it."""
        kept = self._connection
        # A child that was forked must not talk on its parent's connection.
        mine = (self._base_url, self._process) == (base_url, os.getpid())
        if kept is not None and mine and _is_quiet(kept):
            kept.timeout = timeout
            kept.sock.settimeout(timeout)
            return kept
        if mine:
            self.close()
        parts = urlsplit(base_url)
        # Not through a proxy of the environment: the emulator is on this machine.
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout)
        self._base_url, self._process = base_url, os.getpid()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether a connection is open and nothing has come on it: not even its end."""
    if connection.sock is None:
        return False
    connection.sock.settimeout(0)
    try:
        connection.sock.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
