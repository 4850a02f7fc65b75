"""What `make sdk-suites` and `make clients` keep: the lists, and the tables that are made of them."""

import dataclasses

from batch_pipeline_tests.clients.__main__ import CALLS, CLIENTS, HEAD, rows_of
from batch_pipeline_tests.clients.kept_list import complaints, kept_list, list_table
from batch_pipeline_tests.clients.page import PAGE, table_of, with_table


def test_the_page_has_what_cannot_pass() -> None:
    page = PAGE.read_text()
    assert with_table(page, "python_sdk", list_table()) == page


def test_the_number_of_the_sdks_tests_that_pass_may_only_grow() -> None:
    kept = kept_list()
    failed = {test: [one.says] * 5 for one in kept.reasons for test in one.tests}
    assert complaints(kept, kept.version, kept.passed, failed) == []
    assert complaints(kept, kept.version, kept.passed + 1, failed) == []
    assert complaints(kept, kept.version, kept.passed - 1, failed)
    assert complaints(dataclasses.replace(kept, version="0"), kept.version, kept.passed, failed)
    test = next(iter(failed))
    for otherwise in (
        {**failed, "test_messages.py::test_other": ["500"]},
        {**failed, test: [*failed[test][1:], "Internal server error"]},
        {name: errors for name, errors in failed.items() if name != test},
    ):
        [complaint] = complaints(kept, kept.version, kept.passed, otherwise)
        assert "test_" in complaint


def test_the_page_has_every_client_that_is_tried() -> None:
    table = table_of(PAGE.read_text(), "clients")
    assert table.startswith(HEAD)
    assert list(rows_of(table)) == [client.name for client in CLIENTS]
    assert "FAILED" not in table
    assert {client.script for client in CLIENTS} == {path.name for path in CALLS.glob("call_*")}
