"""One episode: small nights in which whatever can go wrong does, by one seed; then calm, and judgement."""

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select

from batch_pipeline import Budget, ParquetSource
from batch_pipeline.batches import held
from batch_pipeline.batches.api import PAGE
from batch_pipeline.definitions.status import tick as status_tick
from batch_pipeline.errors import BatchPipelineError, StoreError
from batch_pipeline.store.tables import STEPS, FileState, candidates, transitions
from batch_pipeline_tests.simulation.network import BASE_URL, Api, Wire
from batch_pipeline_tests.simulation.places import Places, caller, named_by
from batch_pipeline_tests.simulation.process import Quick
from batch_pipeline_tests.simulation.rows import without_duckdb
from batch_pipeline_tests.simulation.turns import DiskFull, Interrupted, Killed, Turns, Worker
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.deployment import Deployment, Stages, on_clock
from batch_pipeline_tests.support.random_walk import decided

START = datetime(2026, 11, 20, 22, 59, 30, tzinfo=UTC)
HOUR, DAY = 3600.0, 24 * 3600.0
RUN_FAILS = (BatchPipelineError, Killed, Interrupted, DiskFull)
LONGEST_UNSEEN_SECONDS = 115.0
"""How late a batch shows in the list at most, because it arrives late and because the list lags: the
package waits 120 s (``reconcile_after_seconds``) and says that it trusts the list after that."""
HEAL_STEPS = 2_000
OLD_PROCESSES = 0.85  # of the jobs that are done by a process which has done one before
SETTLED_BY_SENSOR = 0.15
"""Of the episodes, those that come to rest by the sensor's own looks; the others do what is left to do by the
states of the files, which takes a third of the time."""
WHOLE_ONE_IN = 50
"""Of so many episodes one has all stages, whose rows DuckDB makes: it takes ten times as long."""
LARGER_THAN_OURS = 9  # requests of another program's batch, which can be none of our files
SETTLE_STEPS = 60
SETTLE_SECONDS = 400.0

LOST: list[tuple[str, dict[str, Any]]] = [
    ("drop_after", {}),
    ("slow_reply", {}),
    ("internal_error", {"when": "after"}),
    ("bad_gateway", {"when": "after"}),
    ("request_timeout", {"when": "after"}),
    ("cut_body", {}),
    ("replace_body", {}),
    ("drop_before", {}),
    ("internal_error", {}),
]
"""What may become of a create call whose outcome nobody knows then."""
THEMES = ("any", "any", "any", "lost", "lost", "pages", "race", "sleepers", "damaged", "backup", "ends", "budget", "canceled")  # fmt: skip
"""What most of an episode's trouble is: all kinds at once rarely make two of a kind meet."""


def theme_of(seed: int) -> str:
    """Return what most of the trouble of an episode is."""
    return random.Random(f"theme {seed}").choice(THEMES)


LIES: dict[str, Any] = {"fields": {"request_counts": {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}}}  # fmt: skip

FAULTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    # No 429 or 529 after the call was done: the API says that it took nothing then, and is believed.
    "create": [
        ("drop_before", {}),
        ("drop_before", {"while_sending": True}),
        ("drop_after", {}),
        ("drop_after", {}),
        ("slow_reply", {}),
        ("slow_reply", {"when": "before"}),
        ("delay_before", {"seconds": 20.0}),
        ("delay_after", {"seconds": 20.0}),
        ("internal_error", {}),
        ("internal_error", {"when": "after"}),
        ("bad_gateway", {}),
        ("bad_gateway", {"when": "after"}),
        ("gateway_timeout", {"when": "after"}),
        ("request_timeout", {}),
        ("request_timeout", {"when": "after"}),
        ("conflict", {}),
        ("overloaded", {}),
        ("rate_limited", {}),
        ("queue_full", {}),
        ("request_too_large", {}),
        ("spend_limit", {}),
        ("own_spend_limit", {}),
        ("status_before", {"status": 402}),
        ("status_before", {"status": 422}),
        ("status_after", {"status": 500}),
        ("status_after", {"status": 504, "body": "<html>"}),
        ("redirect", {}),
        ("replace_body", {}),
        ("cut_body", {}),
        ("cut_body", {"clean": True}),
        ("expire_half_way", {}),
        ("cancel_half_way", {}),
        ("change_batches", LIES),
        ("date_header", {"seconds": 300.0}),
    ],
    "list": [
        ("drop_before", {}),
        ("drop_after", {}),
        ("slow_reply", {}),
        ("internal_error", {}),
        ("bad_gateway", {}),
        ("rate_limited", {}),
        ("overloaded", {}),
        ("cut_body", {}),
        ("replace_body", {}),
        ("redirect", {}),
        ("list_circles", {}),
        ("results_elsewhere", {}),
        ("date_header", {"seconds": -300.0}),
    ],
    "retrieve": [
        ("drop_before", {}),
        ("drop_after", {}),
        ("overloaded", {}),
        ("status_before", {"status": 404}),
        ("replace_body", {}),
        ("results_elsewhere", {}),
    ],
    "results": [
        ("drop_before", {}),
        ("internal_error", {}),
        ("status_before", {"status": 404}),
        ("cut_results_at_line", {"line": 0}),
        ("cut_results_at_line", {"line": 1}),
        ("cut_results_at_line", {"line": 1, "clean": False}),
        ("cut_results_mid_line", {"line": 1}),
        ("garbage_line", {"line": 1}),
        ("foreign_line", {"line": 1}),
        ("foreign_line", {"line": 1, "instead": True}),
        ("line_twice", {}),
        ("line_missing", {"line": 1}),
        ("line_replaced", {"line": 1}),
        ("line_added", {"text": "garbage"}),
    ],
    "cancel": [("drop_before", {}), ("drop_after", {}), ("internal_error", {})],
}


class SimulatedClock(HandClock):
    """The time of all processes; who sleeps lets others work."""

    def __init__(self, moved: Callable[[float], None]) -> None:
        super().__init__(START, moved)
        self.turns: Turns | None = None

    def sleep(self, seconds: float) -> None:
        if self.turns is None:
            self.advance(seconds)
        else:
            self.turns.sleep(seconds)


@dataclass
class _Late:
    """A request that is still in the network when its client has given up."""

    at: datetime
    request: tuple[str, str, Mapping[str, str], bytes]


