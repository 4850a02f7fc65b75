"""The user's project: where it is, and the pipelines that its code declares.

Dagster has no public way to import a project into one's own process. The names below are how its
own command line does it; they are used in this module and nowhere else.
"""

import os
import re
import sys
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.secrets.env_file import get_env_var_dict
from dagster._core.types.loadable_target_origin import enter_loadable_target_origin_load_context
from dagster._core.workspace.load_target import WorkspaceFileTarget, get_target_from_toml_data
from dagster._grpc.utils import get_loadable_targets
from dagster.components.definitions import LazyDefinitions

from batch_pipeline.definitions.build import pipeline_of
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline

# In Dagster's order: what stands in a pyproject.toml goes before a workspace.yaml beside it.
PYPROJECT, DG = "pyproject.toml", "dg.toml"
WORKSPACES = ("workspace.yaml", "workspace.yml")
YAML_LINE = re.compile(r"(\S+\.ya?ml):(\d+) - (.*)")
WITHOUT_CODE = "Or go without the code: --store ROOT [--ledger URL]."

Resource = TypeVar("Resource", ClaudeBatches, BatchStore)


@dataclass(frozen=True)
class Declared:
    """A pipeline of the project, with the resources that its definitions give it, and its code location's name."""

    pipeline: BatchPipeline
    claude: ClaudeBatches
    store: BatchStore
    location: str = ""


@dataclass(frozen=True)
class Project:
    """What a project's code declares.

    Attributes:
        root: the folder that relative paths start from.
        declared: the pipelines, in the order of their code locations.
        left_out: a sentence about each code location that cannot be imported here, and why.
    """

    root: Path
    declared: list[Declared]
    left_out: list[str]


def find_project(start: Path | None = None) -> Path:
    """Return the nearest folder at or above ``start`` whose files name Dagster code.

    These are a ``workspace.yaml``, and a ``pyproject.toml`` (or ``dg.toml``) with ``[tool.dagster]``
    or ``[tool.dg.project]``.

    Args:
        start: where to begin; the working directory when None.

    Raises:
        InputError: there is none, or the nearest one cannot be read.
    """
    start = (start or Path.cwd()).resolve()
    silent = []
    for folder in (start, *start.parents):
        if _origins(folder):
            return folder
        silent += [folder / name for name in (PYPROJECT, *WORKSPACES) if (folder / name).is_file()]
    seen = f" ({', '.join(map(str, silent))}: no code is named there.)" if silent else ""
    raise InputError(
        f"There is no Dagster project in {start} or above it.{seen} A project is a folder with a workspace.yaml, or "
        "with a pyproject.toml that says in [tool.dagster] module_name = \"your.module\", or that has "
        f"[tool.dg.project]. Go there, or name it: --project DIR. {WITHOUT_CODE}"
    )  # fmt: skip


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """Be where ``dagster dev`` runs a project's code, for the block.

    The working directory is the project's root (relative paths start there), its modules can be
    imported, and the variables of its ``.env`` file are set, over those that were.
    """
    variables, path = get_env_var_dict(str(root)), sys.path
    before = {name: os.environ.get(name) for name in variables}
    with chdir(root):
        try:
            sys.path = [str(root), *path]
            os.environ.update(variables)
            yield
        finally:
            sys.path = path
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def load_project(root: Path) -> Project:
    """Import a project's code locations into this process, and return the pipelines they declare.

    Call it ``inside`` the project; what it returns reads paths and variables there, too.

    Args:
        root: what ``find_project`` returned.

    Raises:
        InputError: user code cannot be imported, a pipeline's resource is missing, or no pipeline
            is declared.
    """
    declared, left_out = [], []
    with inside(root):
        for origin in _origins(root):
            reason = _not_here(origin)
            if reason is not None:
                left_out.append(f"The code location {origin.location_name} {reason}")
                continue
            for definitions in _imported(origin, root):
                declared += _pipelines(definitions, origin.location_name)
    if not declared:
        reasons = (
            " ".join(left_out) or "Its code locations were imported; none has a BatchPipeline."
        )
        raise InputError(f"The project at {root} has no batch pipeline. {reasons} {WITHOUT_CODE}")
    return Project(root, declared, left_out)


def _origins(folder: Path) -> list[Any]:
    """Return Dagster's origins of the code locations that a folder's files name."""
    for name in (PYPROJECT, DG):
        if (folder / name).is_file():
            with _reading(folder / name):
                data = tomllib.loads((folder / name).read_text(encoding="utf-8"))
                target = get_target_from_toml_data({"tool": {"dg": data}} if name == DG else data)
            if target is not None:
                targets = target if isinstance(target, list) else [target]
                return [origin for one in targets for origin in one.create_origins()]
    for name in WORKSPACES:
        if (folder / name).is_file():
            with _reading(folder / name):
                return list(WorkspaceFileTarget([str(folder / name)]).create_origins())
    return []


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{path} does not name Dagster code in a way that Dagster understands: {_named(error)}. {WITHOUT_CODE}"
        ) from error


