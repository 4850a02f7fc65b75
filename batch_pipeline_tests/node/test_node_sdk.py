"""The emulator, as the official Node SDK sees it: a client that is not written for it, nor by us."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.emulator import EmulatorProcess

FOLDER = Path(__file__).parent
INSTALL_SECONDS = 600
CALL_SECONDS = 120
TEXTS = {
    "umlaut": "Grüße aus Köln für 12 €",
    "far-away": "日本語の請求書 🦆",
    "two_lines": "one line\u2028that JavaScript once broke in two",
}


class NodeError(Exception):
    """A call that the SDK answered with an error; ``seen`` is what a program would branch on."""

    def __init__(self, seen: dict[str, Any]) -> None:
        super().__init__(f"{seen['class']}: {seen['message']}")
        self.seen = seen


class NodeClient:
    """The Node SDK in a process of its own; ``client("messages.batches.list", {...})`` is a call."""

    def __init__(self, base_url: str, **settings: Any) -> None:
        given = json.dumps({"apiKey": "test-key", "baseURL": base_url, **settings})
        self._process = subprocess.Popen(
            ["node", "call.mjs", given],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The SDK would take these, and a proxy, for its own.
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        )

    def __enter__(self) -> "NodeClient":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=CALL_SECONDS)
        finally:
            self._process.kill()

    def __call__(self, call: str, *args: Any, take: int | None = None) -> Any:
        assert self._process.stdin and self._process.stdout
        line = json.dumps({"call": call, "args": args, "take": take})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        outcome = json.loads(self._process.stdout.readline())
        if "error" in outcome:
            raise NodeError(outcome["error"])
        return outcome.get("value")


@pytest.fixture(scope="session")
def node_sdk() -> None:
    """Install what package-lock.json names, unless that is done."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        reason = (
            "THE NODE SDK WAS NOT TRIED: node and npm are not on the PATH. Install Node 20 or newer "
            "to see what another client than ours makes of the emulator."
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the workers of one test run come here at once
        if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, f"`npm ci` in {FOLDER} failed:\n{done.stdout}{done.stderr}"
        installed.touch()


@pytest.fixture
def connect(
    node_sdk: None, claude_emulator: EmulatorProcess
) -> Iterator[Callable[..., NodeClient]]:
    """Make clients of the emulator."""
    with ExitStack() as clients:
        yield lambda **settings: clients.enter_context(
            NodeClient(claude_emulator.base_url, **settings)
        )


@pytest.fixture
def client(connect: Callable[..., NodeClient]) -> NodeClient:
    return connect()


def asked(custom_id: str, text: str, **more: Any) -> dict[str, Any]:
    """One request of a batch."""
    return {
        "custom_id": custom_id,
        "params": {
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": text}],
            **more,
        },
    }


def created(client: NodeClient, *requests: dict[str, Any]) -> dict[str, Any]:
    return client("messages.batches.create", {"requests": list(requests) or [asked("one", "a")]})


def refused(client: NodeClient, call: str, *args: Any) -> dict[str, Any]:
    """What a call's error says."""
    with pytest.raises(NodeError) as caught:
        client(call, *args)
    return caught.value.seen


