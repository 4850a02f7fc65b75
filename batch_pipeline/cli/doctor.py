"""The command `batch-pipeline doctor`: whether all that a night needs is there, and what to do if not."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import PROJECT_OPTION
from batch_pipeline.cli.output import Row, errors_shown, json_option, listing, print_json, say
from batch_pipeline.errors import BatchPipelineError, counted

if TYPE_CHECKING:
    from batch_pipeline.cli.checks import Check
    from batch_pipeline.cli.project import Declared
    from batch_pipeline.store.store import Store


@click.command(epilog="Exit code: 0 nothing failed, warnings or not; 1 something failed; 2 wrong usage.")  # fmt: skip
@PROJECT_OPTION
@click.option(
    "--deep",
    is_flag=True,
    help="Launch runs, too, that look from where runs happen: on a worker, in a pod.",
)
@click.option(
    "--production",
    is_flag=True,
    help="The emulator will not do here. So it is anyway where runs happen on other machines.",
)
@json_option("Print it as JSON.")
@errors_shown
def doctor(project: str | None, deep: bool, production: bool, as_json: bool) -> None:
    """Check all that a night needs: code, key, API, ledger, store, sources, destinations, Dagster's daemon.

    Nothing is asked, and nothing is changed: it writes a file to the store and deletes it. The API key is never shown.

    With --deep it launches NAME_probe three times, which looks whether a run reaches the same store and ledger, the API,
    and the source and destination of NAME. Nothing is asked by it, either.
    """
    checks = list(_checks(project, deep, production))
    failed = sum(1 for check in checks if check.level == "failed")
    warnings = sum(1 for check in checks if check.level == "warning")
    if as_json:
        print_json({"checks": [asdict(check) for check in checks], "failed": failed, "warnings": warnings})  # fmt: skip
    else:
        for about, some in groupby(checks, key=lambda check: check.about):
            rows = [Row((one.level, one.name, one.found), todo=one.todo) for one in some]
            listing(about, ("", "", ""), rows)
        found = [counted(failed, "check") + " failed"] if failed else []
        found += [counted(warnings, "warning")] if warnings else []
        say(f"{', '.join(found) or 'All is well'}.")
    if failed:
        raise SystemExit(1)


def _checks(project: str | None, deep: bool, production: bool) -> "Iterator[Check]":
    from batch_pipeline.cli.checks import Check, check_installation, guarded

    yield from check_installation()
    about = "Project"
    try:
        from batch_pipeline.cli.project import find_project, inside, load_project

        folder = find_project(Path(project) if project else None)
        with inside(folder):
            found = load_project(folder)
            names = ", ".join(one.pipeline.name for one in found.declared)
            yield Check(about, "code", "ok", f"{folder} declares {names}")
            for note in found.left_out:
                yield Check(
                    about, "code", "warning", note, "run doctor where that code is, to have it checked"
                )  # fmt: skip
            yield from _of_declared(
                found.declared, bool(found.left_out), folder if deep else None, production
            )
    except ImportError as error:
        yield Check(about, "code", "failed", f"{error}", "upgrade batch_pipeline: it does not know this Dagster")  # fmt: skip
    except BatchPipelineError as error:
        yield Check(about, "code", "failed", str(error), "put that right, then run doctor again")
    else:
        return
    from batch_pipeline.cli.dagster_checks import check_dagster

    yield from guarded("Dagster", "instance", lambda: check_dagster([]))


def _of_declared(
    declared: "list[Declared]", may_be_elsewhere: bool, deep: Path | None, production: bool
) -> "Iterator[Check]":
    from batch_pipeline.cli.checks import (
        check_api,
        check_codeless,
        check_pipeline,
        check_store,
        guarded,
    )
    from batch_pipeline.cli.dagster_checks import check_dagster
    from batch_pipeline.cli.hosts import check_hosts, elsewhere

    where = elsewhere([one.pipeline for one in declared])
    why = f"runs happen {where}" if where else "this is production" if production else ""
    yield from guarded("Project", "machines", lambda: check_hosts(declared, where))
    apis = []
    for one in declared:
        if one.claude not in apis:
            apis.append(one.claude)
            yield from guarded("API", "answer", lambda one=one: check_api(one.claude, why))
    opened = {}
    for one in declared:
        key = (str(one.store.root), one.store.ledger)
        if key not in opened:
            opened[key], checks = check_store(one.store)
            yield from checks
    for one in declared:
        store = opened[str(one.store.root), one.store.ledger]
        yield from guarded(
            f"Pipeline {one.pipeline.name}",
            "check",
            lambda one=one, store=store: check_pipeline(one, store),
        )
    names = {one.pipeline.name for one in declared}
    for store in opened.values():
        if store is not None:
            yield from guarded(
                f"Store {store.files.root}",
                "code",
                lambda store=store: check_codeless(store, names, may_be_elsewhere),
            )
    yield from guarded(
        "Dagster", "instance", lambda: check_dagster([one.pipeline for one in declared])
    )
    if deep is not None:
        yield from _deep(deep, declared, opened)


def _deep(
    folder: Path, declared: "list[Declared]", opened: "dict[Any, Store | None]"
) -> "Iterator[Check]":
    from batch_pipeline.cli.checks import guarded
    from batch_pipeline.cli.deep import check_deep

    for key, store in opened.items():
        own = [one for one in declared if (str(one.store.root), one.store.ledger) == key]
        # A store that nobody has made yet is made, so that there is something to look for.
        yield from guarded(
            f"Store {own[0].store.root}", "deep",
            lambda own=own, store=store: check_deep(folder, own, store or own[0].store.open()),
        )  # fmt: skip
