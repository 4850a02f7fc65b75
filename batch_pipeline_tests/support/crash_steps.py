"""Processes that end at a step: killed, by an exception, or terminated.

Each runs a job of a deployment, as one of Dagster's run workers would, and ends where a ``Step``
says. Whether it got there is seen from a file that it writes right before.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import httpx2

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
)
from batch_pipeline.batches import send
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.store.files import Files
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import FileState
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.deployment import Deployment, Stages
from batch_pipeline_tests.support.pooling import pooled

Kind = Literal["killed", "exception", "terminated"]
Act = Callable[[], None]


class Broken(Exception):
    """Something that nobody foresaw: the run fails."""


@dataclass(frozen=True)
class Step:
    """Where a process ends.

    Attributes:
        name: what it has done last.
        scene: what the world is like when it starts.
        job: what it runs.
        lay: puts the end there.
    """

    name: str
    scene: str
    job: str
    lay: Callable[[Act], None]


def before(path: str, nth: int = 1) -> Callable[[Act], None]:
    """Return what puts the end right before the n-th call of a function (``module:Class.name``)."""
    return _around(path, nth, lambda act, call: (act(), call())[1])


def after(path: str, nth: int = 1) -> Callable[[Act], None]:
    """Return what puts the end right after the n-th call of a function."""
    return _around(path, nth, lambda act, call: (call(), act())[0])


def before_commit(path: str, nth: int = 1) -> Callable[[Act], None]:
    """Return what puts the end right before the last commit that a function's n-th call makes.

    It must make one transaction only, or the first one counts.
    """

    def around(act: Act, call: Callable[[], Any]) -> Any:
        real = Ledger.write

        @contextmanager
        def write(ledger: Ledger) -> Iterator[Any]:
            with real(ledger) as tx:
                yield tx
                act()

        Ledger.write = write  # type: ignore[method-assign]
        try:
            return call()
        finally:
            Ledger.write = real  # type: ignore[method-assign]

    return _around(path, nth, around)


def in_move(to: FileState, nth: int = 1) -> Callable[[Act], None]:
    """Return what puts the end into the transaction that takes the n-th file to a state."""

    def lay(act: Act) -> None:
        real, seen = Ledger.move, [0]

        def move(self: Ledger, tx: Any, file_id: str, come_from: Any, state: Any, *args: Any, **values: Any) -> bool:  # fmt: skip
            moved = real(self, tx, file_id, come_from, state, *args, **values)
            if moved and state is to:
                seen[0] += 1
                if seen[0] == nth:
                    act()
            return moved

        Ledger.move = move  # type: ignore[method-assign]

    return lay


def after_file(fragment: str, nth: int = 1) -> Callable[[Act], None]:
    """Return what puts the end right after the n-th file whose name has a fragment is in place."""

    def lay(act: Act) -> None:
        real, seen = Files.put, [0]

        def put(self: Files, local_path: str, name: str) -> str:
            real(self, local_path, name)
            if fragment in name:
                seen[0] += 1
                if seen[0] == nth:
                    act()
            return name

        Files.put = put  # type: ignore[method-assign]

    return lay


def while_uploading(act: Act) -> None:
    """Put the end between two pieces of the second upload."""
    real, uploads = send.body, [0]

    def body(*args: Any) -> Iterator[bytes]:
        uploads[0] += 1
        for number, chunk in enumerate(real(*args)):
            if number and uploads[0] == 2:
                act()
            yield chunk

    send.body = body


def with_reply_unread(act: Act) -> None:
    """Put the end where the API has taken the second batch and nobody has read its reply."""
    real, posts = httpx2.HTTPTransport.handle_request, [0]

    def handle(self: Any, request: Any) -> Any:
        response = real(self, request)
        if request.method == "POST":
            posts[0] += 1
            if posts[0] == 2:
                act()
        return response

    httpx2.HTTPTransport.handle_request = handle  # type: ignore[method-assign]


def mid_download(act: Act) -> None:
    """Put the end into the middle of a download."""
    real = BatchesApi.results

    def results(self: BatchesApi, batch_id: str) -> Iterator[bytes]:
        for chunk in real(self, batch_id):
            yield chunk[: len(chunk) // 2]
            act()

    BatchesApi.results = results  # type: ignore[method-assign]


def _around(
    path: str, nth: int, around: Callable[[Act, Callable[[], Any]], Any]
) -> Callable[[Act], None]:
    def lay(act: Act) -> None:
        module, _, name = path.partition(":")
        owner: Any = import_module(f"batch_pipeline.{module}")
        *classes, name = name.split(".")
        for one in classes:
            owner = getattr(owner, one)
        real, calls = getattr(owner, name), [0]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth:
                return around(act, lambda: real(*args, **kwargs))
            return real(*args, **kwargs)

        setattr(owner, name, wrapped)

    return lay


STEPS = [
    # submit: select, prepare
    Step("records placed", "fresh", "submit", before("records.submission:commit_selection")),
    Step("selecting", "fresh", "submit", before_commit("records.submission:commit_selection")),
    Step("selected", "fresh", "submit", after("records.submission:commit_selection")),
    Step("one request file placed", "fresh", "submit", after_file("/requests/", nth=2)),
    Step("building", "fresh", "submit", before_commit("requests.prepare:commit_build")),
    Step("built", "fresh", "submit", after("requests.prepare:commit_build")),
    Step("manifest placed", "fresh", "submit", after_file("/manifest")),
    # submit: send
    Step("claiming", "fresh", "submit", in_move(FileState.SENDING, nth=2)),
    Step("claimed", "fresh", "submit", after("batches.send:claim", nth=2)),
    Step("connecting", "fresh", "submit", before("batches.api:BatchesApi.create", nth=2)),
    Step("uploading", "fresh", "submit", while_uploading),
    Step("accepted, reply unread", "fresh", "submit", with_reply_unread),
    Step("reply read", "fresh", "submit", before("batches.send:_accepted", nth=2)),
    Step("storing the id", "fresh", "submit", in_move(FileState.IN_PROGRESS, nth=2)),
    Step("id stored", "fresh", "submit", after("batches.send:_accepted", nth=2)),
    # send: look at the table first
    Step("holding", "restored", "send", in_move(FileState.HELD, nth=2)),
    Step("held", "restored", "send", after("definitions.assets.look:hold_answered", nth=2)),
    # send: reconcile
    Step("giving up a sender", "sender gone", "send", in_move(FileState.UNKNOWN)),
    Step("sender given up", "sender gone", "send", after("batches.reconcile:expire_leases")),
    Step("deciding to send again", "lost on the way", "send", in_move(FileState.READY)),
    Step("decided to send again", "lost on the way", "send", after("batches.reconcile:_step")),
    Step("candidate noted", "reply lost", "send", after("batches.poll:note_candidates")),
    Step("adopting", "reply lost", "send", in_move(FileState.IN_PROGRESS)),
    Step("adopted", "reply lost", "send", after("batches.candidates:adopt")),
    Step("judged", "reply lost", "send", after("batches.candidates:_judge")),
    # send: 413
    Step("one half placed", "too large", "send", after_file("-of-")),
    Step("splitting", "too large", "send", in_move(FileState.SPLIT)),
    Step("split", "too large", "send", after("batches.send:split")),
    # collect: poll, download
    Step("ending", "ended", "collect", in_move(FileState.ENDED, nth=2)),
    Step("all ended", "ended", "collect", before("batches.poll:settle_candidates")),
    Step("downloading", "ended", "collect", mid_download),
    Step("downloaded", "ended", "collect", before("results.download:_place", nth=2)),
    Step("answers placed", "ended", "collect", after("results.download:_place", nth=2)),
    Step("keeping answers", "ended", "collect", before_commit("results.download:_keep", nth=2)),
    Step("answers kept", "ended", "collect", after("results.download:_keep", nth=2)),
    # collect: rows
    Step("rows placed", "ended", "collect", after_file("/results/", nth=2)),
    Step("index placed", "ended", "collect", after_file("/index/", nth=2)),
    Step("collecting", "ended", "collect", in_move(FileState.COLLECTED, nth=2)),
    Step("collected", "ended", "collect", after("results.collect:_Pass._one", nth=2)),
    # collect: publish
    Step("before the merge", "ended", "collect", before("results.publish:_merge")),
    Step("merging into the table", "ended", "collect", before("results.table_rows:TableRows.insert")),
    Step("buckets written", "ended, no table", "collect", before("results.manifest:ManifestFolder.publish")),
    Step("manifest published", "ended, no table", "collect", after("results.manifest:ManifestFolder.publish")),
    Step("merged", "ended", "collect", after("results.publish:_merge")),
    Step("published", "ended", "collect", before("results.account:_settled")),
]  # fmt: skip
BY_NAME = {step.name: step for step in STEPS}


def prepare(step: str, kind: Kind, reached: str) -> None:
    """Let this process end at a step.

    Args:
        step: its name.
        kind: how it ends.
        reached: a file that is made right before.
    """
    terminate_like_dagster()

    def act() -> None:
        Path(reached).touch()
        match kind:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exception":
                raise Broken(f"at {step!r}")
            case "terminated":
                os.kill(os.getpid(), signal.SIGTERM)

    BY_NAME[step].lay(act)


def terminate_like_dagster() -> None:
    """Turn SIGTERM into an exception of the main thread, as Dagster's run worker does."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise dg.DagsterExecutionInterruptedError

    signal.signal(signal.SIGTERM, interrupt)


