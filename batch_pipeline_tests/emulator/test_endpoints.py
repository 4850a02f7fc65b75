"""What there is beside batches, by the official SDK: streaming, models, files, counting, headers."""

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from batch_pipeline.emulator import EmulatorError, EmulatorProcess
from batch_pipeline_tests.emulator.odd_bodies import SCHEMA, TOOL
from batch_pipeline_tests.support.api_requests import params, requests, with_schema

PDF = b"%PDF-1.4\n\r\n--not-a-boundary\r\n\x00\xff"


def streamed(client: anthropic.Anthropic, **asked: Any) -> tuple[list[str], Any]:
    """The types of the events, and the message that the SDK puts together from them."""
    with client.messages.stream(**asked) as stream:
        types = [event.type for event in stream]
        return types, stream.get_final_message()


@pytest.mark.parametrize(
    "asked",
    [
        params("Summarise: the meeting was moved to Monday."),
        params(model="claude-sonnet-5"),
        params(
            model="claude-sonnet-4-6", max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024}
        ),
        params("hotel, $90", tools=[TOOL], tool_choice={"type": "tool", "name": "record"}),
        with_schema(SCHEMA, "Name: Ana\nRent, EUR 40", max_tokens=400),
        params("a long text " * 30, max_tokens=5),
    ],
)  # fmt: skip
def test_a_stream_is_the_message_in_pieces(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, asked: dict[str, Any]
) -> None:
    whole = client.messages.create(**asked)
    types, message = streamed(client, **asked)
    assert types[0] == "message_start"
    assert types[-1] == "message_stop"
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.usage.input_tokens == whole.usage.input_tokens
    for block, expected in zip(message.content, whole.content, strict=True):
        assert block.type == expected.type
        for name in ("text", "thinking", "input", "name"):
            assert getattr(block, name, None) == getattr(expected, name, None)
    assert claude_emulator.bill()["messages"] == 2


