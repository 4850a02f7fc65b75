"""Many episodes, on all cores."""

import atexit
import gc
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from batch_pipeline_tests.simulation.episode import Told, play
from batch_pipeline_tests.simulation.mutations import mutated
from batch_pipeline_tests.simulation.places import MEMORY, Places, placed

AT_ONCE = 20  # episodes that a worker is handed
AHEAD = 3  # of these that wait for a worker
WORKERS = os.cpu_count() or 1

_worker: dict[str, Any] = {}


@contextmanager
def stage() -> Iterator[tuple[Places, Path]]:
    """Give what episodes of this process are played in."""
    with ExitStack() as stack:
        places = stack.enter_context(placed())
        root = tempfile.TemporaryDirectory(prefix="batch-pipeline-simulation-", dir=MEMORY)
        yield places, Path(stack.enter_context(root))


def _begin(mutation: str | None) -> None:
    """Make a worker ready, with a mistake in the package's code or without."""
    stack = ExitStack()
    stack.enter_context(mutated(mutation))
    _worker["stage"] = stack.enter_context(stage())
    atexit.register(stack.close)
    # What is loaded by now is not gone through again and again.
    gc.freeze()
    atexit.register(gc.unfreeze)
    gc.set_threshold(100_000, 50, 50)


def stage_of_worker() -> tuple[Places, Path]:
    """Return what this worker plays in."""
    return _worker["stage"]


def in_workers(workers: int, mutation: str | None = None) -> ProcessPoolExecutor:
    """Return processes that are ready to play, with a mistake in the package's code or without."""
    return ProcessPoolExecutor(
        workers,
        # What takes longest to begin is to import everything; nothing has threads yet.
        mp_context=multiprocessing.get_context("fork"),
        initializer=_begin,
        initargs=(mutation,),
    )


def _play(seeds: Sequence[int]) -> tuple[Told, list[tuple[int, str]]]:
    """Play some episodes; return what they came to, and of each that failed how."""
    places, root = _worker["stage"]
    told, failed = Told(), []
    for seed in seeds:
        try:
            told.add(play(seed, places, root / str(seed)))
        except BaseException:
            failed.append((seed, traceback.format_exc()))
    return told, failed


def play_many(
    seeds: Sequence[int],
    workers: int = WORKERS,
    tell: Callable[[int, list[tuple[int, str]]], None] = lambda _played, _failed: None,
    mutation: str | None = None,
) -> tuple[Told, dict[int, str]]:
    """Play episodes on several cores.

    Args:
        seeds: of each.
        workers: how many processes.
        tell: is told as they come how many were played, and which of the latest failed and how.
        mutation: a mistake that is put into the package's code; None: it is as it is.

    Returns:
        What all came to, and of each that failed its story.
    """
    told, failed, played = Told(), {}, 0
    parts = (seeds[first : first + AT_ONCE] for first in range(0, len(seeds), AT_ONCE))
    with in_workers(workers, mutation) as pool:
        for some, wrong in _as_they_come(pool, parts, workers):
            told.add(some)
            failed |= dict(wrong)
            played = min(len(seeds), played + AT_ONCE)
            tell(played, wrong)
    return told, failed


def _as_they_come(
    pool: ProcessPoolExecutor, parts: Iterator[Sequence[int]], workers: int
) -> Iterator[Any]:
    waiting = {pool.submit(_play, part) for part in islice(parts, workers * AHEAD)}
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        waiting |= {pool.submit(_play, part) for part in islice(parts, len(done))}
        yield from (one.result() for one in done)
