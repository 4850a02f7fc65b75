"""A local server that answers like Anthropic's Message Batches API, for development and tests.

It asks no model: answers are made up from the prompt, the same way every time. It bills, caches,
expires, refuses and fails as the real API does, and everything that can go wrong can be ordered.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.emulator.steering import EmulatorError, RunningEmulator

__all__ = ["EmulatorError", "EmulatorProcess", "Options", "RunningEmulator", "serve"]


def serve(
    state_dir: str | Path,
    host: str = "127.0.0.1",
    port: int = 8787,
    faults: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> None:
    """Serve the emulator until interrupted; see `emulator.server.serve`."""
    # Imported late: whoever starts it as a process of its own needs no web server here.
    from batch_pipeline.emulator.server import serve

    serve(state_dir, host, port, faults, **options)
