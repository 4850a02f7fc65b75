"""Each request file is paid once, whatever the API or the network does."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anthropic
import orjson
import pytest
from sqlalchemy import select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import claim
from batch_pipeline.batches.held import drop, resend
from batch_pipeline.batches.outcome import ApiUnavailable, NotAccepted
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.send import body
from batch_pipeline.store.queue import hold_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, request_files
from batch_pipeline_tests.batches.conftest import Desk
from batch_pipeline_tests.support.extent import only_whole


def created(desk: Desk) -> int:
    """How many batches the server made."""
    return len(desk.emulator.batches())


def other_program(desk: Desk, size: int, name: str = "other") -> str:
    """Another program of the same workspace makes a batch of the same size."""
    client = anthropic.Anthropic(api_key="test-key", base_url=desk.emulator.base_url)
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    }
    return client.messages.batches.create(
        requests=[{"custom_id": f"{name}-{number}", "params": params} for number in range(size)]
    ).id


def test_all_ready_files_are_sent_in_order(desk: Desk) -> None:
    ids = desk.put(5, 4, 3)
    report = desk.send()
    assert [batch.requests for batch in report.batches] == [5, 4, 3]
    assert report.requests == 12 and report.waiting == 0
    assert desk.states() == ["in_progress"] * 3
    assert [desk.file(file)["batch_id"] for file in ids] == [batch.id for batch in report.batches]


def test_the_body_is_the_json_the_api_expects_and_its_length_is_exact(desk: Desk) -> None:
    (file,) = desk.put(3)
    path = desk.file(file)["path"]
    text = b"".join(body(desk.store, path))
    assert len(text) == desk.store.files.size(path) - 1 + len(b'{"requests":[]}')
    assert [one["custom_id"][-1] for one in orjson.loads(text)["requests"]] == ["1", "1", "1"]


def test_a_request_file_that_is_not_as_it_was_written_is_held_and_costs_nothing(desk: Desk) -> None:
    cut, gone, whole = desk.put(3, 2, 4)
    root = Path(desk.store.files.root)
    path = root / desk.file(cut)["path"]
    text = path.read_bytes()
    path.write_bytes(b"".join(text.splitlines(keepends=True)[:2]))
    (root / desk.file(gone)["path"]).unlink()
    report = desk.send()
    assert [batch.requests for batch in report.batches] == [4] and created(desk) == 1
    assert [desk.file(file)["state"] for file in (cut, gone, whole)] == [
        "held",
        "held",
        "in_progress",
    ]
    assert (
        "is not as it was written" in report.trouble[0] and f"--resend {cut}" in report.trouble[0]
    )
    assert "is gone from the store" in report.trouble[1] and f"--drop {gone}" in report.trouble[1]
    for _ in range(4):  # it waits for a person, however long
        desk.clock.advance(3600)
        desk.reconcile()
        desk.send()
    assert created(desk) == 1
    path.write_bytes(text)
    resend(desk.store, cut)
    assert [batch.requests for batch in desk.send().batches] == [3] and created(desk) == 2


def test_a_connection_that_is_refused_costs_nothing_and_is_tried_again(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.stop()
    report = desk.send()
    assert desk.file(file)["state"] == "ready" and "could not be reached" in report.trouble[0]
    desk.emulator.start()
    assert desk.send().batches == []  # not before the back-off is over
    desk.clock.advance(31)
    assert len(desk.send().batches) == 1 and created(desk) == 1


def test_a_lost_reply_is_paid_once(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after")
    report = desk.send()
    assert desk.file(file)["state"] == "unknown" and "nothing is sent twice" in report.trouble[0]
    assert desk.reconcile().lines == []  # the list may lag: too early to conclude anything
    desk.clock.advance(121)
    assert "its answers are collected" in desk.reconcile().adopted[0]
    assert desk.file(file)["state"] == "ended" and created(desk) == 1
    desk.send()
    assert created(desk) == 1


def test_a_request_that_never_arrived_is_sent_again(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    assert desk.file(file)["state"] == "unknown"
    desk.clock.advance(121)
    assert "sent again" in desk.reconcile().resent[0]
    assert len(desk.send().batches) == 1 and created(desk) == 1


def test_on_unknown_hold_leaves_the_decision_to_a_person(desk: Desk) -> None:
    desk.policy = SendPolicy(timeout_seconds=10.0, on_unknown="hold")
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    desk.clock.advance(121)
    assert "leaves the decision to you" in desk.reconcile().held[0]
    assert desk.file(file)["state"] == "held" and desk.send().batches == []


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_error_is_reconciled_before_anything_is_sent_again(
    desk: Desk, status: int, when: str
) -> None:
    desk.put(3)
    desk.emulator.fault("create", f"status_{when}", status=status)
    desk.send()
    assert desk.states() == ["unknown"]
    desk.clock.advance(121)
    desk.reconcile()
    desk.send()
    assert created(desk) == 1 and desk.states() in (["ended"], ["in_progress"])


def test_a_reply_slower_than_the_time_out_is_paid_once(desk: Desk) -> None:
    api = BatchesApi("test-key", desk.emulator.base_url, 1.0)
    desk.api, keep = api, desk.api
    desk.put(2)
    desk.emulator.fault("create", "delay_after", seconds=2.5)
    desk.send()
    assert desk.states() == ["unknown"]
    desk.api = keep
    desk.clock.advance(121)
    desk.reconcile()
    assert desk.states() == ["ended"] and created(desk) == 1


def test_two_lost_replies_beside_another_programs_batch_of_the_same_size(desk: Desk) -> None:
    first, second = desk.put(4, 3)
    other_program(desk, 4, "before")
    desk.emulator.fault("create", "drop_after", times=2)
    desk.send()
    assert desk.states() == ["unknown", "unknown"]
    other_program(desk, 4, "after")
    other_program(desk, 3, "after")
    desk.clock.advance(121)
    desk.reconcile()
    assert desk.states() == ["ended", "ended"]
    ours = {
        batch["id"]: {line["custom_id"] for line in desk.emulator.requests(batch["id"])}
        for batch in desk.emulator.batches()
    }
    for file in (first, second):
        assert all(
            name.startswith(desk.store.ledger.id) for name in ours[desk.file(file)["batch_id"]]
        )
    desk.send()
    assert created(desk) == 5  # two of ours, three of theirs


def test_while_a_candidate_is_open_nothing_of_its_size_is_sent_again(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    theirs = other_program(desk, 3)
    desk.clock.advance(121)
    assert "may be it" in desk.reconcile().waiting[0]
    desk.put(3)  # another file of that size has to wait, a file of another size has not
    desk.put(2)
    assert [batch.requests for batch in desk.send().batches] == [2]
    desk.emulator.end(theirs)
    desk.clock.advance(61)
    assert "sent again" in desk.reconcile().resent[0]
    desk.send()
    assert desk.file(file)["state"] == "in_progress"


@pytest.mark.parametrize("decision", [resend, drop])
def test_a_batch_that_no_list_shows_is_decided_by_a_person_and_counted(
    desk: Desk, decision: Callable[[Store, str], None]
) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "change_fields", fields={"id": "msgbatch_of_nobody"})
    desk.emulator.fault("list", "list_lag", newest=1, times=None)
    desk.send()
    for _ in range(3):
        poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
        desk.clock.advance(20 * 60)
    assert desk.states() == ["held"] and desk.file(file)["batch_id"] is None
    assert f"--resend {file}" in desk.file(file)["error"]
    decision(desk.store, file)
    assert desk.file(file)["cost_unknown"] == (3 if decision is drop else None)
    desk.emulator.clear_faults()
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    # Whatever was decided: it was there all the time, is paid, and is collected.
    assert [one["id"] for one in desk.emulator.batches()] == [
        row["batch_id"]
        for row in desk.store.ledger.rows(select(request_files))
        if row["batch_id"] is not None
    ]
    assert not desk.file(file)["cost_unknown"] and desk.send().batches == []


def test_a_late_own_batch_is_adopted_beside_the_one_sent_again(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after")
    desk.emulator.fault("list", "list_lag", seconds=600, times=None)
    desk.send()
    desk.clock.advance(121)
    assert desk.reconcile().resent  # the list lags longer than we wait: the residual risk
    desk.emulator.clear_faults()
    desk.send()
    assert created(desk) == 2
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    rows = {batch["id"] for batch in desk.emulator.batches()}
    assert desk.states() == ["ended", "ended"]
    known = {desk.file(file)["batch_id"], desk.file(file.rsplit("/", 1)[0] + "/00001")["batch_id"]}
    assert known == rows


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_account_holds_the_pipeline_until_something_is_accepted(
    desk: Desk, status: int
) -> None:
    desk.put(3, 2)
    desk.emulator.fault("create", "status_before", status=status)
    report = desk.send()
    assert report.refused and str(status) in report.refused
    assert (
        desk.states() == ["ready", "ready"]
        and hold_of(desk.store.ledger, desk.scope.pipeline, desk.scope.endpoint) == report.refused
    )
    assert len(desk.send().batches) == 2
    assert hold_of(desk.store.ledger, desk.scope.pipeline, desk.scope.endpoint) is None


def test_a_spend_limit_is_not_tried_again_and_again(desk: Desk) -> None:
    desk.put(3)
    desk.emulator.fault(
        "create", "status_before", status=429, error_code="enforced_spend_limit_reached", times=None
    )
    report = desk.send()
    assert "spend limit" in (report.refused or "")
    assert desk.emulator.stats()["calls"]["POST /v1/messages/batches"] == 1


def test_a_full_queue_is_waited_for(desk: Desk) -> None:
    desk.put(3)
    desk.emulator.fault("create", "status_before", status=429, headers={"retry-after": "7"})
    assert "sent again in 7 s" in desk.send().trouble[0]
    assert desk.states() == ["ready"]
    desk.clock.advance(8)
    assert len(desk.send().batches) == 1


def test_a_batch_too_large_for_the_api_is_cut_in_two_until_it_fits(desk: Desk) -> None:
    rows = _with_records(desk, 8)
    desk.emulator.configure(max_batch_bytes=700)
    for _ in range(4):
        desk.send()
    sent = [batch for batch in desk.emulator.batches()]
    custom_ids = [
        line["custom_id"] for batch in sent for line in desk.emulator.requests(batch["id"])
    ]
    assert sorted(custom_ids) == sorted(rows) and len(sent) > 1
    assert set(desk.states()) == {"split", "in_progress"}


def _with_records(desk: Desk, size: int) -> list[str]:
    """Give a file a records.parquet, as splitting needs it."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sqlalchemy import update

    from batch_pipeline.store.tables import submissions

    (file,) = desk.put(size)
    row = desk.file(file)
    with desk.store.files.open(row["path"]) as lines:
        custom_ids = [orjson.loads(line)["custom_id"] for line in lines]
    with desk.store.files.scratch() as folder:
        pq.write_table(
            pa.table({"_row": list(range(size)), "_custom_id": custom_ids}), f"{folder}/r"
        )
        name = desk.store.files.put(f"{folder}/r", f"p/{row['submission_id']}/records.parquet")
    with desk.store.ledger.write() as tx:
        tx.execute(
            update(submissions)
            .where(submissions.c.id == row["submission_id"])
            .values(records_path=name)
        )
    return custom_ids


