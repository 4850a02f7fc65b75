"""All states that sending can come to, in a small world, searched to the end. ``make model``.

    python -m batch_pipeline_tests.simulation.model

Two workers, two files, one endpoint, now and then another program's batch. Each step is taken by the
package's own functions (``claim``, ``_attempt``, ``reconcile``, ``poll``, ``held``), on a ledger in memory that
is put back to the state that the step begins from; ``Ledger.move`` takes no step that is not in ``STEPS``.
Between two steps of a worker anything may happen: other workers, time, the end of a batch, a crash. The
ages of things count up to an age from which on nothing asks for them any more, so there is an end.

In each state: of no file the API has taken two batches, and none that it took is lost.
"""

import io
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
import orjson
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from batch_pipeline.batches import held
from batch_pipeline.batches import send as send_module
from batch_pipeline.batches.candidates import MAY_BE_IT
from batch_pipeline.batches.claim import Room, claim
from batch_pipeline.batches.outcome import (
    FileRefused,
    NotAccepted,
    OutcomeUnknown,
    PipelineRefused,
)
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import Sent
from batch_pipeline.batches.wire import Batch, Page
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store import ledger as ledger_module
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.submissions import (
    Endpoint,
    NewFile,
    NewSelection,
    Scope,
    commit_build,
    commit_selection,
    know_endpoint,
    situation,
    unbuilt,
)
from batch_pipeline.store.tables import STEPS, FileState

START = datetime(2026, 11, 20, 23, 0, tzinfo=UTC)
SIZES = (1, 2)
POLICY = SendPolicy(timeout_seconds=60.0, reconcile_after_seconds=120.0)
STEP_SECONDS = (
    70  # more than half of a lease, more than the longest back-off; two are more than all of it
)
UNSEEN_SECONDS = 115  # how long the list may lag
OLDEST_SECONDS = 140
"""Nothing in this world asks whether anything is older. Where the package does, from 15 minutes on, it is to
forget what is old, which only takes away from what may happen here."""
MOST_ATTEMPTS = 2
CALM_EVERY = 40  # from one state in so many all is let come to rest
CALM_STEPS = 12
ANSWERS = {
    "taken": ("batch", True),
    "taken, the reply is lost": ("lost", True),
    "not taken, no reply": ("lost", False),
    "turned away (429, not reached)": ("away", False),
    "refused for the account (402)": ("account", False),
    "refused for the file (422)": ("file", False),
}
PASSING = tuple(ANSWERS)[:4]
"""The answers after which no person is needed."""


@dataclass(frozen=True)
class Size:
    """How large a world is: with all of it at once there would be a hundred thousand states."""

    workers: int
    answers: tuple[str, ...]
    another: bool  # another program's batch, of the size of a file, is in the list

    def __str__(self) -> str:
        return (
            f"{self.workers} workers, {len(SIZES)} files, {len(self.answers)} answers of the API"
            f"{', and another program' if self.another else ''}"
        )


WORLDS = (Size(2, PASSING, False), Size(1, tuple(ANSWERS), False), Size(1, tuple(ANSWERS), True))
ERRORS: dict[str, Any] = {
    "lost": lambda: OutcomeUnknown("no reply"),
    "away": lambda: NotAccepted("busy", 30.0, on_its_word=True),
    "account": lambda: PipelineRefused("402"),
    "file": lambda: FileRefused("422"),
}


@dataclass(frozen=True)
class Made:
    """A batch at the API: of which file (None: another program's), made when, and what became of it."""

    file: int | None
    at: int
    visible: bool = False
    ended: bool = False  # answered, expired or both: its results name its requests in any case


@dataclass(frozen=True)
class Work:
    """A worker that is about to call (``reply`` is ""), or has a reply that nobody wrote down."""

    file: Any
    reply: str = ""
    batch: int | None = None


@dataclass(frozen=True)
class State:
    """All there is."""

    ledger: bytes
    now: int = 0
    workers: tuple[Work | None, ...] = (None, None)
    made: tuple[Made, ...] = ()
    way: tuple[str, ...] = ()  # how it came to this


class _Clock:
    """The time; before a worker's call, the moment of its claim."""

    def __init__(self) -> None:
        self.seconds = 0
        self.instead: datetime | None = None

    def now(self) -> datetime:
        return self.instead or START + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing sleeps here, and not for {seconds} s")


