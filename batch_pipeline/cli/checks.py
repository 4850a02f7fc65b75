"""What `batch-pipeline doctor` looks at: each check says what was found, and what to do about it."""

import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import duckdb

from batch_pipeline.errors import BatchPipelineError, InputError, counted, plain

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Declared
    from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
    from batch_pipeline.pipeline import BatchPipeline
    from batch_pipeline.store.store import Store

PACKAGES = ("batch-pipeline", "dagster", "anthropic", "duckdb", "sqlalchemy", "pyarrow")
LITTLE_DISK, TOO_LITTLE_DISK = 5 * 10**9, 5 * 10**8
SKEW_SECONDS, MOST_SKEW_SECONDS = 60, 600
"""A lost batch is looked for from 15 minutes before its attempt, by the server's clock."""
LOCK_WAIT_SECONDS = 0.5
IN_USE = "stayed in use"  # the words of the error for a DuckDB file that another program holds


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        about: what it belongs to; checks of one thing stand together.
        name: what was looked at.
        level: whether it is as it must be.
        found: what it is like.
        todo: what a person should do; "" when it is fine.
    """

    about: str
    name: str
    level: Literal["ok", "warning", "failed"]
    found: str
    todo: str = ""


def check_installation() -> Iterator[Check]:
    """Yield which Python and which packages these are."""
    about = "This installation"
    yield Check(about, "python", "ok", platform.python_version())
    yield Check(about, "packages", "ok", ", ".join(f"{name} {version(name)}" for name in PACKAGES))


def check_api(claude: "ClaudeBatches", production: str = "") -> Iterator[Check]:
    """Yield whether there is a key, whether the API takes it, and whose it is. The key is not shown.

    Args:
        claude: the API.
        production: why the emulator will not do in its place; "" when it will.
    """
    about = f"API {claude.url}"
    try:
        api = claude.api()
    except InputError as error:
        yield Check(about, "key", "failed", str(error), "set it, then run this again")
        return
    yield _key(about, claude)
    from batch_pipeline.store.clock import process_clock

    with closing(api):
        try:
            before = process_clock().now()
            page = api.page(limit=1)
            now = before + (process_clock().now() - before) / 2
        except BatchPipelineError as error:
            yield Check(
                about, "answer", "failed", str(error), "put that right; until then nothing is sent or collected"
            )  # fmt: skip
            return
    named = {"organization": page.endpoint.organization, "workspace": page.endpoint.workspace}
    names = [f"{what} {name}" for what, name in named.items() if name]
    whose = f"of {', '.join(names)}" if names else "and does not say whose it is"
    whose = f"it accepts the key, {whose}"
    yield Check(about, "answer", "ok", whose)
    yield from check_emulator(claude.url, page.endpoint.organization, production)
    if page.server_now is None:
        yield Check(about, "clock", "warning", "its replies have no Date", "compare the clocks by hand, to the minute")  # fmt: skip
        return
    # The header has whole seconds.
    skew = abs((now - page.server_now).total_seconds())
    level = "ok" if skew <= SKEW_SECONDS else "warning" if skew <= MOST_SKEW_SECONDS else "failed"
    todo = (
        ""
        if level == "ok"
        else "set this machine's clock right (NTP): lost batches are looked for by time"
    )
    yield Check(about, "clock", level, f"{skew:.0f} s between its clock and this machine's", todo)


def check_emulator(url: str, organization: str, production: str) -> Iterator[Check]:
    """Yield that an API is the emulator, where that must not be.

    Args:
        url: its address.
        organization: whose the key is, as the API says.
        production: why this is a production code location; "" when it is none.
    """
    from batch_pipeline.emulator.options import Options

    if production and organization == Options.organization:
        yield Check(
            f"API {url}", "emulator", "failed",
            f"{production}, and this is the emulator: its answers are made up, and nobody is asked",
            "take base_url, and the environment variable ANTHROPIC_BASE_URL, away here",
        )  # fmt: skip


def _key(about: str, claude: "ClaudeBatches") -> Check:
    from batch_pipeline.definitions.resources import KEY_VARIABLE
    from batch_pipeline.definitions.secret_fields import stands_for_secret

    given = claude.api_key
    variable = getattr(given, "env_var_name", None)
    if given is not None and variable is None and stands_for_secret(given):
        return Check(
            about, "key", "warning", "it stands in the code",
            f'api_key=dg.EnvVar("{KEY_VARIABLE}") keeps it out of your repository',
        )  # fmt: skip
    return Check(about, "key", "ok", f"set, by the environment variable {variable or KEY_VARIABLE}")


def check_store(declared: "BatchStore") -> "tuple[Store | None, list[Check]]":
    """Return the open store, if there is one that can be used, and what is to be said about it."""
    from batch_pipeline.cli.deployments import used_store
    from batch_pipeline.settings import project_path

    root = project_path(declared.root)
    about = f"Store {root}"
    try:
        store = used_store(declared)
    except BatchPipelineError as error:
        return None, [Check(about, "open", "failed", str(error), "put that right, then run this again")]  # fmt: skip
    if store is None:
        return None, [_not_made(about, root)]
    return store, [*_ledger(about, store), *_disk(about, store)]


def _not_made(about: str, root: str) -> Check:
    parent = _existing(Path(root))
    if os.access(parent, os.W_OK):
        return Check(about, "files", "ok", "not made yet: the first run makes it")
    return Check(
        about, "files", "failed", f"not made yet, and {parent} cannot be written",
        "give the user that runs Dagster write access there, or set BatchStore(root=...)",
    )  # fmt: skip


def _ledger(about: str, store: "Store") -> Iterator[Check]:
    """Yield how the ledger is. Opening the store has written a file, deleted it, and made the tables."""
    from sqlalchemy import func, select

    from batch_pipeline.store.migrations import SCHEMA_VERSION
    from batch_pipeline.store.tables import leases, submissions

    yield Check(about, "files", "ok", "a file was written and deleted again")
    try:
        with store.ledger.write() as tx:
            tx.execute(leases.delete().where(leases.c.name == "doctor"))
        with store.ledger.read() as tx:
            known = tx.execute(select(func.count()).select_from(submissions)).scalar_one()
    except BatchPipelineError as error:
        yield Check(about, "ledger", "failed", str(error), "put that right: without it nothing runs")  # fmt: skip
        return
    yield Check(
        about, "ledger", "ok",
        f"{store.ledger.shown} can be written; tables of version {SCHEMA_VERSION}, {counted(known, 'submission')}",
    )  # fmt: skip


def _disk(about: str, store: "Store") -> Iterator[Check]:
    if not store.files.is_local:
        return
    free = shutil.disk_usage(store.files.base).free
    level = "ok" if free >= LITTLE_DISK else "warning" if free >= TOO_LITTLE_DISK else "failed"
    todo = (
        "" if level == "ok" else "free some, or move the store: requests and answers are kept there"
    )
    yield Check(about, "disk", level, f"{free / 10**9:,.1f} GB free", todo)


def check_codeless(
    store: "Store", names: Collection[str], may_be_elsewhere: bool
) -> Iterator[Check]:
    """Yield the pipelines that only the ledger knows while answers of theirs wait or are on their way.

    Args:
        store: the open store.
        names: the pipelines of the code.
        may_be_elsewhere: some code could not be imported, and may have them.
    """
    from batch_pipeline.store.unattended import UNATTENDED, unattended

    found = unattended(store, names.__contains__, UNATTENDED if may_be_elsewhere else None)
    for one in found:
        yield Check(
            f"Store {store.files.root}", "code", "warning",
            f"no code has the pipeline {one.pipeline}, and of it there are {one.what}",
            f"batch-pipeline collect {one.pipeline}, or bring its code back",
        )  # fmt: skip


def check_pipeline(one: "Declared", store: "Store | None") -> Iterator[Check]:
    """Yield whether a pipeline's source, question, price and destination can be used."""
    about = f"Pipeline {one.pipeline.name}"
    yield from _source(about, one.pipeline, store)
    for model in dict.fromkeys(asked.request.model for asked in one.pipeline.by_scope.values()):
        yield _price(about, one.pipeline, model)
    yield from _destination(about, one.pipeline, store)
    if store is not None:
        yield from _waiting(about, one.pipeline, store)


