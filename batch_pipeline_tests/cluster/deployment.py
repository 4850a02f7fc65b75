"""The whole of a cluster: what runs where, begun and ended together."""

import json
import os
import shutil
import signal
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import yaml

from batch_pipeline.emulator.process import EmulatorProcess, _free_port
from batch_pipeline_tests.cluster.machines import Machine, PostgresServer, Process, can_be_apart
from batch_pipeline_tests.cluster.programs import PLACE, PYTHON, ROOT, found
from batch_pipeline_tests.e2e.dagster_dev import REPOSITORY, DagsterDev, E2EFailed, until

LOCATION = "cluster"
PROJECT = "batch_pipeline_tests.cluster.location"
DISKS = PLACE / "disks"
SETTINGS = ROOT / "deploy" / "dagster.yaml"
WORKERS = 3
SLOTS = 2
"""How many tasks a worker does at a time."""
MOST_RUNS = WORKERS * SLOTS
QUICK = {
    "enabled": True, "start_timeout_seconds": 90, "max_runtime_seconds": 90,
    "poll_interval_seconds": 10, "free_slots_after_run_end_seconds": 30,
}  # fmt: skip
"""Run monitoring for nights of minutes; the rest of deploy/dagster.yaml is taken as it is."""
START_SECONDS = 180.0
SCHEDULE_AHEAD = timedelta(seconds=45)


