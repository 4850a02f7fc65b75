"""One episode of the random walk: nights that go wrong in ways that a seed decides.

The clocks of our processes and of the API stand still but for what the walk adds, so nothing is
shrunk to be fast. Processes are simulated in this one: at each point where a process can die, be
stopped, or sleep while another one works (before and after each transaction, file, call and merge),
something may happen. Then all is calm, and what is left must be right.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import anthropic
import httpx2
from sqlalchemy import select

from batch_pipeline.batches import held
from batch_pipeline.batches import send as send_module
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.store.files import Files
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, candidates, transitions
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.deployment import (
    Deployment,
    Stages,
    change_records,
    make_records,
    on_clock,
)
from batch_pipeline_tests.support.pooling import pooled

START = datetime(2026, 11, 20, 22, 59, 30, tzinfo=UTC)
DEPLOYMENTS = 2  # at most
HOUR, DAY = 3600.0, 24 * 3600.0
SENDING_WEIGHT = 5  # how much more may happen while a batch is sent than elsewhere
BEFORE_SENDING = "before a batch is sent"

# No 429 or 529 after the call was done: the API says that it took nothing then, and is believed.
FAULTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "create": [
        ("drop_before", {}),
        ("drop_before", {"while_sending": True}),
        ("drop_after", {}),
        ("drop_after", {}),
        ("drop_after", {}),
        ("status_before", {"status": 500}),
        ("status_before", {"status": 408}),
        ("status_before", {"status": 409}),
        ("status_before", {"status": 529}),
        ("status_before", {"status": 429, "headers": {"retry-after": "7"}}),
        ("status_before", {"status": 413}),
        ("status_before", {"status": 413}),
        ("status_before", {"status": 307, "headers": {"location": "http://127.0.0.1:9/v1"}}),
        ("redirect", {"location": "http://127.0.0.1:9/v1"}),
        ("status_after", {"status": 500}),
        ("status_after", {"status": 408}),
        ("status_after", {"status": 504, "body": "<html>"}),
        ("replace_body", {}),
        ("cut_body", {}),
        ("cut_body", {"clean": True}),
    ],
    "list": [
        ("drop_before", {}),
        ("drop_after", {}),
        ("status_before", {"status": 500}),
        ("status_before", {"status": 429, "headers": {"retry-after": "7"}}),
        ("cut_body", {}),
        ("replace_body", {}),
    ],
    "retrieve": [
        ("drop_before", {}),
        ("status_before", {"status": 529}),
        ("status_before", {"status": 404}),
        ("replace_body", {}),
    ],
    "results": [
        ("drop_before", {}),
        ("status_before", {"status": 500}),
        ("status_before", {"status": 404}),
        ("cut_results_at_line", {"line": 0}),
        ("cut_results_at_line", {"line": 1}),
        ("cut_results_at_line", {"line": 1, "clean": False}),
        ("cut_results_mid_line", {"line": 1}),
        ("line_twice", {}),
        ("line_missing", {"line": 1}),
        ("line_replaced", {"line": 1}),
        ("line_added", {"text": "garbage"}),
        ("line_added", {"text": '{"custom_id": "of-another", "result": {"type": "expired"}}'}),
        (
            "line_replaced",
            {"text": '{"custom_id": "of-another", "result": {"type": "expired"}}', "line": 2},
        ),
    ],
}
SPEND_LIMITS: list[dict[str, Any]] = [
    {"status": 400, "message": "You have reached your specified workspace API usage limits"},
    {"status": 429, "error_code": "enforced_spend_limit_reached"},
    {"status": 402},
]


class Killed(BaseException):
    """The process was killed: from here on it does nothing any more."""


class Interrupted(BaseException):
    """The run was terminated: an exception comes up wherever its main thread is."""


class DiskFull(OSError):
    """A file could not be written."""


RUN_FAILS = (BatchPipelineError, Killed, Interrupted, DiskFull)


@dataclass
class Frame:
    """A process at work."""

    dead: bool = False


@dataclass
class Fate:
    """Decides what happens at the points where something may.

    Args:
        rng: draws.
        chance: of something at one point.
        happenings: by name; each is told whether another process may work at that point.
    """

    rng: random.Random
    chance: float = 0.0
    frames: list[Frame] = field(default_factory=list)
    other: Callable[[], None] = lambda: None
    stall: Callable[[float], None] = lambda _seconds: None
    world: Callable[[], None] = lambda: None
    note: Callable[[str], None] = lambda _line: None

    @contextmanager
    def process(self) -> Iterator[None]:
        """What is done in the block is done by a process of its own."""
        self.frames.append(Frame())
        try:
            yield
        finally:
            self.frames.pop()

    def at(
        self, point: str, *, nests: bool = True, disk: bool = False, sends: bool = False
    ) -> None:
        """Let something happen, or nothing.

        Args:
            point: where the process is.
            nests: whether others can work while it stands there.
            disk: whether it is writing a file.
            sends: whether it is sending a batch.
        """
        # A lease is renewed by a thread of its own.
        if not self.frames or threading.current_thread() is not threading.main_thread():
            return
        frame = self.frames[-1]
        if frame.dead:
            raise Killed
        if self.rng.random() >= self.chance * (SENDING_WEIGHT if sends else 1):
            return
        kinds = ["kill", "kill", "interrupt", "stall", "world"]
        if disk:
            kinds.append("disk")
        if nests and len(self.frames) == 1:
            kinds += ["other", "other", "other"]
        kind = self.rng.choice(kinds)
        self.note(f"{kind} {point}")
        match kind:
            case "kill":
                frame.dead = True
                raise Killed
            case "interrupt":
                raise Interrupted
            case "disk":
                raise DiskFull("No space left on device")
            case "stall" if point == BEFORE_SENDING:
                # Once it has looked at its lease, nothing but the time-out of the call stops it.
                self.stall(30.0)
            case "stall":
                self.stall(self.rng.choice([5, 40, 130, 400, 700, 4000]))
                while nests and len(self.frames) == 1 and self.rng.random() < 0.6:
                    self.other()
            case "other":
                self.other()
            case "world":
                self.world()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Put the points into the stages for the block."""
        write, put = Ledger.write, Files.put
        create, results, page = BatchesApi.create, BatchesApi.results, BatchesApi.page
        body, handle = send_module.body, httpx2.HTTPTransport.handle_request

        @contextmanager
        def _write(ledger: Ledger) -> Iterator[Any]:
            self.at("before a transaction")
            with write(ledger) as tx:
                yield tx
            self.at("after a transaction")

        def _put(files: Files, local_path: str, name: str) -> str:
            self.at(f"before the file {name}", nests=False, disk=True)
            put(files, local_path, name)
            self.at(f"after the file {name}", nests=False)
            return name

        def _create(api: BatchesApi, chunks: Iterator[bytes], length: int) -> Any:
            self.at(BEFORE_SENDING, sends=True)
            batch = create(api, chunks, length)
            self.at("after the reply", sends=True)
            return batch

        def _body(*args: Any) -> Iterator[bytes]:
            for chunk in body(*args):
                self.at("while uploading", sends=True)
                yield chunk

        def _handle(transport: Any, request: Any) -> Any:
            response = handle(transport, request)
            if request.method == "POST":
                try:
                    self.at("after the API took the batch, before its reply is read", sends=True)
                except BaseException:
                    response.close()
                    raise
            return response

        def _results(api: BatchesApi, batch_id: str) -> Iterator[bytes]:
            self.at("before a download")
            for chunk in results(api, batch_id):
                yield chunk
                self.at("while downloading")

        def _page(api: BatchesApi, *args: Any, **kwargs: Any) -> Any:
            found = page(api, *args, **kwargs)
            self.at("after a listing")
            return found

        def merging(real: Callable[..., Any]) -> Callable[..., Any]:
            def _merge(destination: Any, *args: Any) -> Any:
                self.at("before the merge")
                merged = real(destination, *args)
                self.at("after the merge")
                return merged

            return _merge

        with ExitStack() as stack:
            for owner, name, value in (
                (Ledger, "write", _write),
                (Files, "put", _put),
                (BatchesApi, "create", _create),
                (BatchesApi, "results", _results),
                (BatchesApi, "page", _page),
                (send_module, "body", _body),
                (httpx2.HTTPTransport, "handle_request", _handle),
                (DuckDBTable, "merge", merging(DuckDBTable.merge)),
                (ParquetDataset, "merge", merging(ParquetDataset.merge)),
            ):
                stack.enter_context(mock.patch.object(owner, name, value))
            yield


