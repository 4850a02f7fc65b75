"""The command `batch-pipeline export`: what a run would send now, as a file of requests."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import (
    WAITS_FOR_A_PERSON,
    errors_shown,
    json_option,
    print_json,
    say,
    warn,
)
from batch_pipeline.cli.preview import declared_as, open_api
from batch_pipeline.cli.preview_requests import Wanted, one_variant, select_wanted
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.cli.project import Declared, Project
    from batch_pipeline.requests.build import Built
    from batch_pipeline.store.store import Store


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        partition: the partition; "" without.
        variant: the variant; "" without.
        asked: records that a run would ask.
        duplicates: of these, those that would get another one's answer.
        built: the requests.
        betas: what the header ``anthropic-beta`` of their batches would name.
    """

    partition: str
    variant: str
    asked: int
    duplicates: int
    built: "Built | None"
    betas: tuple[str, ...]

    @property
    def requests(self) -> int:
        """How many lines the file has."""
        return self.built.requests if self.built else 0

    @property
    def rejected(self) -> int:
        """How many records cannot be asked."""
        return self.built.rejected if self.built else 0


@click.command(
    epilog="Exit code: 0 fine; 1 an error; 2 wrong usage; 3 some records cannot be asked, the others are written."
)
@click.argument("pipeline", metavar="NAME")
@click.option(
    "--to", "path", metavar="FILE", required=True, type=click.Path(dir_okay=False),
    help="The file to write; there must be none of that name yet.",
)  # fmt: skip
@click.option("--n", "-n", "number", type=click.IntRange(1), help="At most so many records, the first ones by key.")  # fmt: skip
@click.option("--partition", metavar="KEY", help="The partition; of time windows the last complete one when not given.")  # fmt: skip
@click.option("--variant", metavar="VARIANT", help="The variant, which a pipeline that has some needs: each is a file of its own.")  # fmt: skip
@click.option("--where", metavar="SQL", help="Only records for which this condition holds, as in a run's config.")  # fmt: skip
@click.option("--force", is_flag=True, help="As a run with force: answered records, too.")
@json_option("Print what was written as JSON.")
@errors_shown
@in_project
def export(
    project: "Project",
    pipeline: str,
    path: str,
    number: int | None,
    partition: str | None,
    variant: str | None,
    where: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the requests that a run of NAME would send now to a file: {"custom_id": ..., "params": {...}} a line.

    Nothing is sent, and nothing is committed: a run asks these records all the same.
    """
    one = declared_as(project, pipeline)
    store = used_store(one.store)
    asks = one_variant(one, variant)
    if Path(path).exists():
        raise InputError(f"There is a file {path} already. Name another one, or move it away.")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"There is no folder {Path(path).absolute().parent}: make it first.")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-pipeline-"))
        api, _ = open_api(stack, one, needed=False)
        wanted = Wanted(partition, where, force, number, asks)
        done = _export(one, store, api, path, wanted, folder)
    if as_json:
        print_json(_as_json(pipeline, path, done))
    else:
        _show(pipeline, path, done)
    if done.rejected:
        raise SystemExit(WAITS_FOR_A_PERSON)


def _export(
    one: "Declared",
    store: "Store | None",
    api: "BatchesApi | None",
    path: str,
    wanted: Wanted,
    folder: str,
) -> Exported:
    from batch_pipeline.requests.build import build_requests
    from batch_pipeline.store.clock import process_clock

    scope, records = select_wanted(
        one, store, api, wanted, folder, first=0, most=wanted.number, now=process_clock().now()
    )
    built = None
    if records.selection.asked and records.selection.records_path is not None:
        built = build_requests(
            records.selection.records_path,
            records.question,
            one.claude.limits,
            f"{folder}/requests",
        )
    _write(path, [file.path for file in built.files] if built else [])
    betas = tuple(records.question.template.betas)
    asked, duplicates = records.selection.asked, records.selection.duplicates
    return Exported(scope.key, scope.variant, asked, duplicates, built, betas)


def _write(path: str, parts: list[str]) -> None:
    """Write files one after the other into one, which is there once it is whole."""
    partly = f"{path}.part"
    try:
        with open(partly, "wb") as out:
            for part in parts:
                with open(part, "rb") as lines:
                    shutil.copyfileobj(lines, out, 1 << 20)
                os.unlink(part)
        os.replace(partly, path)
    except OSError as error:
        Path(partly).unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _show(pipeline: str, path: str, done: Exported) -> None:
    variant = f", variant {done.variant}" if done.variant else ""
    where = f"{pipeline} {done.partition}".strip() + variant
    if not done.asked:
        say(f"{where}: nothing would be asked now; {path} is empty.")
        return
    once = f", {counted(done.duplicates, 'record')} of which another one asks for" if done.duplicates else ""  # fmt: skip
    say(
        f"{where}: wrote {counted(done.requests, 'request')} to {path}, for {counted(done.asked, 'record')}{once}."
    )
    if done.built is not None and len(done.built.files) > 1:
        say(
            f"A run would send them in {len(done.built.files):,} batches: one has room for no more."
        )
    if done.betas:
        say(f"A run's batches have the header anthropic-beta: {', '.join(done.betas)}.")
    if done.rejected:
        say(
            f"{counted(done.rejected, 'record')} cannot be asked: `batch-pipeline preview {pipeline}` says why."
        )
    warn(
        "Nothing was sent, and nothing is committed: the next run asks these records all the same. If you send the "
        f"file yourself, take its batch over before that: batch-pipeline adopt msgbatch_... --pipeline {pipeline}. "
        "Else they are paid twice."
    )


def _as_json(pipeline: str, path: str, done: Exported) -> dict[str, object]:
    return {
        "pipeline": pipeline,
        "partition": done.partition or None,
        "variant": done.variant or None,
        "file": path,
        "asked": done.asked,
        "duplicates": done.duplicates,
        "requests": done.requests,
        "rejected": done.rejected,
        "betas": list(done.betas),
        "committed": False,
    }
