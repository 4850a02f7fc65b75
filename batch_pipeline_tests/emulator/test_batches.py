"""The life of a batch, as the real SDK sees it."""

import hashlib
from datetime import timedelta

import anthropic
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.api_requests import params, requests

DAY = 24 * 3600


def test_a_batch_ends_at_the_first_look(client: anthropic.Anthropic) -> None:
    created = client.messages.batches.create(requests=requests(3))
    assert created.processing_status == "in_progress"
    assert created.request_counts.processing == 3
    assert created.results_url is None
    assert created.expires_at - created.created_at == timedelta(hours=24)

    ended = client.messages.batches.retrieve(created.id)
    assert ended.processing_status == "ended"
    assert ended.request_counts.processing == 0
    assert ended.request_counts.succeeded == 3
    assert ended.ended_at is not None
    assert ended.results_url is not None
    assert ended.results_url.startswith(str(client.base_url))


def test_results_hold_every_request_once_in_another_order(client: anthropic.Anthropic) -> None:
    asked = requests(50)
    batch = client.messages.batches.create(requests=asked)
    client.messages.batches.retrieve(batch.id)
    results = [line.custom_id for line in client.messages.batches.results(batch.id)]
    assert results != [request["custom_id"] for request in asked]
    assert sorted(results) == sorted(request["custom_id"] for request in asked)
    again = [line.custom_id for line in client.messages.batches.results(batch.id)]
    assert again == results


def test_results_are_answered_as_jsonl_without_a_length(client: anthropic.Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests(2))
    with client.messages.batches.with_streaming_response.results(batch.id) as reply:
        assert reply.headers["content-type"] == "application/x-jsonl"
        assert "content-length" not in reply.headers
        assert len(list(reply.iter_lines())) == 2


def test_counts_stay_zero_until_the_whole_batch_has_ended(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=100)
    batch = client.messages.batches.create(requests=requests(4))
    claude_emulator.advance(99)
    counts = client.messages.batches.retrieve(batch.id).request_counts
    assert (counts.processing, counts.succeeded) == (4, 0)
    claude_emulator.advance(2)
    counts = client.messages.batches.retrieve(batch.id).request_counts
    assert (counts.processing, counts.succeeded) == (0, 4)


def test_a_manual_batch_ends_only_when_told(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    first, second = (client.messages.batches.create(requests=requests(1)) for _ in range(2))
    claude_emulator.advance(3600)
    assert client.messages.batches.retrieve(first.id).processing_status == "in_progress"
    assert claude_emulator.end(first.id) == 1
    assert client.messages.batches.retrieve(first.id).processing_status == "ended"
    assert client.messages.batches.retrieve(second.id).processing_status == "in_progress"
    assert claude_emulator.end() == 1
    assert client.messages.batches.retrieve(second.id).processing_status == "ended"


def test_the_list_is_newest_first_and_pages_through_all(client: anthropic.Anthropic) -> None:
    made = [client.messages.batches.create(requests=requests(1)).id for _ in range(7)]
    assert [batch.id for batch in client.messages.batches.list(limit=3)] == made[::-1]
    page = client.messages.batches.list(limit=3)
    assert page.has_more
    assert (page.first_id, page.last_id) == (made[6], made[4])
    page = client.messages.batches.list(before_id=made[2], limit=2)
    assert [batch.id for batch in page.data] == [made[4], made[3]]
    assert page.has_more
    page = client.messages.batches.list(before_id=made[4], limit=5)
    assert [batch.id for batch in page.data] == [made[6], made[5]]
    assert not page.has_more
    page = client.messages.batches.list(after_id=made[1])
    assert [batch.id for batch in page.data] == [made[0]]


def test_an_empty_list_has_no_ids(client: anthropic.Anthropic) -> None:
    page = client.messages.batches.list()
    assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"after_id": "msgbatch_no"}])
def test_an_unusable_page_is_refused(client: anthropic.Anthropic, query: dict) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.list(**query)


