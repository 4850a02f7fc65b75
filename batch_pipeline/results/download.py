"""Getting a batch's answers onto our disk, and believing them only when they are complete.

What a damaged download holds is kept, and the next one adds to it: a line that was readable once is
not lost when it is garbled the next time.
"""

import hashlib
import shutil
from collections.abc import Set
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import RowMapping, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.lines import LARGE_LINE_BYTES, SHOWN_BYTES, is_overfull, lines_in
from batch_pipeline.batches.outcome import NoSuchBatch
from batch_pipeline.errors import BatchPipelineError, counted, plain
from batch_pipeline.results.erased import blank_answers, erased_of
from batch_pipeline.results.file_records import Requested, custom_ids_of, custom_ids_sent
from batch_pipeline.results.json_text import parsed
from batch_pipeline.results.readable import UNREADABLE
from batch_pipeline.store.adoptions import is_adopted
from batch_pipeline.store.layout import answers_name, safe_part
from batch_pipeline.store.ledger import seconds_since
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import betas_of
from batch_pipeline.store.tables import NOT_RESULTS, WAITS, FileState, request_files

MOST_DOWNLOADS = 5
SPREAD_SECONDS = 3600.0
TRIES_OF_FIRST_PASS = 2
PAUSE_SECONDS, MOST_PAUSE_SECONDS = 5.0, 300.0  # between two tries; it grows with the trouble's age
BYTES_EACH, SPARE_BYTES = 2_000_000, 64_000_000  # of the results of a batch, on our disk
LINES_EACH, SPARE_LINES = 4, 1_000


class Incomplete(BatchPipelineError):
    """The results that were served are not all of them; they are fetched again later."""


@dataclass(frozen=True)
class Answers:
    """A batch's kept answers.

    Attributes:
        name: the file in the store; None when there is nothing to read.
        damage: what is wrong with them; None when they are whole.
        lost: requests of the batch whose answer, if there was one, nobody can read.
        are_judged: whether a reader has judged them already.
    """

    name: str | None
    damage: str | None
    lost: int = 0
    are_judged: bool = False


class Reader(Protocol):
    """Who reads answers whole as soon as they came, so that no line is parsed twice."""

    def are_whole(self, path: str, asked: Set[str], expected: int) -> bool:
        """Return whether the answers of a local file are whole: then they are read. It never raises."""
        ...


@dataclass
class Lines:
    """What the lines of a results file come to, compared with the requests of its batch.

    Attributes:
        asked: the custom_ids of the batch's requests.
        expected: lines that the API says there are.
        answered: those of ``asked`` that have a line.
        lines: all but blank ones.
        unreadable: of these, the ones that are no results.
        foreign: of these, results of a custom_id that is not asked for.
        twice: of these, further results of a custom_id.
    """

    asked: Set[str]
    expected: int
    answered: set[str] = field(default_factory=set)
    lines: int = 0
    unreadable: int = 0
    foreign: int = 0
    twice: int = 0
    garbled: int = 0  # of the unreadable ones, those that were a result of this ledger once
    mark: bytes = b""  # what the custom_ids of this ledger begin with
    beginning: bytes = b""  # of the first line

    def take(self, line: bytes) -> bool:
        """Count a line; whether it is the first result of a request."""
        self.lines += 1
        self.beginning = self.beginning or line[:80]
        custom_id = custom_id_of(line)
        if custom_id is None:
            self.unreadable += 1
            self.garbled += bool(self.mark) and self.mark in line[:1000]
        elif custom_id not in self.asked:
            self.foreign += 1
        elif custom_id in self.answered:
            self.twice += 1
        else:
            self.answered.add(custom_id)
            return True
        return False

    @property
    def lost(self) -> int:
        """Requests without a line."""
        return len(self.asked) - len(self.answered)

    @property
    def is_ours(self) -> bool:
        """Whether any of it, readable or not, is a result of the batch. Else it proves nothing about it."""
        return bool(self.answered or self.garbled)

    @property
    def damage(self) -> str | None:
        """What is wrong; None when each request has its one line, and there is no other."""
        problems = []
        if self.lines != self.expected:
            problems.append(f"{counted(self.lines, 'line')} instead of {self.expected:,}")
        if self.unreadable:
            problems.append(
                f"{counted(self.unreadable, 'line that is no result', 'lines that are no results')}"
            )
        if self.foreign:
            problems.append(f"{counted(self.foreign, 'result')} of other requests")
        if self.twice:
            problems.append(f"{counted(self.twice, 'answer')} twice")
        if self.lost:
            problems.append(f"{counted(self.lost, 'request')} without a result")
        return ", ".join(problems) or None


