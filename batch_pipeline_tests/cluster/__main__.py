"""`make cluster`: a night on three Celery workers that share no disk, on this machine; with CHAOS, a wild one.

python -m batch_pipeline_tests.cluster [--pipelines N] [--partitions N] [--records N] [--chaos SECONDS --seed N]
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence

import click
from rich.console import Console
from rich.table import Table

from batch_pipeline.store.store import Store
from batch_pipeline_tests.cluster.chaos import Chaos
from batch_pipeline_tests.cluster.deployment import LOCATION, Cluster, Sizes, compile_all
from batch_pipeline_tests.cluster.programs import PLACE, ensure_environment, ensure_programs
from batch_pipeline_tests.cluster.project import BY_STEPS, PARTITIONED, resources
from batch_pipeline_tests.cluster.records import Sources
from batch_pipeline_tests.cluster.verdict import is_over, pass_judgement, work_of
from batch_pipeline_tests.cluster.worker_tags import QUEUE_TAG
from batch_pipeline_tests.e2e.dagster_dev import E2EFailed, until
from batch_pipeline_tests.support.judgement import Judgement

NIGHT_SECONDS = 600.0
ASK_SECONDS = 120.0  # a person who sees that nothing moves
SENT = "select coalesce(sum(requests), 0) from request_files where state not in ('ready', 'sending', 'unknown', 'split', 'held')"


class Account:
    """Lines with the seconds since the beginning."""

    def __init__(self) -> None:
        self.console = Console(width=118, highlight=False)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(f"{time.monotonic() - self.began:5.0f} s  {text}", markup=False)


def prepare(account: Account) -> None:
    """Install what is missing."""
    for done in (ensure_programs(), ensure_environment()):
        if done:
            account.say(done)
    compile_all()


def night(cluster: Cluster, sources: Sources, account: Account) -> None:
    """Let schedules and a backfill ask for all; between the stages a worker's disk is taken away."""
    cluster.emulator.configure(manual=True)
    backfill = cluster.backfill(PARTITIONED, sources.keys)
    account.say(
        f"backfill {backfill} of {len(sources.keys)} partitions launched; the nightly schedules of "
        f"{len(sources.counts) - 2} pipelines are due at {cluster.cron_at:%H:%M} UTC"
    )
    step_by_step(cluster, account)

    def all_sent() -> bool:
        cluster.check_runs()
        return int(cluster.ledger(SENT)[0][0]) >= sources.total

    until("all records to be sent", all_sent, NIGHT_SECONDS, 2)
    account.say(f"{sources.total:,} requests are sent; nothing is answered yet")
    gone = cluster.replace_worker(0)
    account.say(f"worker1 was killed, and its disk with {gone} files removed; it begins anew")
    cluster.emulator.configure(manual=False)
    cluster.emulator.end()


def step_by_step(cluster: Cluster, account: Account) -> None:
    """Let each step of a pipeline run on another worker; when it is done, that worker's disk is removed."""
    for number, stage in enumerate(("records", "requests", "batches")):
        worker = cluster.names[number]
        run = cluster.dagster.launch(
            f"{BY_STEPS}_submit",
            LOCATION,
            [{"key": QUEUE_TAG, "value": worker}],
            [(BY_STEPS, stage)],
        )
        cluster.wait_for_run(run, NIGHT_SECONDS)
        if number < 2:  # the third is busy with other runs, too, and its turn comes later
            gone = cluster.replace_worker(number, gently=True)
            account.say(f"{BY_STEPS}/{stage} ran on {worker}, whose disk with {gone} files is gone")
        else:
            account.say(f"{BY_STEPS}/{stage} ran on {worker}")


