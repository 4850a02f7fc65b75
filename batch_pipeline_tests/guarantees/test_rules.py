"""Records that a rule settles are kept, and nothing is asked about them."""

import shutil
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from batch_pipeline import InputError
from batch_pipeline.results.advice import last_settled
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.results.report import Report, markdown, report_of
from batch_pipeline.store.costs import costs, each
from batch_pipeline.store.whole import wholes
from batch_pipeline_tests.support.extent import every_form, only_whole
from batch_pipeline_tests.support.house import RECORDS, House
from batch_pipeline_tests.support.moments import ended_at

SMALL: dict[str, Any] = {"skip_when": "id < 10"}
TOLD: dict[str, Any] = {"answer_when": {"id < 10": "none", "part = 1": "one"}}


class Sorted(BaseModel):
    word: str
    amount: Decimal


def told(house: House) -> list[tuple[Any, ...]]:
    return house.sql(
        "select _status, answer, count(*), sum(_cost_usd) > 0, count(_batch_id), count(distinct _custom_id)"
        " from answers where _status <> 'answered' group by all order by all"
    )


def test_what_a_rule_settles_is_kept_and_not_asked(house: House) -> None:
    run = house.nights(skip_when="id < 10", answer_when={"id < 20": "told"})
    run.night()
    assert house.paid == 20
    assert told(house) == [("rule", "told", 10, False, 0, 10), ("skipped", None, 10, False, 0, 10)]
    assert house.statuses() == {"answered": 20, "skipped": 10, "rule": 10}
    shown = run.metadata("records")
    assert (shown["asked"], shown["ruled"], shown["by_rule"]) == (20, 20, 20)
    shown = run.metadata("results")
    assert (
        "| rule | 10 | 10 |" in shown["statuses"] and "| skipped | 10 | 10 |" in shown["statuses"]
    )
    assert shown["dagster/row_count"] == 40 and shown["failed"] == 0
    assert "rule or skipped" in str(shown["dagster/column_schema"])
    whole = wholes(run.store.open(), "notes")[""]
    assert (whole.rows, whole.answered, whole.by_rule, whole.never_asked) == (40, 20, 20, 0)
    # The next night nothing is new, also with force; a new record is told, another asked.
    before = house.sql("from answers order by id")
    run.night()
    run.night(force=True, where="id < 20")
    assert house.paid == 20 and house.sql("from answers order by id") == before
    house.sql("insert into notes values (-1, 'note', 0), (40, 'note', 0)")
    run.night()
    assert house.paid == 21
    assert house.statuses() == {"answered": 21, "skipped": 11, "rule": 10}
    whole = wholes(run.store.open(), "notes")[""]
    assert (whole.rows, whole.answered, whole.by_rule) == (42, 21, 21)
    # A rule that goes has its records asked, one that comes takes the place of answers, at no cost.
    house.nights(answer_when={"id < 20": "told", "id >= 30": "late"}).night()
    assert house.paid == 21
    assert told(house) == [("rule", "late", 11, False, 0, 11), ("rule", "told", 21, False, 0, 21)]
    house.nights(answer_when={"id < 20": "told"}).night()
    assert house.paid == 21 and house.statuses() == {"answered": 21, "rule": 21}


@only_whole
@pytest.mark.parametrize("refresh", ["changed", "new"])
def test_a_rule_that_changes_touches_only_its_records(house: House, refresh: str) -> None:
    house.nights(**SMALL, refresh=refresh).night()
    assert house.paid == 30
    house.nights(skip_when="id < 12 and id <> 0", refresh=refresh).night()
    # 0 is asked; 10 and 11 were answered, and the rule wins.
    assert house.paid == 31
    assert house.statuses() == {"answered": 29, "skipped": 11}
    answered = house.sql("select id, answer, _custom_id from answers where id in (20, 30)")
    # Without any: what was answered comes back at no cost, the others are asked.
    house.nights(refresh=refresh).night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}
    assert house.sql("select id, answer, _custom_id from answers where id in (20, 30)") == answered
    # And again: it is as it was.
    told_instead: dict[str, Any] = {"answer_when": {"id < 10": "told"}}
    for fields in (SMALL, told_instead, SMALL):
        house.nights(**fields, refresh=refresh).night()
        answer = None if fields is SMALL else "told"
        assert [row[1:3] for row in told(house)] == [(answer, 10)]
    house.nights(refresh=refresh).night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_another_question_asks_nothing_of_what_is_settled(house: House) -> None:
    house.nights(**TOLD).night()
    paid = house.paid
    house.nights({"prompt": "Weigh {{ text }}"}, **TOLD).night(allow_reask=True)
    assert house.paid == 2 * paid
    assert told(house) == [("rule", "none", 10, False, 0, 10), ("rule", "one", 7, False, 0, 7)]