def test_canceling_keeps_what_was_done_and_bills_only_that(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=100)
    batch = client.messages.batches.create(requests=requests(200))
    claude_emulator.advance(50)
    canceling = client.messages.batches.cancel(batch.id)
    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert canceling.request_counts.processing == 200
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.processing_status == "ended"
    counts = ended.request_counts
    assert 60 < counts.succeeded < 140
    assert counts.canceled == 200 - counts.succeeded
    assert claude_emulator.bill()["requests"] == counts.succeeded
    types = [line.result.type for line in client.messages.batches.results(batch.id)]
    assert types.count("canceled") == counts.canceled


def test_a_canceled_manual_batch_stays_canceling_until_told(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    batch = client.messages.batches.create(requests=requests(3))
    client.messages.batches.cancel(batch.id)
    assert client.messages.batches.retrieve(batch.id).processing_status == "canceling"
    claude_emulator.end(batch.id)
    assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 3


def test_an_ended_batch_cannot_be_canceled(client: anthropic.Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests(1))
    client.messages.batches.retrieve(batch.id)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.cancel(batch.id)


def test_only_an_ended_batch_can_be_deleted(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    batch = client.messages.batches.create(requests=requests(1))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(batch.id)
    claude_emulator.end()
    deleted = client.messages.batches.delete(batch.id)
    assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)
    assert client.messages.batches.list().data == []
    assert claude_emulator.bill()["requests"] == 1


def test_what_is_unfinished_after_a_day_expires(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=2 * DAY)
    batch = client.messages.batches.create(requests=requests(200))
    claude_emulator.advance(DAY + 1)
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.processing_status == "ended"
    assert ended.ended_at == ended.expires_at
    assert 60 < ended.request_counts.expired < 140
    assert ended.request_counts.succeeded == 200 - ended.request_counts.expired


def test_results_are_gone_29_days_after_creation(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    batch = client.messages.batches.create(requests=requests(1))
    claude_emulator.advance(29 * DAY - 60)
    kept = client.messages.batches.retrieve(batch.id)
    assert kept.archived_at is None
    url = kept.results_url
    claude_emulator.advance(61)
    archived = client.messages.batches.retrieve(batch.id)
    assert archived.results_url is None
    assert archived.archived_at == archived.created_at + timedelta(days=29)
    with pytest.raises(anthropic.NotFoundError):
        client.get(url, cast_to=object)


def test_results_are_not_there_before_the_end(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    batch = client.messages.batches.create(requests=requests(1))
    with pytest.raises(anthropic.NotFoundError):
        client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object)


def test_digests_prove_whose_answer_an_answer_is(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(answers="digest")
    prompts = {f"id-{number}": f"What is {number} squared?" for number in range(20)}
    batch = client.messages.batches.create(
        requests=[{"custom_id": id, "params": params(text)} for id, text in prompts.items()]
    )
    client.messages.batches.retrieve(batch.id)
    for line in client.messages.batches.results(batch.id):
        assert line.result.type == "succeeded"
        expected = hashlib.sha256(prompts[line.custom_id].encode()).hexdigest()
        assert line.result.message.content[0].text == expected


def test_the_beta_namespace_and_query_reach_the_same_batches(client: anthropic.Anthropic) -> None:
    batch = client.beta.messages.batches.create(
        requests=requests(1), extra_query={"beta": "true"}, betas=["output-300k-2026-03-24"]
    )
    assert client.messages.batches.retrieve(batch.id).id == batch.id


def test_dates_are_those_of_the_emulators_clock(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2030-02-03T04:05:06Z")
    claude_emulator.freeze_clock()
    reply = client.messages.batches.with_raw_response.create(requests=requests(1))
    assert reply.headers["date"] == "Sun, 03 Feb 2030 04:05:06 GMT"
    assert reply.parse().created_at.isoformat().startswith("2030-02-03T04:05:06")
    claude_emulator.advance(60)
    assert client.messages.batches.with_raw_response.list().headers["date"].endswith("04:06:06 GMT")


def test_a_full_queue_is_a_429_with_retry_after(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True, queue_limit=10)
    client.messages.batches.create(requests=requests(8))
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.batches.create(requests=requests(3))
    assert raised.value.response.headers["retry-after"] == "1"
    client.messages.batches.create(requests=requests(2))
    claude_emulator.end()
    client.messages.batches.create(requests=requests(10))
    assert claude_emulator.stats()["max_queued"] == 10
