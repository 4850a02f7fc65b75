"""Many episodes of the random walk, and eight processes at once: ``make soak``.

    python -m batch_pipeline_tests.soak --episodes 10000 [--start SEED] [--workers N]

It goes on after a failure, and tells in the end which seeds failed; the story of each is kept.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.many_processes import eight_processes
from batch_pipeline_tests.support.postgres import Schemas, postgres
from batch_pipeline_tests.support.random_walk import DEPLOYMENTS, episode

LONGEST_EPISODE_SECONDS = 300
SAY_EVERY = 250  # episodes, where no progress bar can be shown
AHEAD = 4  # episodes that wait for a worker

_worker: dict[str, Any] = {}


def _begin(url: str, folder: str) -> None:
    """Give a worker its own emulator."""
    root = Path(tempfile.mkdtemp(dir=folder))
    _worker["root"], _worker["schemas"] = root, Schemas(url)
    _worker["emulator"] = EmulatorProcess(root / "emulator").start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _walk(seed: int) -> tuple[int, str]:
    """Walk an episode; return its seed and what went wrong, "" when nothing did."""

    def too_long(*_: Any) -> None:
        raise AssertionError(f"not over after {LONGEST_EPISODE_SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_EPISODE_SECONDS)
    folder = Path(tempfile.mkdtemp(dir=_worker["root"]))
    try:
        with ExitStack() as stack:
            ledgers = stack.enter_context(_worker["schemas"].some(DEPLOYMENTS)) if seed % 2 else ()
            episode(seed, _worker["emulator"], folder, ledgers)
    except BaseException:
        return seed, traceback.format_exc()
    finally:
        signal.alarm(0)
        shutil.rmtree(folder, ignore_errors=True)
    return seed, ""


def _results(pool: ProcessPoolExecutor, seeds: Iterator[int], workers: int) -> Iterator[Any]:
    """Yield the result of each seed as it comes; few wait at a time."""
    waiting = {pool.submit(_walk, seed) for seed in islice(seeds, workers * AHEAD)}
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        waiting |= {pool.submit(_walk, seed) for seed in islice(seeds, len(done))}
        yield from (one.result() for one in done)


def _eight(schemas: Schemas, folder: Path, seconds: float, console: Console) -> bool:
    """Let eight processes work on each database; return whether all was right."""
    right = True
    for database in ("sqlite", "postgresql"):
        place = folder / database
        place.mkdir()
        console.print(f"eight processes on {database} for {seconds:.0f} s ...")
        try:
            with EmulatorProcess(place / "emulator") as emulator, schemas.some(1) as [url]:
                ledger = url if database == "postgresql" else None
                table = database == "sqlite"
                told = eight_processes(place, emulator, ledger, table=table, seconds=seconds)
            console.print(f"  {told}")
        except Exception:
            right = False
            console.print(traceback.format_exc(), markup=False)
    return right


@click.command()
@click.option("--episodes", default=10_000, show_default=True)
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
@click.option("--eight-seconds", default=0.0, help="Let eight processes work that long, too.")
@click.option("--stories", default=".soak", show_default=True, help="A folder for what went wrong.")
def main(episodes: int, start: int, workers: int, eight_seconds: float, stories: str) -> None:
    """Walk many episodes, and say which failed."""
    console = Console()
    failed: list[int] = []
    walked = 0
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="batch-pipeline-soak-") as folder,
        postgres() as schemas,
    ):
        context = multiprocessing.get_context("spawn")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with (
            ProcessPoolExecutor(
                workers, mp_context=context, initializer=_begin, initargs=(schemas.url, folder)
            ) as pool,
            Progress(*columns, console=console) as progress,
        ):
            task = progress.add_task("episodes", total=episodes)
            for seed, error in _results(pool, iter(range(start, start + episodes)), workers):
                progress.advance(task)
                walked += 1
                if not console.is_terminal and walked % SAY_EVERY == 0:
                    console.print(f"{walked:,} episodes, {len(failed)} failed")
                if error:
                    failed.append(seed)
                    Path(stories).mkdir(parents=True, exist_ok=True)
                    Path(stories, f"seed-{seed}.txt").write_text(error)
                    progress.update(task, description=f"episodes, {len(failed)} failed")
                    said = [line for line in error.splitlines() if "Error" in line]
                    console.print(f"seed {seed}: {said[-1][:200] if said else error}", markup=False)
        right = not eight_seconds or _eight(schemas, Path(folder), eight_seconds, console)
    console.print(
        f"{episodes - len(failed):,} of {episodes:,} episodes passed, seeds {start} to "
        f"{start + episodes - 1}, in {(time.monotonic() - began) / 60:.1f} min"
    )
    if failed:
        console.print(
            f"failed: {', '.join(map(str, sorted(failed)))}. Their stories are in {stories}; again: "
            f"python -m batch_pipeline_tests.soak --start {min(failed)} --episodes 1"
        )
    sys.exit(1 if failed or not right else 0)


if __name__ == "__main__":
    main()