def _source(about: str, pipeline: "BatchPipeline", store: "Store | None") -> Iterator[Check]:
    from batch_pipeline.definitions.question import bound
    from batch_pipeline.definitions.rows import source_of
    from batch_pipeline.records.columns import check_names
    from batch_pipeline.records.reading import open_source, source_columns
    from batch_pipeline.records.selection import check_keys
    from batch_pipeline.records.sources import DuckDBSource, NoResultsYetError

    asked = next(iter(pipeline.by_variant.values()))
    name, keys = "source", ", ".join(asked.source.keys)
    source = source_of(asked, store)
    waits = 0.0
    if isinstance(source, DuckDBSource):
        waits = source.lock_wait_seconds
        source = replace(source, lock_wait_seconds=LOCK_WAIT_SECONDS)
    try:
        with open_source(source) as connection:
            row = connection.execute("SELECT count(*) FROM source").fetchone()
            rows = row[0] if row else 0
            yield Check(about, name, "ok", f"{source.describe()}: {counted(rows, 'record')}")
            name = "question"
            columns = source_columns(connection)
            for variant, one in pipeline.by_variant.items():
                question = bound(one, columns)
                check_names(columns, [column for column, _ in question.output_columns])
                read = ", ".join(question.columns)
                of_it = f"variant {variant} " if variant else ""
                said = f"{of_it}reads {read}; a change in them asks a record again"
                if question.by_line:
                    said = "each line is a request; one whose params change is asked again"
                yield Check(about, name, "ok", said)
            name = "key"
            check_keys(connection, asked.source.keys)
            yield Check(about, name, "ok", f"{keys}: each record has its own")
    except NoResultsYetError as error:
        yield Check(about, name, "warning", str(error), "until then a run asks nothing")
    except (BatchPipelineError, duckdb.Error, OSError) as error:
        if IN_USE in str(error):
            yield Check(about, name, "warning", str(error), f"a run waits {waits:g} s for it")
            return
        if name == "key" and pipeline.partitions is not None:
            yield Check(
                about, name, "warning", str(error), "that is fine if no partition has a key twice"
            )
            return
        yield Check(about, name, "failed", str(error), "put that right; until then every run fails like this, before it asks anything")  # fmt: skip