def second_night(cluster: Cluster, sources: Sources, account: Account) -> None:
    """Bring new records into each pipeline, and ask; the other workers' disks are new."""
    until("no run to be under way", lambda: not cluster.busy(), NIGHT_SECONDS, 2)
    for number in (1, 2):
        gone = cluster.replace_worker(number)
        account.say(
            f"worker{number + 1} was killed, and its disk with {gone} files removed; it begins anew"
        )
    ask_again(cluster, sources, max(1, cluster.sizes.each // 10))
    account.say(f"new records in each pipeline, {sources.total:,} in all; all are asked by hand")


def ask_again(
    cluster: Cluster, sources: Sources, count: int, names: Sequence[str] | None = None
) -> None:
    """Bring so many new records into pipelines, all or some, and launch their submit jobs."""
    names = list(sources.counts) if names is None else names
    for name in names if count else ():
        sources.add(name, count)
    for name in names:
        if name == PARTITIONED:
            cluster.backfill(name, sources.keys)
        else:
            cluster.dagster.launch(f"{name}_submit", LOCATION)


def _asked(
    cluster: Cluster, sources: Sources, count: int, names: Sequence[str] | None = None
) -> bool:
    """Ask, unless Dagster still stumbles over connections that its database has closed."""
    try:
        ask_again(cluster, sources, count, names)
    except (E2EFailed, OSError):
        return False
    return True


def until_over(
    store: Store, sources: Sources, what: str, seconds: float = NIGHT_SECONDS,
    ask: Callable[[list[str]], object] = lambda _: None,
) -> None:  # fmt: skip
    """Wait until every record has its row and nothing is on its way.

    Args:
        store: where that stands.
        sources: the records.
        what: what is waited for.
        seconds: how long.
        ask: is called with what is left, now and then: after failures in a row a sensor waits for long.
    """
    left: list[str] = []
    asked = time.monotonic()

    def over() -> bool:
        nonlocal asked
        left[:] = is_over(store, sources)
        if left and time.monotonic() - asked > ASK_SECONDS:
            ask(list(left))
            asked = time.monotonic()
        return not left

    try:
        until(what, over, seconds, 3)
    except E2EFailed as error:
        raise E2EFailed(f"{error}: {', '.join(left)}") from None


def tables(cluster: Cluster, sources: Sources, found: Judgement, account: Account) -> None:
    """Print who did what, and the judgement."""
    work = work_of(cluster.dagster.runs(5000))
    kinds = ("submit", "send", "collect", "failure", "canceled")
    table = Table("worker", *kinds, title="Who did what: runs by job, and what did not end well")
    for worker in sorted(work):
        table.add_row(worker, *(str(work[worker][kind]) for kind in kinds))
    account.console.print(table)
    bill = cluster.emulator.bill()
    paid = Table("what", "found", title="The judgement")
    for what, value in (
        ("pipelines, partitions of one", f"{len(sources.counts)}, {len(sources.keys)}"),
        ("records", f"{sources.total:,}"),
        ("rows, one for each key", f"{sum(found.statuses.values()):,} ({_shown(found)})"),
        ("requests paid twice", str(found.paid_twice)),
        ("requests asked again", str(found.asked_again)),
        ("batches whose cost the ledger does not know", str(len(found.unknown))),
        ("ledger = bill, batch by batch", f"yes: ${bill['usd']} for {bill['batches']} batches"),
        ("calls of the object store", _shown_calls(cluster)),
    ):
        paid.add_row(what, value)
    account.console.print(paid)


def _shown(found: Judgement) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())


def _shown_calls(cluster: Cluster) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in (cluster.calls() or {}).items())


@click.command()
@click.option("--pipelines", default=5, show_default=True, help="How many pipelines.")
@click.option("--partitions", default=6, show_default=True, help="Partitions of one of them.")
@click.option("--records", default=5_000, show_default=True, help="Records of all of them.")
@click.option("--chaos", default=0.0, help="For how many seconds things go wrong.")
@click.option("--seed", type=int, help="Of what goes wrong; by default another one each time.")
def main(pipelines: int, partitions: int, records: int, chaos: float, seed: int | None) -> None:
    """Play a night on many machines, and judge it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    account = Account()
    seed = random.randrange(10**6) if seed is None else seed
    try:
        prepare(account)
        cluster = Cluster(Sizes(pipelines, partitions, records), batch_seconds=3.0)
        try:
            _play(cluster, account, chaos, seed)
        finally:
            cluster.stop()
    except (E2EFailed, AssertionError) as error:
        account.say(f"FAILED{f' with SEED={seed}' if chaos else ''}: {error}")
        account.say(f"What is left to look at: {PLACE}")
        sys.exit(1)
    account.say("All of it is well.")


def _play(cluster: Cluster, account: Account, chaos: float, seed: int) -> None:
    cluster.start()
    os.environ.update(cluster.shared)
    sources = Sources(cluster.sizes.pipelines, cluster.sizes.partitions)
    for name in sources.counts:
        sources.add(name, cluster.sizes.each)
    cluster.start_dagster()
    apart = (
        "sees no other" if cluster.apart else "could see the others, as nothing can be mounted here"
    )
    account.say(
        f"PostgreSQL, Redis, S3, emulator, code location, webserver {cluster.dagster.url}, daemon and "
        f"{len(cluster.workers)} workers run, each machine has a folder of its own and {apart}"
    )
    store: Store = resources()["store"].open()
    night(cluster, sources, account)
    until_over(store, sources, "the night to be over")
    account.say("every record has its row")
    if chaos:
        more = max(1, cluster.sizes.each // 10)
        wild = Chaos(cluster, seed, lambda: ask_again(cluster, sources, more), account.say)
        wild.play(chaos)
        until("the nights to be asked once more", lambda: _asked(cluster, sources, more), 60, 5)
        until_over(
            store, sources, "the nights to be over after the chaos", 900,
            lambda left: _asked(cluster, sources, 0, left),
        )  # fmt: skip
        account.say("every record has its row")
    else:
        second_night(cluster, sources, account)
        looks = cluster.look_deep()
        account.say(
            f"doctor --deep: {len(looks)} runs on workers reach store, ledger, API, sources and destinations"
        )
        until_over(store, sources, "the second night to be over")
        account.say("every record has its row")
    tables(cluster, sources, pass_judgement(store, sources, cluster.emulator), account)


if __name__ == "__main__":
    main()