def test_a_stream_comes_as_server_sent_events(claude_emulator: EmulatorProcess) -> None:
    reply = httpx2.post(
        f"{claude_emulator.base_url}/v1/messages",
        headers={"x-api-key": "k", "anthropic-version": "2026-10-21"},
        json=params(stream=True),
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["request-id"].startswith("req_")
    events = [event.split("\n") for event in reply.text.strip().split("\n\n")]
    for name, data in events:
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert ["event: ping", 'data: {"type":"ping"}'] in events


def test_a_mistake_is_no_stream(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**params(stream=True), extra_body={"temperature": 0})


def test_models_are_listed_page_by_page_with_what_they_can(client: anthropic.Anthropic) -> None:
    everything = [model.id for model in client.models.list(limit=1000)]
    assert [model.id for model in client.models.list(limit=4)] == everything
    page = client.models.list(limit=4, after_id=everything[3])
    assert [model.id for model in page.data] == everything[4:8]
    assert (page.first_id, page.last_id, page.has_more) == (everything[4], everything[7], True)
    before = client.models.list(limit=2, before_id=everything[3])
    assert [model.id for model in before.data] == everything[1:3]
    assert client.models.list(lifecycle=["retired"]).data == []
    created = [client.models.retrieve(id).created_at for id in everything]
    assert created == sorted(created, reverse=True)
    for query in ({"after_id": "claude-nothing"}, {"limit": 0}, {"limit": 1001}):
        with pytest.raises(anthropic.BadRequestError):
            client.models.list(**query)
    able = client.models.retrieve("claude-sonnet-5-5").capabilities
    assert able is not None
    kinds = able.thinking.types
    assert (kinds.between_tools.supported, kinds.disabled.supported) == (True, False)
    small = client.models.retrieve("claude-haiku-4-5")
    assert (small.max_tokens, small.max_input_tokens) == (64_000, 200_000)
    assert small.capabilities is not None
    assert not small.capabilities.effort.supported


def test_a_file_is_kept_listed_used_and_deleted(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    file = client.files.upload(file=("papers/lease.pdf", PDF, "application/pdf"))
    assert (file.filename, file.mime_type, file.size_bytes) == (
        "lease.pdf",
        "application/pdf",
        len(PDF),
    )
    assert not file.downloadable
    others = [client.files.upload(file=(f"{at}.txt", b"x", None)).id for at in range(3)]
    listed = [one.id for one in client.files.list(limit=2)]
    assert listed == [*reversed(others), file.id]
    assert [one.id for one in client.files.list(ids=[file.id, "file_none"])] == [file.id]
    assert client.files.retrieve_metadata(file.id) == file
    with pytest.raises(anthropic.BadRequestError, match="not downloadable") as raised:
        client.files.download(file.id)
    assert raised.value.error_code == "file_not_downloadable"
    claude_emulator.configure(downloadable_files=True)
    assert client.files.download(file.id).read() == PDF
    document = {"type": "document", "source": {"type": "file", "file_id": file.id}}
    asked = params(messages=[{"role": "user", "content": [document]}])
    assert client.messages.create(**asked).stop_reason == "end_turn"
    claude_emulator.kill()
    claude_emulator.restart()
    assert client.files.download(file.id).read() == PDF
    assert client.files.delete(file.id).type == "file_deleted"
    for call in (client.files.retrieve_metadata, client.files.download, client.files.delete):
        with pytest.raises(anthropic.NotFoundError):
            call(file.id)
    batch = client.messages.batches.create(requests=[{"custom_id": "a", "params": asked}])
    client.messages.batches.retrieve(batch.id)
    [line] = client.messages.batches.results(batch.id)
    assert line.result.type == "errored"
    assert line.result.error.error.type == "not_found_error"
    claude_emulator.reset()
    assert list(client.files.list()) == []


def test_a_file_expires_and_belongs_to_its_workspace(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"key-a": "ws-a", "key-b": "ws-b"})
    file = connect("key-a").files.upload(
        file=("a.txt", b"x"), expires_in_seconds=3600, extra_body={"purpose": "messages"}
    )
    with pytest.raises(anthropic.NotFoundError):
        connect("key-b").files.retrieve_metadata(file.id)
    claude_emulator.advance(3601)
    with pytest.raises(anthropic.NotFoundError):
        connect("key-a").files.retrieve_metadata(file.id)
    with pytest.raises(anthropic.BadRequestError, match="expires_in_seconds"):
        connect("key-a").files.upload(file=("a.txt", b"x"), expires_in_seconds=5)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\ny\r\n--b--'),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\ny'),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(
    claude_emulator: EmulatorProcess, content_type: str, body: bytes
) -> None:
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21", "content-type": content_type}
    reply = httpx2.post(f"{claude_emulator.base_url}/v1/files", headers=headers, content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_counting_is_as_strict_as_answering(client: anthropic.Anthropic) -> None:
    asked = params("How many?", max_tokens=None)
    assert client.messages.count_tokens(**asked).input_tokens < 20
    for wrong in ({"max_tokens": 5}, {"metadata": {}}, {"temperature": 0}, {"model": "claude-x"}):
        with pytest.raises(anthropic.APIStatusError) as raised:
            client.messages.count_tokens(**asked, extra_body=wrong)
        assert raised.value.status_code in (400, 404)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("The meeting was moved to Monday morning.", 0.2, 0.5),
        ("会议改到星期一上午了。请大家准时参加。", 0.9, 1.6),
        ("会議は月曜日の朝に変更されました。", 0.9, 1.6),
        ("회의가 월요일 아침으로 변경되었습니다.", 0.8, 1.6),
        ("Встреча перенесена на утро понедельника.", 0.5, 0.9),
        ("تم نقل الاجتماع إلى صباح يوم الاثنين.", 0.5, 0.9),
        ("बैठक सोमवार सुबह के लिए स्थगित कर दी गई।", 0.5, 0.9),
        ("😀🎉🚀", 2.0, 4.0),
    ],
)
def test_tokens_are_plausible_in_every_script(
    client: anthropic.Anthropic, text: str, least: float, most: float
) -> None:
    """Tokens for each sign of a text."""
    asked = params(text * 20, max_tokens=None)
    counted = client.messages.count_tokens(**asked).input_tokens
    assert least < counted / len(text * 20) < most


