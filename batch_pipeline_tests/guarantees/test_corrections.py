"""A correction asks again, and nothing that failed for its own sake is asked again unchanged."""

import json
from typing import Any

import pytest

from batch_pipeline import MessageTemplate
from batch_pipeline.errors import InputError
from batch_pipeline.results.refusal import field_of
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House

FEW = 12


@pytest.fixture(autouse=True)
def _few(house: House) -> None:
    house.sql(f"delete from notes where id >= {FEW}")
    house.sql("update notes set text = repeat('many words ', 20) || id")


def tokens(house: House) -> list[int]:
    """max_tokens of each request of one record, in the order in which they were sent."""
    batches = [batch["id"] for batch in reversed(house.emulator.batches())]
    batches.sort(
        key=lambda one: next(b["created_at"] for b in house.emulator.batches() if b["id"] == one)
    )
    lines = [line for batch in batches for line in house.emulator.requests(batch)]
    mine = [line for line in lines if line["custom_id"].endswith("-3")]
    ordered = sorted(mine, key=lambda line: int(line["custom_id"].split("-")[2]))
    return [line["params"]["max_tokens"] for line in ordered]


def night(house: House, request: dict[str, Any], **fields: Any) -> int:
    """A night, with what the sensor has to say after it; how many requests it paid."""
    before = house.paid
    house.nights(request, **fields).night()
    return house.paid - before


@only_whole
def test_max_tokens_raised_asks_what_was_cut_short_again(house: House) -> None:
    short = {"max_tokens": 2, "max_tokens_limit": 2}
    assert night(house, short) == FEW
    assert house.statuses() == {"truncated": FEW}
    assert night(house, short) == 0  # unchanged, it would be cut short again
    assert night(house, {"max_tokens": 2000}) == FEW
    assert house.statuses() == {"answered": FEW}
    assert tokens(house) == [2, 2000]


def test_what_was_cut_short_gets_twice_as_many_tokens_up_to_the_limit(house: House) -> None:
    request = {"max_tokens": 2, "max_tokens_limit": 7}
    night(house, request, max_attempts=9)
    assert tokens(house) == [2, 4, 7]
    assert house.statuses() == {"truncated": FEW}
    assert night(house, request, max_attempts=9) == 0
    # The limit is raised, and the attempts of before do not count against it.
    assert night(house, {"max_tokens": 2, "max_tokens_limit": 2000}, max_attempts=20) > 0
    assert house.statuses() == {"answered": FEW}


@only_whole
def test_without_a_limit_it_is_eight_times_as_many(house: House) -> None:
    night(house, {"max_tokens": 2}, max_attempts=9)
    assert tokens(house) == [2, 4, 8, 16]
    template = MessageTemplate(model="m", max_tokens=20_000, prompt="{{ a }}")
    assert template.most_tokens == 32_000
    assert MessageTemplate(model="m", max_tokens=64_000, prompt="{{ a }}").most_tokens == 64_000


@only_whole
def test_attempts_are_counted_as_ever(house: House) -> None:
    night(house, {"max_tokens": 2}, max_attempts=2)
    assert tokens(house) == [2, 4]


@only_whole
@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 300}, {"system": "Be brief.", "cache": "1h", "version": "1"}],
)
def test_what_failed_for_good_is_asked_again_when_the_request_differs(
    house: House, change: dict[str, Any]
) -> None:
    request = {"version": "1"}
    house.emulator.configure(rates={"errored": 1.0})
    assert night(house, request, max_attempts=2) == 0  # an error costs nothing
    asked = len(house.emulator.batches())
    night(house, request, max_attempts=2)
    assert len(house.emulator.batches()) == asked
    house.emulator.configure(rates={})
    assert night(house, request | change, max_attempts=2) == FEW
    assert house.statuses() == {"answered": FEW}


@only_whole
def test_a_higher_limit_of_attempts_asks_again(house: House) -> None:
    house.emulator.configure(rates={"errored": 1.0})
    night(house, {}, max_attempts=1)
    house.emulator.configure(rates={})
    assert night(house, {}, max_attempts=1) == 0
    assert night(house, {}, max_attempts=2) == FEW


def test_a_refusal_of_the_request_costs_no_attempt(house: House) -> None:
    house.emulator.configure(rates={"invalid": 1.0})
    night(house, {}, max_attempts=1)
    assert house.statuses() == {"rejected": FEW}
    asked = len(house.emulator.batches())
    night(house, {}, max_attempts=1)
    assert len(house.emulator.batches()) == asked
    house.emulator.configure(rates={"errored": 1.0})
    night(house, {"max_tokens": 100}, max_attempts=2)
    night(house, {"max_tokens": 100}, max_attempts=2)
    night(house, {"max_tokens": 100}, max_attempts=2)
    house.emulator.configure(rates={})
    assert len(house.emulator.batches()) == asked + 2  # both attempts are there to be used
    assert house.statuses() == {"errored": FEW}


