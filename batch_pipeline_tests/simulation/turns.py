"""Workers that are handed over to strictly one at a time, and the points at which that happens.

A worker is a thread that stands for a process. At a point (before and after each commit, file, call) it
may hand over, fall asleep, end by an exception, or be killed; the seed decides. The clock moves only
while no worker goes on.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

LEASE_WINDOW_SECONDS = 200.0
"""How long a worker may stand between its look at its lease and its call: no lease protects a process that
sleeps there for longer than what is left of it, which the package says itself (``batches/send.py``)."""
SENDING_WEIGHT = 4.0
"""How much more happens while a batch is sent than elsewhere."""
BOUNDED_STALL_SECONDS = 30.0
NAPS = (5.0, 40.0, 130.0, 400.0, 700.0, 4000.0)
"""How long a worker may sleep elsewhere, in seconds."""


class Killed(BaseException):
    """The process was killed: from here on it does nothing any more."""


class Interrupted(BaseException):
    """The run was terminated: an exception comes up wherever its main thread is."""


class DiskFull(OSError):
    """A file could not be written."""


@dataclass(eq=False)
class Worker:
    """A process at work.

    Attributes:
        name: for the story.
        wakes: when it goes on by itself; None: it can go on now.
        bound: until when it must have gone on; None: it may stand for ever.
        dead: it was killed.
        error: what its job ended with.
    """

    name: str
    wakes: datetime | None = None
    bound: datetime | None = None
    dead: bool = False
    is_over: bool = False
    error: BaseException | None = None
    go: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.go.acquire()


class Turns:
    """Whose turn it is.

    Args:
        rng: decides what happens at a point.
        now: the time.
        move: lets seconds go by, for everybody.
        note: gets a line of the story.
    """

    def __init__(
        self,
        rng: random.Random,
        now: Callable[[], datetime],
        move: Callable[[float], None],
        note: Callable[[str], None],
    ) -> None:
        self.rng, self.now, self._move, self.note = rng, now, move, note
        self.workers: list[Worker] = []
        self.current: Worker | None = None
        self.switch = self.end = self.stall = 0.0  # how often a point does what
        self.sending = SENDING_WEIGHT
        self.naps: Sequence[float] = NAPS
        self.points = 0
        self.watch: Callable[[str], None] = lambda _point: None
        self.ends_at: dict[int, str] = {}
        self._main = threading.Lock()
        self._main.acquire()

    # What workers do

    def at(
        self,
        point: str,
        *,
        stands: bool = True,
        bounded: bool = False,
        disk: bool = False,
        sends: bool = False,
    ) -> None:
        """Let something happen to the worker whose turn it is, or nothing.

        Args:
            point: where it is.
            stands: whether others may work while it stands there.
            bounded: it looked at its lease and is about to call.
            disk: it is writing a file.
            sends: it is sending a batch.
        """
        worker = self.current
        if worker is None:
            return
        if worker.dead:
            raise Killed
        self.points += 1
        self.watch(point)
        if kind := self.ends_at.get(self.points):
            self._end(worker, kind if disk or kind != "disk full" else "killed", point)
        drawn = self.rng.random()
        weight = self.sending if sends else 1.0
        end = self.end * weight
        if drawn < end:
            kind = self.rng.choice(["killed", "killed", "terminated", "disk full"])
            self._end(worker, kind if disk or kind != "disk full" else "killed", point)
        if not stands:
            return
        if drawn < end + self.stall * weight:
            seconds = self.rng.choice(self.naps)
            self.sleep(BOUNDED_STALL_SECONDS if bounded else seconds, point, bounded)
        elif drawn < end + (self.stall + self.switch) * weight:
            if bounded and worker.bound is None:
                worker.bound = self.now() + timedelta(seconds=LEASE_WINDOW_SECONDS)
            self.note(f"{worker.name} stands {point}")
            self._hand_over(worker)
        if not bounded:
            worker.bound = None

    def _end(self, worker: Worker, kind: str, point: str) -> None:
        """Let a worker end at a point."""
        self.note(f"{worker.name} {kind} {point}")
        if kind == "disk full":
            raise DiskFull(28, "No space left on device")
        if kind == "killed":
            worker.dead = True
            raise Killed
        raise Interrupted

    def sleep(self, seconds: float, point: str = "", bounded: bool = False) -> None:
        """Let the worker whose turn it is sleep; without one, time goes by at once."""
        worker = self.current
        if worker is None:
            self._move(seconds)
            return
        if point:
            self.note(f"{worker.name} sleeps {seconds:.0f} s {point}")
        worker.wakes = self.now() + timedelta(seconds=seconds)
        if bounded and worker.bound is None:
            worker.bound = self.now() + timedelta(seconds=LEASE_WINDOW_SECONDS)
        self._hand_over(worker)

    def _hand_over(self, worker: Worker) -> None:
        self._main.release()
        worker.go.acquire()
        if worker.dead:
            raise Killed

    # What the simulation does

    def begin(self, name: str, job: Callable[[], None]) -> Worker:
        """Make a worker that is about to do a job."""
        worker = Worker(name)

        def run() -> None:
            worker.go.acquire()
            try:
                if not worker.dead:
                    job()
            except BaseException as error:
                worker.error = error
            finally:
                worker.is_over = True
                self._main.release()

        threading.Thread(target=run, daemon=True).start()
        self.workers.append(worker)
        return worker

    def go_on(self, worker: Worker) -> None:
        """Let a worker go on until it hands over or is over."""
        worker.wakes = None
        before, self.current = self.current, worker
        worker.go.release()
        self._main.acquire()
        self.current = before
        if worker.is_over:
            self.workers.remove(worker)

    def ready(self) -> list[Worker]:
        """The workers that can go on now."""
        now = self.now()
        return [one for one in self.workers if one.wakes is None or one.wakes <= now]

    def advance(self, seconds: float) -> None:
        """Let time go by; whoever is about to call goes on before it is too late for that."""
        until = self.now() + timedelta(seconds=seconds)
        while late := [one for one in self.workers if one.bound and one.bound < until]:
            worker = min(late, key=lambda one: (one.bound, one.name))
            if worker.wakes is not None and worker.wakes > self.now():
                self._move((worker.wakes - self.now()).total_seconds())
            worker.bound = None
            self.go_on(worker)
        if (left := (until - self.now()).total_seconds()) > 0:
            self._move(left)

    def kill(self, worker: Worker) -> None:
        """Kill a worker where it stands."""
        worker.dead = True
        self.go_on(worker)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is done in the block belongs to no worker."""
        before, self.current = self.current, None
        try:
            yield
        finally:
            self.current = before
