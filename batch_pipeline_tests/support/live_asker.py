"""A process that asks live what is late in a house; it may be killed between a call and its being written down."""

import os
import signal

from batch_pipeline.batches import live
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.deadline import AnswerBy
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.store import live as ledger_of_live
from batch_pipeline.store.budget import NO_CAPS
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.deadlines import deadlines
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Scope, known_endpoints
from batch_pipeline_tests.support.clock import HandClock


def ask(root: str, base_url: str, by: str, ahead_seconds: float, kill_at: int = 0) -> None:
    """Ask what is late live.

    Args:
        root: of the store.
        base_url: of the API.
        by: when answers are wanted.
        ahead_seconds: how far the clock is ahead of the machine's.
        kill_at: before the how manieth reply is written down it is killed; 0: it is not.
    """
    clock = HandClock()
    clock.advance(ahead_seconds)
    if kill_at:
        live.AT_ONCE = 1
        _kill_at(kill_at)
    with going_by(clock):
        store = open_store(root)
        [endpoint] = known_endpoints(store.ledger, base_url)
        live.ask_live(
            store,
            lambda: BatchesApi("any", base_url, 600.0),
            Scope("notes", "", endpoint),
            SendPolicy(),
            deadlines(store, "notes", AnswerBy(by).due),
            NO_CAPS,
        )


def _kill_at(number: int) -> None:
    real, seen = ledger_of_live.note_reply, [0]

    def note_reply(*args) -> None:
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)

    ledger_of_live.note_reply = note_reply
