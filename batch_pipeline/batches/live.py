"""Asking late requests live: one by one through the Messages API, at full price, each once.

There is no list to find a lost reply in. So each request is written down before its call; one without a reply
is never asked again by itself, but waits for a person. Nothing is asked live while a batch may still answer it:
what is asked here was never sent.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import hold_pipeline, release_pipeline
from batch_pipeline.batches.evidence import custom_id_in
from batch_pipeline.batches.live_claim import claim_late, let_go, take
from batch_pipeline.batches.live_parts import count, finish, take_late_replies
from batch_pipeline.batches.outcome import (
    FileDamaged,
    NotAccepted,
    OutcomeUnknown,
    PipelineRefused,
)
from batch_pipeline.batches.policy import SendPolicy, back_off
from batch_pipeline.batches.send import length_of
from batch_pipeline.errors import StoreError, counted
from batch_pipeline.store import live
from batch_pipeline.store.budget import NO_CAPS, Caps
from batch_pipeline.store.deadlines import Deadlines, asking_files, late_files
from batch_pipeline.store.high_water import note_live
from batch_pipeline.store.ledger import new_owner
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope, betas_of
from batch_pipeline.store.tables import request_files

AT_ONCE = 8  # calls
RUN_SECONDS = 600.0  # a run begins no further call after that; the next one goes on
MOST_TURNED_AWAY = 5  # in a row, until a run leaves the rest to a later one
MOST_LOST = 3  # in a row: an API that does not answer would take all replies with it
LONGEST_PAUSE_SECONDS = 60.0  # between two calls of a run
LATER_SECONDS = 120.0


@dataclass
class AskedLive:
    """What one pass of asking live did.

    Attributes:
        replies: requests that the API replied to.
        lost: requests whose reply is not known: they may have been paid, and wait for a person.
        left: requests that a later run asks.
        over_budget: what a cap does not let through at full price, a line for each submission.
        trouble: what else there is to say.
        refused: why the API refuses the account.
    """

    replies: int = 0
    lost: int = 0
    left: int = 0
    over_budget: tuple[str, ...] = ()
    trouble: list[str] = field(default_factory=list)
    refused: str | None = None


def ask_live(
    store: Store,
    connect: Callable[[], BatchesApi],
    scope: Scope,
    policy: SendPolicy,
    wanted: Deadlines | None,
    caps: Caps,
    tell: Callable[[str], None] = lambda _: None,
    *,
    begin: bool = True,
) -> AskedLive:
    """Ask what is late in a scope, and was never sent, live, as far as the caps allow.

    Safe at any time, by any number of processes: a file has one owner, and a request is written down before it
    is asked.

    Args:
        store: where the files and the ledger are.
        connect: makes a connection to the endpoint of ``scope``; each thread has its own.
        scope: whose files.
        policy: how long one call may take.
        wanted: when answers are wanted. None: nothing is asked live any more; what of a file was not asked
            is sent in a batch.
        caps: what may be spent.
        tell: gets a line per file.
        begin: ask also what no run has begun to ask.
    """
    report, owner = AskedLive(), new_owner()
    for file_id in take_late_replies(store, scope.pipeline):
        tell(f"{file_id}: its replies came after all")
    if wanted is not None and begin:
        files = _of_scope(late_files(store, scope.pipeline, scope.endpoint.id, wanted), scope)
        # A damaged one is held by the sending, which says so.
        whole = [file for file in files if _is_whole(store, file)]
        if whole:
            claimed = claim_late(store.ledger, whole, owner, policy, caps)
            report.over_budget = tuple(claimed.over)
    until = time.monotonic() + RUN_SECONDS
    for seen in _of_scope(asking_files(store, scope.pipeline, scope.endpoint.id), scope):
        if (file := take(store.ledger, seen, owner, policy)) is None:
            continue
        name = f"{file['id']} ({counted(file['requests'], 'request')})"
        asking = _Asking(store, scope, policy, file, until, report)
        if wanted is not None and report.refused is None:
            try:
                asking.run(connect)
            except BaseException as error:
                let_go(store.ledger, file, LATER_SECONDS, f"{type(error).__name__}: {error}")
                raise
        outcomes = count(store, file)
        if outcomes["lost"]:
            report.trouble.append(
                f"{name}: {counted(outcomes['lost'], 'request')} asked live and no reply known: they may have been "
                f"paid, and wait for a person (`batch-pipeline held {scope.pipeline}`)"
            )
        if outcomes["unasked"] and wanted is not None and not asking.is_cancelled:
            report.left += outcomes["unasked"]
            let_go(store.ledger, file, asking.wait_seconds, asking.why)
            report.trouble.append(
                f"{name}: {counted(outcomes['unasked'], 'request')} not asked live yet ({asking.why or 'out of time'})"
            )
        else:
            finish(store, file, "withdraw" if asking.is_cancelled else "send")
            tell(f"asked {name} live: {counted(outcomes['answered'], 'reply', 'replies')}")
    if report.replies and report.refused is None:
        release_pipeline(store.ledger, scope)
    return report


def end_asking(
    store: Store,
    api: BatchesApi,
    scope: Scope,
    policy: SendPolicy,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Ask nothing further of a scope live: what has a reply has ended, and what was not asked is ready.

    Args:
        store: where the files and the ledger are.
        api: the endpoint.
        scope: whose files.
        policy: how long one call may take.
        tell: gets a line per file.
    """
    ask_live(store, lambda: api, scope, policy, None, NO_CAPS, tell)