@only_whole
def test_a_rule_that_comes_while_the_batch_is_open_wins(house: House) -> None:
    house.emulator.configure(manual=True)
    run = house.nights()
    run.submit()
    run = house.nights(**SMALL)
    run.submit()
    run.collect()
    assert house.statuses() == {"skipped": 10}
    house.emulator.end()
    run.until_quiet()
    assert house.statuses() == {"answered": 30, "skipped": 10}
    house.emulator.configure(manual=False)
    house.nights().night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_an_answer_of_a_rule_has_the_columns_of_the_output(house: House) -> None:
    rule = {"text like '%1'": {"word": "one", "amount": "1.10"}}
    house.nights({"output": Sorted}, answer_when=rule).night()
    assert house.sql("select distinct word, amount::varchar from answers where _status = 'rule'") == [
        ("one", "1.1000000000")
    ]  # fmt: skip
    assert house.paid == 36


def report(house: House, run: Any, flag: str | None = None) -> Report:
    store = run.store.open()
    submission = last_settled(store, "notes")
    assert submission is not None
    return report_of(store, submission, {}, flag)


@only_whole
def test_the_report_and_the_costs_tell_what_was_not_asked(house: House) -> None:
    """Duplicates and rules: rows are more than requests, and the money is the bill."""
    house.sql("update notes set text = 'same' where id >= 30")
    run = house.nights(skip_when="id < 10", answer_when={"id < 15": "told"})
    run.night()
    assert house.paid == 16
    bill = Decimal(house.emulator.bill()["usd"])
    found = report(house, run, "select id, _status from results where _status <> 'answered'")
    assert (found.sent, found.answered, found.duplicates) == (16, 25, 9)
    assert (found.ruled, found.skipped, found.flagged_rows) == (5, 10, 15)
    assert found.failed == {} and found.answered_requests == 16
    assert found.cost_usd == bill
    saved = found.saved
    assert [*saved] == ["batch", "cache", "dedupe", "rule"]
    assert saved["dedupe"] == bill * 9 / 16 and saved["rule"] == bill * 15 / 16
    assert found.title.startswith("notes: 25 answered, 5 by a rule, 10 skipped, 15 flagged rows")
    text = markdown(found)
    for line in (
        "| sent | 16 requests |", "| of these by the request of a record that is the same | 9 |",
        "| answered by a rule | 5 |", "| skipped by a rule | 10 |",
        "Of dedupe and rule it is what those 24 records would have cost at the mean cost of the 16 requests",
    ):  # fmt: skip
        assert line in text
    # What is settled by a rule is no trouble; what flagged it is. One night later all is unchanged but one.
    assert not report(house, run).is_trouble and found.is_trouble
    store = run.store.open()
    [whole], [row] = costs(store), each(store)
    assert (whole.requests, whole.answered, whole.cost_usd) == (16, 16, bill)
    assert (row["requests"], row["answered"]) == (16, 16)
    assert row["cost_usd"] == pytest.approx(float(bill))
    house.sql("insert into notes values (40, 'note', 0)")
    run.night()
    found = report(house, run)
    assert [*found.saved] == ["batch", "cache", "unchanged"] and found.unchanged == 40
    # A ledger that is made again knows as much.
    for path in house.root.glob("ledger.sqlite*"):
        path.unlink()
    store = run.store.open(lost=True)
    rebuild(store)
    [whole] = costs(store, by="pipeline")
    assert (whole.requests, whole.answered) == (17, 17)
    # Where nothing is asked, nothing is known of the mean, and nothing is claimed.
    assert Report("notes", "", 1, ruled=5).saved == {}