class _Files:
    """The request files, each line of which is a custom_id."""

    root = "memory"

    def __init__(self, ledger_id: str) -> None:
        self.ledger_id = ledger_id

    def open(self, path: str) -> io.BytesIO:
        return io.BytesIO(lines_of(self.ledger_id, int(path)))


def lines_of(ledger_id: str, file: int | None) -> bytes:
    """Return a file's lines, or another program's."""
    count = SIZES[file or 0]
    mark = "another" if file is None else ledger_id
    return b"".join(
        orjson.dumps({"custom_id": f"{mark}-{file}-{n}", "result": {"type": "succeeded"}}) + b"\n"
        for n in range(count)
    )


class _Api:
    """The API of a state; the answer to a create call was decided when it was made."""

    base_url = "http://model"
    aliases = ()

    def __init__(self, world: "Model") -> None:
        self.world = world
        self.reply: Work | None = None
        self.was_called = False

    def with_betas(self, _betas: Any) -> "_Api":
        return self

    def create(self, _body: Any, _length: int) -> Batch:
        self.was_called = True
        self.world.clock.instead = None
        if self.reply is None:
            raise NotAccepted("only to see whether it calls")
        if self.reply.batch is None or self.reply.reply != "batch":
            raise ERRORS[self.reply.reply]()
        return replace(self.shown(self.reply.batch), ended=False, endpoint=self.world.endpoint)

    def shown(self, number: int) -> Batch:
        made = self.world.made[number]
        at = START + timedelta(seconds=made.at)
        return Batch(
            f"batch{number}",
            SIZES[made.file or 0],
            at,
            at + timedelta(hours=24),
            at if made.ended else None,
            made.ended,
            made.ended,
        )

    def page(self, _after: str | None = None) -> Page:
        found = [n for n, one in enumerate(self.world.made) if one.visible]
        return Page(
            [self.shown(n) for n in reversed(found)],
            None,
            self.world.clock.now(),
            self.world.endpoint,
        )

    def identify(self) -> Endpoint:
        return self.world.endpoint

    def is_known_as(self, _seen: Endpoint, _stored: Endpoint) -> None:
        pass

    def retrieve(self, batch_id: str) -> Batch:
        return self.shown(int(batch_id.removeprefix("batch")))

    def results(self, batch_id: str) -> Iterator[bytes]:
        made = self.world.made[int(batch_id.removeprefix("batch"))]
        yield lines_of(self.world.store.ledger.id, made.file)

    def cancel(self, _batch_id: str) -> None:
        pass


