"""Nights under a cap: green, nothing sent, said everywhere, and let through once."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlalchemy import delete, select, update

from batch_pipeline import Budget, ClaudeBatches
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.store.budget import over_budget
from batch_pipeline.store.reservations import reserve_for_what_was_sent
from batch_pipeline.store.tables import request_files, reservations, transitions
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.deployment import Deployment, Stages, make_records


def test_a_night_over_its_cap_is_green_and_is_let_through_once(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights(budget=Budget(per_submission_usd=0.01))
    claude_emulator.configure(manual=True)
    run.submit()  # a run that fails would raise
    assert claude_emulator.bill()["requests"] == 0
    shown = run.metadata("batches")
    assert "cap per_submission_usd $0.0100" in shown["over_budget"]
    message = run.tick().skip_message
    assert "it is held for approval" in message and "spent $0" in message
    assert run.tick().run_requests == []  # quiet, tick after tick
    run.collect()
    claude_emulator.fault("create", "request_too_large")  # its parts are let through with it
    run.run("send", {"approve": True})
    assert len(claude_emulator.batches()) == 5
    store = run.store.open()
    assert over_budget(store) == []
    notes = store.ledger.rows(select(transitions).where(transitions.c.to_state == "approved"))
    assert len(notes) == 1 and "with approve: true" in notes[0]["note"]
    claude_emulator.end()
    run.until_quiet()
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
    # What was reserved became what it cost.
    rows = store.ledger.rows(select(reservations))
    spent = sum(row["settled_nanousd"] for row in rows)
    assert abs(spent / 1e9 - float(claude_emulator.bill()["usd"])) < 0.001
    assert all(row["nanousd"] >= row["settled_nanousd"] for row in rows)


def test_without_a_known_price_it_is_held_until_one_is_declared(
    nights, claude_emulator: EmulatorProcess
) -> None:
    budget, question = Budget(per_month_usd=1000), {"model": "claude-of-tomorrow"}
    claude_emulator.configure(any_model=True)  # the API knows it before a price list does
    unpriced = nights(question, budget=budget)
    unpriced.submit()
    assert claude_emulator.batches() == []
    said = unpriced.metadata("batches")["over_budget"]
    assert 'prices={"claude-of-tomorrow"' in said and "of unknown price" in said
    prices = {"claude-of-tomorrow": {"input": 1, "output": 5}}
    priced = nights(question, budget=budget, prices=prices)
    assert [one.job_name.rpartition("_")[2] for one in priced.tick().run_requests] == ["send"]


def test_what_an_earlier_version_paid_at_a_cost_unknown_counts_by_its_request_file(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    run = nights()
    run.night()
    with (
        run.store.open().ledger.write() as tx
    ):  # as of an earlier version, or of a ledger made again
        tx.execute(update(request_files).values(weight=None, cost_unknown=2))
        tx.execute(delete(reservations))
        reserve_for_what_was_sent(tx)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "insert into packages by name select 'new' as package, 'text' as summary"
        )
    claude_emulator.configure(manual=True)
    run = nights(claude={"per_month_usd": 1000})
    run.submit()
    assert sum(batch["request_counts"]["processing"] for batch in claude_emulator.batches()) == 1
    assert "over_budget" not in run.metadata("batches")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (lambda: Budget(per_submission_usd=-1), "per_submission_usd is -1"),
        (lambda: Budget(per_month_usd=0), "per_month_usd is 0"),
        (lambda: Budget(per_month_usd=float("nan")), "per_month_usd is nan"),
        (lambda: Budget(per_month_usd=True), "per_month_usd is True"),
        (lambda: Budget(), "there is no cap in it"),
        (lambda: Budget(per_month_usd=1, over="drop"), "over is 'drop'"),  # type: ignore[arg-type]
        (lambda: Budget(per_month_usd=1, reserve="mean"), "reserve is 'mean'"),  # type: ignore[arg-type]
        (lambda: ClaudeBatches(per_month_usd=0), "greater than 0"),
        (lambda: ClaudeBatches(per_month_usd=float("nan")), "finite number"),
    ],
)
def test_a_cap_that_is_none_is_refused_when_declared(declared: Any, said: str) -> None:
    with pytest.raises((InputError, ValueError), match=said):
        declared()


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"m": {"input": 1}}, "output is missing"),
        ({"m": {"input": -1, "output": 1}}, "input is -1"),
        ({"m": {"input": float("nan"), "output": 1}}, "input is nan"),
        ({"m": {"inputs": 1, "output": 1}}, "no part 'inputs'"),
        ({"m": 3}, "must be a mapping"),
        ([], "must be a mapping"),
    ],
)
def test_prices_that_are_none_are_refused_when_declared(nights, prices: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        nights(prices=prices)


def submit_one(deployment: Deployment, now: Any) -> None:
    """A process's night: select, build, send."""
    stages = Stages(deployment, HandClock(now))
    stages.submit()
    stages.close()


def test_of_eight_processes_under_a_cap_for_one_submission_one_is_sent(
    claude_emulator: EmulatorProcess, tmp_path: Path, ledger_url: str
) -> None:
    claude_emulator.configure(manual=True)
    warehouse = str(tmp_path / "warehouse.duckdb")
    make_records(warehouse, {f"k{number}": "text " * 20 for number in range(9)})

    def deployment(number: int) -> Deployment:
        return Deployment(
            folder=str(tmp_path / "store"),
            warehouse=warehouse,
            url=claude_emulator.base_url,
            ledger=ledger_url,
            table=False,
            pipeline={"name": f"p{number}"},
            # 9 requests of at most 100 tokens: about $0.0023 a submission.
            claude={"per_month_usd": 0.004, "max_batch_requests": 5},
        )

    clock = HandClock()
    first = Stages(deployment(0), clock)  # makes the store
    processes.together(
        tmp_path, submit_one, *[(deployment(number), clock.now()) for number in range(8)]
    )
    sent = {batch["request_counts"]["processing"] for batch in claude_emulator.batches()}
    assert len(claude_emulator.batches()) == 2 and sent == {5, 4}
    assert len(over_budget(first.store)) == 7
    # Release lets exactly one through, and the others stay held.
    from batch_pipeline.batches.held import release

    held = over_budget(first.store)[0].pipeline
    release(first.store, held, "ann")
    for number in range(8):
        stages = Stages(deployment(number), clock)
        stages.send()
        stages.send()
        stages.close()
    assert len(claude_emulator.batches()) == 4 and len(over_budget(first.store)) == 6
    first.close()
