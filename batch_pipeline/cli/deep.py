"""What `batch-pipeline doctor --deep` does: it has runs look from where runs happen."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from batch_pipeline.cli.checks import Check
from batch_pipeline.definitions.probe import HOST_TAG, op_name
from batch_pipeline.errors import plain

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Declared
    from batch_pipeline.store.store import Store

RUNS = 3
"""How many runs look at a store: of several workers, some more than one."""
WAIT_SECONDS = 180.0
LOOK_SECONDS = 1.0
LAUNCH_SECONDS = 120
PROBE_FILE = ".probe-"


@dataclass(frozen=True)
class Probe:
    """A run that looks.

    Attributes:
        pipeline: whose.
        run_id: the run's.
        trouble: why it could not be launched; "" when it was.
    """

    pipeline: str
    run_id: str
    trouble: str


def check_deep(root: Path, declared: Sequence["Declared"], store: "Store") -> Iterator[Check]:
    """Launch probe jobs, and yield what they found.

    Args:
        root: the project's folder.
        declared: the pipelines of one store; several runs look at the first ones' sources, too.
        store: the store as it is reached from here.
    """
    about = f"Store {store.files.root}"
    if not os.environ.get("DAGSTER_HOME"):
        yield Check(
            about, "deep", "failed", "DAGSTER_HOME is not set here, so no run can be launched",
            "set it to the folder that Dagster runs with",
        )  # fmt: skip
        return
    name = PROBE_FILE + uuid.uuid4().hex
    with store.files.scratch() as folder:
        Path(folder, "probe").write_bytes(b"doctor --deep looks for this\n")
        store.files.put(f"{folder}/probe", name)
    try:
        with ExitStack() as stack:
            instance = stack.enter_context(dg.DagsterInstance.get())
            launches = [
                _launch(root, declared[number % len(declared)], store.ledger.id, name)
                for number in range(RUNS)
            ]
            probes = [launch.end() for launch in launches]
            deadline = time.monotonic() + WAIT_SECONDS
            for probe in probes:
                yield _outcome(about, instance, probe, deadline)
    finally:
        store.files.remove(name)


@dataclass(frozen=True)
class Launch:
    """A run that is being launched.

    Attributes:
        pipeline: whose.
        run_id: the id that it gets.
        process: what launches it.
    """

    pipeline: str
    run_id: str
    process: "subprocess.Popen[str]"

    def end(self) -> Probe:
        """Wait until it is launched."""
        try:
            _, said = self.process.communicate(timeout=LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return Probe(self.pipeline, self.run_id, f"not launched after {LAUNCH_SECONDS} s")
        return Probe(
            self.pipeline, self.run_id, _last_line(said) if self.process.returncode else ""
        )


def _launch(root: Path, one: "Declared", ledger: str, file: str) -> Launch:
    """Launch the probe of a pipeline as `dagster job launch` does: where the instance has its runs."""
    pipeline, run_id = one.pipeline, str(uuid.uuid4())
    op = op_name(pipeline)
    command = [
        sys.executable, "-m", "dagster", "job", "launch", "--job", f"{pipeline.name}_probe", "--run-id", run_id,
        "--config-json", json.dumps({"ops": {op: {"config": {"ledger": ledger, "file": file}}}}),
        *(["--location", one.location] if one.location else []),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    return Launch(pipeline.name, run_id, process)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return plain(lines[-1]) if lines else "no reason is told"


def _outcome(about: str, instance: dg.DagsterInstance, probe: Probe, deadline: float) -> Check:
    """Wait for a probe's end, and say what it found."""
    name, job = f"from a run of {probe.pipeline}", f"{probe.pipeline}_probe"
    if probe.trouble:
        return Check(about, name, "failed", f"{job} cannot be launched: {probe.trouble}", "put that right; a night's runs would not start either")  # fmt: skip
    while True:
        run = instance.get_run_by_id(probe.run_id)
        if run is not None and run.is_finished:
            break
        if time.monotonic() > deadline:
            state = "unknown" if run is None else run.status.value.lower()
            return Check(
                about, name, "failed", f"{job} is {state} after {WAIT_SECONDS:.0f} s (run {probe.run_id})",
                "see that Dagster's daemon and a worker run, and have room",
            )  # fmt: skip
        time.sleep(LOOK_SECONDS)
    host = run.tags.get(HOST_TAG, "a machine without a name")
    if run.is_success:
        return Check(
            about, name, "ok",
            f"{host} reaches this store and ledger, the API, and source and destination of {probe.pipeline}",
        )  # fmt: skip
    return Check(
        about, name, "failed", _why(instance, probe.run_id), f"put that right on {host}; run {probe.run_id} has the whole error"
    )  # fmt: skip


def _why(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return what a failed run says."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.dagster_event.step_failure_data if entry.dagster_event else None
        if data is not None:
            told = data.user_failure_data.description if data.user_failure_data else None
            return plain(told or (data.error.message if data.error else ""))
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        if entry.dagster_event and entry.dagster_event.message:
            return plain(entry.dagster_event.message)
    return "it failed, and does not say why"