def answers_of(
    store: Store,
    api: BatchesApi,
    file: RowMapping,
    requested: Requested | None = None,
    reader: Reader | None = None,
) -> Answers:
    """Return the kept answers of an ended batch, downloading them first if need be.

    Args:
        store: where the files and the ledger are.
        api: the endpoint.
        file: the ledger's row of the batch's file.
        requested: the records of its request file; None: they are looked up.
        reader: is given what was downloaded before it is kept.

    Raises:
        Incomplete: what was served is not complete, and there is time left to try again.
        ApiUnavailable, HeldError: the API could not be asked.
    """
    if file["batch_id"] is None:
        return Answers(None, file["error"])  # it was never sent, or given up: nothing to fetch
    downloads, first = file["downloads"], file["first_download_at"] or store.clock.now()
    kept = file["answers_path"]
    asked = _asked(store, file, requested)
    expected = file["answered"] or file["requests"]
    if not downloads:
        first = store.clock.now()  # what was tried so far brought nothing

    mark = f"{store.ledger.id}-"

    def lines(fresh: str | None = None) -> Lines:
        wanted = _served(store, kept, fresh, mark, expected) if asked is None else asked
        return Lines(wanted, expected, mark=mark.encode())

    if kept and not file["damaged"]:
        return Answers(kept, None)
    if kept and file["not_before"] is None and _is_last(store, downloads, first):
        # It was accepted as it is; whoever did so got no further.
        return Answers(kept, file["error"], read_lines(store, kept, lines()).lost)
    damage = ""
    for _ in range(TRIES_OF_FIRST_PASS if downloads == 0 else 1):
        with store.files.scratch() as folder:
            fresh, merged = f"{folder}/fresh", f"{folder}/merged"
            downloads += 1
            is_ours = True
            try:
                excess = _fetch(store, api, file, fresh, expected)
                if reader and asked and not excess and reader.are_whole(fresh, asked, expected):
                    placed = _place(store, file, fresh)
                    answers = _keep(store, file, placed, downloads, first, None, 0)
                    return replace(answers, are_judged=True)
                served = read_local(fresh, lines(fresh))
                if served.damage is None and not excess:
                    return _keep(store, file, _place(store, file, fresh), downloads, first, None, 0)
                damage = ", ".join(filter(None, (excess, served.damage)))
                is_ours = served.is_ours
                if not is_ours:
                    damage = f"{NOT_RESULTS}: {damage}{_begins(served)}"
            except NoSuchBatch as error:
                # One such reply proves nothing: answers are paid for, and given up only when it
                # stays.
                damage = f"the API has no answers of {file['batch_id']}: {error}"
                fresh = None
            merged_lines = _merge(store, kept, fresh, merged, lines(fresh))
            last = _is_last(store, downloads, first)
            if fresh is not None and not merged_lines.lost:
                # Each download was damaged in another place; together they are whole.
                return _keep(store, file, _place(store, file, merged), downloads, first, None, 0)
            if last and not merged_lines.is_ours and fresh is not None:
                _wait_for_a_person(store, file, damage, downloads)
            previous = kept
            if fresh is not None and is_ours:
                kept = _place(store, file, merged)
            answers = _keep(store, file, kept, downloads, first, damage, merged_lines.lost)
            if previous and previous != kept:
                store.files.remove(previous)
            if last:
                return answers
    again = store.clock.now() + timedelta(seconds=pause(store, first))
    message = (
        f"the results of {file['batch_id']} came incomplete ({damage}), download {downloads} of "
        f"{max(MOST_DOWNLOADS, downloads)}{_spread(downloads, first)}; fetched again after {again:%H:%M} UTC"
    )
    with store.ledger.write() as tx:
        tx.execute(
            update(request_files).where(*_still_ended(file)).values(not_before=again, error=message)
        )
    raise Incomplete(message)