def _not_here(origin: Any) -> str | None:
    """Return why a code location cannot be imported into this process, if it cannot."""
    if isinstance(origin, GrpcServerCodeLocationOrigin):
        return (
            "is served by a gRPC server, so its code cannot be imported here: run this command where that code is, "
            "or name the store: --store ROOT [--ledger URL]."
        )
    python = origin.loadable_target_origin.executable_path
    if python is not None and Path(python).absolute() != Path(sys.executable).absolute():
        return (
            f"runs with another Python, {python}: run the batch-pipeline of that installation, or name the store: "
            "--store ROOT [--ledger URL]."
        )
    return None


def _imported(origin: Any, root: Path) -> list[object]:
    """Import a code location; return its Definitions, or what else it has at module level."""
    target = origin.loadable_target_origin
    folder = target.working_directory or str(root)
    try:
        # What user code prints must not get between the lines of a command's answer.
        with enter_loadable_target_origin_load_context(target), redirect_stdout(sys.stderr):
            found = get_loadable_targets(
                python_file=target.python_file,
                module_name=target.module_name,
                package_name=target.package_name,
                autoload_defs_module_name=target.autoload_defs_module_name,
                working_directory=str(Path(folder).absolute()),
                attribute=target.attribute,
                resolve_lazy_defs=False,
            )
            things = [one.target_definition for one in found]
            return [one() if isinstance(one, LazyDefinitions) else one for one in things]
    except (Exception, SystemExit) as error:
        own, place = _own(error)
        raise InputError(
            f"The code location {origin.location_name} of the project at {root} cannot be loaded:\n"
            + indent(_named(own) + (f"\nat {place}" if place else ""), "    ")
            + f"\nPut that right, and try again. {WITHOUT_CODE}"
        ) from error


def _own(error: BaseException) -> tuple[BaseException, str | None]:
    """Return the error of user code that Dagster wrapped, and where it arose, if in any file."""
    place = None
    while type(error).__module__.startswith("dagster"):
        # An error in a component's YAML begins with the file, the line and the field.
        if found := YAML_LINE.match(str(error)):
            place = f"{found[1]}, line {found[2]}: {found[3]}"
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error, place or _line(error)


def _named(error: BaseException) -> str:
    text = str(error.msg) if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(error: BaseException) -> str | None:
    """Return the last line of user code on the way to an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    others = ("<", str(Path(__file__).parents[1]), str(Path(os.__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others) and "site-packages" not in frame.filename
    ]
    if not frames:
        return None
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}"


def _pipelines(definitions: object, location: str) -> Iterator[Declared]:
    resources: Mapping[str, Any] = {}
    match definitions:
        case dg.Definitions():
            assets: Iterable[object] = definitions.assets or ()
            resources = definitions.resources or {}
        case dg.RepositoryDefinition():
            assets = definitions.assets_defs_by_key.values()
        case list():
            assets = definitions
        case _:
            return
    seen = set()
    for asset in assets:
        pipeline = pipeline_of(asset)
        if pipeline is None or pipeline.name in seen or not isinstance(asset, dg.AssetsDefinition):
            continue
        seen.add(pipeline.name)
        given = {**resources, **asset.resource_defs}
        yield Declared(
            pipeline,
            _resource(given, "claude_key", pipeline, ClaudeBatches, location),
            _resource(given, "store_key", pipeline, BatchStore, location),
            location,
        )


def _resource(
    given: Mapping[str, Any],
    field: str,
    pipeline: BatchPipeline,
    kind: type[Resource],
    location: str,
) -> Resource:
    """Return a pipeline's resource, as it was declared or made from a ResourceDefinition."""
    key = getattr(pipeline, field)
    who = f"The pipeline {pipeline.name} of the code location {location}"
    found = given.get(key)
    if found is None:
        there = ", ".join(sorted(given)) or "none"
        raise InputError(
            f"{who} asks for a resource {key} ({field}), and its definitions have no such resource (they have: "
            f"{there}). Define it: resources={{{key!r}: {kind.__name__}(...)}}. {WITHOUT_CODE}"
        )
    if isinstance(found, dg.ResourceDefinition):
        try:
            with dg.build_resources({key: found}) as made:
                found = getattr(made, key)
        except Exception as error:
            raise InputError(
                f"{who}: its resource {key} cannot be made: {_named(_own(error)[0])}. {WITHOUT_CODE}"
            ) from error
    if not isinstance(found, kind):
        raise InputError(
            f"{who}: its resource {key} is a {type(found).__name__}; it must be a {kind.__name__}. {WITHOUT_CODE}"
        )
    return found
