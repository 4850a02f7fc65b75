"""Faults, as the real SDK sees them."""

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from batch_pipeline.emulator import EmulatorError, EmulatorProcess
from batch_pipeline_tests.support.api_requests import requests


def read(client: anthropic.Anthropic, id: str) -> list[str]:
    return [line.custom_id for line in client.messages.batches.results(id)]


@pytest.fixture
def ended(client: anthropic.Anthropic) -> str:
    """Id of an ended batch of ten requests."""
    id = client.messages.batches.create(requests=requests(10)).id
    client.messages.batches.retrieve(id)
    return id


@pytest.mark.parametrize(("kind", "made"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_connection(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, kind: str, made: int
) -> None:
    claude_emulator.fault("create", kind)
    with pytest.raises(anthropic.APIConnectionError) as raised:
        client.messages.batches.create(requests=requests(3))
    assert isinstance(raised.value.__cause__, httpx2.RemoteProtocolError)
    assert len(claude_emulator.batches()) == made
    outcomes = claude_emulator.stats()["outcomes"]
    assert outcomes["POST /v1/messages/batches"] == {"dropped": 1}
    client.messages.batches.create(requests=requests(3))


def test_a_connection_lost_while_the_request_is_sent(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_before", while_sending=True)
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=requests(3000, system="x" * 2000))
    assert claude_emulator.batches() == []


def test_the_sdk_pays_three_times_for_two_lost_replies(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", times=2)
    connect().with_options(max_retries=2).messages.batches.create(requests=requests(3))
    assert claude_emulator.bill()["batches"] == 3


@pytest.mark.parametrize(("kind", "made"), [("status_before", 0), ("status_after", 1)])
def test_a_status_before_and_after_the_batch_is_accepted(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, kind: str, made: int
) -> None:
    claude_emulator.fault("create", kind, status=529, headers={"retry-after": "7"})
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.batches.create(requests=requests(3))
    assert raised.value.status_code == 529
    assert raised.value.type == "overloaded_error"
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.request_id
    assert len(claude_emulator.batches()) == made


def test_an_error_code_and_a_foreign_page(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    code = "enforced_spend_limit_reached"
    claude_emulator.fault("create", "status_before", status=429, error_code=code)
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.error_code == code
    assert "retry-after" not in raised.value.response.headers
    claude_emulator.fault("create", "status_after", status=504, body="<html>Gateway</html>")
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.body == "<html>Gateway</html>"


def test_a_fault_hits_the_nth_call_and_no_other(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "status_before", nth=3, times=2)
    seen = []
    for _ in range(6):
        client.messages.batches.create(requests=requests(1))
        try:
            client.messages.batches.list()
            seen.append(200)
        except anthropic.InternalServerError:
            seen.append(500)
    assert seen == [200, 200, 500, 500, 200, 200]
    claude_emulator.fault("list", "status_before", times=None)
    claude_emulator.clear_faults()
    client.messages.batches.list()


def test_a_fault_can_be_about_one_batch(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str
) -> None:
    other = client.messages.batches.create(requests=requests(1)).id
    claude_emulator.fault("retrieve", "status_before", batch_id=other)
    client.messages.batches.retrieve(ended)
    with pytest.raises(anthropic.InternalServerError):
        client.messages.batches.retrieve(other)


def test_a_late_reply_times_out_although_the_batch_was_made(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "delay_after", seconds=30)
    with pytest.raises(anthropic.APITimeoutError):
        connect(timeout=0.5).messages.batches.create(requests=requests(3))
    assert len(claude_emulator.batches()) == 1


def test_results_cut_at_a_line_end_look_complete(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str
) -> None:
    claude_emulator.fault("results", "cut_results_at_line", line=4)
    assert len(read(client, ended)) == 4
    assert len(read(client, ended)) == 10


def test_results_cut_in_a_line_are_broken_json(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str
) -> None:
    claude_emulator.fault("results", "cut_results_mid_line", line=4)
    with pytest.raises(json.JSONDecodeError):
        read(client, ended)


@pytest.mark.parametrize("kind", ["cut_results_at_line", "cut_results_mid_line"])
def test_results_cut_by_a_broken_connection(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str, kind: str
) -> None:
    claude_emulator.fault("results", kind, line=4, clean=False)
    with pytest.raises(httpx2.RemoteProtocolError):
        read(client, ended)
    assert len(read(client, ended)) == 10


@pytest.mark.parametrize(
    ("kind", "settings", "lines"),
    [
        ("line_twice", {"line": 2}, 11),
        ("line_missing", {"line": 10}, 9),
        ("line_replaced", {"text": '{"custom_id":"x","result":{"type":"expired"}}'}, 10),
        ("line_added", {"text": '{"custom_id":"x","result":{"type":"expired"}}'}, 11),
    ],
)
def test_results_can_lie(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    ended: str,
    kind: str,
    settings: dict[str, Any],
    lines: int,
) -> None:
    honest = read(client, ended)
    claude_emulator.fault("results", kind, **settings)
    lying = read(client, ended)
    assert len(lying) == lines
    assert lying != honest


def test_the_list_can_lag(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str
) -> None:
    claude_emulator.advance(100)
    newer = client.messages.batches.create(requests=requests(1)).id
    claude_emulator.fault("list", "list_lag", seconds=60)
    assert [batch.id for batch in client.messages.batches.list()] == [ended]
    claude_emulator.fault("list", "list_lag", newest=1)
    assert [batch.id for batch in client.messages.batches.list()] == [ended]
    assert [batch.id for batch in client.messages.batches.list()] == [newer, ended]


def test_a_results_url_on_another_host(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    ended: str,
    elsewhere: tuple[str, list[str]],
) -> None:
    url, asked = elsewhere
    claude_emulator.fault("retrieve", "change_fields", fields={"results_url": f"{url}/results"})
    with pytest.raises(anthropic.NotFoundError):
        read(client, ended)
    assert asked == ["/results"]


def test_replies_that_are_no_replies(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, ended: str
) -> None:
    claude_emulator.fault("retrieve", "replace_body", body="<html>")
    with pytest.raises(anthropic.APIResponseValidationError):
        client.messages.batches.retrieve(ended)
    claude_emulator.fault("retrieve", "cut_body")
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.retrieve(ended)
    claude_emulator.fault("retrieve", "date_header", seconds=-3600)
    skewed = client.messages.batches.with_raw_response.retrieve(ended).headers["date"]
    assert skewed != client.messages.batches.with_raw_response.retrieve(ended).headers["date"]


def test_a_misspelt_fault_is_named(claude_emulator: EmulatorProcess) -> None:
    with pytest.raises(EmulatorError, match="unknown call"):
        claude_emulator.fault("creates", "drop_after")
    with pytest.raises(EmulatorError, match="unknown kind"):
        claude_emulator.fault("create", "drop")
    with pytest.raises(EmulatorError, match="no setting"):
        claude_emulator.fault("create", "drop_after", when=3)
