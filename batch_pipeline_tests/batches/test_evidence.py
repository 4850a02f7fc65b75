"""Whose a batch in the list is: one line too many, or a bad moment, must not decide it."""

import pytest

from batch_pipeline.batches.held import list_held
from batch_pipeline.batches.poll import poll
from batch_pipeline.store.tables import FileState
from batch_pipeline_tests.batches.conftest import Desk

FOREIGN = '{"custom_id": "of-another", "result": {"type": "expired"}}'


def lost(desk: Desk, size: int = 3) -> str:
    """A file that the API took, and whose reply was lost."""
    (file,) = desk.put(size)
    desk.emulator.fault("create", "drop_after")
    desk.send()
    desk.clock.advance(121)
    return file


def look(desk: Desk) -> None:
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)


def settle(desk: Desk) -> None:
    for _ in range(3):
        desk.reconcile()
        desk.send()
        desk.clock.advance(700)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", ["line_added", "line_replaced"])
def test_a_line_of_another_program_does_not_make_our_batch_another_programs(
    desk: Desk, kind: str, size: int
) -> None:
    file = lost(desk, size)
    desk.emulator.fault("results", kind, text=FOREIGN)
    settle(desk)
    assert desk.file(file)["state"] == FileState.ENDED
    assert len(desk.emulator.batches()) == 1


def test_a_line_of_another_batch_of_ours_does_not_give_it_to_the_wrong_file(desk: Desk) -> None:
    first, second = desk.put(4, 3)
    (third,) = desk.put(4)
    desk.emulator.fault("create", "drop_after", nth=3)
    desk.send()
    desk.send()
    ours = f'{{"custom_id": "{desk.store.ledger.id}-0000000100000000-1", "result": {{"type": "expired"}}}}'
    desk.emulator.fault("results", "line_added", text=ours)
    desk.clock.advance(121)
    settle(desk)
    assert [desk.file(file)["state"] for file in (first, second, third)] == [FileState.ENDED] * 3
    assert len(desk.emulator.batches()) == 3
    assert len({desk.file(file)["batch_id"] for file in (first, second, third)}) == 3


def test_one_bad_moment_after_a_long_silence_gives_nothing_up(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    file = lost(desk)
    look(desk)  # the list shows the batch, which is still open
    desk.clock.advance(50 * 3600)
    desk.emulator.end()
    desk.emulator.fault("results", "status_before", status=529, times=3)
    desk.reconcile()
    assert desk.file(file)["state"] == FileState.UNKNOWN
    desk.clock.advance(60)
    look(desk)
    assert desk.file(file)["state"] == FileState.ENDED


def test_results_that_can_be_read_again_free_the_file_that_was_held(desk: Desk) -> None:
    file = lost(desk)
    desk.emulator.fault("results", "status_before", status=500, times=None)
    for _ in range(6):
        desk.reconcile()
        desk.clock.advance(900)
    assert desk.file(file)["state"] == FileState.HELD
    assert "cannot be read" in list_held(desk.store).files[0].error
    desk.emulator.clear_faults()
    desk.clock.advance(700)
    look(desk)
    assert desk.file(file)["state"] == FileState.ENDED
    assert len(desk.emulator.batches()) == 1


def test_a_held_file_is_reconciled_when_the_batch_turns_out_to_be_another_programs(
    desk: Desk,
) -> None:
    import anthropic

    client = anthropic.Anthropic(api_key="test-key", base_url=desk.emulator.base_url)
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hello"}],
    }
    (file,) = desk.put(2)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    requests = [{"custom_id": f"other-{n}", "params": params} for n in range(2)]
    client.messages.batches.create(requests=requests)  # type: ignore[arg-type]
    client.close()
    desk.clock.advance(121)
    desk.emulator.fault("results", "status_before", status=500, times=None)
    for _ in range(6):
        desk.reconcile()
        desk.clock.advance(900)
    assert desk.file(file)["state"] == FileState.HELD
    desk.emulator.clear_faults()
    desk.clock.advance(700)
    settle(desk)
    look(desk)
    assert desk.file(file)["state"] in (FileState.READY, FileState.UNKNOWN)
    settle(desk)
    look(desk)
    assert desk.file(file)["state"] == FileState.ENDED
    assert len(desk.emulator.batches()) == 2
