"""The real SDK, strict about every reply, pointed at the emulator."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anthropic
import pytest

from batch_pipeline.emulator import EmulatorProcess


@pytest.fixture
def connect(claude_emulator: EmulatorProcess) -> Iterator[Callable[..., anthropic.Anthropic]]:
    """Makes a client of the emulator; it fails on any reply that is not shaped as documented."""
    with ExitStack() as clients:

        def connect(api_key: str = "test-key", **settings: Any) -> anthropic.Anthropic:
            client = anthropic.Anthropic(
                api_key=api_key,
                base_url=claude_emulator.base_url,
                max_retries=0,
                _strict_response_validation=True,
                **settings,
            )
            return clients.enter_context(client)

        yield connect


@pytest.fixture
def client(connect: Callable[..., anthropic.Anthropic]) -> anthropic.Anthropic:
    return connect()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another server: its address, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
