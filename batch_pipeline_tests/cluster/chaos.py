"""What goes wrong on a cluster, drawn by a seed: what, when, and to whom."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg

from batch_pipeline_tests.cluster.deployment import Cluster
from batch_pipeline_tests.cluster.programs import FAKETIME, found
from batch_pipeline_tests.e2e.dagster_dev import E2EFailed, until

SECONDS_OFF = 50
"""How far the clock of one worker is off: a minute is what the documentation asks for."""
FAILING, SLOW, SLOW_SECONDS = 0.05, 0.1, 1.5
STOPPED_SECONDS = (50, 75)
"""How long a worker sleeps: longer than a lease of the ledger, or of a file that is being sent."""
POSTGRES_SECONDS, OTHER_SECONDS = (5, 40), (8, 30)
ASK_SECONDS = 60
TRIES, BETWEEN_TRIES = 4, 2.0
OVER_SECONDS = 120.0


class Chaos:
    """Hurts a cluster for a while, and lets it go.

    Args:
        cluster: it runs, and has had a quiet night.
        seed: of all that is drawn.
        ask: brings in records, and has them asked.
        say: prints a line of the account.
    """

    def __init__(
        self, cluster: Cluster, seed: int, ask: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.cluster, self.ask, self.say, self.seed = cluster, ask, say, seed
        self.draw, self._of_runs = random.Random(seed), random.Random(seed)
        self.done: Counter[str] = Counter()
        self.began = time.monotonic()
        self._asleep: dict[int, float] = {}
        # Dagster answers late while its database comes and goes; what goes wrong does not wait for it.
        self._people = ThreadPoolExecutor(1)
        self._asking: Future[None] | None = None

    def play(self, seconds: float) -> None:
        """Let things go wrong for so many seconds; then all runs that can run."""
        self.say(f"chaos with SEED={self.seed}, for {seconds:.0f} s")
        self.cluster.trouble_store(seed=self.seed, failing=FAILING, slow=SLOW, seconds=SLOW_SECONDS)
        self._turn_clock()
        kinds: list[Callable[[], None]] = []
        postgres_at, other_at, ask_at = self._in(POSTGRES_SECONDS), self._in(OTHER_SECONDS), 0.0
        self.began = time.monotonic()
        while self._now < seconds:
            self._wake()
            if self._now >= ask_at:
                ask_at = self._now + ASK_SECONDS
                self._by_people("asked", self.ask)
            if self._now >= postgres_at:
                self._try("PostgreSQL restarted", self.restart_postgres)
                postgres_at = self._now + self._in(POSTGRES_SECONDS)
            if self._now >= other_at:
                # Each kind has its turn before one comes a second time.
                kinds = kinds or self.draw.sample(self.kinds, len(self.kinds))
                kind = kinds.pop()
                self._try(kind.__name__, kind)
                other_at = self._now + self._in(OTHER_SECONDS)
            time.sleep(1)
        self._people.shutdown(cancel_futures=True)
        self.quiet()

    @property
    def kinds(self) -> list[Callable[[], None]]:
        """What goes wrong besides PostgreSQL."""
        return [self.kill, self.stop, self.restart_broker, self.have_terminated]

    def quiet(self) -> None:
        """Take the trouble away; the clock that is off stays so."""
        self.cluster.trouble_store()
        self._wake(all_of_them=True)
        until("PostgreSQL", self.cluster.postgres.is_ready, OVER_SECONDS)
        for number, worker in enumerate(self.cluster.workers):
            if not worker.running:
                self.cluster.replace_worker(number)
        self.say(f"quiet again; {', '.join(f'{n} x {what}' for what, n in self.done.items())}")

    # What goes wrong

    def kill(self) -> None:
        """Kill a worker, and take its disk away."""
        number = self.draw.randrange(len(self.cluster.workers))
        self._asleep.pop(number, None)
        self.cluster.replace_worker(number)
        self._tell(f"{self.cluster.names[number]} was killed, and begins on an empty disk")

    def stop(self) -> None:
        """Let a worker sleep for longer than its leases."""
        number = self.draw.randrange(len(self.cluster.workers))
        seconds = self.draw.uniform(*STOPPED_SECONDS)
        if number not in self._asleep:
            self.cluster.workers[number].signal(signal.SIGSTOP)
            self._asleep[number] = self._now + seconds
            self._tell(f"{self.cluster.names[number]} sleeps for {seconds:.0f} s")

    def restart_postgres(self) -> None:
        """Restart the database, as after a crash or in good order."""
        hard = self.draw.random() < 0.5
        self.cluster.restart_postgres(hard)
        self._tell(f"PostgreSQL restarted {'after a crash' if hard else 'in good order'}")

    def restart_broker(self) -> None:
        """Restart Redis, killed or in good order."""
        hard = self.draw.random() < 0.5
        self.cluster.restart_redis(hard)
        self._tell(f"the broker restarted {'after kill -9' if hard else 'in good order'}")

    def have_terminated(self) -> None:
        """Have some runs terminated, as soon as Dagster answers."""
        self._by_people("terminate", self.terminate)

    def terminate(self) -> None:
        """Terminate some runs, as in the UI."""
        runs = sorted(run["id"] for run in self.cluster.busy())
        chosen = self._of_runs.sample(runs, min(len(runs), 2))
        for run in chosen:
            self.cluster.terminate(run)
        self._tell(f"{len(chosen)} of {len(runs)} runs terminated")

    def _turn_clock(self) -> None:
        """Have the last worker's clock be off."""
        library = found(FAKETIME)
        if library is None:
            raise E2EFailed("libfaketime is not there: apt-get install libfaketime")
        sign = self.draw.choice("+-")
        number = len(self.cluster.workers) - 1
        self.cluster.replace_worker(
            number, gently=True, LD_PRELOAD=library, FAKETIME=f"{sign}{SECONDS_OFF}s",
            FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME_NO_CACHE="1",
        )  # fmt: skip
        self._tell(f"the clock of {self.cluster.names[number]} is {sign}{SECONDS_OFF} s off")

    # Its own affairs

    @property
    def _now(self) -> float:
        return time.monotonic() - self.began

    def _in(self, seconds: tuple[int, int]) -> float:
        return self.draw.uniform(*seconds)

    def _wake(self, all_of_them: bool = False) -> None:
        for number, until_when in list(self._asleep.items()):
            if all_of_them or self._now >= until_when:
                del self._asleep[number]
                self.cluster.workers[number].signal(signal.SIGCONT)
                self._tell(f"{self.cluster.names[number]} woke up")

    def _by_people(self, what: str, action: Callable[[], None]) -> None:
        """Have something done that asks Dagster, unless the last such thing is not done yet."""
        if self._asking is None or self._asking.done():
            self._asking = self._people.submit(self._try, what, action)

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """Do something, as a person would who tries again: Dagster has connections that the database closed."""
        for number in range(TRIES):
            try:
                action()
            except (OSError, E2EFailed, psycopg.Error):
                time.sleep(BETWEEN_TRIES * (number + 1))
            else:
                self.done[what.replace("_", " ")] += 1
                return
        self.done[f"{what} in vain"] += 1

    def _tell(self, text: str) -> None:
        self.say(f"  {self._now:4.0f} s  {text}")
