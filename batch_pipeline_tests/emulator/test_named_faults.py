"""Faults by name, as the real SDK sees them: the right shape, the right moment, the right bill."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.shared import EnforcedSpendLimitReachedError

from batch_pipeline.emulator import EmulatorError, EmulatorProcess, RunningEmulator
from batch_pipeline.emulator.faults import KINDS
from batch_pipeline_tests.support.api_requests import requests


def statuses(client: anthropic.Anthropic, id: str) -> Counter[str]:
    return Counter(line.result.type for line in client.messages.batches.results(id))


@pytest.fixture
def batch(client: anthropic.Anthropic) -> str:
    """Id of a batch of ten requests that nobody has looked at."""
    return client.messages.batches.create(requests=requests(10)).id


# Errors


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "error", "status", "type"),
    [
        ("internal_error", anthropic.InternalServerError, 500, "api_error"),
        ("gateway_timeout", anthropic.GatewayTimeoutError, 504, "timeout_error"),
        ("overloaded", anthropic.OverloadedError, 529, "overloaded_error"),
        ("request_timeout", anthropic.RequestTimeoutError, 408, "timeout_error"),
        ("conflict", anthropic.ConflictError, 409, "conflict_error"),
    ],
)
def test_an_error_before_and_after_the_batch_is_accepted(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    kind: str,
    error: type[anthropic.APIStatusError],
    status: int,
    type: str,
    when: str,
) -> None:
    claude_emulator.fault("create", kind, when=when)
    with pytest.raises(error) as raised:
        client.messages.batches.create(requests=requests(2))
    assert (raised.value.status_code, raised.value.type) == (status, type)
    assert raised.value.request_id and raised.value.workspace_id == "default"
    made = 1 if when == "after" else 0
    assert claude_emulator.bill()["requests"] == 2 * made
    assert len(claude_emulator.batches()) == made


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_a_proxys_page_has_none_of_the_apis_headers(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, when: str, made: int
) -> None:
    claude_emulator.fault("create", "bad_gateway", when=when)
    with pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.status_code == 502
    assert "502 Bad Gateway" in str(raised.value.body)
    assert raised.value.request_id is None and raised.value.workspace_id is None
    assert len(claude_emulator.batches()) == made


@pytest.mark.parametrize("on", ["list", "retrieve", "results"])
def test_a_look_that_fails(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str, on: str
) -> None:
    look: dict[str, Callable[[], Any]] = {
        "list": client.messages.batches.list,
        "retrieve": lambda: client.messages.batches.retrieve(batch),
        "results": lambda: client.messages.batches.results(batch),
    }
    claude_emulator.fault(on, "internal_error")
    with pytest.raises(anthropic.InternalServerError):
        look[on]()
    look[on]()


def test_a_body_that_is_called_too_large(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("request_too_large")
    with pytest.raises(anthropic.ContentTooLargeError) as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.type == "request_too_large"


@pytest.mark.parametrize(("kind", "seconds"), [("queue_full", "30"), ("rate_limited", "7")])
def test_a_429_that_passes_says_when(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, kind: str, seconds: str
) -> None:
    claude_emulator.fault(kind)
    claude_emulator.fault("create", kind, nth=2, retry_after=None)
    for retry_after in (seconds, None):
        with pytest.raises(anthropic.RateLimitError) as raised:
            client.messages.batches.create(requests=requests(1))
        assert raised.value.type == "rate_limit_error"
        assert raised.value.response.headers.get("retry-after") == retry_after
    assert claude_emulator.batches() == []


def test_a_spend_limit_is_a_429_without_retry_after(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2031-12-24T00:00:00Z")
    claude_emulator.fault("spend_limit")
    with pytest.raises(EnforcedSpendLimitReachedError, match="2032-01-01") as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in raised.value.response.headers


def test_the_organizations_own_spend_limit_is_a_400(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2031-02-24T00:00:00Z")
    claude_emulator.fault("own_spend_limit")
    with pytest.raises(anthropic.BadRequestError, match=r"API usage limits.*2031-03-01") as raised:
        client.messages.batches.create(requests=requests(1))
    assert raised.value.type == "invalid_request_error"


# Connections and redirects


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_a_reply_slower_than_the_time_out_comes_never(
    connect: Callable[..., anthropic.Anthropic],
    claude_emulator: EmulatorProcess,
    when: str,
    made: int,
) -> None:
    claude_emulator.fault("create", "slow_reply", when=when)
    with pytest.raises(anthropic.APITimeoutError):
        connect(timeout=0.3).messages.batches.create(requests=requests(3))
    assert len(claude_emulator.batches()) == made


def test_a_slow_reply_is_slow_after_the_call_unless_told_otherwise(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "slow_reply")
    with pytest.raises(anthropic.APITimeoutError):
        connect(timeout=0.3).messages.batches.create(requests=requests(3))
    assert claude_emulator.bill()["requests"] == 3


def test_a_reset_ends_a_call_whose_reply_never_comes(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "slow_reply")
    failures: list[Exception] = []

    def look() -> None:
        try:
            client.messages.batches.list()
        except anthropic.APIConnectionError as error:
            failures.append(error)

    waiting = threading.Thread(target=look)
    waiting.start()
    while not claude_emulator.faults()[0]["hits"]:
        time.sleep(0.01)
    claude_emulator.reset()
    waiting.join(30)
    assert len(failures) == 1


def test_a_redirect_makes_nothing_and_points_to_nobody(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "redirect", times=2)
    with pytest.raises(anthropic.APIConnectionError):  # The SDK follows it, and finds no host.
        client.messages.batches.create(requests=requests(1))
    reply = httpx2.post(
        f"{claude_emulator.base_url}/v1/messages/batches", json={}, follow_redirects=False
    )
    assert reply.status_code == 307
    assert reply.headers["location"] == "https://elsewhere.invalid/v1/messages/batches"
    assert claude_emulator.batches() == []


def test_results_elsewhere_are_asked_for_elsewhere(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    batch: str,
    elsewhere: tuple[str, list[str]],
) -> None:
    url, asked = elsewhere
    claude_emulator.fault("results_elsewhere", url=url)
    with pytest.raises(anthropic.NotFoundError):
        list(client.messages.batches.results(batch))
    assert asked == [f"/v1/messages/batches/{batch}/results"]
    claude_emulator.fault("list", "results_elsewhere")
    [listed] = client.messages.batches.list().data
    assert listed.results_url == f"https://elsewhere.invalid/v1/messages/batches/{batch}/results"


def test_an_open_batch_has_no_results_elsewhere_either(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str
) -> None:
    claude_emulator.configure(manual=True)
    open = client.messages.batches.create(requests=requests(1)).id
    claude_emulator.fault("results_elsewhere")
    assert client.messages.batches.retrieve(open).results_url is None


# The list


def test_a_list_that_lags_lacks_the_newest_on_every_page(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    ids = [client.messages.batches.create(requests=requests(1)).id for _ in range(3)]
    claude_emulator.advance(100)
    young = client.messages.batches.create(requests=requests(1)).id
    claude_emulator.fault("list_lag", times=None)
    page = client.messages.batches.list(limit=1)
    assert [one.id for one in page.data] == [ids[2]]
    assert [one.id for one in page] == ids[::-1]
    assert client.messages.batches.retrieve(young).id == young
    claude_emulator.advance(60)
    assert [one.id for one in client.messages.batches.list()] == [young, *ids[::-1]]


def test_a_list_can_lack_so_many_of_the_newest(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    ids = [client.messages.batches.create(requests=requests(1)).id for _ in range(4)]
    claude_emulator.fault("list_lag", newest=3, times=None)
    assert [one.id for one in client.messages.batches.list(limit=1)] == [ids[0]]
    assert [one.id for one in client.messages.batches.list(after_id=ids[3])] == [ids[0]]
    newer = client.messages.batches.list(before_id=ids[0])
    assert newer.data == [] and newer.has_more is False
    claude_emulator.clear_faults("list_lag")
    assert len(client.messages.batches.list().data) == 4


# Results


def test_a_garbage_line_is_no_text_and_the_others_are_whole(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str
) -> None:
    client.messages.batches.retrieve(batch)
    claude_emulator.fault("garbage_line", line=3)
    with pytest.raises(ValueError):
        list(client.messages.batches.results(batch))
    claude_emulator.fault("garbage_line", line=3)
    url = f"/v1/messages/batches/{batch}/results"
    damaged = client.get(url, cast_to=httpx2.Response).read().split(b"\n")
    honest = client.get(url, cast_to=httpx2.Response).read().split(b"\n")
    assert len(damaged) == len(honest) == 11
    differing = [index for index in range(11) if damaged[index] != honest[index]]
    assert differing == [2]
    with pytest.raises(UnicodeDecodeError):
        damaged[2].decode()


@pytest.mark.parametrize(("instead", "count"), [(False, 11), (True, 10)])
def test_a_line_of_a_foreign_custom_id(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    batch: str,
    instead: bool,
    count: int,
) -> None:
    claude_emulator.fault("foreign_line", line=2, instead=instead)
    seen = [line.custom_id for line in client.messages.batches.results(batch)]
    assert len(seen) == count and seen[1] == "somebody-elses"
    assert len({one for one in seen if one.startswith("record-")}) == (9 if instead else 10)


# What becomes of batches


def test_a_batch_expires_half_way_and_half_is_paid(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("expire_half_way")
    made = client.messages.batches.create(requests=requests(10))
    assert made.processing_status == "in_progress"
    found = client.messages.batches.retrieve(made.id)
    assert found.processing_status == "ended" and found.results_url
    assert (found.request_counts.succeeded, found.request_counts.expired) == (5, 5)
    assert statuses(client, made.id) == {"succeeded": 5, "expired": 5}
    assert claude_emulator.bill()["requests"] == 5
    paid = [line for line in claude_emulator.billed_requests() if line["usd"] != "0"]
    assert len(paid) == 5


@pytest.mark.parametrize(("count", "share", "answered"), [(2, 0.01, 1), (2, 0.99, 1), (1, 0.5, 0)])
def test_half_way_is_never_all_or_nothing(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    count: int,
    share: float,
    answered: int,
) -> None:
    claude_emulator.fault("expire_half_way", share=share)
    id = client.messages.batches.create(requests=requests(count)).id
    assert client.messages.batches.retrieve(id).request_counts.succeeded == answered


def test_somebody_cancels_the_oldest_open_batch_on_the_second_list(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=3600)
    ended = client.messages.batches.create(requests=requests(1))
    claude_emulator.end(ended.id)
    ids = [client.messages.batches.create(requests=requests(4)).id for _ in range(2)]
    claude_emulator.fault("list", "cancel_half_way", nth=2, share=0.25)
    assert all(one.cancel_initiated_at is None for one in client.messages.batches.list())
    newer, older, _ = client.messages.batches.list().data
    assert (newer.id, newer.processing_status) == (ids[1], "in_progress")
    assert older.processing_status == "ended" and older.cancel_initiated_at is not None
    assert (older.request_counts.succeeded, older.request_counts.canceled) == (1, 3)
    assert statuses(client, ids[0]) == {"succeeded": 1, "canceled": 3}
    assert claude_emulator.bill()["requests"] == 2


def test_a_manual_batch_that_somebody_cancels_is_canceling_until_it_is_ended(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    claude_emulator.fault("cancel_half_way")
    id = client.messages.batches.create(requests=requests(4)).id
    canceling = client.messages.batches.retrieve(id)
    assert canceling.processing_status == "canceling"
    assert canceling.request_counts.processing == 4
    claude_emulator.end()
    assert client.messages.batches.retrieve(id).request_counts.canceled == 2


def test_somebody_deletes_a_batch_and_what_was_answered_stays_on_the_bill(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str
) -> None:
    client.messages.batches.retrieve(batch)
    before = claude_emulator.bill(), claude_emulator.billed_requests()
    claude_emulator.fault("delete_batch")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.results(batch)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch)
    assert client.messages.batches.list().data == []
    assert (claude_emulator.bill(), claude_emulator.billed_requests()) == before
    assert claude_emulator.bill()["requests"] == 10


def test_a_batch_is_deleted_between_the_look_at_it_and_its_results(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str
) -> None:
    claude_emulator.fault("results", "delete_batch")
    assert client.messages.batches.retrieve(batch).results_url
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.results(batch)


def test_an_open_batch_ends_and_is_paid_before_it_is_deleted(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    claude_emulator.fault("create", "delete_batch")
    id = client.messages.batches.create(requests=requests(3)).id
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(id)
    assert claude_emulator.bill()["requests"] == 3


def test_results_past_their_time_are_archived(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, batch: str
) -> None:
    url = client.messages.batches.retrieve(batch).results_url
    assert url is not None
    claude_emulator.fault("archive_results")
    archived = client.messages.batches.retrieve(batch)
    assert archived.processing_status == "ended" and archived.request_counts.succeeded == 10
    assert archived.archived_at is not None and archived.results_url is None
    with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
        client.messages.batches.results(batch)
    with pytest.raises(anthropic.NotFoundError):
        client.get(url, cast_to=object)
    [listed] = client.messages.batches.list().data
    assert listed.archived_at == archived.archived_at
    assert claude_emulator.bill()["requests"] == 10


@pytest.mark.parametrize(
    ("which", "hit"), [("newest", [2]), ("oldest", [0]), ("all", [0, 1, 2]), ("second", [1])]
)
def test_which_batch_can_be_said(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, which: str, hit: list[int]
) -> None:
    claude_emulator.configure(manual=True)
    ids = [client.messages.batches.create(requests=requests(2)).id for _ in range(3)]
    chosen = ids[1] if which == "second" else which
    claude_emulator.fault("list", "expire_half_way", which=chosen)
    ended = [one.id for one in client.messages.batches.list() if one.processing_status == "ended"]
    assert sorted(ended) == sorted(ids[index] for index in hit)


def test_what_becomes_of_a_batch_is_about_the_callers_workspace(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"one": "w1", "two": "w2"}, manual=True)
    theirs = connect("one").messages.batches.create(requests=requests(2)).id
    mine = connect("two").messages.batches.create(requests=requests(2)).id
    claude_emulator.fault("list", "expire_half_way", key="two")
    connect("one").messages.batches.list()
    connect("two").messages.batches.list()
    assert connect("one").messages.batches.retrieve(theirs).processing_status == "in_progress"
    assert connect("two").messages.batches.retrieve(mine).processing_status == "ended"


# Keys and the clock


def test_a_key_is_revoked_in_the_night(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    mine, theirs = connect("mine"), connect("theirs")
    claude_emulator.fault("list", "revoke_key", nth=2, key="mine")
    id = mine.messages.batches.create(requests=requests(1)).id
    mine.messages.batches.list()
    theirs.messages.batches.list()
    with pytest.raises(anthropic.AuthenticationError) as raised:
        mine.messages.batches.list()
    assert raised.value.type == "authentication_error"
    assert raised.value.workspace_id is None
    for call in (
        lambda: mine.messages.batches.retrieve(id),
        lambda: mine.messages.batches.create(requests=requests(1)),
    ):
        with pytest.raises(anthropic.AuthenticationError):
            call()
    assert theirs.messages.batches.retrieve(id).id == id
    claude_emulator.clear_faults()
    assert mine.messages.batches.retrieve(id).id == id
    assert claude_emulator.bill()["batches"] == 1


def test_a_moved_key_sees_nothing_of_its_old_workspace(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    client = connect()
    old = client.messages.batches.create(requests=requests(1)).id
    claude_emulator.fault("move_key", workspace="w2")
    raw = client.messages.batches.with_raw_response.list()
    assert raw.headers["anthropic-workspace-id"] == "w2" and raw.parse().data == []
    for look in (client.messages.batches.retrieve, client.messages.batches.results):
        with pytest.raises(anthropic.NotFoundError) as raised:
            look(old)
        assert raised.value.workspace_id == "w2"
    new = client.messages.batches.create(requests=requests(1)).id
    assert [one.id for one in client.messages.batches.list()] == [new]
    claude_emulator.clear_faults("move_key")
    back = client.messages.batches.with_raw_response.list()
    assert back.headers["anthropic-workspace-id"] == "default"
    assert [one.id for one in back.parse().data] == [old]


def test_a_key_that_is_no_good_is_not_moved(
    connect: Callable[..., anthropic.Anthropic], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(keys={"good": "w1"})
    claude_emulator.fault("move_key")
    with pytest.raises(anthropic.AuthenticationError):
        connect("bad").messages.batches.list()


@pytest.mark.parametrize("seconds", [-3600, 900])
def test_the_servers_clock_is_off_everywhere_and_until_it_is_set_right(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess, seconds: int
) -> None:
    claude_emulator.freeze_clock()
    now = datetime.fromtimestamp(claude_emulator.now(), UTC)
    off = timedelta(seconds=seconds)

    def times(id: str) -> list[timedelta | None]:
        shown = client.messages.batches.retrieve(id)
        return [
            moment and moment - now
            for moment in (shown.created_at, shown.expires_at, shown.ended_at, shown.archived_at)
        ]

    day, none = timedelta(days=1), timedelta(0)
    claude_emulator.fault("clock_skew", seconds=seconds)
    raw = client.messages.batches.with_raw_response.create(requests=requests(1))
    batch = raw.parse()
    assert batch.created_at - now == off
    assert parsedate_to_datetime(raw.headers["date"]) == (now + off).replace(microsecond=0)
    assert times(batch.id) == [off, off + day, off, None]
    [listed] = client.messages.batches.list().data
    assert (listed.created_at - now, listed.ended_at and listed.ended_at - now) == (off, off)
    claude_emulator.clear_faults()
    assert times(batch.id) == [none, day, none, None]
    # A list that lags at the same time is not confused by it.
    claude_emulator.advance(10)
    claude_emulator.fault("clock_skew", seconds=seconds)
    claude_emulator.fault("list_lag", seconds=5)
    assert [one.id for one in client.messages.batches.list()] == [batch.id]


def test_a_lasting_fault_can_last_for_so_many_calls(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "revoke_key", times=2)
    client.models.list()
    for call in (client.messages.batches.list, client.models.list):
        with pytest.raises(anthropic.AuthenticationError):
            call()
    client.messages.batches.list()


# All of them


def test_every_fault_is_described_with_its_calls_and_settings(
    claude_emulator: EmulatorProcess,
) -> None:
    kinds = claude_emulator._call("GET", "kinds")
    assert list(kinds) == list(KINDS)
    assert all(kind["does"].endswith(".") for kind in kinds.values())
    assert kinds["queue_full"]["on"] == "create" and kinds["queue_full"]["calls"] == ["create"]
    assert kinds["queue_full"]["settings"] == {
        **{"retry_after": 30, "when": "before"},
        **{"nth": 1, "times": 1, "batch_id": None, "key": None},
    }
    assert kinds["clock_skew"]["settings"]["times"] is None
    assert kinds["clock_skew"]["settings"]["seconds"] == "(required)"


def test_every_fault_can_be_laid_by_its_name_and_is_in_the_docs(
    claude_emulator: EmulatorProcess, request: pytest.FixtureRequest
) -> None:
    needed: dict[str, Any] = {"fields": {}, "seconds": 1, "text": "x"}
    for kind in KINDS.values():
        missing = {name: needed[name] for name, one in kind.settings.items() if one.required}
        claude_emulator.fault(kind.name, **missing)
    assert [fault["kind"] for fault in claude_emulator.faults()] == list(KINDS)
    page = (request.config.rootpath / "docs" / "emulator.md").read_text()
    assert {name for name in KINDS if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("names", "settings", "why"),
    [
        (("queue_ful",), {}, "did you mean queue_full"),
        (("list", "queue_full"), {}, "makes no sense on list; it does on create"),
        (("clock_skew",), {}, "needs the setting seconds"),
        (("overloaded",), {"when": "later"}, "it is before or after"),
        (("list_lag",), {"seconds": "soon"}, "seconds cannot be 'soon'; it is a number or none"),
        (("drop_after",), {"nth": 0}, "nth must be 1 or more"),
        (("drop_after",), {"times": 0}, "times must be 1 or more"),
        (("create", "delete_batch"), {"batch_id": "x"}, "`which` says which batch"),
        (("list", "drop_after"), {"batch_id": "x"}, "not about one batch"),
    ],
)
def test_a_fault_that_could_never_hit_is_refused(
    claude_emulator: EmulatorProcess, names: tuple[str, ...], settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(EmulatorError, match=re.escape(why)):
        claude_emulator.fault(*names, **settings)
    assert claude_emulator.faults() == []


def test_somebody_elses_emulator_can_be_steered(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    there = RunningEmulator(claude_emulator.base_url)
    there.fault("queue_full")
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=requests(1))
    assert there.stats()["calls"] == {"POST /v1/messages/batches": 1}
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8787"):
        RunningEmulator("localhost:8787")
