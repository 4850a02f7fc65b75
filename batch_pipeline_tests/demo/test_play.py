"""The demo, run as a person runs it."""

import socket
from pathlib import Path

import duckdb
import pytest

from batch_pipeline.demo.bill import bill
from batch_pipeline.demo.incoming import INVOICES, NAMED, invoices
from batch_pipeline.demo.packages import PACKAGES
from batch_pipeline.demo.places import Places, emulator_port
from batch_pipeline.demo.play import play
from batch_pipeline.demo.screen import Screen
from batch_pipeline.demo.sections import SECTIONS
from batch_pipeline.demo.server import demo_emulator
from batch_pipeline.errors import InputError
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.demo.conftest import SOME_PACKAGES, shown
from batch_pipeline_tests.support.extent import only_whole


def test_a_night_fills_the_tables_and_a_second_sends_nothing(demo_project: Path, screen: Screen):
    play(screen=screen)
    text = shown(screen)
    with duckdb.connect(str(demo_project / ".demo/warehouse.duckdb"), read_only=True) as warehouse:
        rows = warehouse.execute("select * from invoice_answers order by invoice_id")
        names = [column[0] for column in rows.description]
        answers = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
        approvals = dict(
            warehouse.execute("select invoice_id, needs_manager from invoice_approvals").fetchall()
        )
    assert len(answers) == INVOICES
    assert [row["department"] for row in answers[: len(NAMED)]] == [kind for *_, kind in NAMED]
    assert [row["amount"] for row in answers[:5]] == [124500, 45000, 285000, 78000, 850000]
    assert [approvals[row["invoice_id"]] for row in answers[:5]] == [
        False,
        False,
        True,
        False,
        True,
    ]
    for line in (
        "AWS cloud infrastructure costs",
        f"of {INVOICES} rows",
        "emulator's own bill agrees",
    ):
        assert line in text
    assert f"of {SOME_PACKAGES} packages" in text

    again = Screen(type(screen.console)(file=type(screen.console.file)(), width=160))
    play(screen=again)
    text = shown(again)
    assert f"nothing of {INVOICES} records needs an answer" in text
    assert "Nothing needs an answer: 0 requests were sent in this run." in text
    assert "AWS cloud infrastructure costs" in text
    assert "follows" not in text  # what is downstream is up to date as well


@only_whole
def test_a_reset_night_starts_anew_and_leaves_what_was_paid(demo_project: Path, screen: Screen):
    play(screen=screen)
    paid = demo_project / ".demo/live/store"
    paid.mkdir(parents=True)
    again = Screen(type(screen.console)(file=type(screen.console.file)(), width=160))
    play(screen=again, reset=True)
    assert f"{INVOICES} of {INVOICES} records need an answer" in shown(again)
    assert paid.exists()


def test_nothing_is_reset_under_a_running_emulator(demo_project: Path, screen: Screen):
    with demo_emulator(0.5), pytest.raises(InputError, match="Stop that first"):
        play(screen=screen, reset=True)


def test_a_port_that_another_program_has_is_named(demo_project: Path, screen: Screen):
    with socket.socket() as other:
        other.bind(("127.0.0.1", emulator_port()))
        other.listen()
        with pytest.raises(
            InputError, match=r"is taken by another program.*BATCH_PIPELINE_DEMO_PORT"
        ):
            play(screen=screen)


def test_a_live_night_asks_a_few_records_and_never_twice(
    demo_project: Path, screen: Screen, claude_emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude_emulator.base_url)
    play(screen=screen, live=True, yes=True)
    assert f"70 requests are ready for {claude_emulator.base_url}" in shown(screen)
    assert "at most" in shown(screen)
    assert claude_emulator.bill()["requests"] == 70
    play(screen=screen, live=True)  # there is nothing to say yes to
    assert claude_emulator.bill()["requests"] == 70
    store = open_store(Places(live=True)["store"])
    assert [bill(store, name).requests for name in ("invoices", "packages")] == [20, 50]
    assert not (demo_project / ".demo/store").exists()


@only_whole
def test_a_live_night_sends_nothing_when_nobody_says_yes(
    demo_project: Path, screen: Screen, claude_emulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude_emulator.base_url)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    with pytest.raises(InputError, match=r"Nothing was sent.*--yes"):
        play(screen=screen, live=True)
    assert "$" in shown(screen)
    assert claude_emulator.batches() == []


def test_a_live_night_needs_a_key_and_is_never_reset(demo_project: Path, screen: Screen):
    with pytest.raises(InputError, match="ANTHROPIC_API_KEY"):
        play(screen=screen, live=True)
    with pytest.raises(InputError, match="--reset"):
        play(screen=screen, live=True, reset=True)


def test_invoices_are_the_same_every_time_and_their_keys_are_unique():
    assert invoices() == invoices()
    assert len({one.invoice_id for one in invoices()}) == INVOICES
    assert [one.description for one in invoices(5)] == [text for _, text, _ in NAMED]


def test_packages_ship_with_the_package_and_every_section_is_a_choice():
    count, distinct = duckdb.sql(
        f"select count(*), count(distinct package) from read_parquet('{PACKAGES}')"
    ).fetchall()[0]
    sections = duckdb.sql(f"select distinct section from read_parquet('{PACKAGES}')").fetchall()
    assert count == distinct == 2000
    assert {name for (name,) in sections} <= set(SECTIONS)
    assert PACKAGES.stat().st_size < 500_000
