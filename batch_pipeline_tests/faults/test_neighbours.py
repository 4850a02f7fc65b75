"""Others at work in the same workspace: other programs, other deployments, other processes of ours."""

import functools
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import BatchStore
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import (
    HOUR,
    MINUTE,
    SIZES,
    Night,
    on_both_ledgers,
    parts,
    sizes,
)
from batch_pipeline_tests.support.extent import only_whole


def other_program(emulator: EmulatorProcess, size: int) -> str:
    """Another program of the same workspace makes a batch; return its id."""
    message = {"role": "user", "content": f"theirs, of {size}"}
    params = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [message]}
    request = urllib.request.Request(
        f"{emulator.base_url}/v1/messages/batches",
        json.dumps(
            {"requests": [{"custom_id": f"row-{n}", "params": params} for n in range(size)]}
        ).encode(),
        {
            "x-api-key": "test-key",
            "anthropic-version": "2026-10-21",
            "content-type": "application/json",
        },
    )
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read())["id"]


def ours(night: Night) -> list[dict[str, Any]]:
    """The batches that the API made of this deployment's files."""
    prefix = f"{night.opened.ledger.id}-"
    return [
        batch
        for batch in night.emulator.batches()
        if night.emulator.requests(batch["id"])[0]["custom_id"].startswith(prefix)
    ]


def lose_two(emulator: EmulatorProcess) -> None:
    """The replies of the next second and third batch are lost; the API takes the third."""
    emulator.fault("create", "drop_before", nth=2)
    emulator.fault("create", "drop_after", nth=3)