def _asked(store: Store, file: RowMapping, requested: Requested | None) -> Set[str] | None:
    """Return the custom_ids of a file's requests; None when neither its records nor the file tell.

    Answers do not wait for a file of the store that is lost: the API drops them after 29 days. Of a batch that
    was made elsewhere some may belong to no record.
    """
    if is_adopted(store.ledger, file["submission_id"]):
        return custom_ids_sent(store, file)
    try:
        return custom_ids_of(store, file) if requested is None else requested.custom_ids
    except UNREADABLE:
        return custom_ids_sent(store, file)


def _served(
    store: Store, kept: str | None, fresh: str | None, mark: str, expected: int
) -> set[str]:
    """Return the custom_ids of this ledger in what came so far, made up to the number that is expected."""
    found: set[str] = set()
    with ExitStack() as stack:
        sources = [stack.enter_context(store.files.open(kept))] if kept else []
        sources += [stack.enter_context(open(fresh, "rb"))] if fresh else []
        for source in sources:
            found |= {
                custom_id
                for line in lines_in(source)
                if (custom_id := custom_id_of(line)) and custom_id.startswith(mark)
            }
    return found | {f"not served {number}" for number in range(expected - len(found))}


def pause(store: Store, first: datetime | None) -> float:
    """Return the seconds until a download is tried again: as long as the trouble lasts, within limits.

    Args:
        store: where the clock is.
        first: when the answers were first asked for.
    """
    age = 0.0 if first is None else seconds_since(store.clock, first)
    return min(max(age, PAUSE_SECONDS), MOST_PAUSE_SECONDS)


def _spread(downloads: int, first: datetime) -> str:
    if downloads < MOST_DOWNLOADS:
        return ""
    return f", the last one not before {first + timedelta(seconds=SPREAD_SECONDS):%H:%M} UTC"


def _begins(served: Lines) -> str:
    if not served.lines:
        return " (it is empty)"
    return f" (it begins with {plain(served.beginning.decode('utf-8', 'replace')).strip()!r})"


def _fetch(store: Store, api: BatchesApi, file: RowMapping, path: str, requests: int) -> str:
    """Download the results, as far as results can go; returns what was too much of it, or ""."""
    most_bytes = SPARE_BYTES + requests * BYTES_EACH
    most_lines = SPARE_LINES + requests * LINES_EACH
    size = lines = 0
    api = api.with_betas(betas_of(store.ledger, file["submission_id"]))
    with closing(api.results(file["batch_id"])) as stream, open(path, "wb") as out:
        for chunk in stream:
            size += len(chunk)
            lines += chunk.count(b"\n")
            out.write(chunk)
            if size > most_bytes:
                return f"it went on after {size / 1e6:,.0f} MB and was broken off"
            if lines > most_lines:
                return f"it went on after {lines:,} lines and was broken off"
    return ""


def _wait_for_a_person(store: Store, file: RowMapping, damage: str, downloads: int) -> None:
    """Write down that nothing is concluded from what the API gives in place of a batch's results.

    Raises:
        Incomplete: always.
    """
    note = (
        f"What the API gave as the results of {file['batch_id']} was something else in {downloads} downloads "
        f"over an hour ({damage}). {WAITS}: put right what stands between here and the API; it is tried again "
        f"every few minutes. Or give the answers up, they may be paid for: `batch-pipeline held --drop {file['id']}`."
    )
    again = store.clock.now() + timedelta(seconds=MOST_PAUSE_SECONDS)
    with store.ledger.write() as tx:
        tx.execute(
            update(request_files)
            .where(*_still_ended(file))
            .values(downloads=downloads, not_before=again, error=note)
        )
    raise Incomplete(note)