def test_a_rule_beside_tools_and_citations_leaves_their_columns_empty(house: House) -> None:
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "{{ text }}"},
        "citations": {"enabled": True},
    }
    tools = {"tools": [{"name": "sort", "input_schema": {"type": "object"}}]}
    asked = [{"role": "user", "content": [document, {"type": "text", "text": "What is it?"}]}]
    request = {"prompt": None, "messages": asked, "params": tools}
    house.nights(request, skip_when="id < 10", answer_when={"true": "told"}).night()
    assert house.paid == 0
    assert house.sql("select count(*), count(answer), count(tool_calls), count(citations) from answers") == [
        (RECORDS, RECORDS - 10, 0, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("lost", ["ledger", "results", "index", "selection", "table"])
def test_what_is_lost_is_made_again(house: House, lost: str) -> None:
    run = house.nights(**TOLD)
    run.night()
    before = house.sql("from answers order by id")
    match lost:
        case "ledger":
            for path in house.root.glob("ledger.sqlite*"):
                path.unlink()
            rebuild(run.store.open(lost=True))
        case "selection":
            for path in house.root.glob("notes/*/index/selected.parquet"):
                path.unlink()
        case "results" | "index":
            for path in house.root.glob(f"notes/*/{lost}/0*.parquet"):
                path.unlink()
    house.sql("drop table answers")
    paid = house.paid
    house.nights(**TOLD).night()
    assert house.sql("from answers order by id") == before
    assert house.paid == paid


def test_a_rule_takes_no_place_of_answers_that_only_the_table_has(house: House) -> None:
    house.nights().night()
    shutil.rmtree(house.root)
    said = house.refusal(house.nights(skip_when="true"))
    assert f"{RECORDS} of their records would be paid again or lose their answer to a rule" in said
    assert house.statuses() == {"answered": RECORDS} and house.paid == RECORDS


@only_whole
@pytest.mark.parametrize("moment", range(36))
def test_a_run_that_ends_at_any_moment_keeps_what_is_settled(house: House, moment: int) -> None:
    with ended_at(moment):
        run = house.nights(**TOLD)
        for job in ("submit", "collect"):
            run.run(job)
    house.clock.advance(7200)
    house.nights(**TOLD).night()
    assert [row[1:3] for row in told(house)] == [("none", 10), ("one", 7)]
    assert house.statuses() == {"answered": 23, "rule": 17} and house.paid == 23


@only_whole
def test_rules_and_duplicates_and_deleted_records(house: House) -> None:
    house.sql("update notes set text = 'same' where part = 2")
    run = house.nights(**SMALL, on_deleted="drop")
    run.night()
    assert house.paid == 30 - 7
    house.sql("delete from notes where id in (2, 14)")
    run.night()
    assert house.paid == 23 and sum(house.statuses().values()) == 38
    house.sql("insert into notes values (2, 'same', 2)")
    run.night()
    assert house.paid == 23 and house.statuses() == {"answered": 29, "skipped": 10}


BAD = {
    "skip_when = 5": ({"skip_when": 5}, "skip_when is 5"),
    "no SQL": ({"skip_when": "id <"}, "is no SQL"),
    "two": ({"skip_when": "true) or (true"}, "is no SQL"),
    "an aggregate": ({"skip_when": "max(id) > 5"}, "the aggregate max()"),
    "a subquery": ({"answer_when": {"id in (select 1)": "x"}}, "has a subquery"),
    "volatile": ({"skip_when": "random() < 0.5"}, "something else each time"),
    "more than a condition": ({"skip_when": "id > 5 from notes"}, "one condition"),
    "no dict": ({"answer_when": "id < 5"}, "a dict of answers"),
    "no text": ({"answer_when": {"id < 5": 5}}, "it must be a text"),
}


@every_form
@pytest.mark.parametrize("name", BAD)
def test_a_bad_rule_is_refused_when_it_is_declared(house: House, name: str) -> None:
    fields, said = BAD[name]
    with pytest.raises(InputError, match="Pipeline notes: ") as raised:
        house.nights(**fields)
    assert said in str(raised.value)


def test_an_answer_that_does_not_fit_is_refused_when_it_is_declared(house: House) -> None:
    with pytest.raises(InputError, match="does not fit the output"):
        house.nights({"output": Sorted}, answer_when={"id < 5": {"word": 5}})


def test_a_rule_that_the_source_cannot_answer_is_refused_before_any_money(house: House) -> None:
    said = house.refusal(house.nights(skip_when="idd < 5"))
    assert "skip_when (idd < 5) cannot be used" in said and '"id"' in said
    said = house.refusal(house.nights(answer_when={"id + 1": "x"}))
    assert "is INTEGER and no condition" in said
    said = house.refusal(house.nights(skip_when="id < 0", answer_when={"text::int < 5": "x"}))
    assert "answer_when (text::int < 5) fails for a record" in said and "try_cast" in said
    assert house.paid == 0
