"""The demo's pipelines as the end-to-end test sees them: what comes in, and when a night is over."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.demo.bill import bill
from batch_pipeline.demo.incoming import write_invoices
from batch_pipeline.demo.packages import PACKAGES
from batch_pipeline.demo.warehouse import connect
from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.results.destinations import ParquetDataset
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.e2e.dagster_dev import DagsterDev, E2EFailed, until

NIGHT_SECONDS = 600.0  # the tests may run beside it
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


class Nights:
    """Brings records in, and knows when they are answered.

    Args:
        dagster: where the nights happen.
        emulator: who answers.
        project: the folder of the project.

    Attributes:
        invoices: how many there are.
        kills: when something was killed, in seconds since 1970.
    """

    def __init__(self, dagster: DagsterDev, emulator: EmulatorProcess, project: Path) -> None:
        self.dagster, self.emulator = dagster, emulator
        self.demo = project / ".demo"
        self.warehouse = str(self.demo / "warehouse.duckdb")
        self.invoices = 0
        self.kills: list[float] = []

    def bring_invoices(self, count: int) -> None:
        """Add invoices to the warehouse."""
        self.invoices += count
        until("the warehouse to be free", lambda: self._bring(), 30)

    def _bring(self) -> bool:
        try:
            write_invoices(self.warehouse, self.invoices)
        except duckdb.IOException:
            return False  # a run is writing its answers
        return True

    def drop_packages(self, name: str, count: int) -> None:
        """Put a Parquet file with new packages into the folder, under its name at once."""
        folder = self.demo / "packages"
        unfinished = folder / f"{name}.unfinished"
        duckdb.sql(
            f"copy (select * replace (package || '-{name}' as package) from "
            f"read_parquet('{PACKAGES}') limit {count}) to '{unfinished}' (format parquet)"
        )
        unfinished.rename(folder / f"{name}.parquet")

    def invoice_statuses(self) -> dict[str, int]:
        """Return how many invoices have which status in the results table."""
        with connect(self.warehouse) as warehouse:
            try:
                return dict(
                    warehouse.execute(
                        "select _status, count(*) from invoice_answers group by all"
                    ).fetchall()
                )
            except duckdb.CatalogException:
                return {}

    def package_rows(self, ending: str) -> int:
        """Return how many packages whose names end so are answered."""
        files = ParquetDataset(path=str(self.demo / "package_sections")).files()
        if not files:
            return 0
        with duckdb.connect() as connection:
            return connection.execute(
                "select count(*) from read_parquet(?) where _status = 'answered' and "
                "ends_with(package, ?)",
                [files, ending],
            ).fetchall()[0][0]

    def is_quiet(self) -> bool:
        """Return whether no batch is open and no run is under way.

        A run whose process was killed with the code server stays "started" in Dagster; it does not
        count.
        """
        return not self.emulator.stats()["queued"] and all(
            run["status"] in FINISHED or self._is_hurt(run) for run in self.dagster.runs()
        )

    def until_answered(
        self, pipeline: str, downstream: str, is_answered: Callable[[], bool], since: float
    ) -> dict[str, float]:
        """Wait until a night's records are answered, and what is downstream followed by itself.

        Args:
            pipeline: whose night it is.
            downstream: the asset that follows its results.
            is_answered: whether each of the records has an answer in the table.
            since: when the night began, in seconds since 1970.

        Returns:
            When results and downstream were materialized for the last time.
        """

        def over() -> dict[str, float] | None:
            self.check_runs()
            if not is_answered():
                return None
            came = {
                name: [
                    one["at"]
                    for one in self.dagster.materializations(pipeline, name)
                    if one["at"] > since
                ]
                for name in ("results", downstream)
            }
            if not all(came.values()):
                return None
            # eager() misses an update that falls into the tick in which it sees its own asset's, so
            # the few answers of a retry may be left to its next run: the first ones must be followed.
            is_followed = min(came["results"]) <= max(came[downstream])
            return {name: max(moments) for name, moments in came.items()} if is_followed else None

        what = f"the answers in {pipeline}/results, and {pipeline}/{downstream} after them"
        return until(what, over, NIGHT_SECONDS, 1)

    def until_invoices_answered(self, since: float) -> dict[str, float]:
        """Wait until every invoice has an answer, and the approvals followed."""
        return self.until_answered(
            "invoices", "approvals",
            lambda: self.invoice_statuses() == {"answered": self.invoices}, since,
        )  # fmt: skip

    def until_sent(self, since: float) -> str:
        """Wait until a batch of the invoices is open at the API; return its id."""

        def sent() -> str | None:
            open_ = [one for one in self.emulator.batches() if one["processing_status"] != "ended"]
            return open_[0]["id"] if open_ and self._batches_since(since) else None

        return until("an open batch", sent, NIGHT_SECONDS)

    def _batches_since(self, since: float) -> bool:
        return any(
            one["at"] > since for one in self.dagster.materializations("invoices", "batches")
        )

    def check_runs(self) -> None:
        """See that no run failed, but for those that were under way at a kill.

        Raises:
            E2EFailed: one did.
        """
        failed = [
            f"{run['jobName']} {run['id']} {run['status']}"
            for run in self.dagster.runs()
            if run["status"] in FINISHED and run["status"] != "SUCCESS" and not self._is_hurt(run)
        ]
        if failed:
            raise E2EFailed(f"runs that did not succeed: {', '.join(failed)}")

    def _is_hurt(self, run: dict[str, Any]) -> bool:
        end = run["endTime"] or time.time()
        return any(run["creationTime"] <= kill <= end for kill in self.kills)

    def compare_bills(self) -> str:
        """Wait until nothing is under way; compare the emulator's bill with the ledgers'; return what they say.

        Raises:
            E2EFailed: a request was sent or billed twice, or the sums differ.
        """
        until("all runs and batches to end", self.is_quiet, NIGHT_SECONDS, 1)
        batches = self.emulator.batches()
        sent = [line["custom_id"] for one in batches for line in self.emulator.requests(one["id"])]
        if len(set(sent)) != len(sent):
            raise E2EFailed(f"{len(sent) - len(set(sent))} requests were sent twice")
        billed = self.emulator.billed_requests()
        ids = [row["custom_id"] for row in billed]
        if sorted(ids) != sorted(sent):
            raise E2EFailed(f"{len(sent)} requests were sent and {len(ids)} are on the bill")
        theirs = Decimal(str(self.emulator.bill()["usd"]))
        ours = [
            bill(open_store(str(self.demo / folder)), name)
            for folder, name in (("store", "invoices"), ("store", "packages"), ("tickets_store", "tickets"))
        ]  # fmt: skip
        usd, count = sum((one.usd for one in ours), Decimal(0)), sum(one.requests for one in ours)
        if count != len(sent) or usd != theirs or any(one.unknown for one in ours):
            raise E2EFailed(
                f"the ledgers have {count} requests for ${usd}, the API {len(sent)} for ${theirs}"
            )
        return (
            f"{len(sent):,} requests in {len(batches)} batches, each sent once and billed once; "
            f"the API's bill and the ledgers agree on ${theirs:.6f}"
        )


def seconds_later(moment: float, since: float) -> str:
    """Return how long after a moment another one was."""
    return f"{moment - since:.0f} s"


def clock(moment: float) -> str:
    """Return the time of day of a moment, in UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(moment))