@only_whole
@on_both_ledgers
def test_batches_of_other_programs_of_the_same_sizes_are_told_from_ours(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    theirs = [other_program(claude_emulator, size) for size in SIZES]
    lose_two(claude_emulator)
    night.submit()
    theirs += [other_program(claude_emulator, size) for size in SIZES]
    night.end()
    night.judge_good()
    assert sorted((batch["requests"] for batch in ours(night)), reverse=True) == SIZES
    assert len(claude_emulator.batches()) == 12
    known = {file["batch_id"] for file in night.judge().files}
    assert not known & set(theirs)


def test_while_a_batch_of_that_size_is_open_a_lost_file_waits_and_says_for_what(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    claude_emulator.fault("create", "drop_before", nth=2)
    night.submit()
    theirs = other_program(claude_emulator, 13)
    night.tick_for(HOUR, every=10 * MINUTE)
    assert "1 file without a reply, to be reconciled" in night.message
    assert f"{theirs} may be a file whose reply was lost; known once" in night.message
    assert [batch["requests"] for batch in ours(night)] == [14, 12, 1]
    claude_emulator.configure(manual=False)
    claude_emulator.end()
    night.end()
    assert "left no batch in the API's list; it is sent again" in night.said
    night.judge_good()


@only_whole
def test_two_partitions_with_files_of_one_size_are_not_taken_for_one_another(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night = parts(nights)
    claude_emulator.fault("create", "drop_before")
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit("a")
    night.submit("b")
    assert "2 files waiting (files of the same size are being reconciled)" in night.said
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 14, 6, 6]


@only_whole
def test_a_lost_batch_is_found_on_a_late_page_of_the_list(
    night: Night, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str | None] = []
    page = BatchesApi.page

    def small(api: BatchesApi, after: str | None = None) -> Any:
        pages.append(after)
        return page(api, after, limit=3)

    monkeypatch.setattr(BatchesApi, "page", small)
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    for _ in range(25):
        other_program(claude_emulator, 1)
    pages.clear()
    night.tick()
    assert len(pages) == 10 and pages[0] is None  # 29 batches, three on a page
    night.end()
    night.judge_good()
    assert sorted((batch["requests"] for batch in ours(night)), reverse=True) == SIZES


@on_both_ledgers
def test_two_deployments_ask_the_same_records_and_neither_adopts_the_others(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    first, second = nights(), nights(store=BatchStore(root=str(tmp_path / "second")))
    lose_two(claude_emulator)
    first.submit()
    lose_two(claude_emulator)
    second.submit()
    for _ in range(3):
        first.tick_and_run()
        second.tick_and_run()
        first.clock.advance(3 * MINUTE)
    first.end()
    second.end()
    for night in (first, second):
        night.judge_good()
        assert sorted((batch["requests"] for batch in ours(night)), reverse=True) == SIZES
    assert len(claude_emulator.batches()) == 8


class Stalled:
    """Lets a process stand still at the call that creates its n-th batch, while something happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        calls: list[int] = []
        create = BatchesApi.create

        @functools.wraps(create)
        def stall(api: BatchesApi, *given: Any) -> Any:
            calls.append(len(calls) + 1)
            if calls[-1] != nth:
                return create(api, *given)
            self.before()
            batch = create(api, *given)
            self.after()
            return batch

        monkeypatch.setattr(BatchesApi, "create", stall)


@on_both_ledgers
def test_a_file_whose_owner_is_sending_it_is_left_alone_by_every_other_process(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = nights(), nights()
    stalled = Stalled(monkeypatch, nth=2)
    seen: list[str] = []

    def meanwhile() -> None:
        other.tick_for(9 * MINUTE, every=3 * MINUTE)  # within the lease of 11 minutes
        other.run("send")
        other.submit()
        seen.append(other.said)

    stalled.before = meanwhile
    stalled.after = lambda: other.tick_and_run()
    owner.submit()
    assert len(seen) == 1 and "without a reply" in seen[0]
    owner.end()
    owner.judge_good()
    assert len(claude_emulator.batches()) == 4


def test_an_owner_that_wakes_after_its_batch_was_found_by_another_process_changes_nothing(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = nights(), nights()
    stalled = Stalled(monkeypatch, nth=2)

    def meanwhile() -> None:
        owner.clock.advance(15 * MINUTE)
        other.tick_for(9 * MINUTE, every=3 * MINUTE)

    stalled.after = meanwhile
    owner.submit()
    assert "whose reply was lost: its answers are collected" in other.said
    owner.end()
    owner.judge_good()
    assert len(claude_emulator.batches()) == 4


@on_both_ledgers
def test_an_owner_that_wakes_after_its_lease_and_was_not_given_up_stores_its_batch(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = nights(), nights()
    stalled = Stalled(monkeypatch, nth=2)

    def meanwhile() -> None:
        owner.clock.advance(12 * MINUTE)  # the lease is over: 10 minutes and a margin
        other.tick()

    stalled.before = meanwhile
    owner.submit()
    assert "1 file without a reply" in str(other.ticks[-1].skip_message or other.said)
    owner.end()
    owner.judge_good()
    assert len(claude_emulator.batches()) == 4


@only_whole
@on_both_ledgers
def test_an_owner_that_wakes_after_its_file_was_sent_again_cancels_its_own_batch(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = nights(), nights()
    stalled = Stalled(monkeypatch, nth=2)

    def meanwhile() -> None:
        owner.clock.advance(15 * MINUTE)
        other.tick_for(9 * MINUTE, every=3 * MINUTE)
        assert "it is sent again" in other.said

    stalled.before = meanwhile
    # It stands still once more, until half of what it sent is answered.
    stalled.after = lambda: owner.clock.advance(2.5 * MINUTE)
    owner.submit()
    cancelled = [one for one in claude_emulator.batches() if one["cancel_initiated_at"]]
    assert [one["requests"] for one in cancelled] == [13]
    owner.end()
    found = owner.judge()
    assert found.statuses == {"answered": 40}
    assert found.paid_twice in (6, 7) and (found.asked_again, found.unknown) == (0, [])
    (late,) = (file for file in found.files if file["kind"] == "late")
    assert late["batch_id"] == cancelled[0]["id"] and late["cost_nanousd"] > 0
    assert len(claude_emulator.batches()) == 5