def test_any_other_refusal_holds_the_file_and_the_others_go_on(desk: Desk) -> None:
    desk.put(3, 2)
    desk.emulator.fault("create", "status_before", status=422)
    report = desk.send()
    assert desk.states() == ["held", "in_progress"] and "It is held" in report.trouble[0]


def test_a_redirect_is_not_followed(desk: Desk) -> None:
    desk.put(3)
    desk.emulator.fault(
        "create", "status_before", status=307, headers={"location": "http://127.0.0.1:9/x"}
    )
    assert "redirects are not followed" in desk.send().trouble[0]
    assert desk.states() == ["held"] and created(desk) == 0


def test_the_queue_is_never_fuller_than_allowed(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    desk.policy = SendPolicy(timeout_seconds=10.0, max_queued_requests=7)
    desk.put(5, 4, 3, 2)
    report = desk.send()
    assert [batch.requests for batch in report.batches] == [5] and report.waiting == 3
    desk.emulator.end()
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    assert [batch.requests for batch in desk.send().batches] == [4, 3]
    assert desk.emulator.stats()["max_queued"] <= 7


def test_a_stalled_owner_that_wakes_before_it_was_given_up_stores_its_batch(desk: Desk) -> None:
    (file,) = desk.put(3)
    row = claim(desk.store.ledger, desk.scope, "sleeper", desk.policy)
    desk.clock.advance(desk.policy.lease_seconds + 1)
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    assert desk.file(file)["state"] == "unknown"
    from batch_pipeline.batches.send import _accepted

    batch = desk.api.create(body(desk.store, row["path"]), row["bytes"])
    _accepted(desk.store, desk.api, row, batch)
    assert desk.file(file)["state"] == "in_progress" and desk.file(file)["batch_id"] == batch.id


def test_a_stalled_owner_that_wakes_after_the_file_was_sent_again_cancels_its_own(
    desk: Desk,
) -> None:
    desk.emulator.configure(manual=True)
    (file,) = desk.put(3)
    row = claim(desk.store.ledger, desk.scope, "sleeper", desk.policy)
    desk.clock.advance(desk.policy.lease_seconds + 200)
    assert desk.reconcile().resent  # finds the lease run out, long enough ago
    desk.send()
    winner = desk.file(file)["batch_id"]
    from batch_pipeline.batches.send import _accepted

    batch = desk.api.create(body(desk.store, row["path"]), row["bytes"])
    _accepted(desk.store, desk.api, row, batch)
    assert desk.file(file)["batch_id"] == winner
    statuses = {one["id"]: one["processing_status"] for one in desk.emulator.batches()}
    assert statuses[batch.id] in ("canceling", "ended") and statuses[winner] == "in_progress"


def test_an_owner_that_lost_half_its_lease_before_connecting_gives_up(
    desk: Desk, monkeypatch
) -> None:
    desk.put(3)
    import batch_pipeline.batches.send as sending

    real = sending.claim

    def slow(*args):
        row = real(*args)
        desk.clock.advance(desk.policy.lease_seconds * 0.6)
        return row

    monkeypatch.setattr(sending, "claim", slow)
    report = desk.send()
    assert "half of the lease was gone" in report.trouble[0] and created(desk) == 0


def test_many_senders_at_once_send_each_file_once(desk: Desk) -> None:
    desk.put(*range(20, 8, -1))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            desk.send()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    desk.send()
    assert errors == [] and created(desk) == 12 and set(desk.states()) == {"in_progress"}


KILLED = """
import os, signal, sys
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable, NotAccepted
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches import send as sending
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline.store.submissions import Scope
root, url, where = sys.argv[1:]
store, api = open_store(root), BatchesApi("test-key", url, 10.0)
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
if where == "after_claim":
    BatchesApi.create = die
elif where == "after_reply":
    sending._accepted = die
sending.send(store, api, Scope("p", "", api.identify()), SendPolicy(timeout_seconds=10.0))
"""


@only_whole
@pytest.mark.parametrize("where", ["after_claim", "after_reply"])
def test_a_sender_killed_around_the_call_is_paid_once(desk: Desk, where: str) -> None:
    desk.put(3, 2)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, desk.store.files.root, desk.emulator.base_url, where],
        check=False,
        env=os.environ,
    )
    assert done.returncode == -signal.SIGKILL
    assert desk.states() == ["sending", "ready"]
    desk.send()  # the other file is not kept waiting
    assert desk.states() == ["sending", "in_progress"]
    desk.clock.advance(desk.policy.lease_seconds + 1)
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    desk.clock.advance(121)
    desk.reconcile()
    desk.send()
    assert created(desk) == 2
    assert all(state in (FileState.IN_PROGRESS, FileState.ENDED) for state in desk.states())


