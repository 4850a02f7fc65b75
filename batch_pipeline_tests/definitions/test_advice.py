"""Advice from a pipeline's own figures: what it says, what it would save, and that it says nothing else."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.results.advice import Advice, advise, last_settled

HEAD = "Sort the package by its reader. " * 700  # 22,400 bytes
WIDE: dict[str, Any] = {"max_tokens": 8000, "system": None, "prompt": HEAD + "{{ summary }}"}


def of(run, template: dict[str, Any]) -> dict[str, Advice]:
    """Advice of the last settled submission to a question, by kind."""
    store = run.store.open()
    submission = last_settled(store, run.pipeline.name)
    assert submission is not None
    asked = MessageTemplate(model="claude-haiku-4-5", **template)
    found = advise(store, asked, {}, submission, dedupe=run.pipeline.dedupe)
    return {one.kind: one for one in found}


@pytest.mark.played
def test_a_night_shows_what_could_be_cheaper_and_a_frugal_one_nothing(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("update packages set summary = 'the same' where rowid < 20")
        connection.execute("delete from packages where rowid >= 60")
        [(same, rest)] = connection.execute(
            "select count(*) filter (where summary = 'the same'), count(*) from packages"
        ).fetchall()
        [(different,)] = connection.execute(
            "select count(distinct summary) from packages"
        ).fetchall()
    assert same > 1 and rest > 30
    run = nights(WIDE, dedupe=False)
    run.night()
    shown = run.metadata("results")
    found = of(run, WIDE)
    assert {*found} == {"max_tokens", "prompt_head", "duplicates"}
    assert all(one.said.split(".")[0].replace("_", "") for one in found.values())
    for one in found.values():
        assert one.said[:40].replace("`", "") in shown["advice"].replace("\\", "").replace("`", "")
    bill = Decimal(claude_emulator.bill()["usd"])
    dear = found["duplicates"].usd_a_month
    assert dear is not None and abs(dear - bill * (rest - different) / rest) < bill / 50
    head = found["prompt_head"].usd_a_month
    assert head is not None and bill * Decimal("0.6") < head < bill
    assert found["max_tokens"].usd_a_month is None and shown["advice_usd_a_month"] > 0
    # The same figures, to other questions.
    frugal = {**WIDE, "max_tokens": 60, "prompt": "{{ summary }}"}
    assert {*of(run, frugal)} == {"duplicates"}
    assert {*of(run, {**frugal, "system": HEAD})} == {"duplicates", "cache"}
    unknown = {**frugal, "system": "short"}
    assert {*of(run, unknown)} == {"duplicates"}
    # What is the same is asked once now: nothing is left to say, neither of that night nor of the next.
    assert "dedupe=True" in found["duplicates"].said
    assert {*of(nights(WIDE, dedupe=True), WIDE)} == {"max_tokens", "prompt_head"}
    handled = nights({**WIDE, "prompt": f"{WIDE['prompt']}!"}, dedupe=True)
    handled.night(allow_reask=True)
    # What was asked once by then is not counted after dedupe was turned off, either.
    for run in (handled, nights({**WIDE, "prompt": f"{WIDE['prompt']}!"}, dedupe=False)):
        assert {*of(run, WIDE)} == {"max_tokens", "prompt_head"}


@pytest.mark.played
def test_a_cache_that_does_not_pay_is_said_with_what_it_cost_more(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("delete from packages where rowid >= 60")
    claude_emulator.configure(rates={"cache_miss": 1})
    question = {
        "max_tokens": 60,
        "system": HEAD,
        "cache": "1h",
        "prompt": "{{ package }}: {{ summary }}",
    }
    run = nights(question)
    run.night()
    [(kind, one)] = of(run, question).items()
    assert kind == "cache" and "costs more than it saves" in one.said and 'cache="5m"' in one.said
    bill, saved = Decimal(claude_emulator.bill()["usd"]), one.usd_a_month
    assert saved is not None and bill * Decimal("0.4") < saved < bill * Decimal("0.6")
    assert run.metadata("results")["advice"].startswith("- The cache costs more")
