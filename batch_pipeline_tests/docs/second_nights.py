"""The table of second nights in docs/guarantees.md, made from the tests.

python -m batch_pipeline_tests.docs.second_nights     writes it
"""

import re

from batch_pipeline_tests.docs.pages import ROOT
from batch_pipeline_tests.guarantees import test_second_nights as identity
from batch_pipeline_tests.guarantees import test_second_nights_destination as destination

PAGE = ROOT / "docs" / "guarantees.md"
PLACE = re.compile(r"(<!-- made by [\w.]+second_nights -->\n).*?(<!-- end -->)", re.DOTALL)
WHAT = (
    (identity.CHANGES, "goes on", identity.test_it_goes_on_and_nothing_is_paid_again),
    (identity.REFUSED, "refused", identity.test_it_is_refused_before_any_money),
    (
        destination.RIGHT,
        "put right",
        destination.test_a_change_of_the_table_is_put_right_and_costs_nothing,
    ),
    (
        destination.REFUSED,
        "refused",
        destination.test_a_change_that_would_lose_rows_is_refused_before_any_money,
    ),
)


def table() -> str:
    """Return the table: a line for each change of the tests."""
    lines = ["| between two nights | what happens | test |", "|---|---|---|"]
    for changes, outcome, test in WHAT:
        file = test.__module__.removeprefix("batch_pipeline_tests.").replace(".", "/")
        # As pytest names the form: between quotes it can be pasted after `pytest`.
        lines += [
            f"| {change} | {outcome} | `{file}.py::{test.__name__}[{change}]` |"
            for change in changes
        ]
    return "\n".join([*lines, ""])


def drawn(text: str) -> str:
    """Return a page with the table as it must be."""
    return PLACE.sub(lambda place: f"{place[1]}{table()}{place[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