def test_a_refusal_that_all_get_is_one_message_with_the_field(house: House) -> None:
    refuse = {"message": "max_tokens: 200 > 150, which is the most this model can write"}
    house.emulator.configure(rates={"invalid": 1.0}, manual=True)
    run = house.nights({})
    run.submit()
    house.emulator.end()
    (batch,) = house.emulator.batches()
    lines = [
        json.dumps(
            {
                "custom_id": one["custom_id"],
                "result": {
                    "type": "errored",
                    "error": {
                        "type": "error",
                        "error": {"type": "invalid_request_error", **refuse},
                    },
                },
            }
        )
        for one in house.emulator.requests(batch["id"])
    ]
    house.emulator.fault("results", "replace_body", body="\n".join(lines) + "\n")
    run.until_quiet()
    said = run.metadata("results")["why_rejected"]
    assert said == (
        f"The API refused all {FEW} requests for one reason: {refuse['message']}. Change `max_tokens` of "
        "the MessageTemplate: the next submit run asks them again. Nothing was billed, and no attempt is "
        "counted."
    )
    house.emulator.configure(rates={}, manual=False)
    house.nights({"max_tokens": 150}, max_attempts=1).night()
    assert house.statuses() == {"answered": FEW} and house.paid == FEW
    assert "why_rejected" not in run.metadata("results")


def test_refusals_that_differ_are_told_by_their_rows(house: House) -> None:
    house.emulator.configure(rates={"invalid": 0.5})
    run = house.nights({})
    run.night()
    assert 0 < house.statuses()["rejected"] < FEW
    assert "why_rejected" not in run.metadata("results")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("max_tokens: 9 > 8", "`max_tokens`"),
        ("messages.0.content.1.source: bad", "`prompt`"),
        ("output_config.format.schema: bad", "`output`"),
        ("temperature: range 0..1", "`params['temperature']`"),
        ("tools[0].name: bad", "`params['tools']`"),
        ("the prompt is too long: 9 tokens", None),
        ("no colon", None),
        ("", None),
    ],
)
def test_the_field_of_a_refusal_is_what_a_person_wrote(message: str, field: str | None) -> None:
    found = field_of(message)
    assert found is None if field is None else found is not None and found.startswith(field)


@only_whole
def test_what_is_answered_or_refused_is_not_asked_again(house: House) -> None:
    night(house, {})
    assert night(house, {"max_tokens": 900}) == 0
    house.sql("update notes set text = text || '!' where id < 5")
    house.emulator.configure(rates={"refused": 1.0})
    night(house, {"max_tokens": 900})
    assert house.statuses() == {"answered": FEW - 5, "refused": 5}
    house.emulator.configure(rates={})
    assert night(house, {"max_tokens": 901}) == 0


@only_whole
def test_what_an_earlier_version_asked_is_not_asked_again_by_the_upgrade(house: House) -> None:
    house.emulator.configure(rates={"errored": 1.0})
    night(house, {}, max_attempts=1)
    ledger = house.nights().store.open().ledger
    with ledger.write() as tx:
        tx.exec_driver_sql("update submissions set question = json_remove(question, '$.request')")
    house.emulator.configure(rates={})
    assert night(house, {}, max_attempts=1) == 0
    assert night(house, {"max_tokens": 333}, max_attempts=1) == 0
    assert night(house, {"max_tokens": 333}, max_attempts=2) == FEW


@only_whole
def test_the_estimate_counts_the_longer_answers(house: House) -> None:
    run = house.nights({"max_tokens": 2, "max_tokens_limit": 4}, max_attempts=2)
    run.submit()
    first = run.metadata("requests")
    run.until_quiet()
    second = run.metadata("requests")
    assert len(house.emulator.batches()) == 2
    names = [name for name in first if "output" in name and isinstance(first[name], int)]
    assert names and all(second[name] == 2 * first[name] for name in names)


@pytest.mark.parametrize("limit", [0, 1, 1.5, "9", True])
def test_a_limit_below_max_tokens_is_refused(limit: Any) -> None:
    with pytest.raises(InputError, match="max_tokens_limit"):
        MessageTemplate(model="m", max_tokens=2, prompt="{{ a }}", max_tokens_limit=limit)