def _of_scope(files: Sequence[RowMapping], scope: Scope) -> list[RowMapping]:
    return [file for file in files if file["partition"] == scope.partition]


def _is_whole(store: Store, file: RowMapping) -> bool:
    try:
        length_of(store, file)
    except FileDamaged:
        return False
    return True


class _Asking:
    """One pass over a file's requests, by several threads."""

    def __init__(
        self,
        store: Store,
        scope: Scope,
        policy: SendPolicy,
        file: RowMapping,
        until: float,
        report: AskedLive,
    ) -> None:
        self.store, self.scope, self.policy, self.file = store, scope, policy, file
        self.until, self.report = until, report
        self.wait_seconds, self.why = 0.0, None
        self._lock = threading.Lock()
        self._again: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._lines: Iterator[tuple[str, Mapping[str, Any]]] = iter(())
        self._stopped = False
        self._turned_away = self._lost = 0

    @property
    def is_cancelled(self) -> bool:
        """Whether a person cancelled the file."""
        query = select(request_files.c.cancel_requested_at)
        rows = self.store.ledger.rows(query.where(request_files.c.id == self.file["id"]))
        return rows[0]["cancel_requested_at"] is not None

    def run(self, connect: Callable[[], BatchesApi]) -> None:
        """Ask what was not asked yet, until all is, or something speaks against it."""
        asked = live.asked(self.store.ledger, self.file["id"])
        left = self.file["requests"] - len(asked)
        if not left or time.monotonic() > self.until:
            return
        # Before anything of it is paid, the store can tell what it is, and that no list will tell of it.
        keep_manifests(self.store, [self.file["submission_id"]])
        note_live(self.store.files, self.file)
        betas = betas_of(self.store.ledger, self.file["submission_id"])
        with self.store.files.open(self.file["path"]) as lines:
            self._lines = _requests(lines, asked)
            with ThreadPoolExecutor(min(AT_ONCE, left), "live") as pool:
                working = [
                    pool.submit(self._work, connect, betas) for _ in range(min(AT_ONCE, left))
                ]
                try:
                    for one in working:
                        one.result()
                except BaseException:
                    self._stop("the run was ended")  # calls that are under way come to their end
                    raise

    def _work(self, connect: Callable[[], BatchesApi], betas: Sequence[str]) -> None:
        """Ask one request after the other."""
        try:
            with closing(connect()) as connection:
                api = connection.with_betas(betas)
                while (request := self._next()) is not None:
                    self._ask(api, *request)
        except BaseException:
            self._stop("an error")
            raise

    def _next(self) -> tuple[str, Mapping[str, Any]] | None:
        with self._lock:
            if self._stopped or time.monotonic() > self.until:
                return None
            return self._again.popleft() if self._again else next(self._lines, None)

    def _stop(self, why: str, wait_seconds: float = LATER_SECONDS) -> None:
        with self._lock:
            if not self._stopped:
                self._stopped, self.why, self.wait_seconds = True, why, wait_seconds

    def _ask(self, api: BatchesApi, custom_id: str, params: Mapping[str, Any]) -> None:
        """Ask one request, and write down what came of it."""
        ledger, lease = self.store.ledger, self.policy.lease_seconds
        started = ledger.clock.now()
        if not live.note_asking(ledger, self.file, custom_id, lease):
            self._stop("it is not this run's to ask any more")
            return
        try:
            if (ledger.clock.now() - started).total_seconds() > lease / 2:
                raise NotAccepted("half of the lease was gone before the call could start", 1.0)
            result = api.message(params)
        except NotAccepted as error:
            live.note_not_taken(ledger, self.file, custom_id)
            self._later((custom_id, params), error)
        except PipelineRefused as error:
            live.note_not_taken(ledger, self.file, custom_id)
            self._refused(str(error))
        except OutcomeUnknown as error:
            live.note_lost(ledger, self.file, custom_id, str(error))
            self._lose(str(error))
        except BaseException as error:
            live.note_lost(
                ledger, self.file, custom_id, f"it was cut short ({type(error).__name__}: {error})"
            )
            raise
        else:
            self._keep(
                custom_id,
                b'{"custom_id":%b,"result":%b}\n' % (json.dumps(custom_id).encode(), result),
            )
            with self._lock:
                self.report.replies += 1
                self._turned_away = self._lost = 0

    def _keep(self, custom_id: str, line: bytes) -> None:
        """Write a reply down: it is paid for, so a database that hiccups is tried again."""
        for pause in (1.0, 5.0, None):
            try:
                live.note_reply(self.store.ledger, self.file, custom_id, line)
                return
            except StoreError:
                if pause is None:
                    raise
                self.store.clock.sleep(pause)

    def _later(self, request: tuple[str, Mapping[str, Any]], error: NotAccepted) -> None:
        """Ask a request that was turned away again, after a pause; leave the rest when that goes on."""
        with self._lock:
            self._again.append(request)
            self._turned_away += 1
            turned_away = self._turned_away
        wait = back_off(1, error.retry_after) if error.retry_after else 2.0 ** min(turned_away, 5)
        goes_on = turned_away >= MOST_TURNED_AWAY or wait > LONGEST_PAUSE_SECONDS
        if goes_on or time.monotonic() + wait > self.until:
            self._stop(str(error), max(wait, LATER_SECONDS))
        else:
            self.store.clock.sleep(wait)

    def _lose(self, why: str) -> None:
        with self._lock:
            self.report.lost += 1
            self._lost += 1
            goes_on = self._lost >= MOST_LOST
        if goes_on:
            self._stop(why, LATER_SECONDS)

    def _refused(self, why: str) -> None:
        self._stop(why, LATER_SECONDS)
        with self._lock:
            is_first, self.report.refused = self.report.refused is None, why
        if is_first:
            hold_pipeline(self.store.ledger, self.scope, why)


def _requests(
    lines: Iterator[bytes], asked: Mapping[str, bool]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the requests of a file that were not asked yet."""
    for line in lines:
        custom_id = custom_id_in(line)
        if custom_id is not None and custom_id not in asked:
            yield custom_id, json.loads(line)["params"]
