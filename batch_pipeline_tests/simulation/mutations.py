"""Mistakes put into the package's code on purpose: each must be caught by the simulation. ``make mutations``.

    python -m batch_pipeline_tests.simulation.mutations [--episodes 20] [NAME ...]

It prints in how many episodes each is caught, and by which judgement first.
"""

import importlib
import inspect
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from typing import Any
from unittest import mock

import click

from batch_pipeline.batches import candidates as candidates_module
from batch_pipeline.batches import claim as claim_module
from batch_pipeline.batches import send as send_module
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import Room
from batch_pipeline.batches.evidence import Evidence
from batch_pipeline.results.download import Lines
from batch_pipeline.store import high_water

SHOWN = 90

Mutation = Callable[[], Any]


@contextmanager
def edited(path: str, old: str, new: str) -> Iterator[None]:
    """Let a function of the package be another one for the block, by a change of its source.

    Args:
        path: ``module:function``.
        old: what stands in it, once.
        new: what stands there instead.
    """
    name, _, function = path.partition(":")
    module = importlib.import_module(f"batch_pipeline.{name}")
    real = getattr(module, function)
    source = textwrap.dedent(inspect.getsource(real))
    assert source.count(old) == 1, f"{path} has {source.count(old)} times {old!r}"
    made: dict[str, Any] = {}
    exec(compile(source.replace(old, new), path, "exec"), module.__dict__, made)
    with ExitStack() as stack:
        # Whoever has imported it by its name has it, too.
        for one in [*sys.modules.values()]:
            if getattr(one, "__name__", "").startswith("batch_pipeline") and (
                vars(one).get(function) is real
            ):
                stack.enter_context(mock.patch.object(one, function, made[function]))
        yield


@contextmanager
def _posts_before_it_commits() -> Iterator[None]:
    """The batch is created first, and that it is to be sent is committed after that."""
    claim, create = send_module.claim, BatchesApi.create
    attempt, send = send_module._attempt, send_module.send
    at_work: list[tuple[Any, Any]] = []
    made: list[Any] = []

    def _send(store: Any, api: Any, *args: Any, **kwargs: Any) -> Any:
        at_work.append((store, api))
        try:
            return send(store, api, *args, **kwargs)
        finally:
            at_work.pop()

    def _claim(ledger: Any, scope: Any, *args: Any) -> Any:
        store, api = at_work[-1]
        with ledger.read() as tx:
            ready = [
                row
                for row in claim_module._ready(tx, scope)
                if row["not_before"] is None or row["not_before"] <= ledger.clock.now()
            ]
        posted = None
        if ready:
            path = ready[0]["path"]
            try:
                posted = create(api, send_module.body(store, path), ready[0]["bytes"])
            except Exception as error:
                posted = error
        row = claim(ledger, scope, *args)
        if posted is not None and not isinstance(row, Room) and row["id"] == ready[0]["id"]:
            made.append(posted)
        return row

    def _create(api: Any, chunks: Any, length: int) -> Any:
        if not made:
            return create(api, chunks, length)
        posted = made.pop()
        if isinstance(posted, Exception):
            raise posted
        return posted

    with (
        mock.patch.object(send_module, "send", _send),
        mock.patch("batch_pipeline_tests.support.deployment.send", _send),
        mock.patch.object(send_module, "claim", _claim),
        mock.patch.object(BatchesApi, "create", _create),
        mock.patch.object(send_module, "_attempt", attempt),
    ):
        yield


@contextmanager
def _candidates_keep_nothing_waiting() -> Iterator[None]:
    """A lost reply is settled though its batch may be in the list, and what may be that one is sent."""
    with (
        edited("batches.reconcile:reconcile", "if open_ones:", "if False:"),
        mock.patch.object(claim_module, "candidate_sizes", lambda *_: set()),
    ):
        yield


def _nothing_proves_ours(*_: Any) -> Evidence:
    return Evidence(is_foreign=True)


