"""Records are asked again by what kept them from an answer, and what does not fit with what was wrong."""

import json
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select

from batch_pipeline.results.history import history
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.standing import standing
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.support.extent import every_form, only_whole
from batch_pipeline_tests.support.house import House

OUTPUT = {
    "type": "object",
    "properties": {"kind": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["kind", "size"],
    "additionalProperties": False,
}
TOOL = {"output": OUTPUT, "output_mode": "tool"}


def messages(house: House) -> dict[str, list[Any]]:
    """The turns of each request that was sent."""
    lines = [
        line for batch in house.emulator.batches() for line in house.emulator.requests(batch["id"])
    ]
    return {line["custom_id"]: line["params"]["messages"] for line in lines}


def attempts(house: House, where: str = "true") -> list[tuple[Any, ...]]:
    return house.sql(
        f"select id, _status, _attempt, _attempts from answers where {where} order by id"
    )


def unfit(house: House, **fields: Any) -> Any:
    """Let note 3 be answered with what does not fit, once; return the pipeline."""
    house.emulator.configure(outcomes={"note 3 ": "unfit"})
    house.sql("create or replace table notes as from notes limit 8")
    house.sql("update notes set text = text || ' .'")
    run = house.nights({"output": OUTPUT, **fields.pop("request", {})}, **fields)
    run.submit()
    run.collect()
    house.emulator.configure(outcomes={})
    return run


@every_form
@pytest.mark.parametrize("tool", [False, pytest.param(True, marks=only_whole)])
def test_what_does_not_fit_is_asked_with_the_answer_and_the_reason(
    house: House, tool: bool
) -> None:
    run = unfit(house, request=TOOL if tool else {})
    assert house.statuses() == {"answered": 7, "invalid": 1}
    first = messages(house)
    run.until_quiet()
    assert house.statuses() == {"answered": 8} and house.paid == 9
    [(custom_id, turns)] = [one for one in messages(house).items() if one[0] not in first]
    [(earlier, asked)] = [
        (name, turns) for name, turns in first.items() if name[:25] == custom_id[:25]
    ]
    assert (earlier[25:28], custom_id[25:28]) == ("-1-", "-2-")
    assert turns[:1] == asked and [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    if tool:
        [call], [result] = turns[1]["content"], turns[2]["content"]
        assert call["input"] == {} and call["id"] == result["tool_use_id"]
        assert result["is_error"] and "kind" in result["content"]
    else:
        assert turns[1]["content"] == "{}" and "kind" in turns[2]["content"]
        assert "The answer reads" not in turns[2]["content"]
    [(_, status, attempt, told)] = attempts(house, "_attempts is not null")
    assert (status, attempt) == ("answered", 2)
    [one] = json.loads(told)
    assert (one["attempt"], one["status"]) == (1, "invalid")
    assert "kind" in one["reason"] and one["batch"].startswith("msgbatch_") and one["at"]
    # What the further turns cost is counted before they are sent.
    sent = run.store.open().ledger.rows(select(request_files).order_by(request_files.c.number))
    earlier_input, now_input = (file["weight"]["input_max"] / file["requests"] for file in sent)
    assert now_input > 1.5 * earlier_input
    if tool:
        return
    # What is known of it, the ledger need not tell.
    for path in house.root.glob("ledger.sqlite*"):
        path.unlink()
    rebuild(run.store.open(lost=True))
    house.nights({"output": OUTPUT}).night()
    assert house.paid == 9


@pytest.mark.parametrize("way", ["switched off", "answers lost", "rows lost", "too large"])
def test_without_its_answer_it_is_asked_as_it_was(house: House, way: str) -> None:
    request = {"system": "s" * 480}
    run = unfit(house, request=request, correct_invalid=way != "switched off")
    first = messages(house)
    match way:
        case "answers lost":
            for path in house.root.glob("notes/*/answers/*"):
                path.unlink()
        case "rows lost":
            for path in house.root.glob("notes/*/results/*"):
                path.write_bytes(b"")
        case "too large":
            request |= {"output": OUTPUT}
            run = house.nights(request, claude={"max_batch_bytes": 1_000})
    run.submit()
    run.until_quiet()
    assert house.statuses() == {"answered": 8}
    [turns] = [turns for name, turns in messages(house).items() if name not in first]
    assert len(turns) == 1


@only_whole
def test_each_attempt_goes_on_from_the_last_and_there_are_no_more_than_max_attempts(
    house: House,
) -> None:
    unfit(house)
    house.emulator.configure(rates={"unfit": 1.0})
    house.nights({"output": OUTPUT}).night()
    assert house.statuses() == {"answered": 7, "invalid": 1} and house.paid == 10
    assert [len(turns) for turns in messages(house).values()].count(3) == 2
    [(_, _, attempt, told)] = attempts(house, "_status = 'invalid'")
    assert attempt == 3
    assert [(one["attempt"], one["status"]) for one in json.loads(told)] == [
        (1, "invalid"), (2, "invalid")
    ]  # fmt: skip
    house.nights({"output": OUTPUT}).night()
    assert house.paid == 10


def test_records_that_are_the_same_and_were_answered_otherwise_are_not_the_same_request(
    house: House,
) -> None:
    house.sql("update notes set text = 'one text'")
    # Asked each by itself, and answered in two ways that do not fit.
    house.emulator.configure(rates={"unfit": 0.5, "truncated": 0.5}, seed=1)
    run = house.nights({"output": OUTPUT}, dedupe=False)
    run.submit()
    run.collect()
    before = Counter(house.statuses())
    assert before["invalid"] > 1
    house.emulator.configure(rates={})
    paid = house.paid
    house.nights({"output": OUTPUT}).night()
    assert house.statuses() == {"answered": 40}
    # One for all that was cut short, one for all that did not fit in the same words.
    assert house.paid == paid + len({*before} - {"answered"})


@only_whole
def test_what_did_not_fit_for_several_is_put_right_once_for_all(house: House) -> None:
    house.sql("update notes set text = 'note ' || (id % 5)")
    house.emulator.configure(rates={"unfit": 1.0})
    run = house.nights({"output": OUTPUT})
    run.submit()
    run.collect()
    assert house.statuses() == {"invalid": 40} and house.paid == 5
    house.emulator.configure(rates={})
    run.until_quiet()
    assert house.statuses() == {"answered": 40} and house.paid == 10
    assert [len(turns) for turns in messages(house).values()].count(3) == 5
    assert house.sql("select count(_attempts), min(_attempt) from answers") == [(40, 2)]


@only_whole
def test_a_changed_question_or_record_is_asked_as_new(house: House) -> None:
    unfit(house)
    house.nights({"output": OUTPUT, "system": "Sort well."}).night()
    house.sql("update notes set text = 'other' where id = 3")
    house.nights({"output": OUTPUT, "system": "Sort well."}, refresh="new").night()
    assert {len(turns) for turns in messages(house).values()} == {1}


RATES = {"errored": 0.03, "expired": 0.02, "truncated": 0.02, "unfit": 0.02, "refused": 0.01}
MISSING = 0.005
RETRIED = ("errored", "expired", "truncated", "invalid", "missing")

# Each row with each attempt before it: as `_attempts` tells it, and as its own row in the store does.
TOLD = """
with told as (
    select _custom_id, unnest(from_json(_attempts, '[{"attempt": "INT", "status": "VARCHAR", "reason": "VARCHAR"}]')) as one
    from answers),
stored as (select _custom_id, _attempt, _status, _error from read_parquet('{results}'))
select count(*), count(*) filter (stored._status = one.status and starts_with(stored._error, one.reason)),
       count(distinct told._custom_id)
from told left join stored
  on substr(stored._custom_id, 10, 16) = substr(told._custom_id, 10, 16) and stored._attempt = one.attempt
"""


@every_form
@pytest.mark.parametrize("records", [200, pytest.param(12_000, marks=only_whole)])
def test_a_night_of_all_troubles(house: House, records: int, capsys: Any) -> None:
    house.sql(
        f"create or replace table notes as select i as id, 'note ' || i as text from range({records}) t(i)"
    )
    house.emulator.configure(rates=RATES, seed=7)
    run = house.nights(
        {"output": OUTPUT}, {"max_batch_requests": 1_000}, checks={"error_rate": 0.02}
    )
    run.submit()
    batches = house.emulator.batches()
    each = max(1, round(MISSING * records / len(batches)))
    for batch in batches:
        for line in range(each):
            house.emulator.fault(
                "results", "line_missing", line=10 + 7 * line, times=None, batch_id=batch["id"]
            )
    for _ in range(60):
        if run.tick_and_run() == 0 and standing(run.store.open(), "notes").is_quiet:
            break
        house.clock.advance(1_500)
    # All are there, each once, and what has no answer has had its attempts, or is never asked again.
    assert house.sql("select count(*), count(distinct id) from answers") == [(records, records)]
    assert set(house.statuses()) <= {"answered", "refused", *RETRIED}
    open_rows = house.sql(
        "select count(*) from answers where _status not in ('answered', 'refused') and _attempt < 3"
    )
    assert open_rows == [(0,)]
    [(exhausted,)] = house.sql(
        "select count(*) from answers where _status not in ('answered', 'refused')"
    )
    assert exhausted <= 5 + records / 400
    [(refused,)] = house.sql("select count(*) from answers where _status = 'refused'")
    assert 0 < refused <= 0.03 * records
    # None was asked more often than it may be.
    asked = Counter(name[9:25] for name in messages(house))
    assert len(asked) == records and max(asked.values()) <= 3
    assert dict(house.sql("select substr(_custom_id, 10, 16), _attempt from answers")) == asked
    # What each earlier attempt came to is told as it was.
    told = house.sql(TOLD.replace("{results}", f"{house.root}/notes/*/results/*.parquet"))
    again = house.sql("select sum(_attempt - 1), count(*) filter (_attempt > 1) from answers")
    assert told == [(again[0][0], again[0][0], again[0][1])]
    assert house.sql("select count(_attempts) from answers where _attempt = 1") == [(0,)]
    first = dict(
        house.sql(
            "select json_extract_string(_attempts, '$[0].status') as status, min(id) from answers"
            " where _attempts is not null group by all"
        )
    )
    # Of few records, none may have had one of the troubles: they are drawn anew for each ledger.
    assert {"missing"} <= set(first) <= set(RETRIED)
    assert records < 1_000 or set(first) == set(RETRIED)
    for status, key in first.items():
        one, two, *_ = history(run.store.open(), "notes", ["id"], [str(key)])
        assert (one.status, two.reason, two.after) == (status, "retry", status)
        assert one.error and two.corrects == (status == "invalid")
    with capsys.disabled():
        if records > 1_000:
            figures = {"asked": house.paid, "attempts": dict(Counter(asked.values()))}
            print(f"{house.statuses()} of {records:,}; {figures}; first failed by:", end=" ")
            print(
                house.sql(
                    "select json_extract_string(_attempts, '$[0].status') as s, count(*) from answers"
                    " where _attempts is not null group by all order by all"
                )
            )
