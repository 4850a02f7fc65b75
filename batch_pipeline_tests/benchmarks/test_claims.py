"""What `make claims` plays: the claims come out as the page says, and the page has the table of today's code."""

import tempfile
from decimal import Decimal
from pathlib import Path

from batch_pipeline_tests.support.extent import only_whole
from benchmarks.claims import (
    PAGE,
    PLACE,
    Cost,
    Night,
    Row,
    claims,
    emulated,
    table_of,
    written,
)


def test_the_page_has_a_line_for_each_claim_that_is_played() -> None:
    def play(night: Night, synchronously: bool) -> Cost:
        return Cost(Decimal(1), Decimal(2) if synchronously else None)

    rows = [*claims(play, 500, 5_000)]
    place = PLACE.search(PAGE.read_text())
    assert place is not None
    lines = [line for line in place[0].splitlines() if line.startswith("| ")]
    shown = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines[1:]]
    assert shown == [(row.claim, row.setting) for row in rows]
    table = table_of([Row("a", "b", "c", "d", "e", "holds")])
    assert table in written(PAGE.read_text(), table)


@only_whole
def test_the_claims_come_out_as_the_page_says() -> None:
    with tempfile.TemporaryDirectory() as folder, emulated(Path(folder)) as play:
        plain = play(Night("claude-haiku-4-5", 30, "Be short."), True)
        assert plain.usd * 2 == plain.synchronous
        off = play(Night("claude-opus-5-5", 60), True)
        on = play(Night("claude-opus-5-5", 60, None, "1h"), False)
        unseeded = play(Night("claude-opus-5-5", 60, None, "1h", late=True), False)
        seeded = play(Night("claude-opus-5-5", 60, None, "1h", late=True, seed=True), False)
    assert off.synchronous is not None and off.usd * 2 == off.synchronous
    for one in (on, seeded):
        assert 1 - one.usd / off.synchronous > Decimal("0.9")
    assert unseeded.usd > Decimal("0.9") * off.synchronous
