"""Running the emulator as an HTTP server on this machine."""

import ipaddress
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batch_pipeline.emulator.app import build_app
from batch_pipeline.emulator.calls import TRANSPORT, Server
from batch_pipeline.emulator.emulator import Emulator
from batch_pipeline.emulator.options import Options

_logger = logging.getLogger(__name__)


def serve(
    state_dir: str | Path,
    host: str = "127.0.0.1",
    port: int = 8787,
    faults: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> None:
    """Serve a local Message Batches API until interrupted. It is no server for production.

    Args:
        state_dir: Directory that holds the batches; a later run with it goes on where this ended.
        host: Address to listen on; only addresses of this machine itself are taken.
        port: Port to listen on.
        faults: Faults that lie in wait from the start, each as `faults.fault_of` reads it.
        **options: Fields of `Options`: `batch_seconds`, `manual`, `answers`, `rates`, `seed`, ...

    Raises:
        ValueError: The host is not this machine alone, or an option or a fault is not usable.
    """
    check_host(host)
    server = Server(Emulator(Path(state_dir), Options().changed(**options)))
    for fault in faults:
        server.faults.add(fault)
    _logger.warning(
        "Emulated Message Batches API on http://%s:%d, state in %s. It asks no model and keeps "
        "no secret: not a server for production.",
        *(host, port, state_dir),
    )
    config = uvicorn.Config(
        build_app(server),
        host=host,
        port=port,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()


def check_host(host: str) -> None:
    """Raise ValueError unless a host is a loopback address."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            f"The emulator listens on this machine only (127.0.0.1, ::1, localhost), not on "
            f"{host!r}: it accepts any API key and is no server for production."
        )


class _Protocol(HttpToolsProtocol):
    """Hands each call its connection, so that a fault can close it without a reply."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}