@dataclass(frozen=True)
class Sizes:
    """How large a night is.

    Attributes:
        pipelines: how many, the partitioned one among them.
        partitions: of that one.
        records: of all of them together.
    """

    pipelines: int
    partitions: int
    records: int

    @property
    def each(self) -> int:
        """The records of one pipeline."""
        return max(1, self.records // self.pipelines)

    @property
    def batch_requests(self) -> int:
        """The requests of a batch: three batches for a pipeline."""
        return min(10_000, self.each // 3 + 1)


class Cluster:
    """PostgreSQL, Redis, an object store, the emulator; webserver, daemon, code location and workers.

    Args:
        sizes: of its nights.
        batch_seconds: how long the emulator works on a batch.
    """

    def __init__(self, sizes: Sizes, batch_seconds: float) -> None:
        self.sizes = sizes
        shutil.rmtree(DISKS, ignore_errors=True)
        DISKS.mkdir(parents=True)
        initdb = found("initdb")
        assert initdb is not None
        self.postgres = PostgresServer(Path(initdb).parent, _free_port(), ("dagster", "ledger"))
        self.ports = {name: _free_port() for name in ("redis", "s3", "code", "web")}
        self.emulator = EmulatorProcess(
            PLACE / "emulator", answers="digest", batch_seconds=batch_seconds
        )
        self.cron_at = datetime.now(UTC)
        self.dagster = DagsterDev(DISKS, self.ports["web"], {})
        self.apart = can_be_apart()
        self.workers: list[Process] = []
        self.machines: dict[str, Machine] = {}
        self.late: dict[str, str] = {}

    # Its life

    def start(self) -> None:
        """Start all of it, and wait until it is ready."""
        shutil.rmtree(PLACE / "emulator", ignore_errors=True)
        self.emulator.start()
        self.postgres.make()
        self.postgres.process.start()
        self.redis = self._made_redis()
        self.redis.start()
        for name in ("store", "code", "dagster", *self.names):
            self._machine(name)
        self.store = self.machines["store"].process(
            "object_store", "batch_pipeline_tests.cluster.object_store", str(self.ports["s3"])
        )
        self.store.start()
        until("PostgreSQL", self.postgres.is_ready, START_SECONDS)
        self.postgres.make_databases()
        until("the object store", lambda: lives(self.store) and self.calls(), START_SECONDS)
        self._make_bucket()

    def start_dagster(self) -> None:
        """Start what is Dagster's, when there are records; the nightly schedules are due soon."""
        self.cron_at = _next_minute(datetime.now(UTC) + SCHEDULE_AHEAD)
        code = self.machines["code"]
        code.shared = {**code.shared, "CLUSTER_CRON": self.cron}
        for name in self.names:
            machine = self.machines[name]
            machine.shared = {**machine.shared, "CLUSTER_CRON": self.cron}
            self.workers.append(
                machine.process(
                    name, "celery", "-A", "batch_pipeline_tests.cluster.worker", "worker",
                    "-n", f"{name}@cluster", "-c", str(SLOTS), "-Q", f"dagster,{name}", "--loglevel", "INFO",
                    "--without-gossip", "--without-mingle", CLUSTER_WORKER=name,
                )
            )  # fmt: skip
        self.code = code.process(
            "code", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(self.ports["code"]),
            "-m", PROJECT, "--empty-working-directory", "--location-name", LOCATION,
        )  # fmt: skip
        both = self.machines["dagster"]
        self.web = both.process(
            "webserver", "dagster_webserver", "-h", "127.0.0.1", "-p", str(self.ports["web"]),
            "-w", str(both.seen_at / "workspace.yaml"),
        )  # fmt: skip
        self.daemon = both.process(
            "daemon", "dagster._daemon", "run", "-w", str(both.seen_at / "workspace.yaml")
        )
        self.code.start()
        until("the code location", self._code_answers, START_SECONDS)
        # Two processes that make the tables of Dagster's storage at once get in each other's way.
        self.web.start()
        until("the webserver", self.is_loaded, START_SECONDS)
        self.daemon.start()
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            until(
                worker.name, lambda one=worker: lives(one) and "ready." in one.tail(4000), START_SECONDS
            )  # fmt: skip

    def stop(self) -> None:
        """End all of it."""
        for machine in self.machines.values():
            for process in machine.processes:
                process.signal(signal.SIGCONT)
                process.kill()
        if hasattr(self, "redis"):
            self.redis.kill()
        self.postgres.remove()
        self.emulator.stop()

    @property
    def names(self) -> list[str]:
        """The names of the workers."""
        return [f"worker{number}" for number in range(1, WORKERS + 1)]

    @property
    def cron(self) -> str:
        """When the nightly schedules are due."""
        return f"{self.cron_at.minute} {self.cron_at.hour} * * *"

    def _made_redis(self) -> Process:
        folder = DISKS / "redis"
        folder.mkdir()
        server = found("redis-server")
        assert server is not None
        return Process(
            "redis",
            [
                server, "--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder),
                "--save", "", "--appendonly", "yes", "--appendfsync", "no",
            ],
            folder, {"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip

    def _machine(self, name: str) -> None:
        settings = yaml.safe_load(SETTINGS.read_text())
        settings["run_monitoring"] = QUICK
        settings["concurrency"]["runs"]["max_concurrent_runs"] = MOST_RUNS
        workspace = {
            "load_from": [
                {
                    "grpc_server": {
                        "host": "127.0.0.1", "port": self.ports["code"], "location_name": LOCATION,
                    }
                }
            ]
        }  # fmt: skip
        self.machines[name] = Machine(name, DISKS, self.apart, self.shared, settings, workspace)

    @property
    def shared(self) -> dict[str, str]:
        """The variables of each machine: addresses, secrets, sizes; no path."""
        broker = f"redis://127.0.0.1:{self.ports['redis']}"
        return {
            # dagster-postgres is written for this driver; SQLAlchemy 2.1 would take another one.
            "DAGSTER_POSTGRES_URL": self.postgres.url("dagster", "postgresql+psycopg2"),
            "BATCH_LEDGER": self.postgres.url("ledger"),
            "CELERY_BROKER_URL": f"{broker}/0",
            "CELERY_RESULT_BACKEND": f"{broker}/1",
            "ANTHROPIC_API_KEY": "test-key",
            "ANTHROPIC_BASE_URL": self.emulator.base_url,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "AWS_ACCESS_KEY_ID": "cluster",
            "AWS_SECRET_ACCESS_KEY": "cluster",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "CLUSTER_PIPELINES": str(self.sizes.pipelines),
            "CLUSTER_PARTITIONS": str(self.sizes.partitions),
            "CLUSTER_BATCH_REQUESTS": str(self.sizes.batch_requests),
        }

    def _make_bucket(self) -> None:
        request = urllib.request.Request(
            f"{self.shared['AWS_ENDPOINT_URL']}/cluster", method="PUT",
            headers={"Authorization": "AWS4-HMAC-SHA256 Credential=cluster/20260101/us-east-1/s3/aws4_request"},
        )  # fmt: skip
        _open(request)

    def _code_answers(self) -> bool:
        return lives(self.code) and "Started Dagster code server" in self.code.tail(10_000)

    def is_loaded(self) -> bool:
        """Return whether the webserver answers, and has loaded the code location."""
        lives(self.web)
        try:
            entries = self.dagster.ask(
                "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
                "locationOrLoadError { __typename ... on PythonError { message } } } } } }"
            )["workspaceOrError"]["locationEntries"]
        except (OSError, E2EFailed):
            return False
        return any(
            one["loadStatus"] == "LOADED"
            and one["locationOrLoadError"]["__typename"] == "RepositoryLocation"
            for one in entries
        )

    # What is done with it

    def calls(self) -> dict[str, int] | None:
        """Return how many calls the object store got, by method; None: it does not answer."""
        try:
            return json.loads(_open(f"{self.shared['AWS_ENDPOINT_URL']}/_calls")) or {"GET": 0}
        except OSError:
            return None

    def trouble_store(self, **told: Any) -> None:
        """Tell the object store how often it fails, and how slow it is."""
        request = urllib.request.Request(
            f"{self.shared['AWS_ENDPOINT_URL']}/_trouble", json.dumps(told).encode(), method="POST"
        )
        _open(request)

    def backfill(self, pipeline: str, partitions: list[str]) -> str:
        """Launch a backfill of a pipeline's submit job, as the UI does; return its id."""
        job = f"{pipeline}_submit"
        result = self.dagster.ask(
            "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: "
            "$params) { __typename ... on LaunchBackfillSuccess { backfillId } "
            "... on PythonError { message } } }",
            params={
                "selector": {
                    "partitionSetName": f"{job}_partition_set",
                    "repositorySelector": {
                        "repositoryName": REPOSITORY, "repositoryLocationName": LOCATION,
                    },
                },
                "partitionNames": partitions,
            },
        )["launchPartitionBackfill"]  # fmt: skip
        if result["__typename"] != "LaunchBackfillSuccess":
            raise E2EFailed(f"the backfill was not launched: {result}")
        return result["backfillId"]

    def replace_worker(self, number: int, gently: bool = False, **more: str) -> int:
        """End a worker, give its machine an empty disk, and start it; return how many files are gone.

        Args:
            number: which.
            gently: let it do what it is at before; else it is killed.
            **more: variables that it gets.
        """
        worker = self.workers[number]
        if gently:
            worker.tell(signal.SIGTERM)
            if not worker.wait(90):
                raise E2EFailed(f"{worker.name} does not end:\n{worker.tail()}")
        worker.kill()
        files = self.machines[worker.name].replace()
        worker.environment.update(more)
        worker.start()
        return files

    def wait_for_run(self, run: str, seconds: float) -> None:
        """Wait until a run has succeeded.

        Raises:
            E2EFailed: it has not, or takes longer.
        """

        def over() -> bool:
            status = self.dagster.ask(
                "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", run=run
            )["runOrError"]["status"]
            if status in ("FAILURE", "CANCELED"):
                raise E2EFailed(f"run {run}: {status}: {self.why(run)}")
            return status == "SUCCESS"

        until(f"run {run}", over, seconds, 1)

    def busy(self) -> list[dict[str, Any]]:
        """Return the runs that are under way."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        return [run for run in self.dagster.runs(1000) if run["status"] not in ended]

    def terminate(self, run: str) -> None:
        """Terminate a run, as the UI's button does."""
        self.dagster.ask(
            "mutation($run: String!) { terminateRun(runId: $run) { __typename } }", run=run
        )

    def check_runs(self) -> None:
        """See that no run has failed.

        Raises:
            E2EFailed: one has; the message says why.
        """
        for run in self.dagster.runs(1000):
            if run["status"] == "FAILURE":
                raise E2EFailed(f"{run['jobName']} failed: {self.why(run['id'])}")

    def why(self, run: str) -> str:
        """Return the errors in a run's log."""
        found = self.dagster.ask(
            "query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events { "
            "... on RunFailureEvent { message error { message } } ... on ExecutionStepFailureEvent { "
            "stepKey error { message causes { message } } } } } } }",
            run=run,
        )["logsForRun"]["events"]  # fmt: skip
        return " ".join(json.dumps(one) for one in found if one)[-1500:]

    def look_deep(self) -> list[dict[str, str]]:
        """Run `batch-pipeline doctor --deep` on the code location's machine; return what runs saw on the workers.

        Raises:
            E2EFailed: it did not end, or a run does not reach what it must.
        """
        code = self.machines["code"]
        (code.folder / "pyproject.toml").write_text(
            f'[tool.dagster]\nmodule_name = "{PROJECT}"\ncode_location_name = "{LOCATION}"\n'
        )
        doctor = code.process("doctor", "batch_pipeline.cli", "doctor", "--deep", "--json")
        doctor.start()
        if not doctor.wait(400):
            raise E2EFailed(f"doctor --deep does not end:\n{doctor.tail()}")
        text = doctor.log.read_text()
        found = json.loads(
            text[text.index('{"checks"') if '{"checks"' in text else text.index("{") :]
        )
        looks = [one for one in found["checks"] if one["name"].startswith("from a run")]
        if not looks or any(one["level"] != "ok" for one in looks):
            raise E2EFailed(f"doctor --deep: {looks or found}")
        return looks

    def restart_postgres(self, hard: bool) -> None:
        """Stop PostgreSQL, and start it again."""
        self.postgres.stop(hard)
        self.postgres.process.start()

    def restart_redis(self, hard: bool) -> None:
        """Stop the broker, and start it again."""
        self.redis.tell(signal.SIGKILL if hard else signal.SIGTERM)
        if not self.redis.wait():
            self.redis.kill()
        self.redis.start()

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the ledger's database."""
        with psycopg.connect(self.postgres.url("ledger")) as connection:
            return connection.execute(query.encode()).fetchall()


def _open(request: urllib.request.Request | str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as reply:
        return reply.read()


def _next_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=1)


def compile_all() -> None:
    """Compile the code once: the machines' users cannot keep what they compile."""
    import subprocess

    subprocess.run(
        [str(PYTHON), "-m", "compileall", "-q", str(ROOT / "batch_pipeline"), str(ROOT / "batch_pipeline_tests")],
        check=False,
    )  # fmt: skip


def lives(process: Process) -> bool:
    """Return that a process runs.

    Raises:
        E2EFailed: it ended; the message has the end of its log.
    """
    if not process.running:
        raise E2EFailed(f"{process.name} ended; the end of its log:\n{process.tail()}")
    return True
