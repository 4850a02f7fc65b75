"""Nothing that a client sends breaks the emulator, or stops a batch that something else stands in."""

import logging
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline_tests.emulator.in_process import Answer, InProcess
from batch_pipeline_tests.emulator.odd_bodies import (
    HEADERS,
    QUERIES,
    odd_body,
    odd_params,
    written,
)
from batch_pipeline_tests.support.api_requests import params
from batch_pipeline_tests.support.extent import extent

BODIES = extent(400, 20_000)
IN_ONE_BATCH = 20
BATCHES = "/v1/messages/batches"


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Fails where the emulator had to say that it did not foresee something."""
    caplog.set_level(logging.WARNING, "batch_pipeline.emulator")
    yield caplog
    surprises = [record for record in caplog.records if record.exc_info]
    assert not surprises, f"{len(surprises)} surprises, the first: {surprises[0].exc_text}"


def check(answer: Answer, sent: Any) -> None:
    assert answer.status < 500, (answer, sent)
    assert "request-id" in answer.headers, (answer, sent)
    if answer.status >= 400:
        document = answer.document
        assert document["type"] == "error", (answer, sent)
        assert document["request_id"] == answer.headers["request-id"]


def test_no_body_of_a_direct_call_is_a_server_error(tmp_path: Path, quiet: Any) -> None:
    draw = random.Random(15)
    paths = ["/v1/messages"] * 3 + ["/v1/messages/count_tokens"]
    emulator = InProcess(tmp_path)
    calls = [
        {"method": "POST", "path": path, "body": odd_body(draw, path.endswith("count_tokens"))}
        for path in draw.choices(paths, k=BODIES // 2)
    ]
    answers = emulator.calls(calls)
    for call, answer in zip(calls, answers, strict=True):
        check(answer, call["body"])
    statuses = [answer.status for answer in answers]
    assert 0.02 < statuses.count(200) / len(statuses) < 0.6


def test_a_malformed_request_of_a_batch_is_one_errored_row(tmp_path: Path, quiet: Any) -> None:
    draw = random.Random(51)
    emulator = InProcess(tmp_path)
    for _ in range(BODIES // 2 // IN_ONE_BATCH):
        good = [{"custom_id": f"good-{at}", "params": params()} for at in range(2)]
        odd = []
        while len(odd) < IN_ONE_BATCH:
            text = written(odd_params(draw), draw)
            try:
                orjson.loads(text)  # One that is no JSON would make the body none.
            except orjson.JSONDecodeError:
                continue
            odd.append(b'{"custom_id": "odd-%d", "params": %s}' % (len(odd), text))
        written_good = [orjson.dumps(one) for one in good]
        body = b'{"requests": [' + b", ".join([written_good[0], *odd, written_good[1]]) + b"]}"
        created = emulator.call("POST", BATCHES, body)
        assert created.status == 200, created
        id = created.document["id"]
        listed, shown, results = emulator.calls(
            [
                {"method": "GET", "path": BATCHES},
                {"method": "GET", "path": f"{BATCHES}/{id}"},
                {"method": "GET", "path": f"{BATCHES}/{id}/results"},
            ]
        )
        assert (listed.status, shown.status, results.status) == (200, 200, 200)
        rows = {
            row["custom_id"]: row["result"] for row in map(orjson.loads, results.body.splitlines())
        }
        assert len(rows) == IN_ONE_BATCH + 2
        assert {rows[one["custom_id"]]["type"] for one in good} == {"succeeded"}
        for row in rows.values():
            if row["type"] == "errored":
                error = row["error"]["error"]
                assert error["type"] in ("invalid_request_error", "not_found_error"), row


def test_no_query_and_no_header_is_a_server_error(tmp_path: Path, quiet: Any) -> None:
    emulator = InProcess(tmp_path)
    created = emulator.call("POST", BATCHES, {"requests": [{"custom_id": "a", "params": params()}]})
    id = created.document["id"]
    paths = [BATCHES, f"{BATCHES}/{id}", f"{BATCHES}/{id}/results", "/v1/models", "/v1/nothing"]
    calls = [{"method": "GET", "path": path, "query": query} for path in paths for query in QUERIES]
    posts = ["/v1/messages", "/v1/messages/count_tokens", BATCHES, f"{BATCHES}/{id}/cancel"]
    calls += [
        {"method": method, "path": path, "headers": [header], "body": b"{}"}
        for method, some in (("GET", paths), ("POST", posts), ("PUT", posts))
        for path in some
        for header in HEADERS
    ]
    for call, answer in zip(calls, emulator.calls(calls), strict=True):
        check(answer, call)
    refused = emulator.call("GET", BATCHES, query="limit=%D9%A3")
    assert refused.status == 400
    assert refused.document["error"]["message"].startswith("limit: ")
    for query in ("after_id=none", "before_id=none", f"after_id={id}&before_id={id}"):
        assert emulator.call("GET", BATCHES, query=query).status == 400


def test_a_request_that_an_earlier_version_kept_stops_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    before = InProcess(kept, manual=True)
    deep = b"[" * 900 + b"]" * 900
    odd = [
        b'{"custom_id": "a", "params": {"model": 5, "messages": %s}}' % deep,
        b'{"custom_id": "b", "params": {"tools": [5], "system": [[]], "messages": {}}}',
        b'{"custom_id": "c", "params": {"max_tokens": 1e300}}',
        orjson.dumps({"custom_id": "d", "params": params()}),
    ]
    db = before.emulator._db
    with db.transaction():
        db.add_text("msgbatch_old", "requests", b"\n".join(odd) + b"\n")
        db.add_batch("msgbatch_old", "default", len(odd), before.emulator.clock.now())
    db.close()
    after = InProcess(kept)
    assert after.call("GET", BATCHES).status == 200
    shown = after.call("GET", f"{BATCHES}/msgbatch_old").document
    assert (shown["request_counts"]["errored"], shown["request_counts"]["succeeded"]) == (3, 1)
    assert after.call("GET", "/_emulator/bill").status == 200
