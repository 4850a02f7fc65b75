"""Where a command works: the stores of the user's project, or one store that is named.

Dagster takes seconds to import, so what needs it is imported when a command asks for it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.output import warn
from batch_pipeline.errors import InputError

if TYPE_CHECKING:
    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.batches.policy import SendPolicy
    from batch_pipeline.cli.project import Project
    from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
    from batch_pipeline.pipeline import BatchPipeline
    from batch_pipeline.store.store import Store


@dataclass(frozen=True)
class Deployment:
    """A store, the API that its pipelines ask, and the pipelines' names.

    Attributes:
        store: the open store.
        pipelines: names: of the code's pipelines that use both, and of those that only the store's
            ledger knows.
        claude: gives the resource; it reads the environment only when it is used.
    """

    store: "Store"
    pipelines: tuple[str, ...]
    claude: Callable[[], "ClaudeBatches"]

    @contextmanager
    def api(self) -> Iterator[tuple["BatchesApi", "SendPolicy"]]:
        """Give a connection to the API, and what sending goes by.

        Raises:
            InputError: there is no key.
        """
        claude = self.claude()
        with closing(claude.api()) as api:
            yield api, claude.policy


@dataclass(frozen=True)
class Deployments:
    """All that a command works on.

    Attributes:
        all: one for each distinct pair of store and API.
        notes: what a person should know about what is not among them.
        unused: pipelines of the code whose store was never made; only for commands that take them.
        keys: the key columns of the code's pipelines.
        declared: the code's pipelines, by name.
        has_code: whether code was looked at at all; a store that is named is worked on without.
    """

    all: list[Deployment]
    notes: list[str] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    declared: Mapping[str, "BatchPipeline"] = field(default_factory=dict)
    has_code: bool = False

    def is_codeless(self, pipeline: str) -> bool:
        """Whether only the ledger knows a pipeline: its code was removed or renamed."""
        return self.has_code and pipeline not in self.declared

    def of(self, pipeline: str | None) -> list[Deployment]:
        """Return the deployments of a pipeline; all of them for None.

        Raises:
            InputError: there is no pipeline of that name.
        """
        if pipeline is None:
            return self.all
        if found := [deployment for deployment in self.all if pipeline in deployment.pipelines]:
            return found
        if pipeline in self.unused:
            return []
        there = ", ".join(
            sorted(
                {name for deployment in self.all for name in deployment.pipelines} | {*self.unused}
            )
        )
        raise InputError(
            f"There is no pipeline {pipeline}. There {'are: ' + there if there else 'is none yet'}."
        )

    def stores(self, pipeline: str | None = None) -> list["Store"]:
        """Return each store once; only those of a pipeline, when one is named."""
        return list(
            {
                _identity(deployment.store): deployment.store for deployment in self.of(pipeline)
            }.values()
        )

    def work(
        self, store: "Store", pipeline: str | None
    ) -> list[tuple[Deployment, Sequence[str | None]]]:
        """Return the deployments of a store, each with the names to work on, one by one.

        None stands for all that the store has. When several APIs share a store, each deployment's work
        is about its own pipelines: what is another API's is not to be judged with this one's key.
        """
        own = [
            deployment
            for deployment in self.of(pipeline)
            if _identity(deployment.store) == _identity(store)
        ]
        if pipeline is not None or len(own) == 1:
            return [(deployment, (pipeline,)) for deployment in own]
        return [(deployment, deployment.pipelines) for deployment in own]


def on_deployments(
    *, api: bool, lost: bool = False, unused: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command that gets ``Deployments`` as its first argument, and takes the options that say where.

    Args:
        api: the command talks to the API, so ``--base-url`` is one of them.
        lost: the stores' ledgers may be new ones, in the place of lost ones.
        unused: a project whose stores were never made is no error.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(
            *args: Any,
            project: str | None,
            root: str | None,
            ledger: str | None,
            base_url: str | None = None,
            **more: Any,
        ) -> None:
            with _reach(project, root, ledger, base_url, lost, unused) as deployments:
                for note in deployments.notes:
                    warn(f"Note: {note}")
                command(deployments, *args, **more)

        for option in reversed([*_OPTIONS, *([_BASE_URL] if api else [])]):
            run = option(run)
        return run

    return decorate


def in_project(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command that gets the user's ``Project`` as its first argument, and runs inside of it."""

    @functools.wraps(command)
    def run(*args: Any, project: str | None, **more: Any) -> None:
        from batch_pipeline.cli.project import find_project, inside, load_project

        folder = find_project(Path(project) if project else None)
        with inside(folder):
            found = load_project(folder)
            for note in found.left_out:
                warn(f"Note: {note}")
            command(found, *args, **more)

    return PROJECT_OPTION(run)