class _Wire(Wire):
    """The network between a process and the API."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def request(self, request: httpx2.Request, body: bytes) -> None:
        world = self.world
        creates = request.method == "POST" and request.url.path.endswith("/batches")
        world.places.at(
            f"before a call ({_name_of(request)})",
            bounded=creates,
            sends=creates,
        )
        if not creates or world.turns.current is None or not world.lost:
            return
        match world.lost.pop():
            case "refused":
                world.note("    the connection is refused")
                raise httpx2.ConnectError("connection refused", request=request)
            case "late":
                at = world.clock.now() + timedelta(
                    seconds=world.rng.uniform(0, world.latest_seconds)
                )
                world.note(f"    the request arrives at {at:%H:%M:%S}; its client gives up")
                headers = dict(request.headers)
                world.late.append(_Late(at, ("POST", str(request.url), headers, body)))
                self.wait(300.0)
                raise httpx2.ReadTimeout("timed out", request=request)

    def done(self, request: httpx2.Request) -> None:
        self.world.places.at(
            f"after a call, its reply unread ({_name_of(request)})",
            sends=request.method == "POST",
        )

    def chunk(self, request: httpx2.Request) -> None:
        self.world.places.at(f"while a reply comes ({_name_of(request)})")

    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)


def _name_of(request: httpx2.Request) -> str:
    path = request.url.path.removeprefix("/v1/messages/batches").strip("/")
    if request.method == "POST":
        return "cancel" if path.endswith("/cancel") else "create"
    if not path:
        return "list"
    return "results" if path.endswith("/results") else "retrieve"


@dataclass
class Told:
    """What an episode came to.

    Attributes:
        faults: how often each fault hit, by call and kind.
        ends: how often a process ended at each point.
        steps: how often each step of ``STEPS`` was taken.
    """

    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    points: int = 0

    def add(self, other: "Told") -> None:
        """Count another episode in."""
        self.faults += other.faults
        self.ends += other.ends
        self.steps += other.steps
        self.points += other.points


class World:
    """The world of one episode.

    Args:
        seed: decides everything.
        places: of this process.
        folder: empty, for all files.
        tell: gets each line of the story as it happens; None: it is kept only.
    """

    def __init__(
        self,
        seed: int,
        places: Places,
        folder: Path,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.seed, self.places, self.folder, self.tell = seed, places, folder, tell
        self.rng = rng = random.Random(seed)
        self.title = f"seed {seed}"
        self.lines: list[str] = []
        self.told = Told()
        self.late: list[_Late] = []
        self.lost: list[str] = []
        self.theme = theme = theme_of(seed)
        self.is_whole = seed % WHOLE_ONE_IN == WHOLE_ONE_IN - 1
        skew = rng.choice([0, 0, rng.uniform(-600, 600)])
        self.api = Api(
            (START + timedelta(seconds=skew)).timestamp(),
            answers="digest",
            seed=seed,
            manual=rng.random() < 0.3 and theme in ("any", "lost", "race", "canceled"),
            batch_seconds=rng.choice(
                [0, 0, 300]
                if theme in ("sleepers", "damaged", "backup", "budget")
                else [0, 0, 300, 4000, 23 * HOUR]
            ),
            rates={name: rng.choice([0, 0, 0, 0.2]) for name in ("errored", "expired", "refused")},
        )
        self.api.wire = _Wire(self)
        self.clock = SimulatedClock(self._moved)
        self.turns = Turns(
            random.Random(f"turns {seed}"), self.clock.now, self.clock.advance, self._note_point
        )
        self.clock.turns = self.turns
        self.turns.switch = 0.3 if theme == "race" else rng.choice([0.0, 0.02, 0.1, 0.3])
        self.turns.end = {"ends": 0.04, "any": rng.choice([0.0, 0.01])}.get(theme, 0.0)
        self.turns.stall = rng.choice([0.0, 0.0, 0.01])
        if theme == "sleepers":
            self.turns.stall, self.turns.sending = 0.01, 25.0
            self.turns.naps = (400.0, 1000.0, 4000.0)
        if theme in ("lost", "pages", "backup", "damaged", "canceled"):
            self.turns.switch, self.turns.stall = rng.choice([0.0, 0.02]), 0.0
        self.places.page_size = 2 if theme == "pages" else PAGE
        unseen = LONGEST_UNSEEN_SECONDS if theme == "lost" else rng.choice([0, 40, 115])
        self.latest_seconds = rng.choice([0.0, 0.0, unseen / 2, unseen])
        self.lag_seconds = unseen - self.latest_seconds
        self.most_workers = 3 if theme in ("race", "sleepers") else rng.choice([1, 2, 2, 3])
        # How often time passes: little of it, and a list still lags; much, and its word is taken.
        self.often = {"lost": rng.choice([2, 9]), "pages": 9, "canceled": 9}.get(theme, 3)
        self.turn = 0
        self.records = {f"k{n}": f"t{n}" for n in range(rng.randint(3, 12))}
        self.budget = rng.choice([0.0003, 0.0006]) if theme == "budget" else None
        self.settings: dict[str, Any] = {}
        self.attempts = rng.choice([1, 2, 3])
        self.failures: list[str] = []
        self.backup: bytes | None = None
        self.approved = False
        self.made = 0
        self.watching: Stages | None = None
        self.idle: list[Stages] = []
        self._draw_settings()
        self.by_sensor = rng.random() < SETTLED_BY_SENSOR

    # The story

    def note(self, line: str) -> None:
        """Say in the story what happens now."""
        text = f"{self.clock.now():%d %H:%M:%S} {line}"
        self.lines.append(text)
        if self.tell is not None:
            self.tell(text)

    def _note_point(self, line: str) -> None:
        worker, _, what = line.partition(" ")
        ended = what.startswith(("killed", "terminated", "disk full"))
        if ended:
            point = what.split(" ", 2 if what.startswith("disk") else 1)[-1]
            self.told.ends[point] += 1
        self.note(f"  {worker}: {what} [{caller()}]")

    def story(self) -> str:
        """What happened, in the order in which it did, with every step of the ledger."""
        return "\n".join(self.lines)

    # Time

    def _moved(self, seconds: float) -> None:
        """Let the API's clock go along; what is late arrives when its time has come."""
        until = self.clock.now()
        begun = until - timedelta(seconds=seconds)
        for one in sorted(self.late, key=lambda late: late.at):
            if one.at <= until:
                self.late.remove(one)
                step = max((one.at - begun).total_seconds(), 0.0)
                self.api.advance(step)
                begun += timedelta(seconds=step)
                reply = self.api.call(*one.request)
                self.note(f"    a late request arrives: {reply.status}")
        self.api.advance((until - begun).total_seconds())

    def wait(self, seconds: float) -> None:
        """A client waits; in the middle of a call of the API, time goes by at once."""
        if self.api._loop.is_running():
            self.clock.advance(seconds)
        else:
            self.turns.sleep(seconds)

    # Processes

    def _draw_settings(self) -> None:
        rng = self.rng
        self.settings = {
            "max_batch_requests": rng.randint(2, 6),
            "max_queued_requests": rng.choice([6, 12, 1000]),
            "on_unknown": rng.choice(["resend", "resend", "resend", "hold"]),
        }
        self._reopen()

    def deployment(self) -> Deployment:
        """The deployment as it is set now."""
        return Deployment(
            folder=str(self.folder / "store"),
            warehouse=str(self.folder / "warehouse.duckdb"),
            url=BASE_URL,
            pipeline={"max_attempts": self.attempts},
            claude=self.settings,
        )

    def process(self) -> Stages:
        """A process of its own."""
        if self.is_whole:
            return Stages(self._whole_deployment(), self.clock)
        return Quick(self.deployment(), self.clock, self.records, self.budget)

    def _whole_deployment(self) -> Deployment:
        """The deployment of an episode in which DuckDB makes the rows."""
        source = ParquetSource(path=str(self.folder / "records.parquet"), key="k")
        fields: dict[str, Any] = {"max_attempts": self.attempts, "source": source}
        if self.budget is not None:
            fields["budget"] = Budget(per_month_usd=self.budget, reserve="max")
        return replace(self.deployment(), table=False, pipeline=fields)

    def _write_records(self) -> None:
        """Let the source of a whole episode be as the records are now."""
        if self.is_whole:
            rows = [{"k": key, "t": text} for key, text in self.records.items()]
            pq.write_table(pa.Table.from_pylist(rows), self.folder / "records.new")
            (self.folder / "records.new").replace(self.folder / "records.parquet")

    def _drop_table(self) -> None:
        """A person drops the results table."""
        if self.is_whole and not self.turns.workers:
            self.note("a person drops the table")
            shutil.rmtree(self.folder / "store" / "p" / "table", ignore_errors=True)

    def _some_process(self) -> Stages:
        """A new process, or one that has done a job before: to open the store is no small part of a job."""
        if self.idle and self.rng.random() < OLD_PROCESSES:
            return self.idle.pop()
        return self.process()

    @property
    def first(self) -> Stages:
        """A process that looks and judges."""
        if self.watching is None:
            with self.turns.undisturbed():
                self.watching = self.process()
        return self.watching

    def _reopen(self) -> None:
        """Whoever works from now on is a process that has just begun."""
        self.watching = None
        self.idle.clear()

    def begin(self, job: str, **ask: Any) -> Worker:
        """Let a worker begin a job."""
        self.made += 1
        name = f"w{self.made}"
        self.note(f"{name} begins: {job} {ask or ''}")
        return self.turns.begin(name, lambda: self._work(name, job, ask))

    def _work(self, name: str, job: str, ask: Mapping[str, Any]) -> None:
        try:
            process = self._some_process()
            if job == "tick":
                for one, partition, config in process.look():
                    self.note(f"  {name}: the sensor wants {one} {partition} {config or ''}")
                    self._run(name, process, one, partition, config)
            else:
                process.run(job, "", **ask)
            self.idle.append(process)
        except RUN_FAILS as error:
            self._ended(name, job, error)
        except BaseException as error:
            self.failures.append(f"{job}: {type(error).__name__}: {error}")
            raise

    def _run(
        self, name: str, process: Stages, job: str, partition: str, ask: Mapping[str, Any]
    ) -> None:
        try:
            process.run(job, partition, **ask)
        except (BatchPipelineError, Interrupted, DiskFull) as error:
            self._ended(name, job, error)

    def _ended(self, name: str, job: str, error: BaseException) -> None:
        what = str(error).split("\n")[0][:160]
        self.note(f"  {name}: {job} ends with {type(error).__name__}: {what}".rstrip(": "))

    # What happens

    def go(self) -> None:
        """Let anything happen for a few nights."""
        self._write_records()
        for night in range(self.rng.choice([1, 1, 2, 3])):
            if night:
                self.change_records()
                if self.rng.random() < 0.3:
                    self._draw_settings()
                    self.attempts = max(self.attempts, self.rng.choice([1, 2, 3]))
                    self.note(f"settings change: {self.settings} max_attempts={self.attempts}")
            self._begin_night()
            most = 30 if self.theme in ("sleepers", "lost", "pages") else 20
            for _ in range(self.rng.randint(4, most)):
                self._step()

    def _begin_night(self) -> None:
        submits = 1
        match self.theme:
            case "lost" | "pages" | "canceled":
                for nth in range(1, self.rng.choice([2, 3])):
                    kind, settings = self.rng.choice(LOST)
                    self._note_fault("create", kind, nth=nth, **settings)
                if self.theme != "pages":
                    self._lag()
                if self.rng.random() < 0.3:
                    self._lose_request()
            case "damaged":
                for _ in range(3):
                    self.lay_fault("results")
            case "race":
                submits = self.rng.choice([2, 3])
            case "backup":
                self._restore_backup()
            case _:
                for _ in range(self.rng.choice([0, 1, 2])):
                    self.lay_fault("create")
        for worker in [self.begin("submit") for _ in range(submits)]:
            self.turns.go_on(worker)
        if self.theme == "backup":
            self._restore_backup()
        if self.theme == "pages":
            # What is ours comes on a later page, which a list that goes in circles never shows.
            for _ in range(self.rng.choice([2, 3])):
                self._another_program(LARGER_THAN_OURS)
            self._note_fault("list", "list_circles", times=None)

    def _step(self) -> None:
        ready, free = self.turns.ready(), len(self.turns.workers) < self.most_workers
        happen: list[Callable[[], None]] = [self._pass_time] * self.often + [self._outside] * 2
        happen.append(self.person)
        if ready:
            happen += [self._go_on] * 12
        if free:
            happen += [self._begin_another] * 5
        if ready and self.turns.end and self.rng.random() < 0.1:
            happen.append(lambda: self._kill(self.rng.choice(self.turns.ready())))
        self.rng.choice(happen)()

    def _go_on(self) -> None:
        """Let one that can go on do so: till the end, or as far as it comes."""
        self.turns.go_on(self.rng.choice(self.turns.ready()))

    def _kill(self, worker: Worker) -> None:
        self.note(f"{worker.name} is killed where it stands")
        self.turns.kill(worker)

    def _begin_another(self) -> None:
        jobs = ["tick"] * 5 + ["submit", "send", "send", "collect", "settle", "cancel"]
        more = {
            "canceled": ["cancel"] * 3,
            "lost": ["send"] * 4,
            "sleepers": ["send"] * 3,
            "pages": ["send"] * 4,
        }
        job = self.rng.choice(jobs + more.get(self.theme, []))
        ask = {"limit": 2} if job == "submit" and self.rng.random() < 0.2 else {}
        worker = self.begin(job, **ask)
        self.turns.go_on(worker)

    def _pass_time(self) -> None:
        seconds = self.rng.choice(
            [20, 60, 60, 90, 130]
            if self.theme == "lost"
            else [20, 60, 60, 130, 130, 400, 700, HOUR, 4 * HOUR]
        )
        if self.rng.random() < 0.03:
            seconds = self.rng.choice([25 * HOUR, 3 * DAY])
        self.turns.advance(seconds)

    def _outside(self) -> None:
        """Something happens outside of our processes."""
        happen = [self._end_batches, self._end_batches, self.change_records, self._lag]
        if self.theme in ("any", "ends", "race"):
            happen += [self.lay_fault] * 4
            happen += [
                self._lose_request,
                self._cancel_in_console,
                self._delete_in_console,
                self._another_program,
                self._take_key_away,
                self._restore_backup,
            ]
        if self.is_whole:
            happen += [self._drop_table] * 2
        if self.api.options.keys:
            happen += [self._take_key_away] * 4
        self.rng.choice(happen)()

    def lay_fault(self, on: str | None = None) -> None:
        """Lay a fault for one of the next calls."""
        on = on or self.rng.choice(["create", "create", "list", "retrieve", "results", "cancel"])
        kind, settings = self.rng.choice(FAULTS[on])
        nth, times = self.rng.choice([1, 1, 1, 2, 3]), self.rng.choice([1, 1, 1, 2, 6])
        self._note_fault(on, kind, nth=nth, times=times, **settings)

    def _note_fault(self, on: str, kind: str, **settings: Any) -> None:
        self.note(f"fault: {on} {kind} {settings}")
        self.api.fault(on, kind, **settings)

    def _lose_request(self) -> None:
        how = self.rng.choice(["refused", "late"])
        self.note(f"fault: the next create call is {how}")
        self.lost.append(how)

    def _lag(self) -> None:
        if self.lag_seconds:
            self._note_fault("list", "list_lag", seconds=self.lag_seconds, times=40)

    def _end_batches(self) -> None:
        for batch in self.api.batches():
            if batch["processing_status"] != "ended" and self.rng.random() < 0.5:
                share = self.rng.choice([1.0, 1.0, 0.5])
                self.note(f"{batch['id'][-6:]} ends, {share:.0%} of it answered")
                self.api.end(batch["id"], share)

    def _cancel_in_console(self) -> None:
        for batch in self.api.batches():
            if batch["processing_status"] == "in_progress" and self.rng.random() < 0.3:
                self.note(f"{batch['id'][-6:]} is canceled in the Console")
                self.api.withdraw(batch["id"])

    def _delete_in_console(self) -> None:
        """Somebody deletes an ended batch; of ours only one that the ledger knows.

        Nobody can tell that one was ever there which is deleted before we had its id or saw it.
        """
        known = self._known_batches()
        for batch in self.api.batches():
            if (
                batch["processing_status"] == "ended"
                and not batch["deleted"]
                and self.rng.random() < 0.2
                and (batch["id"] in known or not self._is_ours(batch["id"]))
            ):
                self.note(f"{batch['id'][-6:]} is deleted in the Console")
                self.api.remove(batch["id"])

    def _known_batches(self) -> set[str]:
        rows = self.first.store.ledger.rows(select(candidates.c.batch_id))
        return {file["batch_id"] for file in self.first.files()} | {row["batch_id"] for row in rows}

    def _is_ours(self, batch_id: str) -> bool:
        return self.first.owns(self.api.requests(batch_id)[0]["custom_id"])

    def _another_program(self, size: int | None = None) -> None:
        sizes = [file["requests"] for file in self.first.files() if file["requests"]]
        size = size or int(self.rng.choice([*sizes, self.rng.randint(1, 6)]))
        self.turn += 1
        self.note(f"another program sends a batch of {size}")
        self.api.create_as_another(size, f"another-{self.turn}")

    def _take_key_away(self) -> None:
        taken = not self.api.options.keys
        self.note("the key is revoked" if taken else "the key is given back")
        self.api.configure(keys={"another": "default"} if taken else {})

    def change_records(self) -> None:
        """People add, edit and delete records."""
        for _ in range(self.rng.randint(1, 3)):
            self.turn += 1
            key = f"k{self.rng.randint(0, 13)}"
            text = self.rng.choice([f"c{self.turn}", f"t{key[1:]}"])
            if key not in self.records or self.rng.random() < 0.7:
                self.note(f"a person writes {key}: {text}")
                self.records[key] = text
            elif len(self.records) > 2:
                self.note(f"a person deletes {key}")
                del self.records[key]
        self._write_records()

    def _restore_backup(self) -> None:
        """A person makes a backup of the ledger; or brings back one, sees that it is refused, and undoes that."""
        if self.turns.workers:
            return
        path = self.folder / "store" / "ledger.sqlite"
        if not path.exists():
            return
        self.places.close_ledgers()
        self._reopen()
        status_tick._WHOSE.clear()
        with sqlite3.connect(path) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        connection.close()
        now = path.read_bytes()
        if self.backup is None:
            self.note("a person makes a backup of the ledger")
            self.backup = now
            return
        path.write_bytes(self.backup)
        paid = len(self.api.batches())
        try:
            with self.turns.undisturbed():
                self.process()
        except StoreError:
            self.note("a person restores the ledger's backup: it is refused, and put back")
            assert len(self.api.batches()) == paid
            self.places.close_ledgers()
            path.write_bytes(now)
            return
        self.note("a person restores the ledger's backup: nothing was sent since")

    def person(self, *, calm: bool = False) -> None:
        """A person looks at what is held, and decides."""
        process = self.first
        found = held.list_held(process.store)
        if found.pipelines or (found.submissions and (calm or self.theme != "budget")):
            self.note("a person releases the pipeline")
            self.approved |= bool(found.submissions)
            with suppress(BatchPipelineError):
                held.release(process.store, process.name)
        for file in found.files:
            if calm or self.rng.random() < 0.5:
                self._decide(process, file.id)

    def _decide(self, process: Stages, file_id: str) -> None:
        """Look in the Console whether a held file was taken, and act by what is seen there."""
        if self.late:
            return
        decision = decided(self.api, process, file_id, self.rng)
        if decision is None:
            return
        self.note(f"a person decides: {decision.__name__} {file_id[-14:]}")
        with suppress(BatchPipelineError):
            decision(process.store, file_id)

    # The end

    def heal(self) -> None:
        """Nothing fails any more; who stands somewhere goes on to its end."""
        self.note("calm")
        self.turns.switch = self.turns.end = self.turns.stall = 0.0
        self._count_faults()
        self.api.clear_faults()
        self.lost.clear()
        self.api.configure(manual=False, batch_seconds=0.0, rates={}, keys={})
        for _ in range(HEAL_STEPS):
            if not self.turns.workers:
                break
            if ready := self.turns.ready():
                self.turns.go_on(self.rng.choice(ready))
            else:
                wakes = min(one.wakes for one in self.turns.workers if one.wakes)
                self.turns.advance((wakes - self.clock.now()).total_seconds())
        assert not self.turns.workers, "a worker stands for ever"

    def settle(self) -> None:
        """One more night goes by, and all comes to rest."""
        process = self.first
        if self.late:
            self.turns.advance(LONGEST_UNSEEN_SECONDS)
        self._until_quiet(process)
        for _ in range(self.attempts):
            self.note("a last submit")
            if self.is_whole:
                process.submit(allow_reask=True)
            else:
                process.submit()
            if not self._states()[0]:
                break
            self._until_quiet(process)

        if self.is_whole:
            process.collect()  # a table that was dropped after the last answer came is made again by it

    def _until_quiet(self, process: Stages) -> None:
        def run(job: str, partition: str, **ask: Any) -> None:
            self.note(f"{job} {partition} {ask or ''}")
            process.run(job, partition, **ask)

        if self.by_sensor:
            process.until_quiet(self.turns.advance, lambda: self.person(calm=True), run)
            return
        for _ in range(SETTLE_STEPS):
            states, waits = self._states()
            if FileState.HELD in states or waits:
                self.person(calm=True)
                states, _ = self._states()
            if not states:
                return
            if states & {FileState.ENDED, FileState.IN_PROGRESS, FileState.COLLECTED}:
                run("collect", "")
            if states & {FileState.READY, FileState.SENDING, FileState.UNKNOWN}:
                run("send", "")
            if self._states()[0]:
                self.turns.advance(SETTLE_SECONDS)
        raise AssertionError(f"not at rest: {self._states()}")

    def _states(self) -> tuple[set[str], bool]:
        """The states of the files that are not done, and whether a person must release something."""
        with closing(sqlite3.connect(self.folder / "store" / "ledger.sqlite")) as ledger:
            states = ledger.execute(
                "select distinct state from request_files where state not in ('split', 'collected') "
                "or (state = 'collected' and published_at is null)"
            )
            found = {state for (state,) in states}
            (waits,) = ledger.execute(
                "select (select count(*) from holds) + (select count(*) from refusals) + "
                "(select count(*) from approvals where approved_at is null) + "
                "(select count(*) from request_files where error like '%That needs you%' "
                "and state = 'ended')"
            ).fetchone()
        return found, bool(waits)

    def check(self) -> None:
        """Judge what came of it."""
        assert not self.failures, "; ".join(self.failures)
        process = self.first
        process.check_table(self.records)
        process.check_bill(self.api)  # type: ignore[arg-type]
        held_files = [file["id"] for file in process.files() if file["state"] == FileState.HELD]
        assert not held_files, f"held for ever: {held_files}"
        for row in process.store.ledger.rows(select(transitions)):
            step = row["from_state"], row["to_state"]
            if not set(step) <= set(FileState):
                continue  # a budget's, or a note that the API was told to cancel
            assert step in STEPS or step[0] == step[1], f"no such step: {step}"
            self.told.steps[step] += 1
        self.told.points = self.turns.points

    def check_cap(self) -> None:
        """Assert that nothing was paid beyond the month's budget, which nobody has let pass."""
        if self.budget is None or self.approved:
            return
        self.api.end()
        paid = sum(
            float(line["usd"])
            for line in self.api.billed_requests()
            if line["usd"] is not None and self.first.owns(line["custom_id"])
        )
        assert paid <= self.budget * 1.000001, f"paid ${paid} of a budget of ${self.budget}"

    def _count_faults(self) -> None:
        for fault in self.api.faults():
            if fault["hits"]:
                self.told.faults[fault["on"], fault["kind"]] += fault["hits"]

    def add_ledger(self) -> None:
        """Add every step of the ledger, and every batch, to the story."""
        lines = [(line[:11], n, line) for n, line in enumerate(self.lines)]
        with suppress(Exception):
            rows = self.first.store.ledger.rows(select(transitions).order_by(transitions.c.id))
            for row in rows:
                step = f"{row['from_state'] or 'new'} -> {row['to_state']}"
                when = f"{row['at']:%d %H:%M:%S}"
                text = f"{when}       ledger: {row['file_id'][-14:]} {step}: {row['note'][:100]}"
                lines.append((when, len(lines), text))
        lines.sort(key=lambda line: line[:2])
        self.lines = [text for _, _, text in lines]

    def close(self) -> None:
        """End what is left, and forget all."""
        for worker in [*self.turns.workers]:
            self.turns.kill(worker)
        self.api.close()


