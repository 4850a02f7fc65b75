"""The demo's emulator: one address, the same every time, shared by `make demo` and `make dev`."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batch_pipeline.demo.places import PORT_VARIABLE, Places, emulator_port
from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.errors import InputError

SEED = 4
RATES = {
    "errored": 0.01,
    "expired": 0.005,
}  # what a real night may bring: it is asked again by itself


@contextmanager
def demo_emulator(batch_seconds: float, **options: Any) -> Iterator[EmulatorProcess]:
    """Give the demo's emulator: the one that runs already, or one that stops with the block.

    Args:
        batch_seconds: how long a batch takes, if it is started here.
        **options: further options of the emulator, if it is started here.

    Raises:
        InputError: another program listens on its port.
    """
    port = emulator_port()
    options = {"batch_seconds": batch_seconds, "rates": RATES, "seed": SEED, **options}
    emulator = EmulatorProcess(Places()["emulator"], port=port, **options)
    if is_emulator(port):
        yield emulator
        return
    if is_taken(port):
        raise InputError(
            f"Port {port} is taken by another program. End it, or give the demo another port: "
            f"{PORT_VARIABLE}={port + 1} (answers belong to the address that gave them: there the "
            "demo starts anew)."
        )
    with emulator:
        yield emulator


def is_emulator(port: int) -> bool:
    """Return whether an emulator answers on a port of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/_emulator/health", timeout=5) as reply:
            return json.loads(reply.read())["status"] == "ok"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_taken(port: int) -> bool:
    """Return whether anything listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
