"""`batch-pipeline dev`: the emulator and `dagster dev`, started and stopped together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from batch_pipeline.demo.home import QUIET, prepare_home
from batch_pipeline.demo.incoming import write_invoices
from batch_pipeline.demo.packages import write_packages
from batch_pipeline.demo.places import Places
from batch_pipeline.demo.server import demo_emulator, is_taken
from batch_pipeline.errors import InputError
from batch_pipeline.settings import project_root

STOP_SECONDS = 30


def serve_dev(port: int, batch_seconds: float) -> int:
    """Serve the demo until interrupted; return the exit code of `dagster dev`.

    Raises:
        InputError: one of the ports is taken.
    """
    if is_taken(port):
        raise InputError(
            f"Port {port} is taken. Choose another one for Dagster's UI: PORT={port + 1}."
        )
    # Told to stop, this process must still stop the others. SIGINT too: what a script starts in the
    # background ignores it, and so would all that is started from here.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    places = Places()
    home = prepare_home(places["dagster_home"])
    write_invoices(places["warehouse"])
    write_packages(places["packages"])
    workspace = Path(project_root(), "workspace.yaml")
    target = (
        ["-w", str(workspace)] if workspace.exists() else ["-m", "batch_pipeline.demo.definitions"]
    )
    command = [sys.executable, "-m", "dagster", "dev", *target, "-p", str(port)]
    with demo_emulator(batch_seconds) as emulator:
        where = f"{emulator.base_url} (no server for production)"
        print(f"Emulated API: {where}    Dagster: http://127.0.0.1:{port}", flush=True)  # noqa: T201
        # In a session of its own, so that it and all its children are stopped by one signal, once.
        process = subprocess.Popen(
            command, env={**os.environ, **QUIET, "DAGSTER_HOME": str(home)}, start_new_session=True
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(process)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process group, and wait until its leader is gone."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(STOP_SECONDS)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