def test_a_429_says_when_to_come_again(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2030-01-01T00:00:00Z")
    claude_emulator.freeze_clock()
    claude_emulator.configure(queue_limit=1)
    with pytest.raises(anthropic.RateLimitError) as full:
        client.messages.batches.create(requests=requests(2))
    claude_emulator.fault("list", "rate_limited")
    with pytest.raises(anthropic.RateLimitError) as ordered:
        client.messages.batches.list()
    claude_emulator.configure(requests_per_minute=1)
    with pytest.raises(anthropic.RateLimitError) as many:
        client.messages.batches.list()
    for raised in (full, ordered, many):
        headers = raised.value.response.headers
        assert headers["retry-after"]
        assert headers["request-id"] == raised.value.request_id
        assert headers["anthropic-ratelimit-requests-reset"] == "2030-01-01T00:01:00.000000Z"
    assert many.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"anthropic-version": "2024-10-22"}, 'anthropic-version: "2024-10-22" is not a valid version'),
        ({"anthropic-beta": "message-batches-2030-01-01"}, "Unexpected value(s) `message-batches-2030"),
        ({"anthropic-beta": "output-300k-2026-03-24,x-1"}, "Unexpected value(s) `x-1`"),
    ],
)  # fmt: skip
def test_unknown_versions_and_betas_are_refused(
    client: anthropic.Anthropic, headers: dict[str, str], message: str
) -> None:
    for call in (
        lambda: client.messages.batches.list(extra_headers=headers),
        lambda: client.messages.batches.create(requests=requests(1), extra_headers=headers),
        lambda: client.messages.create(**params(), extra_headers=headers),
        lambda: client.models.list(extra_headers=headers),
    ):
        with pytest.raises(anthropic.BadRequestError) as raised:
            call()
        assert message in raised.value.message


def test_the_betas_of_a_batch_count_for_its_requests(client: anthropic.Anthropic) -> None:
    asked = params(model="claude-opus-5-5", max_tokens=300_000)
    for betas, expected in ((["output-300k-2026-03-24"], "succeeded"), ([], "errored")):
        batch = client.beta.messages.batches.create(
            requests=[{"custom_id": "long", "params": asked}], betas=betas
        )
        client.messages.batches.retrieve(batch.id)
        [line] = client.messages.batches.results(batch.id)
        assert line.result.type == expected


def test_a_relay_with_a_path_is_named_in_the_results_url(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(public_url="https://relay.example/claude/")
    batch = client.messages.batches.create(requests=requests(1))
    url = client.messages.batches.retrieve(batch.id).results_url
    assert url == f"https://relay.example/claude/v1/messages/batches/{batch.id}/results"
    with pytest.raises(EmulatorError, match="public_url"):
        claude_emulator.configure(public_url="relay.example")


def test_a_tool_that_may_be_called_is_called_now_and_then(client: anthropic.Anthropic) -> None:
    asked = requests(40, tools=[TOOL], tool_choice={"type": "auto"})
    batch = client.messages.batches.create(requests=asked)
    client.messages.batches.retrieve(batch.id)
    reasons = [
        line.result.message.stop_reason for line in client.messages.batches.results(batch.id)
    ]
    assert set(reasons) == {"tool_use", "end_turn"}
    assert 5 < reasons.count("tool_use") < 25


@pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-sonnet-5-5"])
def test_newer_models_cache_from_512_tokens(client: anthropic.Anthropic, model: str) -> None:
    def written(signs: int) -> int | None:
        system = [{"type": "text", "text": "x" * signs, "cache_control": {"type": "ephemeral"}}]
        usage = client.messages.create(**params(model=model, system=system)).usage
        return usage.cache_creation_input_tokens

    assert written(1_270) == 0
    assert written(1_280) == 512


def test_where_it_is_computed_may_cost_more(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    def cost(**changes: Any) -> float:
        before = float(claude_emulator.bill()["messages_usd"])
        message = client.messages.create(**params(model="claude-opus-4-8", **changes))
        assert message.usage.inference_geo == changes.get("inference_geo", "not_available")
        return float(claude_emulator.bill()["messages_usd"]) - before

    assert cost(inference_geo="us") == pytest.approx(1.1 * cost())
    assert cost(inference_geo="global") == pytest.approx(cost())
