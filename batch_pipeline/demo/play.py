"""`batch-pipeline demo`: one night of two pipelines, and what came out of it."""

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import dagster as dg

from batch_pipeline.demo.bill import Tally, bill, last_number, tally
from batch_pipeline.demo.definitions import demo_definitions
from batch_pipeline.demo.home import instance_at, prepare_home
from batch_pipeline.demo.live import asked_url, check_live, submit_live
from batch_pipeline.demo.night import Night, NightFailed, Said
from batch_pipeline.demo.outcome import show_bill, show_invoices, show_packages
from batch_pipeline.demo.places import FOLDER, Places, emulator_port
from batch_pipeline.demo.screen import Screen
from batch_pipeline.demo.server import demo_emulator, is_emulator
from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.store.store import Store, open_store

PIPELINES = ("invoices", "packages")
INCOMING = {name: dg.AssetKey([name, "incoming"]) for name in PIPELINES}
DOWNSTREAM = {"invoices": "approvals", "packages": "accuracy"}
BATCH_SECONDS = 4.0
EMULATED_NIGHT_SECONDS = 240.0
PAUSE_SECONDS = 0.5
LIVE_PAUSE_SECONDS = 5.0


def play(
    *, live: bool = False, yes: bool = False, reset: bool = False, screen: Screen | None = None
) -> None:
    """Play a night: records, requests, batches, results, and the assets downstream.

    Then show what came out. A night that was cut short goes on where it was.

    Args:
        live: ask the real API, for money, a small part of the records.
        yes: do not ask whether to spend it.
        reset: forget what earlier emulated nights made.
        screen: where to show it.

    Raises:
        NightFailed: a run failed, or files are held.
        InputError: there is no key, or the emulator's port is taken.
    """
    started = time.monotonic()
    screen = screen or Screen()
    places = Places(live)
    if live:
        check_live(reset=reset)
    elif reset:
        forget()
    home = prepare_home(places["dagster_home"])
    with ExitStack() as stack:
        emulator = None if live else stack.enter_context(demo_emulator(BATCH_SECONDS))
        instance = stack.enter_context(instance_at(home))
        night = Night(demo_definitions(live), instance, screen.stage, places["log"])
        store = open_store(places["store"])
        before = {name: last_number(store, name) for name in PIPELINES}
        sent_before = {name: bill(store, name).requests for name in PIPELINES}
        _introduce(screen, emulator)
        if emulator is None or emulator.running:  # started here: nobody else is at work
            night.bury_dead_runs()
        for name in PIPELINES:
            if tally(store, name, before[name]).open_files:
                night.collect(name)  # a night was cut short: no need to wait for its sensor
        for name, incoming in INCOMING.items():
            if instance.get_latest_materialization_event(incoming) is None:
                night.materialize(name, [incoming])
                _check(night, places)
        if live:
            submit_live(night, store, screen, yes=yes)
        else:
            for name in PIPELINES:
                night.submit(name)
        _check(night, places)
        _until_quiet(night, store, screen, before, live=live)
        _run_downstream(night, screen)
        show_invoices(screen, places)
        show_packages(screen, places)
        show_bill(screen, store, emulator, sent_before)
        _check(night, places)
    screen.say("")
    if live:
        screen.say(f"It is kept in {places.folder}. Run it again: what is answered is not asked.")
    else:
        screen.say(
            f"That took {time.monotonic() - started:.0f} s. Run it again: it sends nothing. "
            "`make dev` shows these nights in Dagster's UI."
        )


def forget() -> None:
    """Delete what emulated nights made; what was paid for at the real API stays.

    Raises:
        InputError: `make dev` uses it at this moment.
    """
    if is_emulator(emulator_port()):
        raise InputError("--reset deletes what `make dev` works with. Stop that first.")
    folder = Path(Places()["folder"])
    kept = Path(Places(live=True)["folder"])
    for path in folder.iterdir() if folder.exists() else ():
        if path != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _introduce(screen: Screen, emulator: EmulatorProcess | None) -> None:
    screen.head("records ─▶ requests ─▶ batches ··· results")
    if emulator is None:
        screen.say(f"The API at {asked_url()} answers, for money.", "dim")
        return
    screen.say(
        f"An emulated Message Batches API answers on {emulator.base_url}: it asks no model and "
        f"costs nothing, and is no server for production. Everything is kept in {FOLDER}.",
        "dim",
    )


def _check(night: Night, places: Places) -> None:
    if night.failures:
        where = f"More in {places['log']}."
        raise NightFailed("\n".join(["Something failed.", *night.failures, where]))


def _until_quiet(
    night: Night, store: Store, screen: Screen, before: Mapping[str, int], *, live: bool
) -> None:
    """Evaluate the status sensors and run what they ask for, until nothing is on its way."""
    deadline = None if live else time.monotonic() + EMULATED_NIGHT_SECONDS
    now: dict[str, Tally] = {}
    with screen.watching(PIPELINES) as watch:
        while True:
            runs, seen = 0, now
            for name in PIPELINES:
                watch.update(name, tally(store, name, before[name]))
                runs += night.tick(name)
            now = {name: tally(store, name, before[name]) for name in PIPELINES}
            for name, one in now.items():
                watch.update(name, one)
            if night.failures or (deadline and time.monotonic() > deadline):
                why = "\n".join(night.failures or night.last_words.values())
                raise NightFailed(f"{why}\nNothing is lost: run it again and it goes on from here.")
            if not runs and not any(one.open_files for one in now.values()):
                break
            if not runs or now == seen:
                time.sleep(LIVE_PAUSE_SECONDS if live else PAUSE_SECONDS)
    held = sum(one.held for one in now.values())
    if held:
        command = f"batch-pipeline held --store {store.files.base}"
        raise NightFailed(f"{held} files are held and wait for you: `{command}` says why.")


def _run_downstream(night: Night, screen: Screen) -> None:
    """Run the assets whose results have changed; in `make dev` their automation condition does."""
    for name, asset in DOWNSTREAM.items():
        key, results = dg.AssetKey([name, asset]), dg.AssetKey([name, "results"])
        if night.is_behind(key, results) and night.materialize(name, [key]):
            screen.stage(name, Said(asset, False, f"{name}/{asset} follows {name}/results"))
