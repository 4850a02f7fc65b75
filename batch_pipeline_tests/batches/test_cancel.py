"""Cancelling on purpose: files whose fate is open, and other keys."""

import pytest

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.store.submissions import Scope, know_endpoint
from batch_pipeline.store.tables import FileState
from batch_pipeline_tests.batches.conftest import Desk


@pytest.mark.parametrize("accepted", [False, True])
def test_a_lost_reply_is_cleared_up_before_its_file_is_withdrawn(
    desk: Desk, accepted: bool
) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after" if accepted else "drop_before")
    desk.send()
    report = cancel(desk.store, desk.api, "p")
    assert report.waiting == [file] and not report.withdrawn
    desk.clock.advance(121)
    desk.reconcile()
    desk.send()
    row = desk.file(file)
    assert row["state"] == FileState.ENDED
    assert (row["batch_id"] is not None) == accepted
    assert len(desk.emulator.batches()) == (1 if accepted else 0)


def test_a_file_that_is_turned_away_after_it_was_cancelled_is_not_sent_again(desk: Desk) -> None:
    (file,) = desk.put(3)
    real = desk.api.create

    def slow(body, length):
        cancel(desk.store, desk.api, "p")
        return real(body, length)

    desk.api.create = slow  # type: ignore[method-assign]
    desk.emulator.fault(
        "create", "status_before", status=429, headers={"retry-after": "1"}, times=None
    )
    desk.send()
    desk.clock.advance(60)
    desk.send()
    assert desk.file(file)["state"] == FileState.ENDED
    assert desk.emulator.batches() == []


def test_what_was_sent_with_another_key_is_left_to_that_key(desk: Desk) -> None:
    desk.emulator.configure(keys={"test-key": "one", "other": "two"}, manual=True)
    desk.scope = Scope("p", "", desk.api.identify())
    know_endpoint(desk.store.ledger, desk.scope.endpoint)
    desk.put(3)
    desk.send()
    other = BatchesApi("other", desk.emulator.base_url, 10.0)
    report = cancel(desk.store, other, "p")
    other.close()
    assert not report.canceled and "was not sent to" in report.failed[0]
    assert desk.emulator.batches()[0]["processing_status"] == "in_progress"