def _price(about: str, pipeline: "BatchPipeline", model: str) -> Check:
    from batch_pipeline.requests.prices import SOURCE, price_of, utc_day
    from batch_pipeline.requests.ready import ReadyLines
    from batch_pipeline.store.clock import process_clock

    if isinstance(pipeline.request, ReadyLines):
        return Check(about, "price", "ok", "each request names its own model: `preview` tells what they may cost")  # fmt: skip
    if price_of(model, utc_day(process_clock().now()), pipeline.prices) is None:
        return Check(
            about, "price", "warning", f"of {model} in a batch is not in {SOURCE}",
            "upgrade genai-prices, set BatchPipeline(prices={...}), or check the model's name: until then costs count as "
            "unknown, and a budget holds all of it",
        )  # fmt: skip
    return Check(about, "price", "ok", f"of {model} in a batch is known")


def _destination(about: str, pipeline: "BatchPipeline", store: "Store | None") -> Iterator[Check]:
    from batch_pipeline.definitions.rows import wanted_of
    from batch_pipeline.records.connections import open_database
    from batch_pipeline.results.destinations import DuckDBTable
    from batch_pipeline.settings import project_path

    target, name, waits = pipeline.destination, "destination", 0.0
    if target is None:
        yield Check(about, name, "ok", "Parquet under the store")
        return
    if isinstance(target, DuckDBTable):
        waits = target.lock_wait_seconds
        target = replace(target, lock_wait_seconds=LOCK_WAIT_SECONDS)
    try:
        target.check(wanted_of(pipeline, store))
        path = project_path(target.database if isinstance(target, DuckDBTable) else target.path)
        if "://" not in path:
            existing = _existing(Path(path))
            if not os.access(existing, os.W_OK):
                raise InputError(f"{existing} cannot be written by this user.")
        if isinstance(target, DuckDBTable) and Path(path).is_file():
            with open_database(path, read_only=False, wait_seconds=LOCK_WAIT_SECONDS):
                pass
    except (BatchPipelineError, duckdb.Error, OSError) as error:
        if IN_USE in str(error):
            yield Check(about, name, "warning", str(error), f"a run waits {waits:g} s for it")
            return
        yield Check(
            about, name, "failed", str(error), "put that right; until then answers cannot be written"
        )  # fmt: skip
        return
    yield Check(about, name, "ok", f"{target.describe()} can be written")


def _waiting(about: str, declared: "BatchPipeline", store: "Store") -> Iterator[Check]:
    from batch_pipeline.batches.held import list_held
    from batch_pipeline.definitions.variants import left_unsent, why_not_together
    from batch_pipeline.results.retention import retention

    pipeline = declared.name
    if (why := why_not_together(store, declared)) is not None:
        yield Check(about, "variants", "failed", why, "until then every run fails like this, before it asks anything")  # fmt: skip
    if (left := left_unsent(store, declared)) is not None:
        yield Check(about, "variants", "warning", left, f"batch-pipeline status {pipeline}")
    held = list_held(store, pipeline)
    if held.waits_for_a_person:
        if held.pipelines:
            what = "the pipeline is held"
        elif held.files:
            what = f"{counted(len(held.files), 'file is', 'files are')} held"
        else:
            what = f"a budget holds {counted(len(held.submissions), 'submission')} for approval"
        yield Check(about, "held", "warning", what, f"batch-pipeline held {pipeline}")
    kept = retention(store, pipeline)
    if kept.level != "fine":
        level = "failed" if kept.level == "fail" else "warning"
        yield Check(about, "answers", level, plain(kept.description), f"launch {pipeline}_collect")


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    return next(one for one in (path, *path.parents) if one.exists())


def guarded(about: str, name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """Return some checks; one that fails in a way nobody thought of does not end the others."""
    found: list[Check] = []
    try:
        found.extend(look())
    except Exception as error:
        found.append(
            Check(about, name, "failed", f"{type(error).__name__}: {plain(str(error))}", "put that right")
        )  # fmt: skip
    return found
