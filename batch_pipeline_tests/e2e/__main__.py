"""`make e2e`: nights in a running Dagster, with no hand but the first; then a look at the pages."""

import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from batch_pipeline.demo.home import QUIET, prepare_home
from batch_pipeline.demo.packages import write_packages
from batch_pipeline.demo.places import CRON_VARIABLE, PORT_VARIABLE
from batch_pipeline.demo.server import RATES, SEED
from batch_pipeline.emulator.process import EmulatorProcess, _free_port
from batch_pipeline_tests.e2e import tickets
from batch_pipeline_tests.e2e.chromium import browser, ensure_chromium
from batch_pipeline_tests.e2e.dagster_dev import TICKETS, DagsterDev, E2EFailed, until
from batch_pipeline_tests.e2e.nights import Nights, clock, seconds_later
from batch_pipeline_tests.e2e.pages import look_at_pages

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".e2e"
BATCH_SECONDS = 2.0
ASKED_DAYS = tickets.DAYS[:2]
FIRST_INVOICES, MORE_INVOICES = 120, 40
DROPPED, DROPPED_PACKAGES = "late", 25


def say(text: str) -> None:
    """Print a line of the account."""
    print(text, flush=True)


def make_project() -> Path:
    """Make an empty project: the demo's workspace file, one for the tickets, and the records."""
    shutil.rmtree(PLACE, ignore_errors=True)
    project = PLACE / "project"
    project.mkdir(parents=True)
    shutil.copy(ROOT / "workspace.yaml", project / "workspace.yaml")
    (project / "tickets.yaml").write_text(f"load_from:\n  - python_module: {TICKETS}\n")
    os.chdir(project)  # the demo's places, and relative paths, start there
    write_packages(str(project / ".demo/packages"))
    tickets.write_tickets()
    return project


def by_hand(dagster: DagsterDev, nights: Nights) -> None:
    """(1) Launch the submit job as the UI does, and keep the hands off."""
    nights.bring_invoices(FIRST_INVOICES)
    began = time.time()
    dagster.launch("invoices_submit")
    for day in ASKED_DAYS:
        dagster.launch("tickets_submit", TICKETS, [{"key": "dagster/partition", "value": day}])
    over = nights.until_invoices_answered(began)
    say(
        f"(1) invoices_submit launched over GraphQL at {clock(began)}; invoices/results "
        f"materialized {seconds_later(over['results'], began)} later, invoices/approvals "
        f"{seconds_later(over['approvals'], began)} later; each of {nights.invoices} is answered"
    )


def with_code_server_killed(dagster: DagsterDev, nights: Nights) -> None:
    """(4a) Kill the code server while a batch is open."""
    nights.bring_invoices(MORE_INVOICES)
    nights.emulator.configure(manual=True)
    began = time.time()
    dagster.launch("invoices_submit")
    batch = nights.until_sent(began)
    killed = time.time()
    nights.kills.append(killed)
    dagster.kill_code_server()
    until("Dagster to notice", lambda: bool(dagster.broken_locations()), 60)
    dagster.reload()
    loaded = time.time()
    nights.emulator.configure(manual=False)
    nights.emulator.end()
    over = nights.until_invoices_answered(began)
    say(
        f"(4a) the code server was killed (kill -9) at {clock(killed)} while {batch} was open; "
        f"Reload definitions brought it back after {seconds_later(loaded, killed)}; invoices/results materialized "
        f"{seconds_later(over['results'], killed)} later, invoices/approvals "
        f"{seconds_later(over['approvals'], killed)} later"
    )


def drop_file(nights: Nights) -> float:
    """(3) Drop a Parquet file into the folder that the packages come from; return when."""
    nights.drop_packages(DROPPED, DROPPED_PACKAGES)
    return time.time()


def by_file(dagster: DagsterDev, nights: Nights, dropped: float) -> None:
    """(3) Wait until the dropped packages are answered."""
    over = nights.until_answered(
        "packages", "accuracy",
        lambda: nights.package_rows(f"-{DROPPED}") == DROPPED_PACKAGES, dropped,
    )  # fmt: skip
    runs = {
        run["id"]: run["tags"]["dagster/sensor_name"] for run in dagster.runs()
        if run["tags"].get("dagster/sensor_name") == "packages_arrivals"
    }  # fmt: skip
    asked = [
        one["at"] for one in dagster.materializations("packages", "records")
        if one["runId"] in runs and one["numbers"].get("selected", 0) >= DROPPED_PACKAGES
        and one["at"] > dropped
    ]  # fmt: skip
    if not asked:
        raise E2EFailed(f"no run of packages_arrivals asked for {DROPPED}.parquet")
    say(
        f"(3) {DROPPED}.parquet with {DROPPED_PACKAGES} packages dropped into the folder at "
        f"{clock(dropped)}; packages_arrivals had them asked {seconds_later(min(asked), dropped)} "
        f"later; packages/results materialized {seconds_later(over['results'], dropped)} later, "
        f"packages/accuracy {seconds_later(over['accuracy'], dropped)} later"
    )