PROJECT_OPTION = click.option(
    "--project", metavar="DIR", type=click.Path(exists=True, file_okay=False),
    help="The Dagster project whose pipelines these are; by default the nearest one at or above the current folder.",
)  # fmt: skip
_OPTIONS = [
    PROJECT_OPTION,
    click.option(
        "--store", "root", metavar="ROOT",
        help="Work on this store (a folder or a URL) without importing any code.",
    ),
    click.option(
        "--ledger", metavar="URL",
        help="With --store: the ledger's URL, best without its password (PGPASSWORD has it); SQLite inside a local "
        "root when not given.",
    ),
]  # fmt: skip
_BASE_URL = click.option(
    "--base-url", metavar="URL",
    help="With --store: where the API is; else ANTHROPIC_BASE_URL, then the public API. The key is ANTHROPIC_API_KEY.",
)  # fmt: skip


@contextmanager
def _reach(
    project: str | None,
    root: str | None,
    ledger: str | None,
    base_url: str | None,
    lost: bool,
    unused: bool,
) -> Iterator[Deployments]:
    if root is None and (ledger is not None or base_url is not None):
        name = "--ledger" if ledger is not None else "--base-url"
        raise click.UsageError(f"{name} goes with --store: a project says so itself.")
    if root is not None:
        if project is not None:
            raise click.UsageError("Give --project or --store, not both.")
        yield _bare(root, ledger, base_url, lost)
        return
    try:
        from batch_pipeline.cli.project import find_project, inside, load_project
    except ImportError as error:
        raise InputError(
            f"The project's code cannot be imported with this version of Dagster ({error}). Upgrade batch_pipeline, or "
            "go without the code: --store ROOT [--ledger URL]."
        ) from error
    folder = find_project(Path(project) if project else None)
    with inside(folder):
        yield _declared(load_project(folder), lost, unused)


def _bare(root: str, ledger: str | None, base_url: str | None, lost: bool) -> Deployments:
    """Return the deployment of a store that is named, with the pipelines that its ledger knows."""
    from batch_pipeline.store.store import open_store

    def claude() -> "ClaudeBatches":
        from batch_pipeline.definitions.resources import ClaudeBatches

        return ClaudeBatches(base_url=base_url)

    where = root if "://" in root else str(Path(root).absolute())
    if "://" not in where and not Path(where).is_dir():
        raise InputError(
            f"There is no store at {where}. --store is the root that BatchStore(root=...) names."
        )
    if ledger is None:
        store = open_store(where, lost=lost)
    else:
        # It checks the URL without showing a password.
        from batch_pipeline.definitions.resources import BatchStore

        store = BatchStore(root=where, ledger=ledger).open(lost=lost)
    return Deployments([Deployment(store, _known(store), claude)])


def _declared(project: "Project", lost: bool, may_be_unused: bool) -> Deployments:
    """Return the deployments of a project's pipelines; a store that was never used is not made."""
    found: list[tuple[Store, ClaudeBatches, list[str]]] = []
    unused: dict[str, list[str]] = {}
    for one in project.declared:
        root, name = _root(one.store), one.pipeline.name
        if "://" not in root and not Path(root).is_dir():
            unused.setdefault(root, []).append(name)
            continue
        store = one.store.open(lost=True) if lost else one.store.open()
        for other, claude, names in found:
            if _identity(other) == _identity(store) and claude == one.claude:
                names.extend({name} - {*names})
                break
        else:
            found.append((store, one.claude, [name]))
    notes = [
        *project.left_out,
        *(
            f"There is no store at {root} yet; the first run of {names[0]}_submit makes it."
            for root, names in unused.items()
        ),
    ]
    if not found and not may_be_unused:
        raise InputError(
            " ".join(notes) + " If there was one, BatchStore(root=...) names another place now."
        )
    declared = {one.pipeline.name for one in project.declared}
    return Deployments(
        [
            Deployment(
                store,
                (*names, *(name for name in _known(store) if name not in declared)),
                lambda claude=claude: claude,
            )
            for store, claude, names in found
        ],
        notes,
        tuple(name for names in unused.values() for name in names),
        {one.pipeline.name: one.pipeline.source.keys for one in project.declared},
        {one.pipeline.name: one.pipeline for one in project.declared},
        # Of a code location that cannot be imported, nobody knows the pipelines.
        not project.left_out,
    )


def used_store(declared: "BatchStore") -> "Store | None":
    """Open a store; None when no run has made it yet, and then it is not made.

    Raises:
        StoreError: it cannot be used.
    """
    root = _root(declared)
    return None if "://" not in root and not Path(root).is_dir() else declared.open()


def _root(declared: "BatchStore") -> str:
    from batch_pipeline.settings import project_path

    return project_path(declared.root)


def _identity(store: "Store") -> tuple[str, str]:
    return store.files.base, store.ledger.url


def _known(store: "Store") -> tuple[str, ...]:
    """Return the names of the pipelines in a store's ledger."""
    from sqlalchemy import select, union

    from batch_pipeline.store.tables import holds, refusals, request_files, submissions

    tables = (submissions, request_files, holds, refusals)
    names = store.ledger.rows(union(*(select(table.c.pipeline) for table in tables)))
    return tuple(sorted(row["pipeline"] for row in names))


def is_empty(store: "Store") -> bool:
    """Return whether a store's ledger knows no submission."""
    from sqlalchemy import select

    from batch_pipeline.store.tables import submissions

    return not store.ledger.rows(select(submissions.c.id).limit(1))
