"""What DuckDB does in a night, for a dozen records, in Python: so that an episode takes milliseconds.

Only statements over rows are replaced: which records need an answer, what their requests are, what came
of each. All that decides about money is the package's own: the commits of selections and of request
files, sending, looking, reconciling, downloads, collecting, cancelling, budgets. Every fiftieth episode
plays the real stages, and its table may be dropped.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
from sqlalchemy import RowMapping, select, update

from batch_pipeline import MessageTemplate
from batch_pipeline.batches import split as split_module
from batch_pipeline.requests.cutter import Cutter, Limits
from batch_pipeline.requests.weight import weigh
from batch_pipeline.results import collect as collect_module
from batch_pipeline.results import download as download_module
from batch_pipeline.results.cost import answer_cost
from batch_pipeline.results.download import Answers
from batch_pipeline.results.file_records import custom_ids_sent
from batch_pipeline.store.layout import (
    index_name,
    new_submission_id,
    request_name,
    results_name,
    safe_part,
)
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    NewFile,
    NewSelection,
    Scope,
    abandon_unbuilt,
    commit_build,
    commit_selection,
    situation,
    unbuilt,
)
from batch_pipeline.store.tables import OPEN, FileKind, FileState, request_files, submissions

NANO = Decimal(10) ** 9
FINAL = ("answered", "refused", "rejected")
MOST_TRIES = 20
VERSION = "simulated"
PUBLISH_WAIT_SECONDS = 60.0

Asked = dict[str, Any]
"""``key``, ``text``, ``attempt`` and ``custom_id`` of a record that is asked."""


def prompt_of(key: str, text: str) -> str:
    """Return what is asked about a record."""
    return f"{key}: {text}"


def select_records(
    store: Store,
    scope: Scope,
    records: Mapping[str, str],
    max_attempts: int,
    limit: int | None = None,
    retries_only: bool = False,
) -> None:
    """Select what needs an answer, and commit that."""
    if limit is None and not retries_only:
        abandon_unbuilt(store.ledger, scope)
    for _ in range(MOST_TRIES):
        read = situation(store.ledger, scope)
        submission = new_submission_id(store.clock.now())
        asked = _needed(store, [row.name for row in read.index], records, max_attempts)
        if retries_only:
            asked = [one for one in asked if one["attempt"] > 1]
        asked = asked[:limit]
        new = None
        if asked:
            name = _put_json(store, index_name(scope.pipeline, submission, "selected"), asked)
            new = NewSelection(submission, VERSION, None, name, {"asked": len(asked)})
        number = commit_selection(
            store.ledger,
            scope,
            read,
            new,
            complete=limit is None,
            counts={"asked": len(asked)},
        )
        if number is not None:
            return
        if new is not None:
            store.files.remove(new.index_path)
    raise AssertionError("a selection lost the race for ever")


def _needed(
    store: Store, names: list[str], records: Mapping[str, str], max_attempts: int
) -> list[Asked]:
    asked: dict[tuple[str, str], list[str]] = {}
    status: dict[str, str] = {}
    for name in names:
        for row in _read_json(store, name):
            if "status" in row:
                status[row["custom_id"]] = row["status"]
            else:
                asked.setdefault((row["key"], row["text"]), []).append(row["custom_id"])
    found: list[Asked] = []
    for key, text in sorted(records.items()):
        earlier = asked.get((key, text), [])
        if len(earlier) >= max_attempts:
            continue
        if any(one not in status or status[one] in FINAL for one in earlier):
            continue
        attempt = len(earlier) + 1
        content = hashlib.sha256(prompt_of(key, text).encode()).hexdigest()[:12]
        found.append(
            {
                "key": key,
                "text": text,
                "attempt": attempt,
                "custom_id": f"{store.ledger.id}-{content}-{attempt}",
            }
        )
    return found


def prepare(store: Store, scope: Scope, template: MessageTemplate, limits: Limits) -> None:
    """Write the request files of every selection that has none, and commit them."""
    for submission in unbuilt(store.ledger, scope):
        with store.files.scratch() as folder:
            cutter = Cutter(limits, Path(folder))
            for number, one in enumerate(_read_json(store, submission["index_path"])):
                line = json.dumps(
                    {
                        "custom_id": one["custom_id"],
                        "params": {
                            "model": template.model,
                            "max_tokens": template.max_tokens,
                            "messages": [
                                {"role": "user", "content": prompt_of(one["key"], one["text"])}
                            ],
                        },
                    }
                )
                cutter.add([number], [len(line) + 1], memoryview(f"{line}\n".encode()))
            cut = cutter.finish()
            cutter.close()
            build = store.files.new_part()
            together = sum(one.requests for one in cut)
            files = [
                NewFile(
                    one.seq,
                    store.files.put(
                        one.path,
                        request_name(scope.pipeline, submission["id"], f"{one.seq:05d}-{build}"),
                    ),
                    one.requests,
                    one.bytes,
                    one.first_row,
                    one.last_row,
                    weight=weigh(template, one.requests, one.bytes, together=together).to_store(),
                )
                for one in cut
            ]
        committed = commit_build(
            store.ledger,
            submission,
            files,
            rejected_path=None,
            rejected=0,
            estimate_nanousd=None,
            question={"output": None, "prefix": ""},
        )
        if committed:
            keep_manifests(store, [submission["id"]])
        else:
            for file in files:
                store.files.remove(file.path or "")


def _join_file(
    store: Store, file: RowMapping, answers: Answers | None, max_attempts: int, *_: Any, **__: Any
) -> tuple[Any, dict[str, Any]]:
    """Do what ``join_file`` does: rows and index into the store, counts for the ledger."""
    rows: list[dict[str, Any]] = []
    cost, unknown, retryable = Decimal(0), 0, 0
    if file["kind"] == FileKind.REJECTED:
        with store.files.local(file["path"]) as path:
            rejected = pq.read_table(path).to_pylist()
        rows = [{"custom_id": one["_custom_id"], "status": "rejected"} for one in rejected]
    elif answers is not None:
        asked = custom_ids_sent(store, file) or set()
        results: dict[str, Any] = {}
        if answers.name:
            with store.files.open(answers.name) as lines:
                for line in lines:
                    try:
                        one = json.loads(line)
                        if one["custom_id"] in asked:
                            results.setdefault(one["custom_id"], one["result"])
                    except (ValueError, KeyError, TypeError):
                        continue
        for custom_id in sorted(asked):
            result = results.get(custom_id)
            if file["kind"] == FileKind.LATE and result is None:
                continue
            row = {"custom_id": custom_id, "status": "missing"}
            if result is not None and result.get("type") == "succeeded":
                message = result["message"]
                row["status"] = _status_of(message)
                row["answer"] = message["content"][0]["text"] if message["content"] else ""
                paid = answer_cost(message["model"], message["usage"], store.clock.now())
                assert paid is not None, f"{custom_id} has no price"
                cost += paid
            elif result is not None:
                row["status"] = result["type"]
            if row["status"] not in FINAL and int(custom_id.split("-")[-1]) < max_attempts:
                retryable += 1
            rows.append(row)
        unknown = answers.lost if file["batch_id"] else file["cost_unknown"] or 0
    batch = safe_part(file["batch_id"] or file["kind"])
    part = f"{file['seq']:05d}-{batch}-{store.files.new_part()}"
    where = (file["pipeline"], file["submission_id"], part)
    return SimpleNamespace(rows=len(rows), statuses={}), {
        "results_path": _put_json(store, results_name(*where), rows),
        "index_path": _put_json(store, index_name(*where), rows),
        "statuses": {},
        "tokens": {},
        "cost_nanousd": int((cost * NANO).to_integral_value()),
        "cost_unknown": unknown,
        "retryable": retryable,
    }


def _status_of(message: Mapping[str, Any]) -> str:
    match message["stop_reason"]:
        case "max_tokens":
            return "truncated"
        case "refusal":
            return "refused"
        case _:
            return "answered"


def publish(store: Store, pipeline: str) -> None:
    """Let what is collected count as published; which rows the table has follows from the store."""
    with store.ledger.lease(f"publish/{pipeline}", PUBLISH_WAIT_SECONDS) as lease:
        if lease is None:
            return
        ids = [
            row["id"]
            for row in store.ledger.rows(
                select(request_files.c.id).where(
                    request_files.c.pipeline == pipeline,
                    request_files.c.state == FileState.COLLECTED,
                    request_files.c.published_at.is_(None),
                )
            )
        ]
        if ids and lease.still_held():
            with store.ledger.write() as tx:
                tx.execute(
                    update(request_files)
                    .where(request_files.c.id.in_(ids))
                    .values(published_at=store.clock.now())
                )


def account(store: Store, scope: Scope) -> None:
    """Assert of each settled submission that what was asked has one row each."""
    still_open = select(request_files.c.submission_id).where(request_files.c.state.in_(OPEN))
    settled = store.ledger.rows(
        select(submissions).where(
            submissions.c.pipeline == scope.pipeline,
            submissions.c.state == "built",
            submissions.c.verified_at.is_(None),
            submissions.c.id.not_in(still_open),
        )
    )
    for submission in settled:
        asked = [one["custom_id"] for one in _read_json(store, submission["index_path"])]
        files = store.ledger.rows(
            select(request_files.c.results_path).where(
                request_files.c.submission_id == submission["id"],
                request_files.c.state == FileState.COLLECTED,
                request_files.c.kind != FileKind.LATE,
            )
        )
        rows = [
            row["custom_id"] for file in files for row in _read_json(store, file["results_path"])
        ]
        assert sorted(rows) == sorted(asked), (
            f"submission {submission['number']}: asked {sorted(asked)}, came back {sorted(rows)}"
        )
        with store.ledger.write() as tx:
            tx.execute(
                update(submissions)
                .where(submissions.c.id == submission["id"])
                .values(verified_at=store.clock.now())
            )


def table_of(store: Store, pipeline: str) -> dict[str, dict[str, Any]]:
    """Return the results table by key: of each key what was selected last, and its best answer."""
    asked: dict[str, Asked] = {}
    latest: dict[str, str] = {}
    for submission in store.ledger.rows(
        select(submissions)
        .where(submissions.c.pipeline == pipeline, submissions.c.state == "built")
        .order_by(submissions.c.number)
    ):
        for one in _read_json(store, submission["index_path"]):
            asked[one["custom_id"]] = one
            latest[one["key"]] = one["custom_id"]
    rows: dict[str, dict[str, Any]] = {}
    for file in store.ledger.rows(
        select(request_files)
        .where(request_files.c.pipeline == pipeline, request_files.c.published_at.is_not(None))
        .order_by(request_files.c.number, request_files.c.seq)
    ):
        for row in _read_json(store, file["results_path"]):
            found = rows.get(row["custom_id"])
            if found is None or found["status"] != "answered":
                rows[row["custom_id"]] = row
    # A record that went back to an earlier text has the answer of that text.
    return {
        custom_id: {
            **row,
            **asked[custom_id],
            "is_latest": latest[asked[custom_id]["key"]] == custom_id,
        }
        for custom_id, row in rows.items()
        if custom_id in asked
    }


def _put_json(store: Store, name: str, rows: Any) -> str:
    with store.files.scratch() as folder:
        Path(f"{folder}/rows").write_text(json.dumps(rows))
        return store.files.put(f"{folder}/rows", name)


def _read_json(store: Store, name: str) -> list[dict[str, Any]]:
    with store.files.open(name) as file:
        return json.loads(file.read())


def _row_of(store: Store, file: RowMapping, custom_id: str) -> int:
    with store.files.open(file["path"]) as lines:
        ids = [json.loads(line)["custom_id"] for line in lines]
    return file["first_row"] + ids.index(custom_id)


@contextmanager
def without_duckdb() -> Iterator[None]:
    """Let collecting make its rows by Python for the block, and halves of a file be found by it."""
    nothing: Any = SimpleNamespace(get=lambda: None, drop=lambda: None)

    class _Connection:
        def __enter__(self) -> Any:
            return nothing

        def __exit__(self, *_error: object) -> None:
            pass

    class _Batch:
        """Its answers are counted with care, and judged by ``_join_file``."""

        def __init__(self, _stack: Any, store: Store, _connection: Any, file: RowMapping, *_: Any):
            self.requested = SimpleNamespace(custom_ids=custom_ids_sent(store, file))

        def are_whole(self, *_: Any) -> bool:
            return False

    with ExitStack() as stack:
        for owner, name, value in (
            (collect_module, "join_file", _join_file),
            (collect_module, "Batch", _Batch),
            (collect_module, "_Connection", _Connection),
            (collect_module, "_add", lambda *_: None),
            (collect_module, "_damaged", lambda *_: ""),
            (
                download_module,
                "custom_ids_of",
                lambda store, file, *_: custom_ids_sent(store, file),
            ),
            (split_module, "_row_of", _row_of),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
