"""A process killed between any two steps: the next run ends the night, and everything is paid once."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.clock import HandClock
from batch_pipeline_tests.crash import nights as crash_nights
from batch_pipeline_tests.night import Nights

SUBMIT = [
    "records written",
    "records committed",
    "requests written",
    "requests committed",
    "sending",
    "reply",
    "id stored",
]
COLLECT = [
    "mid-download",
    "downloaded",
    "answers kept",
    "rows written",
    "collected",
    "before publishing",
    "published",
]


def killed(root: Path, warehouse: Path, emulator: EmulatorProcess, job: str, step: str) -> None:
    """Run a job in a process that dies at a step."""
    command = [
        sys.executable,
        "-m",
        "batch_pipeline_tests.crash",
        str(root),
        str(warehouse),
        emulator.base_url,
        job,
        step,
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, env=os.environ, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


def finish(run: Nights, clock: HandClock) -> None:
    """What happens after a crash: the next night's run, and the sensor, as time goes by."""
    run.submit()
    for _ in range(3):
        for _ in range(30):
            if run.tick_and_run() == 0:
                break
        clock.advance(700)  # longer than a lease, and than the list may lag
    run.until_quiet()


def assert_paid_once(run: Nights, emulator: EmulatorProcess) -> None:
    rows = run.rows()
    assert len(rows) == 300 and {row["_status"] for row in rows.values()} == {"answered"}
    billed = Counter(line["custom_id"] for line in emulator.billed_requests())
    assert len(billed) == 300 and set(billed.values()) == {1}
    assert {row["_custom_id"] for row in rows.values()} == set(billed)


@pytest.mark.parametrize("step", SUBMIT)
def test_a_submit_run_killed_at_a_step_is_finished_by_the_next(
    step: str, tmp_path: Path, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    killed(tmp_path / "store", warehouse, claude_emulator, "submit", step)
    run = crash_nights(str(tmp_path / "store"), str(warehouse), claude_emulator.base_url)
    finish(run, clock)
    assert_paid_once(run, claude_emulator)


@pytest.mark.parametrize("step", COLLECT)
def test_a_collect_run_killed_at_a_step_is_finished_by_the_next(
    step: str, tmp_path: Path, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    run = crash_nights(str(tmp_path / "store"), str(warehouse), claude_emulator.base_url)
    run.submit()
    killed(tmp_path / "store", warehouse, claude_emulator, "collect", step)
    clock.advance(3700)  # the leases that the killed process held run out
    finish(run, clock)
    assert_paid_once(run, claude_emulator)


def test_submit_runs_at_the_same_time_ask_each_record_once(
    tmp_path: Path, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    root = str(tmp_path / "store")
    command = [sys.executable, "-m", "batch_pipeline_tests.crash", root, str(warehouse)]
    command += [claude_emulator.base_url, "submit", "never"]
    here = Path(__file__).parents[2]
    runs = [subprocess.Popen(command, cwd=here, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    run = crash_nights(root, str(warehouse), claude_emulator.base_url)
    run.until_quiet()
    assert_paid_once(run, claude_emulator)


def test_lost_replies_of_a_whole_night_are_paid_once(
    tmp_path: Path, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_after", nth=4)
    run = crash_nights(str(tmp_path / "store"), str(warehouse), claude_emulator.base_url)
    finish(run, clock)
    assert_paid_once(run, claude_emulator)
