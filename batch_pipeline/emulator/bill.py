"""What was charged, and how often and how hard the emulator was called."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from batch_pipeline.emulator.database import Batch, Database
from batch_pipeline.emulator.texts import Texts


class Bill:
    """Adds up what the database knows. Batches whose time has come must have been ended before.

    Args:
        database: The emulator's.
        texts: Where the bill of each batch is.
    """

    def __init__(self, database: Database, texts: Texts) -> None:
        self._db = database
        self._texts = texts

    def total(self) -> dict[str, Any]:
        """What was charged in all, in batches and for direct messages."""
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

    def lines(self) -> Iterator[bytes]:
        """One JSON line per request of an ended batch, deleted ones included."""
        for batch in self._db.all_batches():
            if batch.status == "ended":
                yield from self._texts.lines(batch.id, "bill")

    def batches(self) -> list[Batch]:
        """Batches that have ended, deleted ones included."""
        return [batch for batch in self._db.all_batches() if batch.status == "ended"]

    def messages(self) -> list[dict[str, Any]]:
        """Direct messages, as they are billed."""
        return self._db.messages()

    def note_queue(self) -> None:
        """Remember how full the queue is, if it never was fuller."""
        queued = self._db.queued()
        if queued > self._db.get_meta("max_queued", 0):
            self._db.set_meta("max_queued", queued)

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
