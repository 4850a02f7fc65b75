"""docs/guarantees.md is about the tests as they are."""

import re

import pytest

from batch_pipeline_tests.docs.pages import ROOT
from batch_pipeline_tests.docs.second_nights import PAGE, drawn, table

TEXT = PAGE.read_text()
TESTS = ROOT / "batch_pipeline_tests"


def test_the_table_of_second_nights_is_fresh() -> None:
    assert table() in TEXT and drawn(TEXT) == TEXT, (
        "the tests have changed: run python -m batch_pipeline_tests.docs.second_nights"
    )
    assert table().count("\n| ") >= 25


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`([a-z_]+/test_\w+\.py)", TEXT))))
def test_a_file_that_is_named_is_there(file: str) -> None:
    assert (TESTS / file).is_file()


@pytest.mark.parametrize(
    ("file", "name"), sorted(set(re.findall(r"`([a-z_]+/test_\w+\.py)::(test_\w+)[`[]", TEXT)))
)
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE)
