"""Request files that are ready to be sent, without the stages that usually write them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import pytest
from sqlalchemy import insert, select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import send
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.layout import new_submission_id, request_name
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import NewFile, Scope, add_file, know_endpoint
from batch_pipeline.store.tables import FileState, request_files, submissions
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.pooling import pooled


@dataclass
class Desk:
    """A store, an endpoint, and a way to put request files on the table."""

    store: Store
    api: BatchesApi
    emulator: EmulatorProcess
    clock: HandClock
    scope: Scope
    policy: SendPolicy
    numbers: int = 0
    notes: list[str] = field(default_factory=list)

    def put(self, *sizes: int, pipeline: str = "p") -> list[str]:
        """Write one submission with a file of each size; return the files' ids."""
        self.numbers += 1
        submission = new_submission_id(self.clock.now())
        with self.store.ledger.write() as tx:
            tx.execute(
                insert(submissions).values(
                    id=submission,
                    pipeline=pipeline,
                    partition="",
                    number=self.numbers,
                    state="built",
                    endpoint_id=self.scope.endpoint.id,
                    version="v",
                    created_at=self.clock.now(),
                    counts={},
                )
            )
        row = self.store.ledger.rows(select(submissions).where(submissions.c.id == submission))[0]
        ids = []
        for seq, size in enumerate(sizes):
            name = request_name(pipeline, submission, f"{seq:05d}")
            with self.store.files.scratch() as folder:
                with open(f"{folder}/f", "wb") as out:
                    for number in range(size):
                        params = {
                            "model": "claude-haiku-4-5",
                            "max_tokens": 20,
                            "messages": [
                                {"role": "user", "content": f"{self.numbers} {seq} {number}"}
                            ],
                        }
                        custom_id = (
                            f"{self.store.ledger.id}-{self.numbers:08x}{seq:04x}{number:04x}-1"
                        )
                        out.write(orjson.dumps({"custom_id": custom_id, "params": params}) + b"\n")
                self.store.files.put(f"{folder}/f", name)
            new = NewFile(seq, name, size, self.store.files.size(name) + 14, 0, size - 1)
            with self.store.ledger.write() as tx:
                ids.append(add_file(self.store.ledger, tx, row, new, FileState.READY, "written"))
        return ids

    def send(self):
        """One sending pass."""
        return send(self.store, self.api, self.scope, self.policy)

    def reconcile(self):
        """One reconciling pass."""
        return reconcile(self.store, self.api, self.scope, self.policy)

    def file(self, file_id: str):
        """The ledger's row."""
        return self.store.ledger.rows(select(request_files).where(request_files.c.id == file_id))[0]

    def states(self) -> list[str]:
        rows = self.store.ledger.rows(
            select(request_files).order_by(request_files.c.number, request_files.c.seq)
        )
        return [row["state"] for row in rows]


@pytest.fixture
def desk(claude_emulator: EmulatorProcess, tmp_path) -> Iterator[Desk]:
    clock = HandClock()
    store = open_store(str(tmp_path / "store"), clock=clock)
    api = BatchesApi("test-key", claude_emulator.base_url, 10.0)
    scope = Scope("p", "", api.identify())
    know_endpoint(store.ledger, scope.endpoint)
    yield Desk(store, api, claude_emulator, clock, scope, SendPolicy(timeout_seconds=10.0))
    api.close()


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    """What each process does once is done once: these tests are about nights, not about connections."""
    with pooled():
        yield
