"""Whether a project's settings do for where its runs happen: on this machine, or on several."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg

from batch_pipeline.cli.checks import Check
from batch_pipeline.settings import project_path

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Declared
    from batch_pipeline.definitions.resources import BatchStore
    from batch_pipeline.pipeline import BatchPipeline

LAUNCHERS = {
    "CeleryRunLauncher": "on Celery's workers",
    "CeleryK8sRunLauncher": "in pods",
    "K8sRunLauncher": "in pods",
    "EcsRunLauncher": "in tasks of ECS",
}
EXECUTORS = {
    "celery": "on Celery's workers",
    "celery-k8s": "in pods",
    "dask": "on Dask's workers",
    "ecs": "in tasks of ECS",
    "k8s": "in pods",
}
"""Dagster's own that let runs, or their steps, happen on other machines; by the names that they have there."""
NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse")  # fmt: skip
THIS_MACHINE = ("localhost", "127.", "[::1]", "::1", "0.0.0.0")
POSTGRES = "set BatchStore(ledger=...) to a PostgreSQL URL"


def elsewhere(pipelines: Sequence["BatchPipeline"]) -> str:
    """Return where runs or steps happen when that is not this machine; "" when it is, as far as can be told."""
    executors = [one.executor.name for one in pipelines if one.executor is not None]
    if where := next((EXECUTORS[name] for name in executors if name in EXECUTORS), ""):
        return where
    if not os.environ.get("DAGSTER_HOME"):
        return ""
    with ExitStack() as stack:
        try:
            instance = stack.enter_context(dg.DagsterInstance.get())
            launcher = type(instance.run_launcher).__name__
        except Exception:  # the check of Dagster's instance says what is wrong with it
            return ""
    return LAUNCHERS.get(launcher, "")


def check_hosts(declared: Sequence["Declared"], where: str) -> Iterator[Check]:
    """Yield what can only be reached from one machine, where runs happen on several.

    Args:
        declared: the pipelines.
        where: what ``elsewhere`` returned.
    """
    for store in _distinct([one.store for one in declared]):
        yield from _check_ledger(store, where)
    if not where:
        return
    for url in dict.fromkeys(one.claude.url for one in declared):
        host = (urlsplit(url).hostname or "").lower()
        if host.startswith(THIS_MACHINE):
            yield Check(
                f"API {url}", "address", "failed", f"runs happen {where}, and each of them calls itself {host}",
                "name the API, or a gateway, by an address that all of them reach",
            )  # fmt: skip
    for one in declared:
        yield from _check_files(one.pipeline, where)


def _distinct(stores: Sequence["BatchStore"]) -> list["BatchStore"]:
    return list({(str(one.root), one.ledger): one for one in stores}.values())


def _check_ledger(store: "BatchStore", where: str) -> Iterator[Check]:
    root = project_path(store.root)
    about, is_remote = f"Store {root}", "://" in root
    file = store.sqlite_file()
    if file is None:
        if where and not is_remote:
            yield Check(
                about, "reach", "warning", f"runs happen {where}, and a folder is where it is mounted",
                "batch-pipeline doctor --deep looks from there; or set BatchStore(root=...) to an object store",
            )  # fmt: skip
        return
    if where:
        yield Check(
            about, "ledger", "failed", f"it is the SQLite file {file}, and runs happen {where}: each machine would "
            "have a ledger of its own, which does not know what the others paid for", POSTGRES,
        )  # fmt: skip
    elif is_remote:
        yield Check(
            about, "ledger", "failed", f"it is the SQLite file {file}, and the files are in an object store: whoever "
            "works on them from another machine, or when this one is gone, does not know what was paid for", POSTGRES,
        )  # fmt: skip
    elif kind := network_disk(Path(file), Path("/proc/self/mounts")):
        yield Check(
            about, "ledger", "failed", f"it is the SQLite file {file} on a network disk ({kind}), where SQLite's locks "
            "do not work", f"{POSTGRES}, or to a SQLite file on a disk of this machine",
        )  # fmt: skip


def network_disk(path: Path, mounts: Path) -> str:
    """Return the kind of network disk that a path is on; "" when it is on none, as far as can be told."""
    best, kind = -1, ""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        place, found = line.split()[1:3]
        folder = Path(place.replace("\\040", " "))
        # Of two at one place, the later one lies over the earlier.
        if path.is_relative_to(folder) and len(folder.parts) >= best:
            best, kind = len(folder.parts), found
    return kind if kind in NETWORK_DISKS else ""


def _check_files(pipeline: "BatchPipeline", where: str) -> Iterator[Check]:
    """Yield that a source or a destination is a file, which not every machine need have."""
    for name, thing in (("source", pipeline.source), ("destination", pipeline.destination)):
        given = getattr(thing, "database", None) or getattr(thing, "path", None)
        if given is None or "://" in (path := project_path(str(given) if not hasattr(given, "env_var_name") else given)):  # fmt: skip
            continue
        yield Check(
            f"Pipeline {pipeline.name}", f"{name} there", "warning",
            f"{path} is a place on a disk, and runs happen {where}",
            "batch-pipeline doctor --deep looks from there; Parquet in an object store is reached from everywhere",
        )  # fmt: skip
