"""The first request fills the cache, and the others are sent when it has."""

import anthropic
import dagster as dg
import pytest

from batch_pipeline import InputError, MessageTemplate
from batch_pipeline.definitions.assets.checks import check_specs
from batch_pipeline_tests.support.api_requests import requests
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House
from batch_pipeline_tests.support.moments import ended_at

SYSTEM = "Sort the notes of a house by what they are about. " * 600
SEEDED = {"system": SYSTEM, "cache": "1h", "cache_seed": True}
LIMITS = {"max_batch_requests": 25}


def sizes(house: House) -> list[int]:
    batches = house.emulator.batches()
    return sorted(len(house.emulator.requests(batch["id"])) for batch in batches)


def hits(house: House) -> float:
    [(read, written)] = house.sql(
        "select sum(_cache_read_tokens), sum(_cache_write_tokens) from answers"
    )
    return float(read / (read + written))


def test_the_others_wait_for_the_first_and_read_what_it_wrote(house: House) -> None:
    house.sql("insert into notes select i, 'note ' || i, 0 from range(40, 400) t(i)")
    house.emulator.configure(cache_after_batch=True, manual=True)
    run = house.nights(SEEDED)
    run.submit()
    run.run("send")
    assert sizes(house) == [1] and run.tick_and_run() == 0
    house.emulator.configure(manual=False)
    run.until_quiet()
    assert sizes(house) == [1, 399] and house.paid == 400
    assert hits(house) >= 0.99
    # Nothing is left to ask, so nothing to seed. Without a seed each request writes for itself.
    run.night()
    assert house.paid == 400
    house.sql("drop table answers")
    unseeded = SEEDED | {"cache_seed": False, "system": f"{SYSTEM} Say it briefly."}
    house.nights(unseeded).night(allow_reask=True)
    assert hits(house) == 0


@only_whole
@pytest.mark.parametrize("status", ["errored", "slow", "refused by the API", "reply lost"])
def test_a_first_request_that_fails_stops_nothing(house: House, status: str) -> None:
    match status:
        case "errored":
            house.emulator.configure(outcomes={"note 0": "errored"})
        case "slow":
            house.emulator.configure(manual=True)
        case "refused by the API":
            house.emulator.fault("create", "status_before", status=400)
        case "reply lost":
            house.emulator.fault("create", "drop_after")
    run = house.nights(SEEDED, LIMITS)
    run.submit()
    if status == "slow":
        assert sizes(house) == [1]
        house.clock.advance(3700)
    for _ in range(8):
        run.tick_and_run()
        house.clock.advance(120)
    assert sum(sizes(house)) >= RECORDS - 1
    house.emulator.configure(manual=False)
    house.emulator.end()
    for _ in range(4):
        run.tick_and_run()
    answered = house.statuses()["answered"]
    assert answered >= RECORDS - 1
    assert house.paid == answered


@only_whole
@pytest.mark.parametrize("moment", range(0, 60, 2))
def test_a_run_that_ends_at_any_moment_pays_once(house: House, moment: int) -> None:
    house.emulator.configure(cache_after_batch=True)
    with ended_at(moment):
        run = house.nights(SEEDED, LIMITS)
        for job in ("submit", "send", "collect"):
            run.run(job)
    house.clock.advance(7200)
    house.nights(SEEDED, LIMITS).night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}
    assert sizes(house)[0] == 1


def test_a_seed_needs_a_cache() -> None:
    with pytest.raises(InputError, match='set cache="5m"'):
        MessageTemplate(model="m", max_tokens=1, prompt="{{ a }}", cache_seed=True)


@only_whole
def test_a_seed_that_another_pipelines_lost_reply_keeps_back_stops_nothing(house: House) -> None:
    """Batches of one request look alike: while one may be a lost file, no other one is sent."""
    house.emulator.configure(manual=True)
    other = house.nights(SEEDED, name="other", destination=None)
    anthropic.Anthropic(api_key="any", base_url=house.emulator.base_url).messages.batches.create(
        requests=requests(1)
    )  # somebody else's, which may be the lost one
    house.emulator.fault("create", "drop_before")
    other.submit()
    house.clock.advance(200)
    other.tick_and_run()
    run = house.nights(SEEDED, name="third", destination=None)
    run.submit()
    house.clock.advance(1800)
    assert run.tick_and_run() == 0 and sizes(house) == [1]
    house.clock.advance(1900)
    run.tick_and_run()
    assert sizes(house) == [1, 39]


@only_whole
def test_a_cache_that_is_read_less_than_before_is_warned_of(house: House) -> None:
    house.sql("insert into notes select i, 'note ' || i, 0 from range(40, 200) t(i)")
    run = house.nights({"system": SYSTEM, "cache": "1h"})

    def checked() -> dg.AssetCheckResult:
        house.sql("update notes set text = text || ' again'")
        run.submit(allow_reask=True)
        found = run.collect()
        [one] = [
            one for one in found.get_asset_check_evaluations() if one.check_name == "cache_hit_rate"
        ]
        assert one.severity == dg.AssetCheckSeverity.WARN or one.passed
        return one

    first = checked()
    assert first.passed and "too few earlier answers" in str(first.description)
    usual = checked()
    assert usual.passed and usual.metadata["expected"].value > 0.9
    house.emulator.configure(rates={"cache_miss": 0.6})
    bad = checked()
    assert not bad.passed and "more was written than expected" in str(bad.description)
    read, least = bad.metadata["hit_rate"].value, bad.metadata["least"].value
    assert abs(read - hits(house)) < 1e-9 and read < 0.6 < least
    # What is not to be cached has no such check.
    names = [spec.name for spec in check_specs(dg.AssetKey("a"))]
    assert "cache_hit_rate" not in names and run.pipeline.caches
