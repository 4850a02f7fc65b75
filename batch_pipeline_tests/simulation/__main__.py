"""Many episodes, or one that is told: ``make simulate``.

    python -m batch_pipeline_tests.simulation --episodes 1000 [--start SEED] [--workers N]
    python -m batch_pipeline_tests.simulation --seed 42

It goes on after a failure, and tells in the end which seeds failed; the story of each is kept.
"""

import sys
import time
import traceback
from pathlib import Path

import click

from batch_pipeline_tests.simulation.episode import play
from batch_pipeline_tests.simulation.many import WORKERS, play_many, stage

SAY_EVERY_SECONDS = 30.0


def _one(seed: int) -> bool:
    """Play one episode and tell it; return whether all was right."""
    with stage() as (places, root):
        try:
            told = play(seed, places, root / str(seed), click.echo)
        except BaseException as error:
            traceback.print_exception(error)
            return False
    click.echo(f"Seed {seed}: all was right, at {told.points:,} points.")
    return True


@click.command()
@click.option("--seed", type=int, help="Play this episode alone, and tell it step by step.")
@click.option("--episodes", default=1_000, show_default=True)
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--workers", default=WORKERS, show_default=True)
@click.option("--stories", default=".soak", show_default=True, help="A folder for what went wrong.")
def main(seed: int | None, episodes: int, start: int, workers: int, stories: str) -> None:
    """Play episodes, and say which failed."""
    if seed is not None:
        sys.exit(0 if _one(seed) else 1)
    began = said = time.monotonic()

    def tell(played: int, failed: list[tuple[int, str]]) -> None:
        nonlocal said
        for number, error in failed:
            Path(stories).mkdir(parents=True, exist_ok=True)
            Path(stories, f"simulation-{number}.txt").write_text(error)
            words = [line for line in error.splitlines() if "Error" in line]
            click.echo(f"seed {number}: {words[-1][:200] if words else error}")
        if time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            click.echo(f"{played:,} episodes")

    told, failed = play_many(range(start, start + episodes), workers, tell)
    seconds = time.monotonic() - began
    click.echo(
        f"{episodes - len(failed):,} of {episodes:,} episodes were right (seeds {start} to "
        f"{start + episodes - 1}), in {seconds:.0f} s: {told.points:,} points, "
        f"{told.ends.total():,} ends of a process, {told.faults.total():,} faults of "
        f"{len(told.faults)} kinds that hit, {told.steps.total():,} steps of a file "
        f"({len(told.steps)} different)"
    )
    if failed:
        click.echo(
            f"failed: {', '.join(map(str, sorted(failed)))}. Their stories are in {stories}; again: "
            f"make simulate SEED={min(failed)}"
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
