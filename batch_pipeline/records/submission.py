"""Selecting what needs an answer and committing it as a submission, whoever else selects at the same time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from batch_pipeline.errors import BatchPipelineError, HeldError, counted
from batch_pipeline.records.columns import check_names
from batch_pipeline.records.connections import lost_files_told
from batch_pipeline.records.files import FilesRead
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import open_source, source_columns
from batch_pipeline.records.reask import Destination, Reask, Unknown
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.selection import Ask, Contents, IndexFile, Selection, select
from batch_pipeline.records.sources import Source, named_among
from batch_pipeline.records.unsettled import Unsettled
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.known_contents import keep_contents, known_contents
from batch_pipeline.store.layout import index_name, new_submission_id, records_name
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    NewSelection,
    Scope,
    abandon_unbuilt,
    asked_at,
    asked_beside,
    asked_elsewhere,
    commit_selection,
    index_beside,
    index_elsewhere,
    latest_records,
    situation,
)
from batch_pipeline.store.variants import ESCALATED, scope_name

MOST_TRIES = 20


class Question(Protocol):
    """The question, as far as selection must know it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The source's columns it reads."""
        ...

    @property
    def files(self) -> FilesRead | None:
        """The files it reads of each record."""
        ...

    @property
    def version(self) -> str:
        """A hash of the question."""
        ...

    @property
    def request_hash(self) -> str:
        """A hash of what its requests have in common."""
        ...

    @property
    def most_doublings(self) -> int:
        """How often an answer that was cut short may get twice as many tokens."""
        ...

    @property
    def cache_by(self) -> tuple[str, ...]:
        """Columns: records that share them are asked together."""
        ...

    @property
    def output_columns(self) -> Sequence[tuple[str, str]]:
        """The columns of its answer."""
        ...


@dataclass(frozen=True)
class SelectedSubmission:
    """A selection that is committed."""

    submission: str | None  # None when nothing needs an answer
    number: int
    selection: Selection
    version: str