def test_a_batch_is_created_polled_and_read(
    client: NodeClient, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=600)
    batch = created(client, *(asked(name, text) for name, text in TEXTS.items()))
    assert batch["type"] == "message_batch" and batch["processing_status"] == "in_progress"
    assert batch["request_counts"] == {
        "processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert (batch["results_url"], batch["ended_at"], batch["archived_at"]) == (None, None, None)
    seen = refused(client, "messages.batches.results", batch["id"])
    assert "No batch `results_url`" in seen["message"] and "in_progress" in seen["message"]

    claude_emulator.advance(601)
    ended = client("messages.batches.retrieve", batch["id"])
    assert ended["processing_status"] == "ended" and ended["ended_at"] > ended["created_at"]
    assert ended["request_counts"]["succeeded"] == 3 and not ended["request_counts"]["processing"]
    lines = client("messages.batches.results", batch["id"])
    results = {line["custom_id"]: line["result"] for line in lines}
    assert len(lines) == 3 and set(results) == set(TEXTS)
    for result in results.values():
        message = result["message"]
        assert result["type"] == "succeeded"
        assert (message["type"], message["role"]) == ("message", "assistant")
        assert message["model"].startswith("claude-haiku-4-5")
        assert message["stop_reason"] == "end_turn" and message["stop_details"] is None
        assert message["usage"]["service_tier"] == "batch"
    texts = {name: result["message"]["content"][0]["text"] for name, result in results.items()}
    assert texts["umlaut"] == TEXTS["umlaut"] and texts["far-away"] == TEXTS["far-away"]
    usage = {name: result["message"]["usage"] for name, result in results.items()}
    assert all(one["input_tokens"] and one["output_tokens"] for one in usage.values())
    billed = claude_emulator.billed_requests()
    assert {one["custom_id"]: one["usage"] for one in billed} == usage
    assert claude_emulator.bill()["requests"] == 3


def test_text_of_any_script_gets_there_as_it_was(
    client: NodeClient, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(answers="digest")
    batch = created(client, *(asked(name, text) for name, text in TEXTS.items()))
    results = client("messages.batches.results", batch["id"])
    assert {line["custom_id"]: line["result"]["message"]["content"] for line in results} == {
        name: [{"type": "text", "text": hashlib.sha256(text.encode()).hexdigest()}]
        for name, text in TEXTS.items()
    }


def test_answers_under_a_schema_and_a_large_batch_arrive_whole(client: NodeClient) -> None:
    schema = {
        "type": "object",
        "properties": {"supplier": {"type": "string"}, "note": {"type": "string"}},
        "required": ["supplier", "note"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    count = 1_500  # over several chunks of the stream, whose ends fall into characters
    note = "päällystys 漆 " * 40
    texts = [f"Supplier: Väinö {number} Oy\nNote: {note}" for number in range(count)]
    batch = created(
        client,
        *(
            asked(f"r-{n}", text, output_config=form, max_tokens=4_000)
            for n, text in enumerate(texts)
        ),
    )
    found = {}
    for line in client("messages.batches.results", batch["id"]):
        (block,) = line["result"]["message"]["content"]
        found[line["custom_id"]] = json.loads(block["text"])
    assert len(found) == count
    assert all(found[f"r-{n}"]["supplier"] == f"Väinö {n} Oy" for n in range(count))
    assert {one["note"] for one in found.values()} == {note.strip()}


def test_each_kind_of_result_is_the_kind_that_the_sdk_knows(
    client: NodeClient, claude_emulator: EmulatorProcess
) -> None:
    wanted = ("errored", "expired", "invalid", "refused", "truncated")
    claude_emulator.configure(outcomes={f"be {outcome}": outcome for outcome in wanted})
    batch = created(
        client, *(asked(name, f"Please be {name}, for once") for name in (*wanted, "fine"))
    )
    results = {
        line["custom_id"]: line["result"]
        for line in client("messages.batches.results", batch["id"])
    }
    assert {name: result["type"] for name, result in results.items()} == {
        "errored": "errored",
        "expired": "expired",
        "invalid": "errored",
        "refused": "succeeded",
        "truncated": "succeeded",
        "fine": "succeeded",
    }
    # An error of a result is a whole error document: the reason is one level further down.
    assert results["errored"]["error"]["type"] == "error"
    assert results["errored"]["error"]["error"]["type"] in ("api_error", "overloaded_error")
    assert results["invalid"]["error"]["error"]["type"] == "invalid_request_error"
    assert results["refused"]["message"]["stop_reason"] == "refusal"
    assert results["refused"]["message"]["stop_details"]["type"] == "refusal"
    assert results["truncated"]["message"]["stop_reason"] == "max_tokens"
    counts = client("messages.batches.retrieve", batch["id"])["request_counts"]
    assert (counts["succeeded"], counts["errored"], counts["expired"]) == (3, 2, 1)


def test_the_list_pages_by_itself_newest_first(client: NodeClient) -> None:
    made = [created(client)["id"] for _ in range(7)]
    listed = client("messages.batches.list", {"limit": 3})
    assert [batch["id"] for batch in listed] == made[::-1]
    assert client("messages.batches.list", {"limit": 3}, take=4)[3]["id"] == made[3]
    older = client("messages.batches.list", {"after_id": made[2]})
    assert [batch["id"] for batch in older] == [made[1], made[0]]


def test_a_batch_is_canceled_and_deleted(
    client: NodeClient, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    batch = created(client, asked("one", "a"), asked("two", "b"))
    open_still = refused(client, "messages.batches.delete", batch["id"])
    assert (open_still["class"], open_still["status"]) == ("BadRequestError", 400)
    assert "still processing" in open_still["message"]
    canceling = client("messages.batches.cancel", batch["id"])
    assert canceling["processing_status"] == "canceling"
    assert canceling["cancel_initiated_at"] >= batch["created_at"]
    claude_emulator.end()
    results = client("messages.batches.results", batch["id"])
    assert {line["custom_id"]: line["result"] for line in results} == {
        "one": {"type": "canceled"},
        "two": {"type": "canceled"},
    }
    assert claude_emulator.bill()["requests"] == 0
    too_late = refused(client, "messages.batches.cancel", batch["id"])
    assert (too_late["class"], too_late["type"]) == ("BadRequestError", "invalid_request_error")
    deleted = client("messages.batches.delete", batch["id"])
    assert deleted == {"id": batch["id"], "type": "message_batch_deleted"}
    for call in ("retrieve", "results", "cancel", "delete"):
        gone = refused(client, f"messages.batches.{call}", batch["id"])
        assert (gone["class"], gone["status"], gone["type"]) == (
            "NotFoundError",
            404,
            "not_found_error",
        )
        assert gone["isApiError"] and gone["requestID"].startswith("req_")
        assert gone["body"]["error"]["message"] == f"No Message Batch {batch['id']} exists"
    assert client("messages.batches.list") == []


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "requests: List should have at least 1 item"),
        ([asked("a", "x"), asked("a", "y")], "requests.1.custom_id: Duplicate custom_id: 'a'"),
        ([asked("not an id", "x")], "requests.0.custom_id"),
    ],
)
def test_a_batch_that_cannot_be_is_a_bad_request(
    client: NodeClient, requests: list[Any], message: str
) -> None:
    seen = refused(client, "messages.batches.create", {"requests": requests})
    assert (seen["class"], seen["status"]) == ("BadRequestError", 400)
    assert seen["type"] == "invalid_request_error"
    assert message in seen["body"]["error"]["message"]
    assert seen["requestID"] == seen["body"]["request_id"]


def test_a_request_that_cannot_be_is_an_errored_result(client: NodeClient) -> None:
    """Params are looked at only when a batch is worked off."""
    endless = asked("endless", "x")
    del endless["params"]["max_tokens"]
    batch = created(client, asked("streamed", "x", stream=True), endless, asked("fine", "x"))
    results = {
        line["custom_id"]: line["result"]
        for line in client("messages.batches.results", batch["id"])
    }
    assert results["fine"]["type"] == "succeeded"
    for name, parameter in (("streamed", "stream"), ("endless", "max_tokens")):
        assert results[name]["type"] == "errored"
        reason = results[name]["error"]["error"]
        assert reason["type"] == "invalid_request_error" and parameter in reason["message"]


def test_keys_limits_and_troubles_are_the_classes_that_a_program_catches(
    connect: Callable[..., NodeClient], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"test-key": "ours"}, queue_limit=1)
    body = {"requests": [asked("one", "a"), asked("two", "b")]}
    create = "messages.batches.create"
    stranger = refused(connect(apiKey="another"), create, body)
    assert (stranger["class"], stranger["type"]) == ("AuthenticationError", "authentication_error")
    client = connect()
    full = refused(client, create, body)
    assert (full["class"], full["status"]) == ("RateLimitError", 429)
    claude_emulator.configure(queue_limit=100)
    claude_emulator.fault("spend_limit")
    # A class of its own, by the error_code in the body: waiting does not help.
    assert refused(client, create, body)["class"] == "EnforcedSpendLimitReachedError"
    for status, name in ((403, "PermissionDeniedError"), (500, "InternalServerError")):
        claude_emulator.clear_faults()
        claude_emulator.fault("list", "status_before", status=status, message="Sorry")
        seen = refused(client, "messages.batches.list")
        assert (seen["class"], seen["status"]) == (name, status)
    claude_emulator.clear_faults()
    claude_emulator.fault("list", "drop_before")
    seen = refused(client, "messages.batches.list")
    assert (seen["class"], seen["status"]) == ("APIConnectionError", None)
    assert claude_emulator.bill()["batches"] == 0


def test_the_sdks_own_retries_outlast_a_passing_error(
    connect: Callable[..., NodeClient], claude_emulator: EmulatorProcess
) -> None:
    client = connect(maxRetries=2)
    batch = created(client)
    claude_emulator.fault("retrieve", "status_before", status=529, message="Overloaded")
    assert client("messages.batches.retrieve", batch["id"])["id"] == batch["id"]
    calls = claude_emulator.stats()["calls"]
    assert calls["GET /v1/messages/batches/{batch_id}"] == 2