def with_daemon_killed(dagster: DagsterDev, nights: Nights) -> None:
    """(4b) Kill the daemon while a batch is open; restart `dagster dev`, which ends with it."""
    nights.bring_invoices(MORE_INVOICES)
    nights.emulator.configure(manual=True)
    began = time.time()
    dagster.launch("invoices_submit")
    batch = nights.until_sent(began)
    killed = time.time()
    nights.kills.append(killed)
    dagster.kill_daemon()
    ended = dagster.wait_for_end()
    nights.emulator.configure(manual=False)
    nights.emulator.end()
    # From now on the nightly schedule is due every minute: the next step waits for it.
    dagster.environment[CRON_VARIABLE] = "* * * * *"
    ready = dagster.start()
    over = nights.until_invoices_answered(began)
    say(
        f"(4b) the daemon was killed (kill -9) at {clock(killed)} while {batch} was open; "
        f"`dagster dev` ended with it {ended:.0f} s later, was started again as a supervisor "
        f"would, and was ready after {ready:.0f} s; invoices/results materialized "
        f"{seconds_later(over['results'], killed)} after the kill, invoices/approvals "
        f"{seconds_later(over['approvals'], killed)} after it"
    )


def by_cron(dagster: DagsterDev, nights: Nights) -> None:
    """(2) Bring invoices in, and let the nightly schedule find them."""
    nights.bring_invoices(MORE_INVOICES)
    brought = time.time()
    over = nights.until_invoices_answered(brought)
    asked = [
        one for one in dagster.materializations("invoices", "records")
        if one["at"] > brought and one["numbers"].get("selected") == MORE_INVOICES
    ]  # fmt: skip
    runs = {run["id"]: run for run in dagster.runs()}
    found = [
        (one, runs[one["runId"]]) for one in asked
        if runs[one["runId"]]["tags"].get("dagster/schedule_name") == "invoices_nightly"
    ]  # fmt: skip
    if not found:
        raise E2EFailed(f"no run of invoices_nightly asked for the {MORE_INVOICES} new invoices")
    fired = until("the schedule's tick", lambda: _tick_of(dagster, found[0][1]["id"]), 10)
    dagster.stop_schedule("invoices_nightly")
    say(
        f"(2) the cron fired by itself at {clock(fired)} and asked for the {MORE_INVOICES} invoices "
        f"that had come in; invoices/results materialized "
        f"{seconds_later(over['results'], fired)} later, invoices/approvals "
        f"{seconds_later(over['approvals'], fired)} later"
    )


def _tick_of(dagster: DagsterDev, run: str) -> float | None:
    return next(
        (one["timestamp"] for one in dagster.ticks("invoices_nightly") if run in one["runIds"]),
        None,
    )


def check_column_lineage(dagster: DagsterDev) -> None:
    """(5) An answer comes from the columns that the prompt reads, a source column from itself."""
    found = dagster.column_lineage("invoices", "results")
    expected = {
        "department": {"invoices/records/supplier", "invoices/records/description"},
        "invoice_id": {"invoices/records/invoice_id"},
    }
    if wrong := [name for name, columns in expected.items() if found.get(name) != columns]:
        raise E2EFailed(
            f"column lineage of invoices/results: {[(one, found.get(one)) for one in wrong]}"
        )
    say(
        "(5) column lineage, over GraphQL: department comes from supplier and description of "
        "invoices/records, invoice_id from invoice_id"
    )


def main() -> int:
    """Play it all; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            if said := ensure_chromium():
                say(said)
            project = make_project()
            emulator = stack.enter_context(
                EmulatorProcess(
                    project / ".demo/emulator", batch_seconds=BATCH_SECONDS, rates=RATES, seed=SEED
                )
            )
            home = prepare_home(str(project / ".demo/dagster_home"))
            dagster = DagsterDev(
                project,
                _free_port(),
                {**QUIET, "DAGSTER_HOME": str(home), PORT_VARIABLE: str(emulator.port)},
            )
            stack.callback(dagster.stop)
            say(f"dagster dev is ready after {dagster.start():.0f} s, at {dagster.url}")
            nights = Nights(dagster, emulator, project)
            by_hand(dagster, nights)
            with_code_server_killed(dagster, nights)
            with_daemon_killed(dagster, nights)
            by_cron(dagster, nights)
            dropped = drop_file(nights)
            with browser(PLACE / "profile") as driver:
                for line in look_at_pages(driver, dagster.url, PLACE):
                    say(f"(5) {line}")
            check_column_lineage(dagster)
            by_file(dagster, nights, dropped)
            nights.check_runs()
            say(f"bill: {nights.compare_bills()}")
        except E2EFailed as error:
            say(f"FAILED after {time.monotonic() - began:.0f} s: {error}")
            say(f"What is left to look at: {PLACE}")
            return 1
    say(f"All of it took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
