"""What the ledger says of a submission, kept beside its files: enough to make a lost ledger again.

A manifest is written from the ledger after the fact and named after the number of files it lists,
so writing it again changes nothing. A submission that has none was never built, and nothing of it
was sent.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select

from batch_pipeline.store.layout import manifest_name
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import endpoints, request_files, submissions

FORMAT = 1
OF_SUBMISSION = (
    "id",
    "pipeline",
    "partition",
    "number",
    "version",
    "created_at",
    "records_path",
    "index_path",
    "counts",
    "question",
    "requests",
    "bytes",
    "rejected_path",
    "rejected",
    "estimate_nanousd",
)
OF_FILE = (
    "seq",
    "kind",
    "path",
    "requests",
    "bytes",
    "first_row",
    "last_row",
    "batch_id",
    "batch_created_at",
    "first_sent_at",
)


def keep_manifests(store: Store, submission_ids: Iterable[str]) -> None:
    """Write the manifest of each submission that has none for the files it has by now."""
    ids = sorted(set(submission_ids))
    if not ids:
        return
    counted = store.ledger.rows(
        select(
            request_files.c.submission_id,
            request_files.c.pipeline,
            func.count().label("files"),
        )
        .where(request_files.c.submission_id.in_(ids))
        .group_by(request_files.c.submission_id, request_files.c.pipeline)
    )
    for row in counted:
        name = manifest_name(row["pipeline"], row["submission_id"], row["files"])
        if not store.files.exists(name):
            _write(store, row["submission_id"])


def _write(store: Store, submission_id: str) -> None:
    with store.ledger.read() as tx:
        submission = (
            tx.execute(select(submissions).where(submissions.c.id == submission_id))
            .mappings()
            .one()
        )
        files = (
            tx.execute(
                select(request_files)
                .where(request_files.c.submission_id == submission_id)
                .order_by(request_files.c.seq)
            )
            .mappings()
            .all()
        )
        endpoint = (
            tx.execute(select(endpoints).where(endpoints.c.id == submission["endpoint_id"]))
            .mappings()
            .one()
        )
    document: dict[str, Any] = {
        "format": FORMAT,
        "ledger": store.ledger.id,
        "endpoint": {name: endpoint[name] for name in ("base_url", "organization", "workspace")},
        "submission": {name: submission[name] for name in OF_SUBMISSION},
        "files": [{name: file[name] for name in OF_FILE} for file in files],
    }
    name = manifest_name(submission["pipeline"], submission_id, len(files))
    with store.files.scratch() as folder:
        local = f"{folder}/manifest"
        with open(local, "wb") as out:
            out.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        store.files.put(local, name)


def read_manifest(store: Store, name: str) -> dict[str, Any]:
    """Return a manifest, its times as datetimes.

    Raises:
        ValueError: it cannot be read, or a newer version wrote it.
    """
    with store.files.open(name) as file:
        document = orjson.loads(file.read())
    if document.get("format") != FORMAT:
        raise ValueError(f"{name} has the format {document.get('format')}, not {FORMAT}")
    submission = document["submission"]
    submission["created_at"] = datetime.fromisoformat(submission["created_at"])
    for file in document["files"]:
        for moment in ("batch_created_at", "first_sent_at"):
            file[moment] = file[moment] and datetime.fromisoformat(file[moment])
    return document
