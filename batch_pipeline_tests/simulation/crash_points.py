"""Every point of a night at which a process can end, numbered, and a night that ends at each.

    python -m batch_pipeline_tests.simulation.crash_points [--pairs N]

A point is before, in or after a commit, before or after a file is written, before or after a call, or
between two pieces of its reply. The crash matrix (``guarantees/test_crash_matrix.py``) kills real
processes at the steps that have names; here no point of the package's work is left out.
"""

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from batch_pipeline_tests.simulation.episode import FAULTS, World, play_in
from batch_pipeline_tests.simulation.many import WORKERS, in_workers, stage_of_worker
from batch_pipeline_tests.simulation.places import Places

ENDS = ("killed", "terminated", "disk full")
NTH = {"first": {"nth": 1}, "later": {"nth": 2}, "six times": {"nth": 1, "times": 6}}
"""Which of its calls a fault hits."""
PLAIN = {
    ("ready", "sending"), ("sending", "in_progress"), ("in_progress", "ended"), ("ended", "collected")
}  # fmt: skip
TICKS = (60.0, 60.0, 130.0, 130.0, 700.0)
"""After how long the sensor looks, in seconds."""
NAMES = {
    ("sending", "unknown"): "in doubt",
    ("unknown", "in_progress"): "found in the list",
    ("unknown", "ready"): "not in the list, sent again",
    ("unknown", "held"): "held",
    ("unknown", "ended"): "given up, never sent",
    ("sending", "ready"): "turned away, sent later",
    ("sending", "held"): "held for a person",
    ("sending", "split"): "cut in two",
    ("held", "ready"): "a person sends it",
    ("held", "ended"): "a person gives it up",
    ("ready", "ended"): "withdrawn",
    ("held", "in_progress"): "found in the list",
    ("held", "unknown"): "looked for again",
    ("in_progress", "held"): "held: never shown",
    ("ready", "in_progress"): "found in the list",
}
SCENES = ("plain", "reply lost", "too large", "download damaged", "canceled")


@dataclass(frozen=True)
class Trial:
    """What is done to a night.

    Attributes:
        scene: what else goes wrong in it.
        ends: at which points a process ends, and how.
        fault: a fault of the API: call, kind, settings.
    """

    scene: str = "plain"
    ends: tuple[tuple[int, str], ...] = ()
    fault: tuple[str, str, tuple[tuple[str, Any], ...]] | None = None


@dataclass
class Outcome:
    """What became of a night.

    Attributes:
        points: by their number, from 1.
        became: in words; "" when nothing was different.
        hit: whether what was to be done to it was done.
        failure: why it was not right; "" when it was.
    """

    points: list[str]
    became: str
    hit: bool
    failure: str = ""


class Night(World):
    """A small night that is always the same, but for what is done to it."""

    def __init__(self, trial: Trial, places: Places, folder: Path) -> None:
        super().__init__(1, places, folder)
        self.trial, self.title = trial, str(trial)
        self.rng = random.Random(1)
        self.theme, self.budget, self.attempts = "any", None, 2
        self.by_sensor = False
        self.places.page_size = 1000
        self.turns.switch = self.turns.end = self.turns.stall = 0.0
        self.turns.ends_at = dict(trial.ends)
        self.turns.watch = self._see
        self.points: list[str] = []
        self.api.configure(manual=False, batch_seconds=30.0, rates={})
        self.records.clear()
        self.records |= {"k1": "a", "k2": "b", "k3": "c"}
        self.settings = {"max_batch_requests": 2}
        self._reopen()

    def _see(self, point: str) -> None:
        self.points.append(point)

    def go(self) -> None:
        """A submit run, and the sensor's looks."""
        match self.trial.scene:
            case "reply lost":
                self._note_fault("create", "drop_after", nth=2)
            case "too large":
                self._note_fault("create", "request_too_large", nth=1)
            case "download damaged":
                self._note_fault("results", "cut_results_at_line", nth=1, line=1)
            case "canceled":
                self._note_fault("create", "drop_after", nth=1)
        if self.trial.fault is not None:
            on, kind, settings = self.trial.fault
            if on == "network":
                self.latest_seconds = 60.0
                self.lost.append(kind)
            else:
                self._note_fault(on, kind, **dict(settings))
        self._whole("submit")
        if self.trial.scene == "canceled" or self._is_about("cancel"):
            self._whole("cancel")
        for seconds in TICKS:
            self.turns.advance(seconds)
            self._whole("tick")

    def _is_about(self, call: str) -> bool:
        return self.trial.fault is not None and self.trial.fault[0] == call

    def _whole(self, job: str) -> None:
        """Let a worker do all of a job."""
        worker = self.begin(job)
        while not worker.is_over:
            if worker.wakes is not None and worker.wakes > self.clock.now():
                self.turns.advance((worker.wakes - self.clock.now()).total_seconds())
            self.turns.go_on(worker)

    def became(self) -> str:
        """Say what was different from a plain night."""
        steps = [name for step, name in NAMES.items() if self.told.steps[step]]
        return ", ".join(dict.fromkeys(steps)) or "went on"


