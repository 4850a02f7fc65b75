"""A Dagster run that ends between any two steps: the next run ends the night, and everything is paid once.

``test_crash_matrix`` has every step, without Dagster; these show that its runs are no different.
"""

import signal
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.crash_steps import Kind, dagster_job
from batch_pipeline_tests.support.crash_steps import nights as crash_nights
from batch_pipeline_tests.support.dagster_nights import Nights

ENDINGS: list[tuple[str, str, Kind]] = [
    ("submit", "selected", "killed"),
    ("submit", "built", "terminated"),
    ("submit", "claimed", "killed"),
    ("submit", "accepted, reply unread", "terminated"),
    ("submit", "reply read", "killed"),
    ("submit", "id stored", "exception"),
    ("collect", "downloading", "terminated"),
    ("collect", "answers kept", "killed"),
    ("collect", "collected", "exception"),
    ("collect", "merging into the table", "terminated"),
    ("collect", "merged", "killed"),
]


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
    # Three packages ask what others ask.
    asked = {row["_custom_id"] for row in rows.values() if row["_duplicate_of"] is None}
    assert len(asked) == 297 and billed == dict.fromkeys(asked, 1)
    calls = emulator.stats()["calls"]
    assert not [route for route in calls if "cancel" in route], "a run that ends cancels nothing"


@pytest.mark.parametrize(("job", "step", "kind"), ENDINGS)
def test_a_run_that_ends_at_a_step_is_finished_by_the_next(
    job: str,
    step: str,
    kind: Kind,
    tmp_path: Path,
    warehouse: Path,
    claude_emulator: EmulatorProcess,
    clock: HandClock,
) -> None:
    where = (str(tmp_path / "store"), str(warehouse), claude_emulator.base_url)
    run = crash_nights(*where)
    if job == "collect":
        run.submit()
    reached = tmp_path / "reached"
    child = processes.start(tmp_path, dagster_job, *where, job, step, kind, str(reached))
    code = child.join()
    assert reached.exists(), child.error
    assert code == (-signal.SIGKILL if kind == "killed" else 1), child.error
    clock.advance(3700)  # the leases that the process held run out
    finish(run, clock)
    assert_paid_once(run, claude_emulator)


def test_submit_runs_at_the_same_time_ask_each_record_once(
    tmp_path: Path, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    where = (str(tmp_path / "store"), str(warehouse), claude_emulator.base_url)
    processes.together(tmp_path, dagster_job, *[(*where, "submit", "", "killed", "")] * 3)
    run = crash_nights(*where)
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
