"""Preparing requests: every selection that waits for its request files gets them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping

from batch_pipeline.errors import InputError, sentence
from batch_pipeline.records.columns import HIDDEN_COLUMNS
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.cache_groups import read_groups, shares_of
from batch_pipeline.requests.cache_minimum import too_short_to_cache
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.cutter import RequestFile
from batch_pipeline.requests.dry_run import Api, CountedOnce, dry_run
from batch_pipeline.requests.estimate import Estimate, estimate, sum_of
from batch_pipeline.requests.kept_rate import Counting, rate_of
from batch_pipeline.requests.lengths import Lengths, lengths_of
from batch_pipeline.requests.line_weight import Lines
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import price_of, utc_day
from batch_pipeline.requests.token_rate import lines_at
from batch_pipeline.requests.weight import CacheShares, Weight, more_tokens_in, weigh
from batch_pipeline.store.layout import rejected_name, request_name
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.seeds import SEED
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, Scope, abandon, commit_build, unbuilt
from batch_pipeline.store.tables import FileKind
from batch_pipeline.store.tried import note_tried, was_tried

NANO = 10**9


@dataclass
class Prepared:
    """What was built."""

    submissions: list[int] = field(default_factory=list)  # their numbers
    files: int = 0
    requests: int = 0
    bytes: int = 0
    rejected: int = 0
    estimates: list[Estimate] = field(default_factory=list)  # one for each submission
    version_changed: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)
    uncached: str | None = None

    @property
    def estimate(self) -> Estimate:
        """What all of it may cost."""
        return sum_of(self.estimates)


@dataclass(frozen=True)
class Pricing:
    """What an estimate goes by.

    Attributes:
        prices: that the user declared.
        counting: asks the API how many tokens a request has; None: it cannot be asked.
        why_not: why it cannot.
        api: the endpoint, where each question is tried once before anything is sent; None: it is not.
    """

    prices: OwnPrices = field(default_factory=dict)
    counting: Counting | None = None
    why_not: str = ""
    api: Api | None = None


def prepare(
    store: Store,
    scope: Scope,
    compile_question: Callable[[Mapping[str, str]], CompiledTemplate],
    limits: Limits,
    question_to_store: Callable[[CompiledTemplate], dict[str, Any]],
    tell: Callable[[str], None] = lambda _: None,
    pricing: Pricing = Pricing(),
) -> Prepared:
    """Write the request files of every selection of a scope that has none yet.

    A selection made for another version of the question is dropped: nothing was paid for it, and
    its records are selected afresh.

    Raises:
        InputError: the question cannot be asked about any of its records.
    """
    report = Prepared()
    for submission in unbuilt(store.ledger, scope):
        with store.files.scratch() as folder:
            try:
                built, priced, question = _build(
                    store, scope, submission, compile_question, limits, folder, pricing, tell
                )
            except _AnotherQuestion:
                if abandon(store.ledger, submission["id"]):
                    report.abandoned.append(submission["number"])
                continue
            files, rejected_path = _place(store, submission, built, priced)
        usd = priced.estimate.usd_max if priced else Decimal(0)
        committed = commit_build(
            store.ledger,
            submission,
            files,
            rejected_path=rejected_path,
            rejected=built.rejected if built else 0,
            estimate_nanousd=None if usd is None else int(usd * NANO),
            question=question_to_store(question) | _as_sent(question)
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
            _add(report, built, priced.estimate)
        if built and question:
            report.uncached = too_short_to_cache(question)
    return report


def _as_sent(question: CompiledTemplate) -> dict[str, Any]:
    """Return what the ledger keeps of how a question is sent, besides what its answers must look like."""
    betas = list(question.template.betas)
    seed = {"seed": SEED} if question.template.cache_seed else {}
    return {"request": question.request_hash} | ({"betas": betas} if betas else {}) | seed


@dataclass(frozen=True)
class _Priced:
    """What a submission may cost, and what each of its files weighs, by its number."""

    estimate: Estimate
    weights: dict[int, Weight]


class _AnotherQuestion(Exception):
    """The records were selected for another version of the question."""


def _build(
    store: Store,
    scope: Scope,
    submission: RowMapping,
    compile_question: Callable[[Mapping[str, str]], CompiledTemplate],
    limits: Limits,
    folder: str,
    pricing: Pricing,
    tell: Callable[[str], None],
) -> tuple[Built | None, _Priced | None, CompiledTemplate | None]:
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
        lengths = lengths_of(
            store, submission["pipeline"], question.version, question.template.max_tokens
        )
        day = utc_day(store.clock.now())
        price = price_of(question.template.model, day, pricing.prices)
        built = build_requests(
            records,
            question,
            limits,
            folder,
            lambda done: tell(f"wrote {done:,} of {total:,} requests"),
            read_groups(records, question, lengths, price),
        )
        pricing = _tried(store, scope, question, built, pricing, tell)
        return built, _priced(store, submission, question, built, pricing, lengths), question


def _tried(
    store: Store,
    scope: Scope,
    question: CompiledTemplate,
    built: Built,
    pricing: Pricing,
    tell: Callable[[str], None],
) -> Pricing:
    """Try a question once at its endpoint, before anything of it is sent; what was counted is not counted again.

    Raises:
        InputError: the API refuses every request of it.
    """
    name = question.request_hash
    if pricing.api is None or pricing.counting is None or not built.requests:
        return pricing
    if question.by_line:
        return pricing  # what the API refuses in one of them says nothing about the others
    if was_tried(store.ledger, scope.endpoint, name):
        return pricing
    paths, sizes = [file.path for file in built.files], [file.bytes for file in built.files]
    counting = CountedOnce(pricing.counting)
    why_not = dry_run(question, lines_at(paths, sizes, built.requests), pricing.api, counting)
    if why_not is None:
        note_tried(store.ledger, scope.endpoint, name)
        return replace(pricing, counting=counting)
    tell(
        f"Whether the API takes this question could not be found out before it is sent: {sentence(why_not)} "
        "The run goes on."
    )
    return replace(pricing, counting=counting if counting.has_counted else None, why_not=why_not)


def _priced(
    store: Store,
    submission: RowMapping,
    question: CompiledTemplate,
    built: Built,
    pricing: Pricing,
    lengths: Lengths,
) -> _Priced:
    pipeline, template = submission["pipeline"], question.template
    paths, sizes = [file.path for file in built.files], [file.bytes for file in built.files]
    rate = rate_of(
        store, pipeline, question, paths, sizes, built.requests, pricing.counting, pricing.why_not
    )
    size = built.bytes / max(built.requests, 1)

    def shares(file: RequestFile) -> CacheShares | None:
        groups = built.groups
        if groups is not None:
            groups = groups.within(file.first_row, file.last_row, file.requests)
        return shares_of(groups, question, rate, size)

    def weight(file: RequestFile) -> Weight:
        if question.by_line:
            lines = Lines()
            lines.read(file.path)
            return lines.weight(lengths, rate, built.requests)
        more = more_tokens_in(file.path, template.max_tokens) if built.more_tokens else 0
        return weigh(
            template, file.requests, file.bytes, more, lengths, rate, built.requests, shares(file)
        )

    weights = {file.seq: weight(file) for file in built.files}
    at = store.clock.now()
    found = estimate(built, question, at=at, lengths=lengths, rate=rate, prices=pricing.prices)
    return _Priced(found, weights)


def _place(
    store: Store, submission: RowMapping, built: Built | None, priced: _Priced | None
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
            weight = priced.weights[file.seq].to_store() if priced else None
            files.append(
                NewFile(
                    file.seq, path, file.requests, file.bytes, file.first_row, file.last_row,
                    weight=weight,
                )
            )  # fmt: skip
        if built.rejected_path:
            rejected_path = store.files.put(
                built.rejected_path, rejected_name(pipeline, folder, f"rejected-{build}")
            )
            files.append(
                NewFile(len(files), rejected_path, built.rejected, 0, 0, -1, FileKind.REJECTED)
            )
    counts = submission["counts"]
    known = counts.get("reused", 0) + counts.get("ruled", 0)
    if known or counts.get("deleted", 0):
        files.append(NewFile(len(files), None, known, 0, 0, -1, FileKind.REUSED))
    return files, rejected_path


def _source_columns(records: str) -> dict[str, str]:
    with memory_connection() as connection:
        described = connection.execute(
            f"describe select * from read_parquet({quote_files([records])})"
        ).fetchall()
    return {row[0]: row[1] for row in described if row[0] not in HIDDEN_COLUMNS}


def _add(report: Prepared, built: Built, priced: Estimate) -> None:
    report.files += len(built.files)
    report.requests += built.requests
    report.bytes += built.bytes
    report.rejected += built.rejected
    report.estimates.append(priced)
    report.samples = (report.samples + built.samples)[:3]
