"""Each side of the comparison, in a process of its own.

Run as: python -m benchmarks.sides SIDE NIGHT [PROFILE], with a night as JSON and a folder that gets a
profile of each stage. It prints what each stage took, as JSON.
"""

import json
import logging
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.meter import Meter, Taken
from benchmarks.night import Night
from benchmarks.sampler import Sampler

# Not loaded before it is needed: what a side does not use is not in its memory.
SIDES = ("submit", "collect", "loop", "overhead")


def run_side(side: str, night: Night, meter: Meter) -> None:
    """Run one side in this process."""
    match side:
        case "submit":
            from benchmarks.stages import submit as run
        case "collect":
            from benchmarks.stages import collect as run
        case "loop":
            from benchmarks.loop import play as run
        case "overhead":
            from benchmarks.overhead import overhead as run
        case _:
            raise ValueError(f"{side} is none of {', '.join(SIDES)}")
    run(night, meter)


def measure_here(side: str, night: Night, profile: Path | None = None) -> dict[str, Taken]:
    """Run one side in this process; return what each stage took.

    Args:
        side: one of `SIDES`.
        night: what is played.
        profile: a folder that gets ``STAGE.json``: CPU seconds by place (see ``sampler.py``).
    """

    seconds: dict[str, Counter[str]] = defaultdict(Counter)

    @contextmanager
    def sampled(stage: str) -> Iterator[None]:
        with Sampler() as sampler:
            yield
        seconds[stage].update(sampler.seconds)

    meter = Meter(night.url, sampled if profile else None)
    run_side(side, night, meter)
    for stage, spent in seconds.items():
        Path(str(profile), f"{stage}.json").write_text(json.dumps(spent), encoding="utf-8")
    return meter.stages


def measure_apart(side: str, night: Night, profile: Path | None = None) -> dict[str, Taken]:
    """Do what `measure_here` does in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sides", side, night.to_json()]
    if profile:
        profile.mkdir(parents=True, exist_ok=True)
        command.append(str(profile))
    root = Path(__file__).parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=root)
    return {name: Taken(**taken) for name, taken in json.loads(done.stdout).items()}


def main() -> None:
    """Run the side that the command names."""
    side, night, *more = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # a line of Dagster for every line of a step
    stages = measure_here(side, Night.from_json(night), Path(more[0]) if more else None)
    sys.stdout.write(json.dumps({name: asdict(taken) for name, taken in stages.items()}))


if __name__ == "__main__":
    main()