class Model:
    """The world, which can be put into any state."""

    def __init__(self, size: Size) -> None:
        self.size, self.clock = size, _Clock()
        self.endpoint = Endpoint("http://model", "organization", "workspace")
        self.scope = Scope("p", "", self.endpoint)
        self.taken: Counter[tuple[str, str]] = Counter()
        self.made: tuple[Made, ...] = ()
        ledger = Ledger("sqlite://", self.clock)
        self.store: Any = SimpleNamespace(ledger=ledger, clock=self.clock, files=_Files(ledger.id))
        self.api: Any = _Api(self)
        self.sqlite: Any = ledger.engine.raw_connection().driver_connection
        self._build()
        made = (Made(None, 0, visible=True),) if size.another else ()
        self.first = State(self._saved(), workers=(None,) * size.workers, made=made)

    def _build(self) -> None:
        ledger = self.store.ledger
        know_endpoint(ledger, self.endpoint)
        read = situation(ledger, self.scope)
        new = NewSelection("20261120T230000-00000000", "v", None, "index", {"asked": sum(SIZES)})
        commit_selection(ledger, self.scope, read, new, complete=True)
        [submission] = unbuilt(ledger, self.scope)
        files = [NewFile(n, str(n), size, 100, 0, 0) for n, size in enumerate(SIZES)]
        commit_build(
            ledger,
            submission,
            files,
            rejected_path=None,
            rejected=0,
            estimate_nanousd=None,
            question={"output": None},
        )

    def _saved(self) -> bytes:
        return zlib.compress(self.sqlite.serialize(), 1)

    def put(self, state: State) -> None:
        """Go to a state."""
        self.sqlite.deserialize(zlib.decompress(state.ledger))
        self.clock.seconds, self.clock.instead = state.now, None
        self.made = state.made

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        return self.sqlite.execute(query).fetchall()

    def key(self, state: State) -> tuple[Any, ...]:
        """Return what tells a state, which the world is in, from another one.

        Left out is what nothing asks for in that state: the lease of a file that nobody sends, the age of a
        batch that is in the list, which of two batches was made first.
        """

        def age(text: str | None) -> int | None:
            if text is None:
                return None
            at = datetime.fromisoformat(text).replace(tzinfo=UTC)
            return _clipped(int((START - at).total_seconds()) + state.now)

        of = {f"batch{number}": one.file for number, one in enumerate(state.made)}
        files, ended = [], set()
        for row in self.sql(
            "select id, state, attempts, owner, batch_id, coalesce(error, ''), lease_until, "
            "attempt_ended_at, not_before, resent_at, watch_until, first_sent_at, absent_since "
            "from request_files order by id"
        ):
            (_, stands, attempts, owner, batch, error, lease, over, before, *moments, absent) = row
            done = stands == FileState.ENDED
            if done:
                ended.add(batch)
            waits = (age(before) or 0) < 0 and not done
            files.append(
                (
                    stands,
                    None if done else attempts,
                    owner if stands == FileState.SENDING else None,
                    batch is not None,
                    stands == FileState.HELD and MAY_BE_IT in error,
                    age(lease) if stands == FileState.SENDING else None,
                    age(over) if stands == FileState.UNKNOWN else None,
                    age(before) if waits else None,
                    *(one is not None for one in moments),
                    age(absent),
                )
            )
        candidates = sorted(
            (str(of[batch]), verdict, file)
            for batch, verdict, file in self.sql(
                "select batch_id, verdict, file_id from candidates"
            )
        )
        made = sorted(
            (str(one.file), "done")
            if f"batch{number}" in ended
            else (
                str(one.file),
                one.visible,
                0 if one.visible else _clipped(state.now - one.at),
                one.ended,
            )
            for number, one in enumerate(state.made)
        )
        workers = sorted(
            (
                work.file["id"],
                work.file["attempts"],
                0 if work.reply else age_of(work, state),
                work.reply,
                work.batch is not None,
            )
            for work in state.workers
            if work is not None
        )
        holds = self.sql("select count(*) from holds")
        return tuple(files), tuple(candidates), tuple(made), tuple(workers), tuple(holds)

    # Steps

    def after(self, state: State) -> Iterator[State]:
        """Give each state that one may become in a step."""
        for number, work in enumerate(state.workers):
            if work is None:
                yield from self._claims(state, number)
            elif not work.reply:
                yield from self._calls(state, number, work)
                yield self._with(state, number, None, f"worker {number} dies before its call")
            else:
                yield self._writes(state, number, work)
                yield self._with(state, number, None, f"worker {number} dies with its reply")
        yield self._does(state, "somebody looks", self._looks)
        yield from self._decides(state)
        for number, one in enumerate(state.made):
            if not one.ended:
                yield self._becomes(state, number, "ends", ended=True)
        yield self._later(state)

    def _looks(self) -> None:
        reconcile(self.store, self.api, self.scope, POLICY)
        poll(self.store, self.api, self.endpoint, POLICY)

    def _does(self, state: State, what: str, action: Any) -> State:
        self.put(state)
        with suppress(BatchPipelineError):
            action()
        return replace(state, ledger=self._saved(), way=(*state.way, what))

    def _with(self, state: State, number: int, work: Work | None, what: str) -> State:
        workers = tuple(work if n == number else other for n, other in enumerate(state.workers))
        return replace(state, workers=workers, way=(*state.way, what))

    def _claims(self, state: State, number: int) -> Iterator[State]:
        self.put(state)
        [(most,)] = self.sql(
            "select coalesce(max(attempts), 0) from request_files where state = 'ready'"
        )
        if most >= MOST_ATTEMPTS:
            return
        # Which worker it is makes no difference: the first one that is idle claims.
        if any(work is None for work in state.workers[:number]):
            return
        claimed = claim(self.store.ledger, self.scope, f"worker {number}", POLICY)
        new = replace(state, ledger=self._saved())
        if isinstance(claimed, Room):
            yield replace(new, way=(*state.way, "a worker finds nothing to claim"))
        else:
            work = Work(dict(claimed))
            yield self._with(new, number, work, f"worker {number} claims {claimed['id'][-1]}")

    def _attempt(self, work: Work) -> None:
        with suppress(BatchPipelineError):
            send_module._attempt(
                self.store, self.api, self.scope, POLICY, work.file, Sent(), lambda _line: None
            )

    def _calls(self, state: State, number: int, work: Work) -> Iterator[State]:
        """The worker looks at its lease; then it calls, and the API answers whatever it may."""
        self.put(state)
        self.api.reply, self.api.was_called = None, False
        self._attempt(work)
        if not self.api.was_called:
            new = replace(state, ledger=self._saved())
            yield self._with(new, number, None, f"worker {number} is too late to call")
            return
        file = int(work.file["path"])
        for what in self.size.answers:
            reply, taken = ANSWERS[what]
            if not taken:
                yield self._with(
                    state, number, replace(work, reply=reply), f"worker {number}: {what}"
                )
                continue
            for visible in (True, False):
                new = replace(state, made=(*state.made, Made(file, state.now, visible)))
                done = replace(work, reply=reply, batch=len(state.made))
                shown = "" if visible else ", and the list lags"
                yield self._with(new, number, done, f"worker {number}: {what}{shown}")

    def _writes(self, state: State, number: int, work: Work) -> State:
        """The worker writes down what it knows."""
        self.put(state)
        self.api.reply = work
        lease = timedelta(seconds=POLICY.lease_seconds)
        self.clock.instead = work.file["lease_until"] - lease
        self._attempt(work)
        self.clock.instead = None
        new = replace(state, ledger=self._saved())
        return self._with(new, number, None, f"worker {number} writes its reply down")

    def _decides(self, state: State) -> Iterator[State]:
        """A person looks in the Console at what is held, and decides."""
        self.put(state)
        held_files = self.sql("select id, path, batch_id from request_files where state = 'held'")
        holds = self.sql("select 1 from holds")
        if holds:
            yield self._does(state, "a person releases", lambda: held.release(self.store, "p"))
        for file_id, path, _ in held_files:
            known = {one for (one,) in self.sql("select batch_id from request_files")}
            taken = [
                n
                for n, one in enumerate(state.made)
                if one.file == int(path) and f"batch{n}" not in known
            ]
            if taken:
                continue  # it is found in the list
            yield self._does(
                state, "a person sends it", lambda file_id=file_id: held.resend(self.store, file_id)
            )
            yield self._does(
                state,
                "a person gives it up",
                lambda file_id=file_id: held.drop(self.store, file_id),
            )

    def _becomes(self, state: State, number: int, what: str, **changes: Any) -> State:
        made = tuple(
            replace(one, **changes) if n == number else one for n, one in enumerate(state.made)
        )
        return replace(state, made=made, way=(*state.way, f"batch{number} {what}"))

    def _later(self, state: State) -> State:
        now = state.now + STEP_SECONDS
        made = tuple(
            replace(one, visible=one.visible or now - one.at > UNSEEN_SECONDS) for one in state.made
        )
        return replace(state, now=now, made=made, way=(*state.way, f"{STEP_SECONDS} s go by"))

    # What must hold

    def wrong(self, state: State) -> str:
        """Return what must not be in a state, which the world is in; "" when all is right."""
        taken = Counter(one.file for one in state.made if one.file is not None)
        if any(count > 1 for count in taken.values()):
            return "the API has taken two batches of a file"
        rows = self.sql("select path, state, batch_id, watch_until from request_files")
        known = {batch for _, _, batch, _ in rows} | {
            batch for (batch,) in self.sql("select batch_id from candidates where verdict = 'open'")
        }
        at_work = {int(work.file["path"]) for work in state.workers if work and work.reply}
        for number, one in enumerate(state.made):
            if one.file is None or f"batch{number}" in known or one.file in at_work:
                continue
            [(stands, watched)] = [
                (stands, watch) for path, stands, _, watch in rows if int(path) == one.file
            ]
            if stands not in ("sending", "unknown") and not watched:
                return f"batch{number} of file {one.file}, which is {stands}, is lost"
        return ""

    def comes_to_rest(self, state: State) -> str:
        """Let all go well from a state on; return what is wrong in the end, "" when nothing is."""
        for number, work in enumerate(state.workers):
            if work is not None and work.reply:
                state = self._writes(state, number, work)
        state = replace(state, workers=(None,) * self.size.workers)
        for _ in range(CALM_STEPS):
            made = tuple(replace(one, visible=True, ended=True) for one in state.made)
            state = self._later(replace(state, made=made))
            state = self._does(state, "somebody looks", self._looks)
        self.put(state)
        known = {batch for (batch,) in self.sql("select batch_id from request_files")}
        lost = [
            number
            for number, one in enumerate(state.made)
            if one.file is not None and f"batch{number}" not in known
        ]
        return f"never known: {lost}" if lost else ""