def test_the_key_goes_to_no_other_host(desk: Desk) -> None:
    (file,) = desk.put(2)
    desk.send()
    batch = desk.file(file)["batch_id"]
    desk.emulator.fault(
        "retrieve", "change_fields", fields={"results_url": "http://127.0.0.1:9/steal"}, times=None
    )
    lines = b"".join(desk.api.results(batch)).splitlines()
    assert len(lines) == 2


def test_batches_of_another_workspace_are_left_alone(desk: Desk) -> None:
    from batch_pipeline.batches.outcome import PipelineRefused

    desk.emulator.configure(keys={"test-key": "default", "moved": "elsewhere"})
    desk.put(2)
    desk.send()
    api = BatchesApi("moved", desk.emulator.base_url, 10.0)
    with pytest.raises(PipelineRefused, match="now belongs to"):
        poll(desk.store, api, desk.scope.endpoint, desk.policy)
    assert desk.states() == ["in_progress"]


def test_an_upload_that_takes_too_long_is_broken_off_and_nothing_was_accepted(desk: Desk) -> None:
    api = BatchesApi("test-key", desk.emulator.base_url, 0.4)

    def slow_body():
        yield b'{"requests":['
        time.sleep(0.5)
        yield b"]}"

    with pytest.raises(NotAccepted, match="broken off"):
        api.create(slow_body(), 15)
    api.close()
    assert created(desk) == 0


