"""Sending night reports by Apprise: once for each settled submission and address, tried a bounded number of times.

What was sent stands as notes beside the submission's files: how often it was tried, and that it is done. They name
an address by its place, and nothing of it.
"""

import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import RowMapping, select

from batch_pipeline.results.addressees import opened, shown
from batch_pipeline.settings import resolve
from batch_pipeline.store.layout import report_name
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import submissions

MOST_TRIES = 5
"""For each address, one a collect run."""
MOST_SECONDS = 30.0
"""For one address: what takes longer counts as not sent. A run that has its answers waits for no server."""
FRESH = timedelta(hours=1)
TRIED_FOR = timedelta(days=3)


def due(store: Store, pipeline: str, partitions: Sequence[str]) -> Sequence[RowMapping]:
    """Return the submissions that were settled in the last three days, oldest first.

    Args:
        store: where the ledger is.
        pipeline: whose.
        partitions: of which partitions.
    """
    return store.ledger.rows(
        select(submissions)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.partition.in_(partitions),
            submissions.c.verified_at >= store.clock.now() - TRIED_FOR,
        )
        .order_by(submissions.c.number)
    )


def tell(
    store: Store,
    submission: RowMapping,
    urls: Sequence[str],
    text: Callable[[], tuple[str, str, bytes | None] | None],
    warn: Callable[[str], None],
) -> int:
    """Send a report to whoever has not got it yet; return how many got it now.

    Args:
        store: where the notes are.
        submission: what it is about.
        urls: the addresses.
        text: makes title, Markdown and chart; None: nobody wants to hear of it.
        warn: gets a line for each address that could not be reached.
    """
    pipeline, mine = submission["pipeline"], submission["id"]
    told = 0
    with store.ledger.lease(f"report/{mine}") as lease:
        if lease is None:
            return 0  # another run sends it
        notes = set(store.files.file_names(report_name(pipeline, mine)))
        age = store.clock.now() - submission["verified_at"]
        waiting = [place for place in range(len(urls)) if _waits(notes, place, age <= FRESH)]
        if not waiting:
            return 0
        made = text()
        for place in waiting:
            tries = sum(note.startswith(f"{place:02d}-try-") for note in notes)
            if made is not None:
                _note(store, report_name(pipeline, mine, f"{place:02d}-try-{tries + 1}"))
                if not _send(urls[place], place, *made):
                    left = MOST_TRIES - tries - 1
                    warn(
                        f"The report on submission {submission['number']} could not be sent by "
                        f"{shown(urls[place], place)}. "
                        + (
                            f"It is tried again by the next {left} collect runs."
                            if left
                            else "It is not tried again."
                        )
                    )
                    continue
                told += 1
            _note(store, report_name(pipeline, mine, f"{place:02d}-done"))
    return told


def _waits(notes: set[str], place: int, fresh: bool) -> bool:
    mine = {note for note in notes if note.startswith(f"{place:02d}-")}
    if not mine:
        return fresh  # an address that was declared later gets no old reports
    return not mine & {f"{place:02d}-done", f"{place:02d}-try-{MOST_TRIES}"}


def _send(url: str, place: int, title: str, text: str, chart: bytes | None) -> bool:
    """Send a report, and return whether it went out in time."""
    went_out: list[bool] = []

    def send() -> None:
        went_out.append(_sent(url, place, title, text, chart))

    # Plugins wait for each piece of a reply, and a server may send pieces without an end.
    thread = threading.Thread(target=send, name="report", daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    return True in went_out


def _sent(url: str, place: int, title: str, text: str, chart: bytes | None) -> bool:
    try:
        service = opened(resolve(url), place)
        if service is None:
            return False
        import apprise

        everyone = apprise.Apprise()
        everyone.add(service)
        with tempfile.TemporaryDirectory(prefix="batch-pipeline-") as folder:
            attached = None
            if chart is not None:
                Path(folder, "costs.png").write_bytes(chart)
                attached = str(Path(folder, "costs.png"))
            return bool(
                everyone.notify(
                    title=title,
                    body=text,
                    body_format=apprise.NotifyFormat.MARKDOWN,
                    attach=attached,
                )
            )
    except Exception:  # a plugin's own, or there is no such variable; its text may hold the address
        return False


def _note(store: Store, name: str) -> None:
    with store.files.scratch() as folder:
        Path(folder, "note").write_bytes(b"report\n")
        store.files.put(f"{folder}/note", name)
