"""What is reserved for requests holds, whoever allowed them more tokens than earlier ones had."""

import json
import sqlite3
from typing import Any

from batch_pipeline_tests.guarantees.test_asked_again import OUTPUT
from batch_pipeline_tests.guarantees.test_request_files import line, nights, write
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House


def reserved(house: House, run: Nights) -> tuple[int, int]:
    """Build requests; return the output tokens that are reserved for them, and those they may have."""
    run.select("records", "requests")
    with sqlite3.connect(house.root / "ledger.sqlite") as ledger:
        query = "select weight from request_files order by number desc, seq limit 1"
        [(found,)] = ledger.execute(query).fetchall()
    weight: dict[str, Any] = json.loads(found)
    most = weight["output_max"]
    return (most if weight["output_p99"] is None else weight["output_p99"]), most


def test_answers_that_were_cut_short_may_be_as_long_as_is_allowed_now(house: House) -> None:
    house.emulator.configure(rates={"truncated": 0.3}, seed=1)
    run = house.nights({"max_tokens": 50})
    run.submit()
    run.collect()
    [(cut,)] = house.sql("select count(*) from answers where _status = 'truncated'")
    more = house.nights({"max_tokens": 4000})
    assert cut and reserved(house, more) == (4000 * cut, 4000 * cut)
    house.emulator.configure(rates={})
    more.select("batches")
    more.collect()
    # Answers that were allowed as much tell how long answers are.
    house.sql("insert into notes select id + 100, 'more ' || text, part from notes")
    more.night()
    house.sql("insert into notes select id + 1000, 'again ' || text, part from notes")
    some, most = reserved(house, more)
    assert some < most / 100


@only_whole
def test_ready_requests_that_are_allowed_more_are_not_like_the_earlier_ones(house: House) -> None:
    def written(name: str, **params: Any) -> None:
        lines = [line(f"{name} {number}", f"ask {number}", **params) for number in range(30)]
        write(house.folder / "requests" / f"{name}.jsonl", *lines)

    run = nights(house)
    written("short", max_tokens=50)
    run.night()
    written("alike", max_tokens=60)
    some, most = reserved(house, run)
    assert some < most == 30 * 60
    run.select("batches")
    run.until_quiet()
    written("long", max_tokens=4000)
    assert reserved(house, run) == (30 * 4000, 30 * 4000)


def test_answers_that_do_not_fit_say_nothing_of_those_that_do(house: House) -> None:
    house.emulator.configure(rates={"unfit": 1.0})
    run = house.nights({"output": OUTPUT})
    run.submit()
    run.collect()
    assert reserved(house, run) == (40 * 200, 40 * 200)
