"""Many questions about few documents: what `cache_by` announces is what the bill shows."""

from decimal import Decimal
from itertools import pairwise

import pytest

from batch_pipeline.requests.prices import Tokens, price_of
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import every_form, only_whole
from batch_pipeline_tests.support.house import House

MODEL = "claude-haiku-5-5"
SHARING = {
    "model": MODEL, "max_tokens": 200, "prompt": "{{ question }}", "cache": "1h", "cache_by": ["document"],
}  # fmt: skip


def fill(house: House, night: int, documents: int, each: int) -> None:
    """Put in questions about new documents of 2,000 tokens, mixed."""
    first = night * documents * each
    house.sql(
        "create or replace table notes as select i::integer as id, 'question ' || i as question, "
        f"repeat('paragraph ' || (i % {documents} + {night * documents}) || ' of it. ', 220) as document "
        f"from range({first}, {first + documents * each}) t(i)"
    )


def saved(house: House, since: int) -> Decimal:
    """Return what the answers since a record cost less than they would without a cache."""
    price = price_of(MODEL, house.clock.now().date())
    rows = house.sql(
        "select _input_tokens, _cache_read_tokens, _cache_write_tokens, _output_tokens, _cost_usd::varchar from answers "
        f"where id >= {since}"
    )
    assert price is not None
    plain = Decimal(0)
    for tokens, read, written, output, _ in rows:
        cost = price.cost(Tokens(input=tokens + read + written, output=output))
        assert cost is not None
        plain += cost
    return plain - sum(Decimal(row[-1]) for row in rows)


def announced(run: Nights) -> tuple[Decimal, Decimal, str]:
    shown = run.metadata("requests")
    figures = (shown[f"cache_by_saves{best}_usd"] for best in ("", "_at_best"))
    usd, best = (Decimal(str(one)) for one in figures)
    return usd, best, shown["cache_by"]


def order(house: House) -> list[str]:
    batch = house.emulator.batches()[0]
    return [
        line["params"]["messages"][0]["content"][0]["text"]
        for line in house.emulator.requests(batch["id"])
    ]


@every_form
@pytest.mark.parametrize(
    ("documents", "each", "misses"),
    [
        (5, 40, 0.0),
        *(pytest.param(50, 40, misses, marks=only_whole) for misses in (0.0, 0.05, 0.1)),
    ],
)
def test_what_it_says_it_saves_is_what_the_bill_shows(
    house: House, documents: int, each: int, misses: float
) -> None:
    house.emulator.configure(rates={"cache_miss": misses})
    fill(house, 0, documents, each)
    run = house.nights(SHARING)
    run.night()
    usd, best, said = announced(run)
    assert "64% of those that can" in said and "assumed" in said
    assert "question" in run.metadata("requests")["first_request"]
    texts = order(house)
    changes = sum(one != other for one, other in pairwise(texts))
    assert changes == documents - 1
    if not misses:  # the bill is what was said of the best
        assert abs(saved(house, 0) - best) < best / 10 and usd < best
    # The next night goes by what this pipeline has seen.
    fill(house, 1, documents, each)
    run.night()
    usd, _, said = announced(run)
    assert "as of earlier answers" in said
    found = saved(house, documents * each)
    print(f"{documents} documents, {misses:.0%} miss: announced ${usd:.6f}, bill ${found:.6f}")
    assert abs(found - usd) < usd / 10
    assert house.paid == 2 * documents * each and house.paid_twice == 0


@only_whole
def test_what_does_not_pay_is_said_and_not_cached(house: House) -> None:
    fill(house, 0, 20, 2)
    run = house.nights(SHARING)
    run.night()
    shown = run.metadata("requests")
    assert "does not pay here" in shown["cache_by"] and "from 6 requests about a text on" in shown["cache_by"]  # fmt: skip
    assert shown["cache_by_saves_usd"] == 0
    assert house.sql("select sum(_cache_write_tokens) from answers") == [(0,)]
    run.night()
    assert house.paid == 40


@only_whole
def test_with_a_cached_system_prompt_it_is_what_is_saved_beside_that(house: House) -> None:
    system = {"system": "Answer by the document and by nothing else. " * 60}
    fill(house, 0, 30, 40)
    both = SHARING | {"cache_by": (), "prompt": "{{ document }}{{ question }}"} | system
    plain = house.nights(both, name="plain", destination=None)
    plain.night()
    assert "30 texts of document" in plain.metadata("results")["advice"]
    without = Decimal(house.emulator.bill()["usd"])
    run = house.nights(SHARING | system, name="by_document", destination=None)
    run.night()
    saving = without - (Decimal(house.emulator.bill()["usd"]) - without)
    _, best, said = announced(run)
    print(f"with a system prompt: announced ${best:.6f} at best, bill ${saving:.6f}")
    assert abs(saving - best) < best / 10, said
