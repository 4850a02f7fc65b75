"""Preparing requests: every selection that waits for its request files gets them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import HELPER_COLUMNS
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.estimate import Estimate, estimate, mean_output_tokens
from batch_pipeline.store.layout import rejected_name, request_name
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, Scope, abandon, commit_build, unbuilt
from batch_pipeline.store.tables import FileKind

NANO = 10**9


@dataclass
class Prepared:
    """What was built."""

    submissions: list[int] = field(default_factory=list)  # their numbers
    files: int = 0
    requests: int = 0
    bytes: int = 0
    rejected: int = 0
    usd_max: Decimal | None = Decimal(0)  # None when a price is not known
    usd_likely: Decimal | None = Decimal(0)  # None without earlier answers, too
    input_tokens: int = 0
    output_tokens_max: int = 0
    version_changed: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)


def prepare(
    store: Store,
    scope: Scope,
    compile_question: Callable[[Mapping[str, str]], CompiledTemplate],
    limits: Limits,
    question_to_store: Callable[[CompiledTemplate], dict[str, Any]],
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Write the request files of every selection of a scope that has none yet.

    A selection made for another version of the question is dropped: nothing was paid for it, and
    its records are selected afresh.

    Raises:
        InputError: the question cannot be asked about any of its records.
    """
    report = Prepared()
    mean: float | None = None
    for submission in unbuilt(store.ledger, scope):
        mean = mean or mean_output_tokens(store, scope.pipeline)
        with store.files.scratch() as folder:
            try:
                built, priced, question = _build(
                    store, submission, compile_question, limits, folder, mean, tell
                )
            except _AnotherQuestion:
                if abandon(store.ledger, submission["id"]):
                    report.abandoned.append(submission["number"])
                continue
            files, rejected_path = _place(store, submission, built)
        usd = priced.usd_max if priced else Decimal(0)
        committed = commit_build(
            store.ledger,
            submission,
            files,
            rejected_path=rejected_path,
            rejected=built.rejected if built else 0,
            estimate_nanousd=None if usd is None else int(usd * NANO),
            question=question_to_store(question) | {"request": question.request_hash}
            if question
            else {"output": None, "prefix": ""},
        )
        if not committed:
            for file in files:
                if file.path:
                    store.files.remove(file.path)
            continue
        keep_manifests(store, [submission["id"]])
        report.submissions.append(submission["number"])
        report.version_changed += submission["counts"].get("version_changed", 0)
        if built and priced:
            _add(report, built, priced)
    return report


class _AnotherQuestion(Exception):
    """The records were selected for another version of the question."""


def _build(
    store: Store,
    submission: RowMapping,
    compile_question: Callable[[Mapping[str, str]], CompiledTemplate],
    limits: Limits,
    folder: str,
    mean: float | None,
    tell: Callable[[str], None],
) -> tuple[Built | None, Estimate | None, CompiledTemplate | None]:
    if not submission["records_path"]:
        return None, None, None
    with store.files.local(submission["records_path"]) as records:
        try:
            question = compile_question(_source_columns(records))
        except InputError as error:  # it reads a column that the source did not have yet
            raise _AnotherQuestion from error
        if question.version != submission["version"]:
            raise _AnotherQuestion
        total = submission["counts"].get("asked", 0)
        built = build_requests(
            records,
            question,
            limits,
            folder,
            lambda done: tell(f"wrote {done:,} of {total:,} requests"),
        )
        priced = estimate(built, question, at=store.clock.now(), mean_output_tokens=mean)
        return built, priced, question


def _place(
    store: Store, submission: RowMapping, built: Built | None
) -> tuple[list[NewFile], str | None]:
    """Put what was built into the store, under names nobody else uses."""
    files: list[NewFile] = []
    rejected_path = None
    pipeline, folder = submission["pipeline"], submission["id"]
    # Two processes that build the same submission must not overwrite each other: the one that
    # commits first has its files named by the ledger.
    build = store.files.new_part()
    if built is not None:
        for file in built.files:
            path = store.files.put(
                file.path, request_name(pipeline, folder, f"{file.seq:05d}-{build}")
            )
            files.append(
                NewFile(file.seq, path, file.requests, file.bytes, file.first_row, file.last_row)
            )
        if built.rejected_path:
            rejected_path = store.files.put(
                built.rejected_path, rejected_name(pipeline, folder, f"rejected-{build}")
            )
            files.append(
                NewFile(len(files), rejected_path, built.rejected, 0, 0, -1, FileKind.REJECTED)
            )
    counts = submission["counts"]
    known = counts.get("reused", 0)
    if known or counts.get("deleted", 0):
        files.append(NewFile(len(files), None, known, 0, 0, -1, FileKind.REUSED))
    return files, rejected_path


def _source_columns(records: str) -> dict[str, str]:
    with memory_connection() as connection:
        described = connection.execute(
            f"describe select * from read_parquet({quote_files([records])})"
        ).fetchall()
    return {row[0]: row[1] for row in described if row[0] not in HELPER_COLUMNS}


def _add(report: Prepared, built: Built, priced: Estimate) -> None:
    report.files += len(built.files)
    report.requests += built.requests
    report.bytes += built.bytes
    report.rejected += built.rejected
    report.input_tokens += priced.input_tokens
    report.output_tokens_max += priced.output_tokens_max
    report.usd_max = _sum(report.usd_max, priced.usd_max)
    report.usd_likely = _sum(report.usd_likely, priced.usd_likely)
    report.samples = (report.samples + built.samples)[:3]


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one + other