def clock_of(ahead: float) -> HandClock:
    """Return the clock of a process that is that many seconds ahead of the machine's."""
    clock = HandClock()
    clock.advance(ahead)
    return clock


# What children do


def crash(deployment: Deployment, ahead: float, step: str, kind: Kind, reached: str) -> None:
    """Run the job that a step is of, and end there."""
    with pooled():
        stages = Stages(deployment, clock_of(ahead))
        prepare(step, kind, reached)
        stages.run(BY_NAME[step].job)


def terminated_after(deployment: Deployment, ahead: float, job: str, seconds: float) -> None:
    """Run a job, and be terminated at whatever it does then."""
    with pooled():
        stages = Stages(deployment, clock_of(ahead))
        terminate_like_dagster()
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        stages.run(job)
        signal.setitimer(signal.ITIMER_REAL, 0)


def restart(deployment: Deployment, ahead: float) -> None:
    """Begin again: a submit run, and the sensor for a while."""
    with pooled():
        stages = Stages(deployment, clock_of(ahead))
        stages.submit()
        for _ in range(2):
            stages.tick()


def dagster_job(
    root: str, warehouse: str, url: str, job: str, step: str, kind: Kind, reached: str
) -> None:
    """Run a job in Dagster; end at a step of it unless ``step`` is ""."""
    run = nights(root, warehouse, url)
    if job == "collect":
        # The look that finds the batches ended moves rows too: it is not what is tested here.
        run.tick()
    if step:
        prepare(step, kind, reached)
    run.run(job)


def nights(root: str, warehouse: str, url: str) -> Nights:
    """The pipeline that the crash tests run in Dagster, the same in every process."""
    pipeline = BatchPipeline(
        name="packages",
        source=DuckDBSource(database=warehouse, table="packages", key="package"),
        request=MessageTemplate(
            model="claude-haiku-4-5", max_tokens=200, prompt="{{ summary }}\n{{ description }}"
        ),
        destination=DuckDBTable(database=warehouse, table="answers"),
    )
    claude = ClaudeBatches(
        api_key="test-key", base_url=url, max_batch_requests=40, timeout_seconds=10.0
    )
    return Nights(pipeline, claude, BatchStore(root=root), dg.DagsterInstance.ephemeral())