MUTATIONS: dict[str, Mutation] = {
    "the lease is not looked at before the call": lambda: edited(
        "batches.send:_attempt", "> policy.lease_seconds / 2", "> 1e12"
    ),
    "the call is made before its intent is committed": _posts_before_it_commits,
    "a list is believed at once": lambda: edited(
        "batches.reconcile:due",
        "<= now - timedelta(seconds=policy.reconcile_after_seconds)",
        "<= now",
    ),
    "a list that breaks off is believed": lambda: edited(
        "batches.reconcile:reconcile", "if found.cut:", "if False:"
    ),
    "a selection is committed without its generation": lambda: edited(
        "store.submissions:take_generation",
        "generations.c.generation == read.generation,",
        "",
    ),
    "an intent is used again after a lost reply": lambda: edited(
        "batches.send:_attempt",
        "        step(FileState.UNKNOWN, error)\n        report",
        "        step(FileState.READY, error)\n        report",
    ),
    "a sender that is gone has sent nothing": lambda: edited(
        "batches.claim:_expire_leases", "FileState.UNKNOWN", "FileState.READY"
    ),
    "nothing is reserved": lambda: edited(
        "batches.claim:_reserve",
        "    now, submission = ledger",
        "    return None\n    now, submission = ledger",
    ),
    "a batch that may be ours is another program's": lambda: mock.patch.object(
        candidates_module, "evidence_of", _nothing_proves_ours
    ),
    "a download that is cut counts as whole": lambda: mock.patch.object(
        Lines, "damage", property(lambda _lines: None)
    ),
    "a ledger that is older than its files is taken": lambda: mock.patch.object(
        high_water, "check", lambda *_: None
    ),
    "a batch that may be the file keeps nothing waiting": _candidates_keep_nothing_waiting,
    "what is cancelled without a reply is withdrawn at once": lambda: edited(
        "batches.cancel:_request",
        'if file["state"] == FileState.READY and withdraw(ledger, tx, file["id"], now):',
        'if file["state"] in ("ready", "unknown") and withdraw(\n'
        '                ledger, tx, file["id"], now, FileState(file["state"])\n'
        "            ):",
    ),
}


THEMES = {
    "the lease is not looked": "sleepers",
    "the call is made": "ends",
    "a list is believed at once": "lost",
    "a list that breaks off": "pages",
    "a selection is committed": "race",
    "an intent is used": "lost",
    "a sender that is gone": "sleepers",
    "nothing is reserved": "budget",
    "a batch that may be ours": "lost",
    "a download that is cut": "damaged",
    "a ledger that is older": "backup",
    "a batch that may be the file": "lost",
    "what is cancelled without": "canceled",
}
"""The theme of the episodes that a mistake is looked for in; see ``episode.THEMES``."""


def mutated(name: str | None) -> Any:
    """Return what puts a mistake into the code for a block; None: nothing is changed."""
    return contextmanager(lambda: iter([None]))() if name is None else MUTATIONS[name]()


@click.command()
@click.argument("names", nargs=-1)
@click.option("--episodes", default=20, show_default=True, help="For each mistake.")
@click.option("--start", default=0, show_default=True, help="The first seed.")
def main(names: tuple[str, ...], episodes: int, start: int) -> None:
    """Put each mistake into the code, and say in how many episodes it is caught."""
    # Those that import this module to make a mistake in their process.
    from batch_pipeline_tests.simulation.episode import theme_of
    from batch_pipeline_tests.simulation.many import play_many

    missed, began = [], time.monotonic()
    for name in MUTATIONS:
        if names and not any(one in name for one in names):
            continue
        theme = next(theme for words, theme in THEMES.items() if name.startswith(words))
        seeds = [*islice((seed for seed in count(start) if theme_of(seed) == theme), episodes)]
        _, failed = play_many(seeds, mutation=name)
        said = Counter(_why(story) for story in failed.values()).most_common(1)
        click.echo(
            f"{len(failed):4d} of {episodes} episodes ({theme}) catch: {name}"
            + (f"  ({said[0][0]})" if said else "")
        )
        if not failed:
            missed.append(name)
    click.echo(f"{time.monotonic() - began:.0f} s")
    if missed:
        click.echo(f"not caught: {'; '.join(missed)}")
    sys.exit(1 if missed else 0)


def _why(story: str) -> str:
    lines = [line for line in story.splitlines() if "Error: " in line]
    return lines[-1].partition("Error: ")[2].partition(":")[0][:SHOWN] if lines else "?"


if __name__ == "__main__":
    main()
