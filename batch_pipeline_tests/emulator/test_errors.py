"""What the emulator refuses at once, and what it refuses in the results."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.api_requests import params, requests, with_schema

REQUEST = {"custom_id": "a", "params": params()}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OPEN, "additionalProperties": False}
TREE = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["children"],
    "additionalProperties": False,
}
TOOL = {"name": "answer", "input_schema": CLOSED}
FORCED = {"type": "tool", "name": "answer"}
MARK = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"requests": []}, "at least 1"),
        ({}, "requests: Field required"),
        ({"requests": [REQUEST], "name": "x"}, "name: Extra inputs"),
        ({"requests": [REQUEST, REQUEST]}, "Duplicate custom_id"),
        ({"requests": [{"params": {}}]}, "requests.0.custom_id: Field required"),
        ({"requests": [REQUEST, {"custom_id": "b"}]}, "requests.1.params: Field required"),
        ({"requests": [{**REQUEST, "custom_id": ""}]}, "pattern"),
        ({"requests": [{**REQUEST, "custom_id": "a b"}]}, "pattern"),
        ({"requests": [{**REQUEST, "custom_id": "x" * 65}]}, "pattern"),
        ({"requests": [{**REQUEST, "custom_id": "a\n"}]}, "pattern"),
        ({"requests": [{**REQUEST, "custom_id": 7}]}, "valid string"),
        ({"requests": [{**REQUEST, "note": 7}]}, "requests.0.note: Extra inputs"),
        ({"requests": [{"note": 7, **REQUEST}, REQUEST]}, "requests.0.note: Extra inputs"),
        ({"requests": [REQUEST, 5]}, "requests.1: Input should be an object"),
        ({"requests": {}}, "valid list"),
        ([], "should be an object"),
    ],
)
def test_a_wrong_envelope_is_refused_at_once(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, body: Any, message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message) as raised:
        client.post("/v1/messages/batches", body=body, cast_to=object)
    assert raised.value.type == "invalid_request_error"
    assert raised.value.body["request_id"] == raised.value.request_id
    assert claude_emulator.batches() == []


@pytest.mark.parametrize("text", [b"", b"{", b'{"requests":[{"custom_id":"a","params":{}},{'])
def test_broken_json_is_refused(client: anthropic.Anthropic, text: bytes) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.post("/v1/messages/batches", content=text, cast_to=object)


def test_a_request_may_be_written_in_any_layout(client: anthropic.Anthropic) -> None:
    text = b"""
    { "requests" : [
        {"params": {"messages": [{"params": {}}, {"custom_id": "inner"}, {"params": 1}]},
         "custom_id": "first"} ,
        {"custom_id": "second", "params": {"system": "},{\\"custom_id\\":\\"no\\"}"}}
    ] }"""
    batch = client.post("/v1/messages/batches", content=text, cast_to=object)
    assert batch["request_counts"]["processing"] == 2
    client.messages.batches.retrieve(batch["id"])
    results = {line.custom_id for line in client.messages.batches.results(batch["id"])}
    assert results == {"first", "second"}


def test_the_limits_of_a_batch_hold(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(max_batch_requests=3, max_batch_bytes=2000)
    client.messages.batches.create(requests=requests(3))
    with pytest.raises(anthropic.BadRequestError, match="at most 3"):
        client.messages.batches.create(requests=requests(4))
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.batches.create(requests=requests(3, system="x" * 2000))
    assert raised.value.status_code == 413
    assert raised.value.type == "request_too_large"
    pieces = (b"x" * 100 for _ in range(30))
    with pytest.raises(anthropic.APIStatusError) as raised:
        client.post("/v1/messages/batches", content=pieces, cast_to=object)
    assert raised.value.status_code == 413


@pytest.mark.parametrize(
    ("asked", "type", "message"),
    [
        (params(model=None), "invalid_request_error", "model: Field required"),
        (params(model="gpt-9"), "not_found_error", "model: gpt-9"),
        (params(max_tokens=None), "invalid_request_error", "max_tokens: Field required"),
        (params(max_tokens=0), "invalid_request_error", "greater than or equal to 1"),
        (params(stream=True), "invalid_request_error", "stream"),
        (params(speed="fast"), "invalid_request_error", "speed"),
        (params(nonsense=1), "invalid_request_error", "nonsense: Extra inputs"),
        (params(messages=None), "invalid_request_error", "messages: Field required"),
        (params(messages=[]), "invalid_request_error", "at least one message"),
        (params(""), "invalid_request_error", "non-empty"),
        (params("  "), "invalid_request_error", "non-whitespace"),
        (
            params(messages=[{"role": "user", "content": [{"type": "text", "text": ""}]}]),
            "invalid_request_error",
            "non-empty",
        ),
        (params(messages=[{"role": "robot", "content": "x"}]), "invalid_request_error", "role"),
        (params(messages=["x"]), "invalid_request_error", "object"),
        (params(system=[{"type": "text", "text": ""}]), "invalid_request_error", "system"),
        (
            params(model="claude-opus-5-5", temperature=0.5),
            "invalid_request_error",
            "temperature",
        ),
        (
            params(model="claude-sonnet-5-5", tools=[TOOL], tool_choice=FORCED),
            "invalid_request_error",
            "tool_choice",
        ),
        (params(tool_choice=FORCED), "invalid_request_error", "tool_choice"),
        (with_schema(OPEN, "x"), "invalid_request_error", "additionalProperties"),
        (with_schema(TREE, "x"), "invalid_request_error", "Circular"),
        (
            with_schema({**CLOSED, "properties": {"a": {"type": "string", "maxLength": 3}}}, "x"),
            "invalid_request_error",
            "maxLength",
        ),
        (
            params(tools=[{"name": "answer", "input_schema": OPEN, "strict": True}]),
            "invalid_request_error",
            "additionalProperties",
        ),
        (
            params(system=[{"type": "text", "text": "x", "cache_control": MARK}] * 5),
            "invalid_request_error",
            "maximum of 4",
        ),
        (
            params(
                system=[
                    {"type": "text", "text": "x", "cache_control": MARK},
                    {"type": "text", "text": "y", "cache_control": {**MARK, "ttl": "1h"}},
                ]
            ),
            "invalid_request_error",
            "1h",
        ),
    ],
)
def test_wrong_params_become_an_errored_result_and_the_rest_goes_on(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    asked: dict[str, Any],
    type: str,
    message: str,
) -> None:
    batch = client.messages.batches.create(
        requests=[{"custom_id": "wrong", "params": asked}, {"custom_id": "right", **_right()}]
    )
    counts = client.messages.batches.retrieve(batch.id).request_counts
    assert (counts.errored, counts.succeeded) == (1, 1)
    results = {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}
    assert results["wrong"].type == "errored"
    error = results["wrong"].error
    assert error.type == "error"
    assert error.error.type == type
    assert message in error.error.message
    assert results["right"].type == "succeeded"
    assert claude_emulator.bill()["requests"] == 1


def _right() -> dict[str, Any]:
    return {"params": params()}


def test_the_same_params_are_refused_at_once_on_the_messages_api(
    client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="additionalProperties"):
        client.messages.create(**with_schema(OPEN, "x"))
    with pytest.raises(anthropic.NotFoundError, match="gpt-9"):
        client.messages.create(**params(model="gpt-9"))


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "k"}, {"authorization": "Bearer k"}, {"Authorization": "bearer k"}]
)
def test_both_ways_of_sending_the_key_are_taken(
    claude_emulator: EmulatorProcess, headers: dict[str, str]
) -> None:
    url = f"{claude_emulator.base_url}/v1/messages/batches"
    reply = httpx2.get(url, headers={**headers, "anthropic-version": "2026-10-21"})
    assert reply.status_code == 200


def test_without_a_key_or_a_version_nothing_is_answered(claude_emulator: EmulatorProcess) -> None:
    url = f"{claude_emulator.base_url}/v1/messages/batches"
    reply = httpx2.get(url, headers={"anthropic-version": "2026-10-21"})
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    assert reply.json()["request_id"] == reply.headers["request-id"]
    reply = httpx2.get(url, headers={"x-api-key": "k"})
    assert reply.status_code == 400


def test_a_batch_is_seen_only_in_its_workspace(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"key-a": "ws-a", "key-a2": "ws-a", "key-b": "ws-b"})
    batch = connect("key-a").messages.batches.create(requests=requests(1))
    assert connect("key-a2").messages.batches.retrieve(batch.id).id == batch.id
    other = connect("key-b")
    reply = other.messages.batches.with_raw_response.list()
    assert reply.headers["anthropic-workspace-id"] == "ws-b"
    assert reply.headers["anthropic-organization-id"]
    assert reply.parse().data == []
    for call in (other.messages.batches.retrieve, other.messages.batches.cancel):
        with pytest.raises(anthropic.NotFoundError):
            call(batch.id)
    with pytest.raises(anthropic.AuthenticationError):
        connect("key-c").messages.batches.list()


def test_a_key_for_several_workspaces_names_the_one_it_means(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"key": "*"})
    client = connect("key")
    batch = client.messages.batches.create(requests=requests(1), workspace_id="ws-a")
    assert [b.id for b in client.messages.batches.list(workspace_id="ws-a")] == [batch.id]
    assert client.messages.batches.list(workspace_id="ws-b").data == []


def test_calls_above_the_rate_limit_are_a_429_until_the_next_minute(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2030-01-01T00:00:00Z")
    claude_emulator.freeze_clock()
    claude_emulator.configure(requests_per_minute=2)
    reply = client.messages.batches.with_raw_response.list()
    assert reply.headers["anthropic-ratelimit-requests-remaining"] == "1"
    client.messages.batches.list()
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.list()
    claude_emulator.advance(60)
    client.messages.batches.list()


def test_unknown_paths_and_batches_are_not_found(client: anthropic.Anthropic) -> None:
    for path in ("/v1/nothing", "/v1/messages/batches/msgbatch_no"):
        with pytest.raises(anthropic.NotFoundError) as raised:
            client.get(path, cast_to=object)
        assert raised.value.type == "not_found_error"