@pytest.mark.parametrize(
    ("kind", "line"),
    [("cut_results_mid_line", 1), ("cut_results_at_line", 0), ("line_replaced", 1)],
)
def test_a_damaged_look_at_a_candidate_is_no_proof_that_it_is_foreign(
    desk: Desk, kind: str, line: int
) -> None:
    desk.put(3)
    desk.emulator.fault("create", "drop_after")
    desk.send()
    desk.clock.advance(121)
    desk.emulator.fault("results", kind, line=line)
    for _ in range(3):
        desk.reconcile()
        desk.send()
        desk.clock.advance(61)
    assert desk.states() == ["ended"] and created(desk) == 1


def test_a_batch_seen_while_its_sender_still_waits_for_the_reply_is_not_given_up(
    desk: Desk, monkeypatch
) -> None:
    desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    desk.clock.advance(121)
    desk.reconcile()
    desk.send()  # files of this size are watched now
    desk.put(3)
    other = BatchesApi("test-key", desk.emulator.base_url, 10.0)
    real = BatchesApi.create

    def create_and_poll(self, *args):
        try:
            return real(self, *args)
        finally:
            poll(desk.store, other, desk.scope.endpoint, desk.policy)

    desk.emulator.fault("create", "drop_after")
    monkeypatch.setattr(BatchesApi, "create", create_and_poll)
    desk.send()
    monkeypatch.undo()
    desk.clock.advance(121)
    desk.reconcile()
    desk.send()
    other.close()
    assert created(desk) == 2 and "unknown" not in desk.states()