def _play(trial: Trial) -> Outcome:
    """Play a night in a worker."""
    places, root = stage_of_worker()
    night = Night(trial, places, root / "night")
    try:
        play_in(night, "make crash-points")
    except BaseException as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        return Outcome(night.points, "", False, f"{type(error).__name__}: {error}\n{notes}")
    hit = all(number <= len(night.points) for number, _ in trial.ends)
    if trial.fault is not None:
        hit = not night.lost if trial.fault[0] == "network" else bool(night.told.faults)
    return Outcome(night.points, night.became(), hit)


def numbered(trials: Sequence[Trial], pool: ProcessPoolExecutor) -> Iterator[tuple[Trial, Outcome]]:
    """Play trials, on all cores."""
    return zip(trials, pool.map(_play, trials, chunksize=8), strict=True)


def ends_of(scene: str, points: int, every: int = 1) -> list[Trial]:
    """Return a trial for each point of a scene, whose processes end in one way after the other."""
    return [
        Trial(scene, ((number, ENDS[number % len(ENDS)]),))
        for number in range(1, points + 1, every)
    ]


def faults() -> list[tuple[str, dict[str, Trial]]]:
    """Return a row for each fault of each call: its name, and a trial for each of the calls it may hit."""
    rows: list[tuple[str, dict[str, Trial]]] = []
    for on, kinds in FAULTS.items():
        for kind, settings in {str(one): one for one in kinds}.values():
            shown = ", ".join(
                f"{name}={value}" for name, value in settings.items() if name != "fields"
            )
            row = {}
            for which, more in NTH.items():
                if on == "cancel" and which == "later":
                    continue
                row[which] = Trial(fault=(on, kind, tuple({**settings, **more}.items())))
            rows.append((f"{on}: {kind}{f' ({shown})' if shown else ''}", row))
    rows += [
        (f"create: the request is {how}", {"first": Trial(fault=("network", how, ()))})
        for how in ("refused", "late")
    ]
    return rows


@click.command()
@click.option(
    "--pairs", default=0, show_default=True, help="So many pairs of points, drawn by chance."
)
@click.option("--table/--no-table", default=True, help="Play each fault at each call, too.")
@click.option("--points/--no-points", default=True, help="End at each point.")
def main(pairs: int, table: bool, points: bool) -> None:
    """End at every point of a night, and let every fault hit every call."""
    began, wrong = time.monotonic(), []
    with in_workers(WORKERS) as pool:
        whole = Counter[str]()
        for scene in SCENES if points else ():
            [(_, plain)] = numbered([Trial(scene)], pool)
            wrong += _failures([(Trial(scene), plain)])
            trials = ends_of(scene, len(plain.points))
            played = [*numbered(trials, pool)]
            right = [one for one in played if not one[1].failure and one[1].hit]
            wrong += _failures(played)
            whole["points"] += len(trials)
            whole["right"] += len(right)
            kinds = Counter(point.split(" (")[0] for point in plain.points)
            click.echo(
                f"{scene}: ended at {len(right)} of {len(trials)} points ("
                + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
                + ")"
            )
            if pairs:
                rng = random.Random(scene)
                both = [*itertools.combinations(range(1, len(plain.points) + 1), 2)]
                drawn = rng.sample(both, min(pairs, len(both)))
                twice = [
                    Trial(scene, ((one, rng.choice(ENDS)), (two, rng.choice(ENDS))))
                    for one, two in drawn
                ]
                played = [*numbered(twice, pool)]
                wrong += _failures(played)
                click.echo(f"  {len(twice)} of its {len(both)} pairs of points")
        if points:
            click.echo(f"{whole['right']} of {whole['points']} points")
        if table:
            wrong += _table(pool)
    click.echo(f"{time.monotonic() - began:.0f} s")
    for line in wrong:
        click.echo(line)
    sys.exit(1 if wrong or whole["right"] != whole["points"] else 0)


def _table(pool: ProcessPoolExecutor) -> list[str]:
    """Print what became of each fault; return what was wrong, an empty cell included."""
    rows = faults()
    trials = [trial for _, row in rows for trial in row.values()]
    played = [*numbered(trials, pool)]
    outcomes = {id(trial): outcome for trial, outcome in played}
    wrong = _failures(played)
    click.echo("| fault | " + " | ".join(f"it hits the {which}" for which in NTH) + " |")
    click.echo("|---|" + "---|" * len(NTH))
    for name, row in rows:
        cells = []
        for which in NTH:
            outcome = outcomes[id(row[which])] if which in row else None
            if outcome is None:
                cells.append("there is none")
                continue
            if not outcome.hit:
                wrong.append(f"an empty cell: {name}, {which}: it never hit")
            cells.append(outcome.became if outcome.hit else "")
        click.echo(f"| {name} | {' | '.join(cells)} |")
    return wrong


def _failures(played: Any) -> list[str]:
    return [f"{trial}: {outcome.failure}" for trial, outcome in played if outcome.failure]


if __name__ == "__main__":
    main()
