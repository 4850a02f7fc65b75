"""What Dagster's instance says of the processes and sensors that a pipeline lives by.

``get_daemon_statuses``, ``all_instigator_state`` and ``get_ticks`` are methods of the public
``DagsterInstance`` that Dagster does not document; there is no other way to ask. They are used here
and nowhere else.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from batch_pipeline.cli.checks import Check
from batch_pipeline.errors import plain
from batch_pipeline.pipeline import BatchPipeline

ABOUT = "Dagster"
SENSOR_DAEMON, SCHEDULE_DAEMON = "SENSOR", "SCHEDULER"
START = "start it: `dagster dev`, or `dagster-daemon run` beside the webserver"
ON, OFF = "on", "off"
AUTOMATION = "default_automation_condition_sensor"  # Dagster's own, which is off at first


def check_dagster(pipelines: Sequence[BatchPipeline]) -> Iterator[Check]:
    """Yield whether the daemon lives, and which sensors and schedules are on."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        yield Check(
            ABOUT, "home", "warning",
            "DAGSTER_HOME is not set here, so nobody can tell whether the daemon runs, and which sensors are on",
            "set it to the folder that Dagster runs with (also for `dagster dev`, which else forgets its history)",
        )  # fmt: skip
        return
    with ExitStack() as stack:
        try:
            instance = stack.enter_context(dg.DagsterInstance.get())
        except Exception as error:
            yield Check(
                ABOUT, "home", "failed", f"DAGSTER_HOME is {home}: {plain(str(error))}",
                "set DAGSTER_HOME to the folder that Dagster runs with, as an absolute path",
            )  # fmt: skip
            return
        yield Check(ABOUT, "home", "ok", home)
        yield from _daemon(instance, any(one.nightly for one in pipelines))
        states = instance.all_instigator_state()
        for pipeline in pipelines:
            yield from _of_pipeline(instance, states, pipeline)
            yield from _automation(states, pipeline)
            yield from _upstream(instance, pipeline)


def _daemon(instance: dg.DagsterInstance, has_schedule: bool) -> Iterator[Check]:
    wanted = {SENSOR_DAEMON: "sensor daemon"}
    if has_schedule:
        wanted[SCHEDULE_DAEMON] = "schedule daemon"
    for kind, status in instance.get_daemon_statuses().items():
        if kind not in wanted or not status.required:
            continue
        beat = status.last_heartbeat
        if beat is None:
            yield Check(ABOUT, wanted[kind], "failed", "it never ran with this DAGSTER_HOME", START)
            continue
        seconds = datetime.now(UTC).timestamp() - beat.timestamp
        seen = f"last sign of life {_ago(seconds)}"
        if status.healthy:
            yield Check(ABOUT, wanted[kind], "ok", f"runs; {seen}")
        elif beat.errors:
            error = plain(beat.errors[0].message)
            yield Check(ABOUT, wanted[kind], "failed", f"has an error: {error}", "look at its log")
        else:
            yield Check(ABOUT, wanted[kind], "failed", f"does not run; {seen}", START)


def _of_pipeline(
    instance: dg.DagsterInstance, states: Sequence[Any], pipeline: BatchPipeline
) -> Iterator[Check]:
    name = f"{pipeline.name}_status"
    default = pipeline.status_sensor == dg.DefaultSensorStatus.RUNNING
    state, is_on, how = _switch(states, name, default)
    if is_on:
        yield _ticked(instance, state, name, how)
    else:
        yield Check(
            ABOUT, name, "failed", how,
            "switch this sensor on in the UI (Automation): nothing is collected or sent again without it",
        )  # fmt: skip
    if nightly := pipeline.nightly:
        name = f"{pipeline.name}_nightly"
        default = nightly.status == dg.DefaultScheduleStatus.RUNNING
        state, is_on, how = _switch(states, name, default)
        when = f"{nightly.cron} ({nightly.timezone})"
        if is_on:
            yield _ticked(instance, state, name, f"{how}, {when}")
        else:
            yield Check(
                ABOUT, name, "warning", f"{how}, {when}",
                f"switch this schedule on in the UI (Automation), or launch {pipeline.name}_submit by hand",
            )  # fmt: skip
    if (arrivals := pipeline.arrivals_in_force) is not None:
        name = f"{pipeline.name}_arrivals"
        default = arrivals.status == dg.DefaultSensorStatus.RUNNING
        state, is_on, how = _switch(states, name, default)
        if is_on:
            yield _ticked(instance, state, name, how)
        else:
            yield Check(
                ABOUT, name, "warning", how, "switch this sensor on in the UI (Automation) to have new records asked"
            )  # fmt: skip


def _upstream(instance: dg.DagsterInstance, pipeline: BatchPipeline) -> Iterator[Check]:
    """Yield the upstream assets that have not run yet: what they make may not be there."""
    for key in pipeline.upstream_keys:
        if instance.get_latest_materialization_event(key) is not None:
            continue
        if instance.fetch_observations(key, limit=1).records:
            continue
        name = key.to_user_string()
        yield Check(
            ABOUT, f"upstream {name}", "warning",
            f"it has not run yet with this DAGSTER_HOME, and {pipeline.name} reads what it makes",
            f"materialize {name} first, if its data is not there yet",
        )  # fmt: skip


def _automation(states: Sequence[Any], pipeline: BatchPipeline) -> Iterator[Check]:
    """Yield that Dagster's automation sensor is off, where a pipeline's assets wait for it."""
    from batch_pipeline.definitions.assets.define import build_assets

    stages = build_assets(pipeline)
    if not any(spec.automation_condition for stage in stages for spec in stage.specs):
        return
    _state, is_on, how = _switch(states, AUTOMATION, False)
    if not is_on:
        yield Check(
            ABOUT, AUTOMATION, "warning",
            f"{how}, and assets of {pipeline.name} have an automation condition",
            "switch this sensor on in the UI (Automation), unless a sensor of your own looks at these assets",
        )  # fmt: skip


def _switch(states: Sequence[Any], name: str, default: bool) -> tuple[Any, bool, str]:
    """Return what the instance knows of a sensor or schedule, whether it is on, and who says so."""
    found = [state for state in states if state.name == name]
    # Of a code location that was renamed, the old state stays behind.
    state = next((one for one in found if one.is_running), found[0] if found else None)
    if state is None or state.status.value == "DECLARED_IN_CODE":
        return state, default, f"{ON if default else OFF}, as in the code"
    return state, state.is_running, ON if state.is_running else f"{OFF}, switched in the UI"


def _ticked(instance: dg.DagsterInstance, state: Any, name: str, how: str) -> Check:
    """Return when a sensor or schedule that is on last ticked, and how that went."""
    ticks = (
        instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1) if state else []
    )
    if not ticks:
        return Check(ABOUT, name, "ok", f"{how}; it did not tick yet")
    tick = ticks[0]
    ago = _ago(datetime.now(UTC).timestamp() - tick.timestamp)
    if tick.error is not None:
        error = plain(tick.error.message)
        return Check(
            ABOUT, name, "warning", f"{how}; its last tick, {ago}, failed: {error}", "look at its ticks in the UI"
        )  # fmt: skip
    return Check(ABOUT, name, "ok", f"{how}; last tick {ago}")


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