@contextmanager
def _played(world: World) -> Iterator[None]:
    """Let the package work in a world for the block."""
    places = world.places
    with ExitStack() as stack:
        if not world.is_whole:
            stack.enter_context(without_duckdb())
        stack.enter_context(named_by(random.Random(f"names {world.seed}")))
        stack.enter_context(on_clock(world.clock))
        places.turns, places.network.api = world.turns, world.api
        try:
            yield
        finally:
            world.close()
            places.turns = places.network.api = None
            places.close_ledgers()


def play(
    seed: int, places: Places, folder: Path, tell: Callable[[str], None] | None = None
) -> Told:
    """Play one episode.

    Args:
        seed: decides everything.
        places: of this process.
        folder: a new one, for all files; it is removed.
        tell: gets each line of the story as it happens.

    Raises:
        AssertionError: something is not as it must be; a note of it tells the story.
    """
    return play_in(World(seed, places, folder, tell), f"make simulate SEED={seed}")


def play_in(world: World, again: str) -> Told:
    """Play what a world has in store.

    Args:
        world: a new one, whose folder is not there yet; it is removed.
        again: the command that plays it again.

    Raises:
        AssertionError: as ``play``.
    """
    shutil.copytree(world.places.new_store(), world.folder / "store")
    try:
        with _played(world):
            try:
                world.go()
                world.heal()
                world.check_cap()
                world.settle()
                world.check()
            except BaseException as error:
                world.add_ledger()
                error.add_note(f"The story of {world.title} (again: {again}):\n{world.story()}")
                raise
            return world.told
    finally:
        status_tick._WHOSE.clear()
        shutil.rmtree(world.folder, ignore_errors=True)
