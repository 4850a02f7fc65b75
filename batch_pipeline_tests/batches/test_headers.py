"""What goes with a call besides the key: the betas of a question, a user's own headers."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from sqlalchemy import update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable
from batch_pipeline.store.submissions import betas_of
from batch_pipeline.store.tables import submissions
from batch_pipeline_tests.batches.conftest import Desk

COMPACT = "compact-2026-01-12"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, httpx2.Headers]]]:
    """Method and path of each call, and its headers."""
    found: list[tuple[str, httpx2.Headers]] = []
    guard = BatchesApi._guard

    def listen(self: BatchesApi, request: httpx2.Request) -> None:
        found.append((f"{request.method} {request.url.path}", request.headers))
        guard(self, request)

    monkeypatch.setattr(BatchesApi, "_guard", listen)
    yield found


def api(desk: Desk, **settings: Any) -> BatchesApi:
    return BatchesApi("test-key", desk.emulator.base_url, 10.0, **settings)


def test_a_batch_is_created_looked_up_and_read_with_the_betas_of_its_question(
    desk: Desk, heard: list[tuple[str, httpx2.Headers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "anthropic-beta: files-api-2025-04-14")
    plain, named = desk.put(1), desk.put(2)
    of_named = desk.file(named[0])["submission_id"]
    with desk.store.ledger.write() as tx:
        tx.execute(
            update(submissions)
            .where(submissions.c.id == of_named)
            .values(question={"betas": [COMPACT]})
        )
    with closing(api(desk)) as desk.api:
        sent = desk.send()
        assert [
            headers["anthropic-beta"] for _, headers in heard if headers.get("anthropic-beta")
        ] == [
            "files-api-2025-04-14",
            f"files-api-2025-04-14,{COMPACT}",
        ]
        heard.clear()
        batch, betas = sent.batches[1].id, betas_of(desk.store.ledger, of_named)
        named_api = desk.api.with_betas(betas)
        named_api.retrieve(batch)
        assert len(b"".join(named_api.results(batch)).splitlines()) == 2
        asked = {
            "model": "claude-haiku-4-5",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "a"}],
        }
        edits = {"context_management": {"edits": []}}
        named_api.count_tokens({**asked, **edits})
        assert named_api.ask({**asked, **edits})["type"] == "succeeded"
        assert {headers["anthropic-beta"] for _, headers in heard} == {
            f"files-api-2025-04-14,{COMPACT}"
        }
        assert len(heard) == 5
    assert betas_of(desk.store.ledger, desk.file(plain[0])["submission_id"]) == ()


def test_headers_go_with_every_call_and_stand_in_no_error(
    desk: Desk, heard: list[tuple[str, httpx2.Headers]]
) -> None:
    given = {"x-gateway": "secret-of-the-gateway", "anthropic-workspace-id": "wrkspc_1"}
    with closing(api(desk, headers=given, user_profile="user_1")) as desk.api:
        desk.put(1)
        (batch,) = desk.send().batches
        desk.api.retrieve(batch.id)
        assert {headers["x-gateway"] for _, headers in heard} == {"secret-of-the-gateway"}
        assert {headers["anthropic-workspace-id"] for _, headers in heard} == {"wrkspc_1"}
        profiles = {call for call, headers in heard if "anthropic-user-profile-id" in headers}
        assert profiles == {"POST /v1/messages/batches"}
        desk.emulator.fault(
            "retrieve",
            "status_before",
            status=418,
            type="api_error",
            message="secret-of-the-gateway?",
        )
        with pytest.raises(ApiUnavailable) as shown:
            desk.api.retrieve(batch.id)
    assert "***?" in str(shown.value) and "secret-of" not in str(shown.value)
    assert "secret-of" not in "".join(
        str(row)
        for table in ("request_files", "submissions", "transitions", "endpoints")
        for row in desk.store.ledger.rows(_all_of(table))
    )


def _all_of(table: str):
    from batch_pipeline.store.tables import metadata

    return metadata.tables[table].select()