def select_submission(
    store: Store,
    scope: Scope,
    source: Source,
    compile_question: Callable[[Mapping[str, str]], Question],
    *,
    partition_filter: Callable[[Mapping[str, str]], PartitionFilter | None],
    refresh: Literal["changed", "new"],
    max_attempts: int,
    on_deleted: Literal["keep", "drop"],
    ask: Ask,
    dedupe: bool = True,
    correct: bool = False,
    rules: Sequence[Rule] = (),
    destination: Destination | None = None,
    against: str | None = None,
    unsettled: Unsettled | None = None,
    unsettled_into: str = "",
    noted: Mapping[str, int] | None = None,
    compile_better: Callable[[Mapping[str, str]], Question] | None = None,
) -> SelectedSubmission:
    """Select what needs an answer and commit it as a submission.

    Two selections at the same time read the same generation; the one that commits second discards
    its files and selects again, so no record is ever in two submissions at once.

    ``dedupe``: records that would ask the same are asked once. ``correct``: an answer that did not fit
    goes with the request that asks again. ``rules`` settle records without asking.
    ``unsettled`` is what another model is asked about, once it is known here: ``unsettled_into`` gets those records,
    and is what the source of that model's scope names. ``noted`` is written down beside what was found.
    ``compile_better`` is, of the first model's scope, the better one's question: where that cannot be asked, nothing is.
    ``against`` is what speaks against asking anything, unless the run says force or allow_reask.

    Raises:
        InputError: the source, the question or the run's config cannot be used.
        LostFileError: a file of the store is gone, or damaged.
        HeldError: what would be asked needs a person's word first.
    """
    whole = ask.limit is None and not ask.where and not ask.retries_only
    if whole:
        abandon_unbuilt(store.ledger, scope)
    looked_again = False
    for _ in range(MOST_TRIES):
        read = situation(store.ledger, scope)
        # Both models have the same keys. What the first one published later hides the better answer, which is
        # published once more then; and what the better one answered is known to the first.
        is_better = scope.variant == ESCALATED
        behind = index_beside(store.ledger, scope) if is_better else []
        before = index_beside(store.ledger, scope) if scope.variant == "" else []
        submission = new_submission_id(store.clock.now())
        with (
            lost_files_told(
                scope.pipeline,
                "Bring it back, from a backup if need be; nothing was sent or changed.",
            ),
            store.files.scratch() as folder,
            open_source(source) as connection,
        ):
            columns = source_columns(connection)
            question = compile_question(columns)
            check_names(columns, [name for name, _ in question.output_columns])
            store.files.register(connection)
            known = known_contents(store.files, store.ledger, scope.pipeline, scope.partition)
            selection = select(
                connection,
                keys=source.keys,
                content_columns=question.columns,
                files=question.files,
                version=question.version,
                request=question.request_hash,
                most_doublings=question.most_doublings,
                index=[
                    *(IndexFile.of(row, store.files.url) for row in read.index),
                    *(IndexFile.of(row, store.files.url, beside=True) for row in behind),
                ],
                together=question.cache_by,
                elsewhere=[
                    IndexFile.of(row, store.files.url)
                    for row in (*index_elsewhere(store.ledger, scope), *before)
                ],
                earlier=[
                    store.files.url(name)
                    for name in latest_records(
                        store.ledger, scope.pipeline, "" if is_better else scope.variant
                    )
                ],
                out_dir=folder,
                ledger_id=store.ledger.id,
                refresh=refresh,
                max_attempts=max_attempts,
                on_deleted=on_deleted,
                partition=partition_filter(columns),
                ask=ask,
                dedupe=dedupe,
                correct=correct,
                rules=rules,
                destination=destination,
                among=named_among(source),
                unsettled=unsettled,
                unsettled_into=unsettled_into,
                answer=dict(question.output_columns),
                known=known and Contents(store.files.url(known.name), known.by, known.rows),
                known_into=f"{folder}/contents.parquet",
            )
            if selection.unknown is not None and not looked_again:
                # Another process may have collected them after the ledger was read, and before the
                # table was: what the ledger knows now is newer than that look at the table.
                looked_again = True
                continue
            if selection.unknown is not None:
                raise HeldError(_lost(store, scope, selection.unknown, selection.ruled))
            if selection.reask is not None and not ask.allow_reask:
                raise HeldError(_refused(store, scope, selection.reask))
            if selection.asked and against and not (ask.force or ask.allow_reask):
                raise HeldError(against)
            if selection.asked:
                better = compile_better(columns) if compile_better else None
                _check_places(store, scope, question, better, known=bool(behind or before))
            new = _place(store, scope, submission, selection, question.version)
            if (said := selection.contents) is not None:
                with suppress(OSError):  # without it all is hashed the next time
                    keep_contents(
                        store.files,
                        store.ledger,
                        scope.pipeline,
                        scope.partition,
                        said.path,
                        said.by,
                        said.rows,
                    )
        complete = ask.limit is None and not ask.where
        number = commit_selection(
            store.ledger,
            scope,
            read,
            new,
            complete=complete,
            counts={**counts_of(selection), **(noted or {})},
        )
        if number is not None:
            return SelectedSubmission(
                submission if new else None, number, selection, question.version
            )
        if new is not None:
            for name in (new.records_path, new.index_path):
                if name:
                    store.files.remove(name)
        elsewhere = asked_elsewhere(store.ledger, scope)
        if elsewhere is not None and not ask.force:
            raise HeldError(
                f"{scope.pipeline}: while this run selected, another process, whose ClaudeBatches(aliases=[...]) names "
                f"{scope.endpoint.base_url}, gave what was asked there to {elsewhere.base_url}. Nothing was sent. Give "
                f"this process the same base_url and aliases, then launch {scope.pipeline}_submit again."
            )
    raise BatchPipelineError(
        f"{scope.pipeline}: other runs selected records {MOST_TRIES} times while this one did. "
        "Nothing was sent by it; what they selected is being asked. Launch it again later."
    )