def test_a_key_that_a_server_quotes_is_in_no_message(desk: Desk) -> None:
    desk.put(3)
    desk.emulator.fault("any", "status_before", status=401, message="bad key test-key", times=2)
    report = desk.send()
    assert "***" in (report.refused or "") and "test-key" not in (report.refused or "")
    with pytest.raises(Exception, match=r"\*\*\*") as caught:
        desk.api.page()
    assert caught.value.__cause__ is None


def test_a_server_that_is_no_messages_api_is_not_taken_for_one(desk: Desk) -> None:
    desk.emulator.fault("list", "replace_body", body="<html>Welcome</html>")
    with pytest.raises(ApiUnavailable, match="no Message Batches reply"):
        desk.api.identify()


def test_a_look_with_no_time_left_begins_no_further_call_and_the_next_one_goes_on(
    desk: Desk, monkeypatch
) -> None:
    desk.put(3, 2)
    desk.send()
    real = BatchesApi.page
    monkeypatch.setattr(BatchesApi, "page", lambda self, after=None: real(self, after, limit=1))
    look = (desk.store, desk.api, desk.scope.endpoint, desk.policy)
    found = poll(*look, budget_seconds=0.0)
    assert found.list_calls == 1 and sorted(desk.states()) == ["ended", "in_progress"]
    poll(*look)
    assert desk.states() == ["ended", "ended"]
