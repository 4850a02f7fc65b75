"""The emulator itself, without HTTP: batches and what becomes of them."""

import hashlib
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from batch_pipeline.emulator.betas import NEWEST_VERSION
from batch_pipeline.emulator.bill import Bill
from batch_pipeline.emulator.clock import Clock
from batch_pipeline.emulator.database import Batch, Database, EmulatorClosed, open_database
from batch_pipeline.emulator.envelope import write_requests
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.files import Files
from batch_pipeline.emulator.lifecycle import (
    Ending,
    archived_at,
    document_of,
    ending_of,
    expires_at,
    share_done,
)
from batch_pipeline.emulator.options import Options
from batch_pipeline.emulator.processing import Processor, billed, digest_of_params
from batch_pipeline.emulator.respond import respond
from batch_pipeline.emulator.rules import Occasion
from batch_pipeline.emulator.spool import Spool
from batch_pipeline.emulator.texts import Texts
from batch_pipeline.emulator.usage import PromptCaches


class Emulator:
    """Keeps batches in a directory and answers them. All methods may be called from any thread.

    Batches end when somebody looks: a call that would show a batch first ends it if its time has
    come. What is not looked at costs nothing.

    Args:
        state_dir: Directory for everything it must remember; made if it does not exist.
        options: How it behaves.
        database: What it remembers; None: it is opened in `state_dir`.
    """

    def __init__(self, state_dir: Path, options: Options, database: Database | None = None) -> None:
        self.state_dir = state_dir
        self.options = options
        self._incoming = state_dir / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        if database is None:
            state_dir.mkdir(parents=True, exist_ok=True)
            database = open_database(state_dir / "emulator.sqlite")
        self._db = database
        self._texts = Texts(state_dir / "batches", database)
        self.bill = Bill(database, self._texts)
        self.clock = Clock(**self._db.get_meta("clock", {}))
        self.files = Files(state_dir / "files", database, self.clock)
        # Batches and direct messages share no cache, so neither waits for the other.
        self._batch_caches = PromptCaches(self._db.caches())
        self._direct_caches = PromptCaches(self._db.caches())
        self._settling = threading.Lock()
        self._metering = threading.Lock()
        self._closed = False

    def emptied(self, options: Options) -> "Emulator":
        """Give up unfinished work and forget everything; the emulator to go on with.

        Nothing that is still being done in this one, which is closed, shows in that one.
        """
        self._closed = True
        with self._settling:
            database = self._db.emptied()
        self._texts.clear()
        self.files.clear()
        return Emulator(self.state_dir, options, database)

    # Calls of the API

    def new_spool(self) -> Spool:
        """Somewhere to write what is to become part of a batch."""
        return Spool(self._incoming / secrets.token_hex(8))

    def create(
        self,
        workspace: str,
        body: Spool,
        host: str,
        version: str = NEWEST_VERSION,
        betas: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Take a batch. When this returns, the batch survives a kill.

        Args:
            workspace: Whose batch.
            body: The body of the call.
            host: Host and port by which the caller reached the emulator.
            version: The API version that was asked for.
            betas: The betas that were named.
        """
        requests = self.new_spool()
        try:
            with body.reading() as text:
                count = write_requests(text, requests, self.options.max_batch_requests)
            self._check_open()
            if not self._has_room(workspace, count):
                self.settle()
            with self._db.transaction():
                if not self._has_room(workspace, count):
                    raise self._queue_full(workspace)
                now = self.clock.now()
                id = self._new_id(now)
                self._texts.keep(id, "requests", requests)
                self._db.add_batch(id, workspace, count, now, version, ",".join(sorted(betas)))
                self.bill.note_queue()
        finally:
            requests.discard()
        return self._document(self._required(workspace, id), host)

    def _new_id(self, now: float) -> str:
        """The same for the same seed, place and moment: what went wrong can be played again.

        The moment keeps an emulator that was emptied from giving an old id to a new batch.
        """
        text = f"{self.options.seed}/{self._db.last_seq() + 1}/{now:.6f}"
        return f"msgbatch_01{hashlib.blake2b(text.encode(), digest_size=11).hexdigest()}"

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
        self,
        workspace: str,
        after_id: str | None,
        before_id: str | None,
        limit: int,
        host: str,
        unlisted_seconds: float = 0.0,
        unlisted_newest: int = 0,
    ) -> dict[str, Any]:
        """A page of the workspace's batches, newest first.

        Args:
            workspace: Whose batches.
            after_id: Only those older than this one.
            before_id: Only those newer than this one.
            limit: How many at most, as `queries.limit_of` reads it.
            host: Host and port by which the caller reached the emulator.
            unlisted_seconds: The list lags behind: it lacks batches that are younger than this.
            unlisted_newest: It lacks as many of the newest batches.
        """
        if after_id and before_id:
            raise invalid("Only one of after_id and before_id may be given")
        self.settle()
        after = self._cursor(workspace, "after_id", after_id)
        before = self._cursor(workspace, "before_id", before_id)
        end = None
        if unlisted_seconds > 0 or unlisted_newest:
            since = self.clock.now() - max(unlisted_seconds, 0.0)
            end = self._db.place_of_newest(workspace, since, unlisted_newest)
        page, has_more = self._db.page(workspace, after, before, limit, end)
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
        if self._required(workspace, id).status == "ended" or not self.withdraw(id):
            raise invalid(f"Message Batch {id} has ended and cannot be canceled")
        return self._document(self._required(workspace, id), host)

    def delete(self, workspace: str, id: str) -> dict[str, Any]:
        self._required(workspace, id)
        self.settle(id)
        with self._db.transaction():
            if self._required(workspace, id).status != "ended":
                raise invalid(
                    f"Message Batch {id} is still processing; it can be deleted once it has ended"
                )
            self.remove(id)
        return {"id": id, "type": "message_batch_deleted"}

    def results(self, workspace: str, id: str) -> Iterator[bytes]:
        """The results of an ended batch, line by line."""
        self._required(workspace, id)
        self.settle(id)
        batch = self._required(workspace, id)
        if batch.status != "ended":
            raise ApiError("not_found_error", f"Message Batch {id} has no results yet")
        if archived_at(batch, self.clock.now()) is not None:
            raise ApiError("not_found_error", f"The results of Message Batch {id} have expired")
        return self._texts.lines(id, "results")

    def occasion(
        self,
        call: Literal["batch", "message", "count"],
        workspace: str,
        version: str,
        betas: frozenset[str] | None,
    ) -> Occasion:
        """Where and how a request was made, for the rules that judge it."""
        return Occasion(
            call,
            version,
            betas,
            any_model=self.options.any_model,
            has_file=lambda id: self.files.find(workspace, id) is not None,
        )

    def message(self, workspace: str, params: dict[str, Any], occasion: Occasion) -> dict[str, Any]:
        """Answer one message at once, at full price."""
        id = "msg_" + secrets.token_hex(12)
        with self._metering:
            answered = respond(
                params,
                occasion=occasion,
                options=self.options,
                custom_id=None,
                message_id=id,
                caches=self._direct_caches,
                scope=workspace,
                now=self.clock.now(),
            )
            self._save_caches(self._direct_caches)
        assert answered is not None
        self._db.add_message(
            {
                "batch_id": None,
                "custom_id": None,
                "at": self.clock.now(),
                "workspace": workspace,
                "params_sha256": digest_of_params(params, b""),
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

    def withdraw(self, id: str, share: float | None = None) -> bool:
        """Cancel a batch as its owner would.

        Args:
            id: Which.
            share: Share of its requests that are answered all the same; None: as time says.

        Returns:
            False when it has ended.
        """
        with self._db.transaction():
            batch = self._db.batch(id)
            if batch is None or batch.status == "ended":
                return False
            if batch.status == "in_progress":
                now = self.clock.now()
                done = share_done(batch, self.options, now) if share is None else share
                self._db.change_batch(
                    id, status="canceling", cancel_initiated_at=now, finished_share=done
                )
            return True

    def remove(self, id: str) -> None:
        """Delete an ended batch; it stays on the bill."""
        self._db.change_batch(id, deleted=1)

    def archive(self, id: str) -> None:
        """Take away the results of an ended batch."""
        self._db.change_batch(id, archived_at=self.clock.now())

    def batch_ids(self, workspace: str, *, open_only: bool) -> list[str]:
        """The batches of a workspace that were not deleted, oldest first.

        Args:
            workspace: Whose.
            open_only: Only those that nobody has seen ended.
        """
        batches = self._db.open_batches() if open_only else self._db.all_batches()
        return [one.id for one in batches if one.workspace == workspace and not one.deleted]

    def _open(self, id: str | None) -> list[Batch]:
        return [batch for batch in self._db.open_batches() if id in (None, batch.id)]

    def _end(self, id: str, ending: Ending) -> None:
        with self._settling:
            self._check_open()
            batch = self._db.batch(id)
            if batch is None or batch.status == "ended":
                return
            processor = Processor(
                batch_id=id,
                seq=batch.seq,
                workspace=batch.workspace,
                occasion=self.occasion(
                    "batch",
                    batch.workspace,
                    batch.version or NEWEST_VERSION,
                    None if batch.betas is None else frozenset(batch.betas.split(",")),
                ),
                options=self.options,
                caches=self._batch_caches,
                ending=ending,
                check_open=self._check_open,
            )
            results, bill = self.new_spool(), self.new_spool()
            try:
                later = self._batch_caches.found_later(self.options.cache_after_batch)
                with later, self._texts.reading(id, "requests") as requests:
                    processed = processor.run(requests, results, bill)
                with self._db.transaction():
                    self._texts.keep(id, "results", results)
                    self._texts.keep(id, "bill", bill)
                    self._save_caches(self._batch_caches)
                    self._db.change_batch(
                        id,
                        status="ended",
                        ended_at=ending.ended_at,
                        usd=format(processed.usd, "f"),
                        unpriced=processed.unpriced,
                        **processed.counts,
                    )
            finally:
                results.discard()
                bill.discard()

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

    def _document(self, batch: Batch, host: str) -> dict[str, Any]:
        return document_of(batch, self.clock.now(), self.options.public_url or f"http://{host}")

    # What tests and demos ask

    def change_options(self, **changes: Any) -> None:
        self.options = self.options.changed(**changes)

    def save_clock(self) -> None:
        """Remember the clock over a restart."""
        saved = {"offset": self.clock.offset, "frozen_at": self.clock.frozen_at}
        self._db.set_meta("clock", saved)

    def count_call(self, route: str, outcome: str) -> None:
        with suppress(EmulatorClosed):
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

    def requests(self, id: str) -> Iterator[bytes]:
        """The requests of a batch as they were sent, a line each."""
        if self._db.batch(id) is None:
            raise ApiError("not_found_error", f"No Message Batch {id} exists")
        return self._texts.lines(id, "requests")