def _check_places(
    store: Store, scope: Scope, question: Question, better: Question | None, known: bool
) -> None:
    """Refuse to ask what was asked in the other place of an escalation: by requests of the same names.

    ``known``: anything at all was asked there.
    """
    asked = [(scope, question)] if known else []
    if better is not None:
        asked.append((replace(scope, partition=scope_name(scope.key, ESCALATED)), better))
    for one, its in asked:
        if asked_beside(store.ledger, one, its.version):
            now, before, name, version = (
                ("better", "first", "escalate's `to`", 'to={"model": ..., "version": "..."}')
                if one.variant == ESCALATED
                else ("first", "better", "the request's `model`", 'MessageTemplate(version="...")')
            )
            raise HeldError(
                f"{scope.title}: what the {now} model is asked was asked of it before, as the {before} one, and would be asked "
                f"and paid again. Nothing was sent. Set {name} back as it was, or name another model. To ask it all "
                f"the same, on purpose, give that question a version of its own: {version}."
            )


def _refused(store: Store, scope: Scope, reask: Reask) -> str:
    name = scope.title
    way = ""
    if reask.elsewhere:
        way = ", ClaudeBatches(aliases=[...]) if both addresses are one API"
        others = [one for one in asked_at(store.ledger, scope.pipeline) if one != scope.endpoint]
        here = [scope.endpoint.base_url]
        if others and all(same_address(one.base_url, here) for one in others):
            why = f"they were answered in another workspace at the same address ({others[0]}; now it is {scope.endpoint})"
            reask = replace(reask, why=(why,))
            way = ": set ClaudeBatches(api_key=...) to a key of that workspace"
    return (
        f"{name}: {reask} Nothing was sent. If that is not meant, put it back as it was{way}. If the ledger was "
        "restored from a backup, run `batch-pipeline rebuild-ledger`. To ask them again, on purpose, launch "
        f"{scope.pipeline}_submit once with allow_reask: true."
    )


def _lost(store: Store, scope: Scope, unknown: Unknown, ruled: int) -> str:
    name = scope.title
    rows = counted(unknown.rows, "answered row")
    root = store.files.root
    if unknown.lost:
        why = (
            f", but the store at {root} knows nothing of this pipeline: BatchStore(root=...) names another folder than "
            "before, or the folder was lost. Point it at the earlier root, or bring that folder back from a backup"
        )
    else:
        why = (
            f" that the store at {root} does not know: it was restored from before the table's last change, "
            "or another store's results are there. Bring back the store's folder and its ledger as they were after "
            "that, or point BatchStore(root=...) at the store that asked for them"
        )
    return (
        f"{name}: {unknown.place} is this pipeline's and holds {rows}{why}. "
        f"{unknown.paid:,} of their records would be paid again{' or lose their answer to a rule' if ruled else ''}; nothing was sent or changed. "
        f"The API keeps their answers for 29 days: `batch-pipeline adopt BATCH --pipeline {scope.pipeline}` takes them over at "
        "no cost, for each batch that the table's column _batch_id names. To ask them "
        f"again, on purpose, launch {scope.pipeline}_submit once with allow_reask: true."
    )


def _place(
    store: Store, scope: Scope, submission: str, selection: Selection, version: str
) -> NewSelection | None:
    """Put the selection's files into the store; None when there is nothing to do."""
    if selection.index_path is None:
        return None
    records = None
    if selection.records_path is not None:
        records = store.files.put(selection.records_path, records_name(scope.pipeline, submission))
    index = store.files.put(
        selection.index_path, index_name(scope.pipeline, submission, "selected")
    )
    return NewSelection(submission, version, records, index, counts_of(selection))


def counts_of(selection: Selection) -> dict[str, int]:
    """Return a selection's counts under their names."""
    return {name: value for name, value in vars(selection).items() if isinstance(value, int)}
