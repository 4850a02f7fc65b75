"""A `dagster dev` of its own: started, asked over GraphQL, hurt, and stopped with all its processes."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

DEMO = "batch_pipeline.demo.definitions"
TICKETS = "batch_pipeline_tests.e2e.tickets"
REPOSITORY = "__repository__"
LOCATIONS = (DEMO, TICKETS)
START_SECONDS = 240.0
STOP_SECONDS = 40.0
DAEMONS = {"SENSOR", "SCHEDULER", "ASSET"}
Found = TypeVar("Found")


class E2EFailed(Exception):
    """A step did not come to its end; the message says what was waited for, or what was wrong."""


def until(what: str, look: Callable[[], Found | None], seconds: float, every: float = 0.5) -> Found:
    """Look until there is something, and return it.

    Raises:
        E2EFailed: there was nothing for so long.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise E2EFailed(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every)


class DagsterDev:
    """`dagster dev` in a project folder: web server, daemon and code servers.

    Args:
        project: the folder with the workspace files; also the working directory.
        port: of the web server.
        environment: variables for it, on top of this process's own.
    """

    def __init__(self, project: Path, port: int, environment: Mapping[str, str]) -> None:
        self.project, self.port = project, port
        self.url = f"http://127.0.0.1:{port}"
        self.environment = dict(environment)
        self.log = project / "dagster_dev.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    # Its life

    def start(self) -> float:
        """Start it, wait until locations are loaded and daemons are healthy; return the seconds."""
        began = time.monotonic()
        workspaces = [
            part for file in sorted(self.project.glob("*.yaml")) for part in ("-w", file.name)
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagster", "dev", *workspaces, "-h", "127.0.0.1", "-p", str(self.port)],
                cwd=self.project, env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        until("dagster dev to be ready", self._is_ready, START_SECONDS)
        return time.monotonic() - began

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise E2EFailed(f"dagster dev ended by itself; the end of its log:\n{self.tail()}")
        try:
            return not self.broken_locations() and self._healthy_daemons() >= DAEMONS
        except (OSError, E2EFailed):
            return False

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does, and leave none of its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        self._remember(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._bury()

    def wait_for_end(self) -> float:
        """Wait until it ends by itself, as it does when a part of it died; return the seconds."""
        began = time.monotonic()
        process, self._process = self._process, None
        assert process is not None
        process.wait(STOP_SECONDS * 2)
        self._bury()
        return time.monotonic() - began

    def _remember(self, pid: int) -> None:
        try:
            children = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self._family.update({child.pid: child for child in children})

    def _bury(self) -> None:
        """End what is left of it: only processes that were seen as its own processes."""
        _, alive = psutil.wait_procs(list(self._family.values()), timeout=5)
        for child in alive:
            child.kill()
        psutil.wait_procs(alive, timeout=5)
        self._family.clear()

    # Hurting it

    def kill_code_server(self) -> int:
        """Kill (`kill -9`) the process that has the demo's code loaded; return its id."""
        return self._kill("api", "grpc", DEMO)

    def kill_daemon(self) -> int:
        """Kill (`kill -9`) the daemon; return its process id."""
        return self._kill("dagster._daemon")

    def _kill(self, *words: str) -> int:
        assert self._process is not None
        self._remember(self._process.pid)
        for child in self._family.values():
            try:
                command = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if all(word in command for word in words):
                child.kill()
                return child.pid
        raise E2EFailed(f"no process of dagster dev has {' '.join(words)} in its command line")

    # Asking it

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a GraphQL query, as its pages do; return the data.

        Raises:
            E2EFailed: it answered with errors.
            OSError: it did not answer.
        """
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as reply:
                answer = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise E2EFailed(f"GraphQL: {error.code} {error.read()[:500]!r}") from error
        if answer.get("errors"):
            raise E2EFailed(f"GraphQL: {answer['errors']}")
        return answer["data"]

    def broken_locations(self) -> list[str]:
        """Return the code locations that are not loaded."""
        entries = self.ask(
            "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
            "locationOrLoadError { __typename } } } } }"
        )["workspaceOrError"]["locationEntries"]
        good = {
            one["name"]
            for one in entries
            if one["loadStatus"] == "LOADED"
            and one["locationOrLoadError"]["__typename"] == "RepositoryLocation"
        }
        return [name for name in LOCATIONS if name not in good]

    def reload(self, location: str = DEMO) -> None:
        """Reload a code location, as the UI's button *Reload definitions* does, and wait for it."""

        def loaded() -> bool:
            self.ask(
                "mutation($name: String!) { reloadRepositoryLocation("
                "repositoryLocationName: $name) { __typename } }",
                name=location,
            )
            # Its answer may be from before the new code server is up.
            try:
                until(location, lambda: location not in self.broken_locations(), 30, 1)
            except E2EFailed:
                return False
            return True

        until(f"{location} to load", loaded, 120)

    def _healthy_daemons(self) -> set[str]:
        found = self.ask(
            "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
        )["instance"]["daemonHealth"]["allDaemonStatuses"]
        return {one["daemonType"] for one in found if one["healthy"]}

    def launch(
        self, job: str, location: str = DEMO, tags: Sequence[dict[str, str]] = (),
        assets: Sequence[Sequence[str]] = (),
    ) -> str:  # fmt: skip
        """Launch a job as the button in the UI does; return the run's id."""
        selector: dict[str, Any] = {
            "repositoryLocationName": location, "repositoryName": REPOSITORY, "pipelineName": job,
        }  # fmt: skip
        if assets:
            selector["assetSelection"] = [{"path": list(path)} for path in assets]
        result = self.ask(
            "mutation LaunchPipelineExecution($executionParams: ExecutionParams!) { "
            "launchPipelineExecution(executionParams: $executionParams) { __typename "
            "... on LaunchRunSuccess { run { id } } ... on PythonError { message } "
            "... on RunConfigValidationInvalid { errors { message } } } }",
            executionParams={
                "selector": selector, "mode": "default", "runConfigData": "{}",
                "executionMetadata": {"tags": list(tags)},
            },
        )["launchPipelineExecution"]  # fmt: skip
        if result["__typename"] != "LaunchRunSuccess":
            raise E2EFailed(f"{job} was not launched: {result}")
        return result["run"]["id"]

    def runs(self, limit: int = 200) -> list[dict[str, Any]]:
        """Return the newest runs, each with id, jobName, status, creationTime and tags (a dict)."""
        found = self.ask(
            "query($limit: Int!) { runsOrError(limit: $limit) { ... on Runs { results { "
            "id jobName status creationTime endTime tags { key value } } } } }",
            limit=limit,
        )["runsOrError"]["results"]
        for one in found:
            one["tags"] = {tag["key"]: tag["value"] for tag in one["tags"]}
        return found

    def materializations(self, *key: str) -> list[dict[str, Any]]:
        """Return an asset's newest materializations: runId, at (seconds), numbers by name."""
        asset = self.ask(
            "query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { "
            "assetMaterializations(limit: 50) { runId timestamp metadataEntries { label "
            "... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } } } } } }",
            key={"path": list(key)},
        )["assetOrError"]
        return [
            {
                "runId": one["runId"],
                "at": float(one["timestamp"]) / 1000,
                "numbers": {
                    entry["label"]: entry.get("intValue", entry.get("floatValue"))
                    for entry in one["metadataEntries"]
                },
            }
            for one in asset.get("assetMaterializations", [])
        ]

    def column_lineage(self, *key: str) -> dict[str, set[str]]:
        """Return which columns (asset/column) each column of an asset comes from.

        It is read over GraphQL: Dagster's open-source UI draws none.
        """
        asset = self.ask(
            "query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { "
            "assetMaterializations(limit: 1) { metadataEntries { "
            "... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { columnName "
            "assetKey { path } } } } } } } } }",
            key={"path": list(key)},
        )["assetOrError"]
        return {
            line["columnName"]: {
                "/".join([*one["assetKey"]["path"], one["columnName"]])
                for one in line["columnDeps"]
            }
            for event in asset.get("assetMaterializations", [])
            for entry in event["metadataEntries"]
            for line in entry.get("lineage", [])
        }

    def ticks(self, name: str, limit: int = 25, location: str = DEMO) -> list[dict[str, Any]]:
        """Return the newest ticks of a schedule or sensor."""
        state = self.ask(
            "query($selector: InstigationSelector!, $limit: Int!) { instigationStateOrError("
            "instigationSelector: $selector) { ... on InstigationState { status ticks(limit: $limit) "
            "{ status timestamp skipReason runIds error { message } } } } }",
            selector={
                "name": name, "repositoryName": REPOSITORY, "repositoryLocationName": location,
            },
            limit=limit,
        )["instigationStateOrError"]  # fmt: skip
        return state.get("ticks", [])

    def stop_schedule(self, name: str) -> None:
        """Switch a schedule off, as its switch in the UI does."""
        state = self.ask(
            "query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) { "
            "... on Schedule { scheduleState { id } } } }",
            selector={
                "scheduleName": name, "repositoryName": REPOSITORY, "repositoryLocationName": DEMO,
            },
        )["scheduleOrError"]["scheduleState"]  # fmt: skip
        result = self.ask(
            "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }", id=state["id"]
        )["stopRunningSchedule"]
        if result["__typename"] != "ScheduleStateResult":
            raise E2EFailed(f"{name} was not switched off: {result}")