def fetch_again(store: Store, api: BatchesApi, file: RowMapping) -> str:
    """Download the answers of a collected batch once more, because the kept ones are gone.

    Returns:
        Their name in the store; the ledger has it too.

    Raises:
        ValueError: the API does not have them any more, or not all of them.
        ApiUnavailable, HeldError: the API could not be asked.
    """
    asked = _asked(store, file, None) or custom_ids_of(store, file)
    lines = Lines(asked, file["answered"] or file["requests"])
    with store.files.scratch() as folder:
        local = f"{folder}/answers"
        try:
            _fetch(store, api, file, local, len(lines.asked))
        except NoSuchBatch as error:
            raise ValueError(
                f"its answers are gone from the store and from the API: {error}"
            ) from None
        damage = read_local(local, lines).damage
        if damage is not None and not file["damaged"]:
            raise ValueError(f"its answers are gone, and came back incomplete ({damage})")
        name = _place(store, file, local)
    with store.ledger.write() as tx:
        tx.execute(
            update(request_files).where(request_files.c.id == file["id"]).values(answers_path=name)
        )
    return name


def custom_id_of(line: bytes) -> str | None:
    """Return the custom_id of a line of results; None when it is no result."""
    if is_overfull(line):
        return None
    result = parsed(line)
    custom_id = result.get("custom_id") if isinstance(result, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def _is_last(store: Store, downloads: int, first) -> bool:
    """Whether what there is by now has to do."""
    return downloads >= MOST_DOWNLOADS and seconds_since(store.clock, first) >= SPREAD_SECONDS


def read_local(path: str, lines: Lines) -> Lines:
    """Count the lines of a local file of answers."""
    with open(path, "rb") as results:
        for line in lines_in(results):
            lines.take(line)
    return lines


def read_lines(store: Store, name: str, lines: Lines) -> Lines:
    """Count the lines of kept answers."""
    with store.files.open(name) as results:
        for line in lines_in(results):
            lines.take(line)
    return lines


def _merge(store: Store, kept: str | None, fresh: str | None, path: str, lines: Lines) -> Lines:
    """Write what is kept and what came now: each request's first result, and then the odd lines.

    All lines are as they came; of odd ones that came more than once, one is written.
    """
    seen: set[bytes] = set()
    with ExitStack() as stack:
        sources = []
        if kept:
            sources.append(stack.enter_context(store.files.open(kept)))
        if fresh:
            sources.append(stack.enter_context(open(fresh, "rb")))
        out = stack.enter_context(open(path, "wb"))
        odd = stack.enter_context(open(f"{path}-odd", "wb+"))
        for source in sources:
            for line in lines_in(source):
                digest = hashlib.sha256(line).digest()
                if lines.take(line):
                    out.write(line)
                elif digest not in seen:
                    odd.write(line if len(line) <= LARGE_LINE_BYTES else line[:SHOWN_BYTES] + b"\n")
                seen.add(digest)
        odd.seek(0)
        shutil.copyfileobj(odd, out)
    return lines


def _place(store: Store, file: RowMapping, local: str) -> str:
    """Put the answers into the store, under a name that no other process writes to.

    Without those of records that were erased meanwhile.
    """
    if erased := erased_of(store, file["submission_id"]).lines:
        blank_answers(local, f"{local}-erased", dict.fromkeys(erased))
        local = f"{local}-erased"
    batch = safe_part(file["batch_id"])
    part = f"{file['seq']:05d}-{batch}-{store.files.new_part()}"
    return store.files.put(local, answers_name(file["pipeline"], file["submission_id"], part))


def _keep(
    store: Store,
    file: RowMapping,
    name: str | None,
    downloads: int,
    first,
    damage: str | None,
    lost: int,
) -> Answers:
    """Write down what is kept of a batch's answers; a damaged copy is all the same some of them."""
    if damage and name:
        damage = f"{damage}. What came is kept, line by line, in {name}"
    with store.ledger.write() as tx:
        kept = tx.execute(
            update(request_files)
            .where(*_still_ended(file))
            .values(
                answers_path=name,
                damaged=damage is not None,
                error=damage,
                not_before=None,
                downloads=downloads,
                first_download_at=first,
            )
        )
        if not kept.rowcount:
            raise Incomplete(f"{file['id']} was collected by another process meanwhile")
    return Answers(name, damage, lost)


def _still_ended(file: RowMapping):
    """What is collected already is not touched again, whatever an overtaken process believes."""
    return request_files.c.id == file["id"], request_files.c.state == FileState.ENDED
