"""The emulator itself, without HTTP: batches and what becomes of them."""

import secrets
import shutil
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from batch_pipeline.emulator.answers import answer
from batch_pipeline.emulator.clock import Clock
from batch_pipeline.emulator.database import Batch, Database
from batch_pipeline.emulator.envelope import write_requests
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.lifecycle import (
    Ending,
    archived_at,
    document_of,
    ending_of,
    expires_at,
    share_done,
)
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.outcomes import error_of, outcome_of
from batch_pipeline.emulator.params import check_params
from batch_pipeline.emulator.processing import Processor, billed, digest_of_params
from batch_pipeline.emulator.prompt import read_prompt
from batch_pipeline.emulator.usage import PromptCaches

MAX_PAGE = 1000


class EmulatorClosed(Exception):
    """The emulator was closed or reset while a call was being worked on."""


class Emulator:
    """Keeps batches in a directory and answers them. All methods may be called from any thread.

    Batches end when somebody looks: a call that would show a batch first ends it if its time has
    come. What is not looked at costs nothing.

    Args:
        state_dir: Directory for everything it must remember; made if it does not exist.
        options: How it behaves.
    """

    def __init__(self, state_dir: Path, options: Options) -> None:
        self.state_dir = state_dir
        self.options = options
        self._files = state_dir / "batches"
        self._incoming = state_dir / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        for directory in (self._files, self._incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._db = Database(state_dir / "emulator.sqlite")
        self.clock = Clock(**self._db.get_meta("clock", {}))
        # Batches and direct messages share no cache, so neither waits for the other.
        self._batch_caches = PromptCaches(self._db.caches())
        self._direct_caches = PromptCaches(self._db.caches())
        self._settling = threading.Lock()
        self._metering = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Give up unfinished work and close the files."""
        self._closed = True
        with self._settling:
            self._db.close()

    def clear(self) -> None:
        """Close it and remove everything it remembers."""
        self.close()
        shutil.rmtree(self._files, ignore_errors=True)
        shutil.rmtree(self._incoming, ignore_errors=True)
        for file in self.state_dir.glob("emulator.sqlite*"):
            file.unlink()

    # Calls of the API

    def new_body_file(self) -> Path:
        """A name for the body of a create call while it is received."""
        return self._incoming / secrets.token_hex(8)

    def create(self, workspace: str, body: Path, host: str) -> dict[str, Any]:
        """Take a batch. When this returns, the batch survives a kill.

        Args:
            workspace: Whose batch.
            body: File with the body of the call.
            host: Host and port by which the caller reached the emulator.
        """
        requests_file = body.with_suffix(".jsonl")
        try:
            count = write_requests(body, requests_file, self.options.max_batch_requests)
            self._check_open()
            if not self._has_room(workspace, count):
                self.settle()
            id = f"msgbatch_01{secrets.token_hex(11)}"
            with self._db.transaction():
                if not self._has_room(workspace, count):
                    raise self._queue_full(workspace)
                self._directory(id).mkdir()
                requests_file.rename(self._directory(id) / "requests.jsonl")
                self._db.add_batch(id, workspace, count, self.clock.now())
                peak = max(self._db.get_meta("max_queued", 0), self._db.queued())
                self._db.set_meta("max_queued", peak)
        finally:
            requests_file.unlink(missing_ok=True)
        return self._document(self._required(workspace, id), host)

    def _has_room(self, workspace: str, count: int) -> bool:
        return self._db.queued(workspace) + count <= self.options.queue_limit

    def _queue_full(self, workspace: str) -> ApiError:
        return ApiError(
            "rate_limit_error",
            f"{self._db.queued(workspace)} batch requests are in the processing queue of this "
            f"workspace; the limit is {self.options.queue_limit}",
            headers={"retry-after": str(self.options.retry_after_seconds)},
        )

    def retrieve(self, workspace: str, id: str, host: str) -> dict[str, Any]:
        self._required(workspace, id)
        self.settle(id)
        return self._document(self._required(workspace, id), host)

    def page(
        self, workspace: str, after_id: str | None, before_id: str | None, limit: int, host: str
    ) -> dict[str, Any]:
        """A page of the workspace's batches, newest first."""
        if not 1 <= limit <= MAX_PAGE:
            raise invalid(f"limit: must be between 1 and {MAX_PAGE}")
        if after_id and before_id:
            raise invalid("Only one of after_id and before_id may be given")
        self.settle()
        after = self._cursor(workspace, "after_id", after_id)
        before = self._cursor(workspace, "before_id", before_id)
        page, has_more = self._db.page(workspace, after, before, limit)
        return {
            "data": [self._document(batch, host) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _cursor(self, workspace: str, name: str, id: str | None) -> int | None:
        if not id:
            return None
        batch = self._db.batch(id)
        if batch is None or batch.workspace != workspace:
            raise invalid(f"{name}: no Message Batch {id} exists")
        return batch.seq

    def cancel(self, workspace: str, id: str, host: str) -> dict[str, Any]:
        self._required(workspace, id)
        self.settle(id)
        with self._db.transaction():
            batch = self._required(workspace, id)
            if batch.status == "ended":
                raise invalid(f"Message Batch {id} has ended and cannot be canceled")
            if batch.status == "in_progress":
                self._db.change_batch(
                    id,
                    status="canceling",
                    cancel_initiated_at=self.clock.now(),
                    finished_share=share_done(batch, self.options, self.clock.now()),
                )
            return self._document(self._required(workspace, id), host)

    def delete(self, workspace: str, id: str) -> dict[str, Any]:
        self._required(workspace, id)
        self.settle(id)
        with self._db.transaction():
            if self._required(workspace, id).status != "ended":
                raise invalid(
                    f"Message Batch {id} is still processing; it can be deleted once it has ended"
                )
            self._db.change_batch(id, deleted=1)
        return {"id": id, "type": "message_batch_deleted"}

    def results(self, workspace: str, id: str) -> Path:
        """The file with the results of an ended batch."""
        self._required(workspace, id)
        self.settle(id)
        batch = self._required(workspace, id)
        if batch.status != "ended":
            raise ApiError("not_found_error", f"Message Batch {id} has no results yet")
        if archived_at(batch, self.clock.now()) is not None:
            raise ApiError("not_found_error", f"The results of Message Batch {id} have expired")
        return self._directory(id) / "results.jsonl"

    def message(self, workspace: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one message at once, at full price."""
        check_params(params, batch=False)
        prompt = read_prompt(params)
        outcome = outcome_of(self.options, prompt.user, prompt.user)
        if outcome in ("errored", "invalid"):
            raise error_of(outcome, self.options.seed, prompt.user)
        id = "msg_" + secrets.token_hex(12)
        with self._metering:
            answered = answer(
                params,
                prompt,
                message_id=id,
                style=self.options.answers,
                outcome=None if outcome == "expired" else outcome,
                caches=self._direct_caches,
                scope=workspace,
                now=self.clock.now(),
                batch=False,
            )
            self._save_caches(self._direct_caches)
        self._db.add_message(
            {
                "batch_id": None,
                "custom_id": None,
                "params_sha256": digest_of_params(params),
                "result": "succeeded",
                **billed(params["model"], answered, batch=False),
            }
        )
        return answered

    # The life of a batch

    def settle(self, id: str | None = None) -> None:
        """End the batches whose time has come: all, or only one."""
        now = self.clock.now()
        for batch in self._open(id):
            ending = ending_of(batch, self.options, now)
            if ending is not None:
                self._end(batch.id, ending)

    def end(self, id: str | None = None, finished_share: float = 1.0) -> int:
        """End batches now, whatever the options say.

        Args:
            id: Which; None = all that are open.
            finished_share: Share of the requests that are answered; the rest expires, or is
                canceled in a batch that is being canceled.

        Returns:
            How many batches ended.
        """
        open_batches = self._open(id)
        now = self.clock.now()
        for batch in open_batches:
            canceling = batch.status == "canceling"
            share = min(finished_share, batch.finished_share) if canceling else finished_share
            rest = "canceled" if canceling else "expired"
            self._end(batch.id, Ending(min(now, expires_at(batch)), share, rest))
        return len(open_batches)

    def _open(self, id: str | None) -> list[Batch]:
        return [batch for batch in self._db.open_batches() if id in (None, batch.id)]

    def _end(self, id: str, ending: Ending) -> None:
        with self._settling:
            self._check_open()
            batch = self._db.batch(id)
            if batch is None or batch.status == "ended":
                return
            directory = self._directory(id)
            processor = Processor(
                batch_id=id,
                seq=batch.seq,
                workspace=batch.workspace,
                options=self.options,
                caches=self._batch_caches,
                ending=ending,
                check_open=self._check_open,
            )
            processed = processor.run(
                directory / "requests.jsonl", directory / "results.jsonl", directory / "bill.jsonl"
            )
            with self._db.transaction():
                self._save_caches(self._batch_caches)
                self._db.change_batch(
                    id,
                    status="ended",
                    ended_at=ending.ended_at,
                    usd=format(processed.usd, "f"),
                    unpriced=processed.unpriced,
                    **processed.counts,
                )

    def _save_caches(self, caches: PromptCaches) -> None:
        self._db.save_caches((key, caches.expiries[key]) for key in caches.changed)
        caches.changed.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise EmulatorClosed

    # What a batch looks like

    def _required(self, workspace: str, id: str) -> Batch:
        batch = self._db.batch(id)
        if batch is None or batch.deleted or batch.workspace != workspace:
            raise ApiError("not_found_error", f"No Message Batch {id} exists")
        return batch

    def _directory(self, id: str) -> Path:
        return self._files / id

    def _document(self, batch: Batch, host: str) -> dict[str, Any]:
        return document_of(batch, self.clock.now(), host)

    # What tests and demos ask

    def change_options(self, **changes: Any) -> None:
        self.options = self.options.changed(**changes)

    def save_clock(self) -> None:
        """Remember the clock over a restart."""
        saved = {"offset": self.clock.offset, "frozen_at": self.clock.frozen_at}
        self._db.set_meta("clock", saved)

    def count_call(self, route: str, outcome: str) -> None:
        if not self._closed:
            self._db.count_call(route, outcome)

    def batches(self, host: str) -> list[dict[str, Any]]:
        """Every batch ever taken, oldest first, with its workspace and whether it was deleted."""
        self.settle()
        return [
            {
                **self._document(batch, host),
                "workspace": batch.workspace,
                "requests": batch.requests,
                "deleted": bool(batch.deleted),
                "usd": batch.usd,
            }
            for batch in self._db.all_batches()
        ]

    def requests_file(self, id: str) -> Path:
        """The file with the requests of a batch, as they were sent."""
        if self._db.batch(id) is None:
            raise ApiError("not_found_error", f"No Message Batch {id} exists")
        return self._directory(id) / "requests.jsonl"

    def bill(self) -> dict[str, Any]:
        """What was charged in all, in batches and for direct messages."""
        self.settle()
        ended = [batch for batch in self._db.all_batches() if batch.status == "ended"]
        direct = self._db.messages()
        priced = [Decimal(row["usd"]) for row in direct if row["usd"] is not None]
        return {
            "requests": sum(batch.succeeded for batch in ended),
            "batches": sum(1 for batch in ended if batch.succeeded),
            "usd": format(sum((Decimal(batch.usd or 0) for batch in ended), Decimal(0)), "f"),
            "unpriced_requests": sum(batch.unpriced for batch in ended),
            "messages": len(direct),
            "messages_usd": format(sum(priced, Decimal(0)), "f"),
        }

    def bill_lines(self) -> Iterator[bytes]:
        """One JSON line per request of an ended batch."""
        for batch in self._db.all_batches():
            if batch.status == "ended":
                with (self._directory(batch.id) / "bill.jsonl").open("rb") as lines:
                    yield from lines

    def stats(self) -> dict[str, Any]:
        """Calls by route and by outcome, and how full the queue was."""
        calls: dict[str, int] = {}
        outcomes: dict[str, dict[str, int]] = {}
        for route, outcome, count in self._db.calls():
            calls[route] = calls.get(route, 0) + count
            outcomes.setdefault(route, {})[outcome] = count
        return {
            "calls": calls,
            "outcomes": outcomes,
            "queued": self._db.queued(),
            "max_queued": self._db.get_meta("max_queued", 0),
            "batches": len(self._db.all_batches()),
        }