class _Slowly(HandClock):
    """A clock moved by hand, of a process that others work beside."""

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.02))
        super().sleep(seconds)


def work(deployment: Deployment, now: datetime, job: str, partition: str) -> None:
    """Do what one run or one look of the sensor does; a child's work."""
    clock = _Slowly(now)
    with pooled(), on_clock(clock), suppress(BatchPipelineError):
        process = Stages(deployment, clock)
        if job == "tick":
            process.tick()
        else:
            process.run(job, partition)


class Walk:
    """The world of one episode.

    Args:
        seed: decides everything.
        emulator: the API; it is reset.
        folder: empty, for all files.
        ledgers: a ledger's URL for each of two deployments; none: SQLite in their stores.
    """

    def __init__(
        self,
        seed: int,
        emulator: EmulatorProcess,
        folder: Path,
        ledgers: Sequence[str] = (),
    ) -> None:
        self.seed, self.emulator, self.folder = seed, emulator, folder
        self.rng = rng = random.Random(seed)
        self.log: list[tuple[datetime, str]] = []
        self.forced, self.turn = False, 0
        # What real processes do at once no seed decides; the other episodes are repeatable.
        self.with_processes = rng.choice([0] * 9 + [3])
        emulator.reset(
            answers="digest",
            seed=seed,
            manual=rng.random() < 0.3,
            batch_seconds=rng.choice([0, 0, 300, 4000, 4000, 23 * HOUR]),
            rates={
                name: rng.choice([0, 0, 0.2])
                for name in ("errored", "expired", "invalid", "truncated", "refused")
            },
        )
        emulator.freeze_clock()
        self.skew = timedelta(seconds=rng.choice([0, 0, rng.uniform(-600, 600)]))
        emulator.set_clock((START + self.skew).timestamp())
        self.clock = HandClock(START, emulator.advance)
        self.fate = Fate(
            random.Random(f"fate {seed}"),
            chance=rng.choice([0.0, 0.005, 0.02, 0.05]),
            other=self._another_process,
            stall=self.clock.advance,
            world=self._something_outside,
            note=self.note,
        )
        parts = rng.choice([(), (), (), ("a", "b"), ("a", "b", "c")])
        self.warehouse = str(folder / "warehouse.duckdb")
        self.records = {f"k{number:02d}": f"t{number}" for number in range(rng.randint(5, 14))}
        make_records(self.warehouse, self.records, parts)
        self.parts = parts or ("",)
        fields = {
            "on_deleted": rng.choice(["keep", "drop"]),
            "max_attempts": rng.choice([1, 2, 3, 6]),
            "refresh": rng.choice(["changed", "changed", "changed", "new"]),
        }
        claude = {
            "max_batch_requests": rng.randint(2, 7),
            "max_queued_requests": rng.choice([8, 20, 1000]),
            "on_unknown": rng.choice(["resend", "resend", "resend", "hold"]),
        }
        table = rng.random() < 0.6
        self.processes: dict[Deployment, list[Stages]] = {}
        for number in range(1 if rng.random() < 0.7 else DEPLOYMENTS):
            deployment = Deployment(
                folder=str(folder / f"store{number}"),
                warehouse=self.warehouse,
                url=emulator.base_url,
                ledger=ledgers[number] if ledgers else None,
                partitions=parts,
                table=table and number == 0,
                pipeline=fields,
                claude=claude,
            )
            self.processes[deployment] = [Stages(deployment, self.clock)]
        self.first = next(iter(self.processes))
        self.console = anthropic.Anthropic(
            api_key="console",
            base_url=emulator.base_url,
            max_retries=0,
            http_client=anthropic.DefaultHttpxClient(verify=False),
        )

    def close(self) -> None:
        """Close all connections."""
        self.console.close()
        for some in self.processes.values():
            for process in some:
                process.close()

    def note(self, line: str) -> None:
        """Say in the story what happens now."""
        self.log.append((self.clock.now(), line))

    def story(self) -> str:
        """What happened, in the order in which it did, with every step of each ledger."""
        lines = list(self.log)
        for number, some in enumerate(self.processes.values()):
            rows = some[0].store.ledger.rows(select(transitions).order_by(transitions.c.id))
            for row in rows:
                step = f"{row['from_state'] or 'new'} -> {row['to_state']}"
                text = f"    ledger {number}: {row['file_id'][-14:]} {step}: {row['note']}"
                lines.append((row["at"], text))
        for batch in self.emulator.batches():
            created = datetime.fromisoformat(batch["created_at"])
            text = f"    API: takes {batch['id']} of {batch['requests']}"
            lines.append((created - self.skew, text))
        lines.sort(key=lambda line: line[0])
        return "\n".join(f"{at:%d %H:%M:%S} {line}" for at, line in lines)

    # Processes

    def run(self, process: Stages, job: str, partition: str = "", **ask: Any) -> None:
        """Run a job in a process that may fail, and may die."""
        self.forced |= bool(ask.get("force"))
        with self.fate.process(), suppress(*RUN_FAILS):
            process.run(job, partition, **ask)

    def tick(self, process: Stages) -> None:
        """Look as the sensor does, and run what it asks for, each in a process of its own."""
        wanted: list[tuple[str, str, dict[str, Any]]] = []
        with self.fate.process(), suppress(*RUN_FAILS):
            wanted = process.look()
        for job, partition, ask in wanted:
            self.run(process, job, partition, **ask)

    def _process(self, deployment: Deployment, number: int = 0) -> Stages:
        processes = self.processes[deployment]
        if number == len(processes):
            processes.append(Stages(deployment, self.clock))
        return processes[number]

    def _any_deployment(self) -> Deployment:
        deployments = list(self.processes)
        return deployments[0] if self.rng.random() < 0.7 else self.rng.choice(deployments)

    def _another_process(self) -> None:
        """While one stands still, another one of the same deployment works."""
        # Opening the store is no part of what is interrupted.
        frames, self.fate.frames = self.fate.frames, []
        process = self._process(self.current, 1)
        self.fate.frames = frames
        part = self.fate.rng.choice(self.parts)
        job = self.fate.rng.choice(["tick", "tick", "submit", "send", "collect"])
        self.note(f"  another process: {job} {part}")
        if job == "tick":
            self.tick(process)
        else:
            self.run(process, job, part)

    def _real_processes(self) -> None:
        """Two real processes work at the same time; sometimes one of them is killed."""
        deployment = self._any_deployment()
        part = self.rng.choice(self.parts)
        jobs = [self.rng.choice(["tick", "submit", "send", "collect"]) for _ in range(2)]
        self.note(f"real processes: {jobs} {part}")
        now = self.clock.now()
        running = [processes.start(self.folder, work, deployment, now, job, part) for job in jobs]
        killed = self.rng.random() < 0.5
        if killed:
            time.sleep(self.rng.uniform(0, 0.2))
            running[0].process.kill()
        codes = [child.join() for child in running]
        errors = [child.error for child in running if child.error]
        assert not errors, "\n".join(errors)
        assert codes[killed:] == [0] * (2 - killed), codes

    # What happens to it

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def change_records(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.turn += 1
            key = f"k{self.rng.randint(0, 24):02d}"
            # Sometimes the text that the key had at first: its answer is known.
            text = self.rng.choice([f"c{self.turn}", f"t{int(key[1:])}"])
            if key not in self.records:
                part = self.rng.choice(self.parts) or None
                change_records(
                    self.warehouse, "insert into records values (?, ?, ?)", key, text, part
                )
                self.records[key] = text
            elif self.rng.random() < 0.6:
                change_records(self.warehouse, "update records set t = ? where k = ?", text, key)
                self.records[key] = text
            elif len(self.records) > 3:
                change_records(self.warehouse, "delete from records where k = ?", key)
                del self.records[key]

    def lay_fault(self, on: str | None = None) -> None:
        on = on or self.rng.choice(["create", "list", "retrieve", "results", "results"])
        kind, settings = self.rng.choice(FAULTS[on])
        nth, times = self.rng.randint(1, 3), self.rng.choice([1, 1, 1, 2, 2, 6])
        self.note(f"fault {on} {kind} {settings} nth={nth} times={times}")
        self.emulator.fault(on, kind, nth=nth, times=times, **settings)

    def lag_list(self) -> None:
        """The list lacks what is young, though not as long as we wait for it."""
        seconds = self.rng.choice([20, 60, 115])
        self.note(f"the list lags {seconds} s")
        self.emulator.fault("list", "list_lag", seconds=seconds, times=self.rng.choice([5, 40]))

    def limit_spending(self) -> None:
        settings = self.rng.choice(SPEND_LIMITS)
        self.note(f"spend limit {settings}")
        self.emulator.fault(
            "create", "status_before", times=self.rng.choice([1, 3, 10]), **settings
        )

    def take_key_away(self) -> None:
        """The key is revoked, or given back."""
        taken = not self.emulator.options.get("keys")
        self.note("key revoked" if taken else "key given back")
        self.emulator.configure(keys={"console": "default"} if taken else {})

    def end_batches(self) -> None:
        for batch in self.emulator.batches():
            if batch["processing_status"] != "ended" and self.rng.random() < 0.5:
                share = self.rng.choice([1.0, 1.0, 1.0, 0.5])
                self.note(f"ends {batch['id']} {share}")
                self.emulator.end(batch["id"], share)

    def cancel_in_console(self) -> None:
        for batch in self.emulator.batches():
            if batch["processing_status"] == "in_progress" and self.rng.random() < 0.3:
                self.note(f"canceled in the Console: {batch['id']}")
                with suppress(anthropic.APIError, ValueError):
                    self.console.messages.batches.cancel(batch["id"])

    def delete_in_console(self) -> None:
        """Somebody deletes ended batches, ours too.

        Of ours only those that the ledger knows: nobody can tell that one was ever there which is
        deleted before we had its id or saw it in the list.
        """
        for batch in self.emulator.batches():
            if (
                batch["processing_status"] == "ended"
                and not batch["deleted"]
                and self.rng.random() < 0.3
                and self._may_be_deleted(batch["id"])
            ):
                self.note(f"deleted in the Console: {batch['id']}")
                with suppress(anthropic.APIError, ValueError):
                    self.console.messages.batches.delete(batch["id"])

    def foreign_batch(self) -> None:
        """Another program sends a batch, of a size that one of our files has, or will have."""
        sizes = [file["requests"] for file in self._process(self.first).files() if file["requests"]]
        size = self.rng.choice([*sizes, self.rng.randint(1, 8)])
        params: Any = {
            "model": "claude-haiku-4-5",
            "max_tokens": 20,
            "messages": [{"role": "user", "content": "foreign"}],
        }
        self.turn += 1
        requests: Any = [
            {"custom_id": f"foreign-{self.turn}-{number}", "params": params}
            for number in range(size)
        ]
        self.note(f"foreign batch of {size}")
        with suppress(anthropic.APIError, ValueError):
            self.console.messages.batches.create(requests=requests)

    def _something_outside(self) -> None:
        """What may happen at any moment, whatever our processes do."""
        happen = [
            self.end_batches,
            self.end_batches,
            self.lay_fault,
            self.cancel_in_console,
            self.delete_in_console,
            self.foreign_batch,
        ]
        rng, self.rng = self.rng, self.fate.rng
        frames, self.fate.frames = self.fate.frames, []
        try:
            self.rng.choice(happen)()
        finally:
            self.rng, self.fate.frames = rng, frames

    def person(self, *, calm: bool = False) -> None:
        """A person looks at what is held, and decides."""
        for deployment in self.processes:
            process = self._process(deployment)
            found = held.list_held(process.store)
            for _ in found.pipelines:
                self.note("a person releases the pipeline")
                with suppress(*RUN_FAILS):
                    if calm or self.rng.random() < 0.5:
                        held.release(process.store, process.name)
                    else:
                        self.run(process, "send", self.rng.choice(self.parts))
            for file in found.files:
                if calm or self.rng.random() < 0.5:
                    self._decide(process, file.id)

    def _decide(self, process: Stages, file_id: str) -> None:
        """Look in the Console whether a held file was taken, and act by what is seen there."""
        decision = decided(self.emulator, process, file_id, self.rng)
        if decision is None:
            return
        self.note(f"a person decides: {decision.__name__} {file_id}")
        decision(process.store, file_id)

    def _may_be_deleted(self, batch_id: str) -> bool:
        """Whether its ledger knows a batch, or it is none of ours."""
        custom_id = self.emulator.requests(batch_id)[0]["custom_id"]
        for deployment in self.processes:
            process = self._process(deployment)
            if process.owns(custom_id):
                known = {file["batch_id"] for file in process.files()}
                rows = process.store.ledger.rows(select(candidates.c.batch_id))
                return batch_id in known | {row["batch_id"] for row in rows}
        return True

    # An episode

    def go(self) -> None:
        """Let anything happen for a few nights."""
        for night in range(self.rng.randint(1, 4)):
            if night:
                self.change_records()
            for _ in range(self.rng.randint(0, 3)):
                self.lay_fault("create")
            self._step("submit")
            for _ in range(self.rng.randint(1, 5)):
                self._pass_time()
                if self.rng.random() < 0.5:
                    self.lay_fault()
                self._step(
                    self.rng.choice(
                        ["tick"] * 9
                        + ["submit", "end", "end", "person", "person", "foreign", "foreign"]
                        + ["lag", "lag", "spend", "key", "key", "console", "delete", "clear"]
                        + ["cancel", "settle"]
                        + ["processes"] * self.with_processes
                    )
                )
            self._pass_time()

    def _pass_time(self) -> None:
        seconds = [0, 20, 60, 60, 130, 130, 400, 700, HOUR, 4 * HOUR]
        if self.rng.random() < 0.02:
            seconds = [25 * HOUR, 30 * DAY]
        self.advance(self.rng.choice(seconds))

    def _step(self, step: str) -> None:
        self.current = deployment = self._any_deployment()
        process = self._process(deployment)
        self.note(f"{step} {Path(deployment.folder).name}")
        match step:
            case "submit":
                ask = self.rng.choice([{}, {}, {}, {"limit": 3}, {"limit": 2, "force": True}])
                for part in self.parts:
                    self.run(process, "submit", part, **ask)
            case "tick":
                self.tick(process)
            case "end":
                self.end_batches()
            case "person":
                self.person()
            case "lag":
                self.lag_list()
            case "spend":
                self.limit_spending()
            case "key":
                self.take_key_away()
            case "console":
                self.cancel_in_console()
            case "cancel" | "settle":
                self.run(process, step, self.rng.choice(self.parts))
            case "delete":
                self.delete_in_console()
            case "foreign":
                self.foreign_batch()
            case "clear":
                self.emulator.clear_faults()
            case "processes":
                self._real_processes()

    def calm_down(self) -> None:
        """Nothing fails any more, and one more night goes by."""
        self.note("calm")
        self.emulator.configure(manual=False, batch_seconds=0, rates={}, keys={})
        self.emulator.clear_faults()
        for deployment in self.processes:
            process = self._process(deployment)
            self._until_quiet(process)
            for part in self.parts:
                process.submit(part)
            self._until_quiet(process)

    def _until_quiet(self, process: Stages) -> None:
        def run(job: str, partition: str, **ask: Any) -> None:
            self.note(f"{job} {partition} {ask}")
            process.run(job, partition, **ask)

        process.until_quiet(self.advance, lambda: self.person(calm=True), run)

    def check(self) -> None:
        """Assert what must be true."""
        for deployment in self.processes:
            process = self._process(deployment)
            process.check_table(self.records)
            process.check_bill(self.emulator, forced=self.forced)
            held_files = [file for file in process.files() if file["state"] == FileState.HELD]
            assert not held_files, f"held for ever: {held_files}"


def episode(
    seed: int, emulator: EmulatorProcess, folder: Path, ledgers: Sequence[str] = ()
) -> None:
    """Walk one episode.

    Args:
        seed: decides everything.
        emulator: the API; it is reset.
        folder: empty, for all files.
        ledgers: as for ``Walk``.

    Raises:
        AssertionError: something is not as it must be; a note of it tells the story.
    """
    names = random.Random(f"names {seed}")

    def token_hex(nbytes: int = 32) -> str:
        return names.randbytes(nbytes).hex()

    # Rows are read in the order of their names.
    with pooled(), mock.patch("secrets.token_hex", token_hex):
        walk = Walk(seed, emulator, folder, ledgers)
        try:
            with on_clock(walk.clock), walk.fate.at_work():
                walk.go()
            with on_clock(walk.clock):
                walk.calm_down()
                walk.check()
        except BaseException as error:
            error.add_note(
                f"The story of seed {seed} (again: python -m batch_pipeline_tests.soak --start "
                f"{seed} --episodes 1):\n{walk.story()}"
            )
            raise
        finally:
            walk.close()


def decided(
    api: Any, process: Stages, file_id: str, rng: random.Random
) -> Callable[[Store, str], Any] | None:
    """Return what a person who looks in the Console decides about a held file; None: it comes back by itself.

    Args:
        api: the emulated API, in a process of its own or in this one.
        process: whose ledger.
        file_id: the held file.
        rng: draws what is a matter of taste.
    """
    [file] = [one for one in process.files() if one["id"] == file_id]
    accepted = _accepted(api, process, file)
    if not accepted:
        return rng.choice([held.resend, held.drop])
    if all(batch["deleted"] or batch["archived_at"] for batch in accepted):
        return held.drop
    return None  # It is found in the list, and collected.


def _accepted(api: Any, process: Stages, file: Any) -> list[dict[str, Any]]:
    """Return the batches that the API made of a file and the ledger has no id of."""
    known = {one["batch_id"] for one in process.files()}
    with process.store.files.open(file["path"]) as lines:
        custom_id = json.loads(lines.readline())["custom_id"]
    return [
        batch
        for batch in api.batches()
        if batch["requests"] == file["requests"]
        and batch["id"] not in known
        and any(line["custom_id"] == custom_id for line in api.requests(batch["id"]))
    ]
