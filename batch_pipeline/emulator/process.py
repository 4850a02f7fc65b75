"""An emulator in a process of its own, for tests and demos."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from batch_pipeline.emulator.steering import EmulatorError, RunningEmulator

_START_SECONDS = 60.0
_POLL_SECONDS = 0.02
# Below the range from which systems pick ports of outgoing connections: a port that is free while
# the emulator is down stays free.
_PORTS = range(20_000, 32_000)


class EmulatorProcess(RunningEmulator):
    """Starts an emulator on 127.0.0.1 and steers it over its admin calls.

    It stops when the `with` block ends, and also when the process that made it dies.

    Args:
        state_dir: Directory that holds its batches.
        port: Port to listen on; 0 = a free one, which it keeps over restarts.
        **options: Fields of `Options`.

    Attributes:
        base_url: `http://127.0.0.1:PORT`; stays the same over restarts.
    """

    def __init__(self, state_dir: str | Path, port: int = 0, **options: Any) -> None:
        self.port = port or _free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.state_dir = Path(state_dir)
        self.options = options
        self._may_move = not port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> "EmulatorProcess":
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Its life

    def start(self) -> "EmulatorProcess":
        """Start it and wait until it answers.

        Raises:
            EmulatorError: It did not answer within a minute; the message has the end of its log.
        """
        while not self.running:
            problem = self._launch()
            if problem is None:
                break
            if self._may_move and "address already in use" in problem:
                self.port = _free_port()  # Another process took it since we looked.
                continue
            raise EmulatorError(f"The emulator did not start on port {self.port}:\n{problem}")
        self._may_move = False
        return self

    def _launch(self) -> str | None:
        """Start it; None once it answers, else the end of its log."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "batch_pipeline.emulator", str(self.state_dir)]
        command += ["--port", str(self.port), "--options", json.dumps(self.options)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _python_path()},
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_healthy():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                return self._log.read_text(errors="replace")[-2000:]
            time.sleep(_POLL_SECONDS)
        return None

    def stop(self) -> None:
        """Stop it as Ctrl-C would."""
        self._end("terminate")

    def kill(self) -> None:
        """Kill it (`kill -9`), wherever it is."""
        self._end("kill")

    def restart(self) -> None:
        """Start it again, with the same state, port and options."""
        self.stop()
        self.start()

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        getattr(process, how)()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def configure(self, **options: Any) -> None:
        """Change options while it runs; they stay over restarts."""
        super().configure(**options)
        self.options = {**self.options, **options}

    def reset(self, **options: Any) -> None:
        """Forget everything, as if it were new with these options."""
        super().reset(**options)
        self.options = options

    @property
    def _log(self) -> Path:
        return self.state_dir / "emulator.log"

    def _is_healthy(self) -> bool:
        try:
            health = self._call("GET", "health", timeout=2)
        except (EmulatorError, OSError):
            return False
        # Another process may hold the port.
        return self._process is not None and health["pid"] == self._process.pid


def _python_path() -> str:
    """The search path on which the child finds this package, installed or not."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def _free_port() -> int:
    ports = list(_PORTS)
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmulatorError(f"No free port between {_PORTS.start} and {_PORTS.stop}")
