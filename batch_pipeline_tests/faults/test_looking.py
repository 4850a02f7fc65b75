"""What may happen to the calls that look at batches: what is paid is found and collected later."""

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, SIZES, Night

ONCE = {"x-should-retry": "false"}  # the SDK of a run would wait, in real time, and try again


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("internal_error", "answers 500: Internal server error"),
        ("drop_before", "could not be asked"),
        ("replace_body", "sent something that is no Message Batches reply"),
    ],
)
def test_a_list_that_fails_for_an_hour_is_waited_for(
    night: Night, claude_emulator: EmulatorProcess, kind: str, words: str
) -> None:
    night.submit()
    claude_emulator.fault("list", kind, times=None)
    night.tick_for(HOUR, every=20 * MINUTE)
    assert not night.ticks[-1].run_requests  # a run would only fail
    assert words in night.message and "4 open, oldest 40 min" in night.message
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()


def test_a_list_that_fails_while_a_reply_is_lost_settles_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_before", nth=3)
    night.submit()
    claude_emulator.fault("list", "internal_error", times=None)
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "2 files without a reply, to be reconciled" in night.message
    assert len(claude_emulator.batches()) == 3
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()


def test_answers_that_are_not_handed_out_for_an_hour_are_asked_for_again(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    for call in ("retrieve", "results"):
        claude_emulator.fault(
            call, "status_before", status=500, headers=ONCE, times=None, batch_id=theirs
        )
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "answers 500: The emulator was told to fail" in night.said
    assert len(night.rows()) == 27  # the others' answers do not wait
    claude_emulator.clear_faults()
    night.end(every=20 * MINUTE)
    night.judge_good()


def test_batches_that_the_list_does_not_show_are_looked_up_one_by_one(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=10 * HOUR, times=None)
    night.submit()
    night.end()
    night.judge_good()
    assert claude_emulator.stats()["calls"]["GET /v1/messages/batches/{batch_id}"] >= len(SIZES)


def test_one_reply_that_denies_a_batch_does_not_give_it_up(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=10 * HOUR, times=None)
    night.submit()
    claude_emulator.fault("retrieve", "status_before", status=404, nth=2)
    night.end()
    assert "somebody deleted it" not in night.said
    night.judge_good()