def age_of(work: Work, state: State) -> int:
    """Return how long ago a worker's lease ran out, as far as that matters."""
    left = work.file["lease_until"] - START - timedelta(seconds=state.now)
    return _clipped(int(-left.total_seconds()))


def _clipped(seconds: int) -> int:
    return max(-OLDEST_SECONDS, min(OLDEST_SECONDS, seconds))


@dataclass
class Found:
    """What a search came to."""

    states: int = 0
    steps: int = 0
    rested: int = 0
    deepest: int = 0
    wrong: str = ""
    taken: Counter[tuple[str, str]] | None = None


@contextmanager
def _in_memory() -> Iterator[None]:
    """Let ledgers be in memory, on one connection, and write no files."""

    def engine(url: str) -> Engine:
        made = create_engine(url, poolclass=StaticPool)

        @event.listens_for(made, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("pragma page_size = 512")

        @event.listens_for(made, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("begin")

        return made

    with ExitStack() as stack:
        for owner, name, value in (
            (ledger_module, "_engine", engine),
            (send_module, "note_attempt", lambda *_: None),
            (send_module, "length_of", lambda _store, file: file["bytes"]),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def search(size: Size, most: int | None = None) -> Found:
    """Search all states, the nearest first.

    Args:
        size: how large the world is.
        most: stop after so many states; None: at the end.
    """
    found = Found()
    with _in_memory():
        model = Model(size)
        move = Ledger.move

        def _move(ledger: Ledger, tx: Any, file_id: str, come_from: Any, to: Any, *args: Any, **values: Any) -> bool:  # fmt: skip
            moved = move(ledger, tx, file_id, come_from, to, *args, **values)
            if moved:
                model.taken[come_from, to] += 1
            return moved

        with mock.patch.object(Ledger, "move", _move):
            model.put(model.first)
            seen = {hash(model.key(model.first))}
            queue = deque([model.first])
            while queue and not found.wrong and (most is None or len(seen) < most):
                state = queue.popleft()
                found.deepest = max(found.deepest, len(state.way))
                if len(seen) % CALM_EVERY == 0:
                    found.rested += 1
                    if wrong := model.comes_to_rest(state):
                        found.wrong = _told(wrong, state)
                for new in model.after(state):
                    found.steps += 1
                    model.put(new)
                    key = hash(model.key(new))
                    if key in seen:
                        continue
                    seen.add(key)
                    if wrong := model.wrong(new):
                        found.wrong = _told(wrong, new)
                        break
                    queue.append(new)
        found.states, found.taken = len(seen), model.taken
    return found


def _told(wrong: str, state: State) -> str:
    return "\n  ".join([wrong, *state.way])


@click.command()
@click.option("--most", type=int, help="Stop after so many states of each world.")
def main(most: int | None) -> None:
    """Search all states, and say how many there are."""
    failed, taken = False, Counter[tuple[str, str]]()
    for size in WORLDS:
        began = time.monotonic()
        found = search(size, most)
        failed |= bool(found.wrong)
        taken += found.taken or Counter()
        click.echo(
            f"{size}: {found.states:,} states, "
            f"{found.steps:,} steps between them, the farthest {found.deepest} steps away, "
            f"{found.rested:,} let come to rest, in {time.monotonic() - began:.0f} s: "
            + (found.wrong or "paid at most once and nothing lost in each")
        )
    not_taken = [step for step in STEPS if step not in taken]
    click.echo(
        f"{len(STEPS) - len(not_taken)} of {len(STEPS)} steps of a file were taken; not these: "
        + "; ".join(f"{a} -> {b}" for a, b in not_taken)
    )
    assert all(FileState(one) for step in taken for one in step)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
