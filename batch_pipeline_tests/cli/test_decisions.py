"""The commands find the user's project by themselves, settle and cancel what is on its way there."""

import json
import sys

import pytest
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject


def test_the_project_is_found_from_a_folder_below_it(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    (user_project.folder / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(user_project.folder / "deep" / "down")
    result = CliRunner().invoke(main, ["reconcile"])
    assert result.exit_code == 0
    assert str(user_project.folder / "data" / "batches") in result.output
    assert user_project.emulator.batches()[0]["id"] in result.output


def test_a_store_that_no_run_has_made_is_said_and_not_made(user_project: UserProject):
    result = user_project.run("held")
    assert result.exit_code == 1
    assert str(user_project.folder / "data" / "batches") in result.output
    assert "notes_submit" in result.output
    assert not (user_project.folder / "data").exists()


def test_a_location_that_cannot_be_imported_is_noted_and_the_rest_is_done(
    user_project: UserProject,
):
    user_project.submit()
    user_project.write(
        "workspace.yaml",
        "load_from:\n  - grpc_server: {host: far, port: 4000, location_name: far_away}\n"
        "  - python_file: pipelines.py\n",
    )
    result = user_project.run("held", "--json")
    assert result.exit_code == 0
    assert "far_away" in result.stderr and "--store" in result.stderr
    assert json.loads(result.stdout) == {"pipelines": [], "submissions": [], "files": []}


def test_broken_code_is_shown_and_the_store_can_still_be_named(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    user_project.write("pipelines.py", "x = undefined\n")
    result = user_project.run("reconcile")
    assert result.exit_code == 1
    assert "NameError: name 'undefined' is not defined" in result.output
    assert f"{user_project.folder / 'pipelines.py'}, line 1" in result.output
    monkeypatch.setenv("ANTHROPIC_API_KEY", "shop-key")
    words = ["--store", str(user_project.folder / "data" / "batches")]
    result = CliRunner().invoke(
        main, ["reconcile", "notes", *words, "--base-url", user_project.emulator.base_url]
    )
    assert result.exit_code == 0
    assert user_project.emulator.batches()[0]["id"] in result.output


def test_a_dagster_that_loads_code_in_another_way_is_said(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "batch_pipeline.cli.project")
    monkeypatch.setitem(sys.modules, "dagster._grpc.utils", None)
    result = user_project.run("held")
    assert result.exit_code == 1
    assert "this version of Dagster" in result.output and "--store" in result.output


def test_without_a_key_it_says_so(user_project: UserProject, monkeypatch: pytest.MonkeyPatch):
    user_project.submit()
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    words = ["--store", str(user_project.folder / "data" / "batches")]
    for command in (["reconcile"], ["cancel", "notes"]):
        result = CliRunner().invoke(main, [*command, *words])
        assert result.exit_code == 1
        assert "There is no API key" in result.output
        assert "Cancel it?" not in result.output


def test_reconcile_settles_a_lost_reply_and_says_what_it_did(user_project: UserProject):
    user_project.emulator.fault("create", "drop_after")
    user_project.submit()
    result = user_project.run("reconcile", "notes")
    assert result.exit_code == 0
    assert "its reply was lost" in result.output
    user_project.emulator.clear_faults()
    user_project.emulator.end()
    user_project.clock.advance(600)
    listed = json.loads(user_project.run("reconcile", "notes", "--json").stdout)
    sent = {batch["id"] for batch in user_project.emulator.batches()}
    assert {line["batch_id"] for line in listed["files"]} == sent
    assert any("unknown → " in line["did"] and line["why"] for line in listed["files"])
    assert listed["errors"] == []
    assert user_project.emulator.bill()["requests"] == 10


def test_reconcile_says_what_a_person_must_do(user_project: UserProject):
    user_project.emulator.fault("create", "status_before", status=400, times=1)
    user_project.submit()
    result = user_project.run("reconcile")
    assert result.exit_code == 3
    held = next(line for line in result.output.splitlines() if "To do: " in line)
    file = held.split("--resend ")[1].split(",")[0]
    assert user_project.run("held").exit_code == 3
    assert user_project.run("held", "--resend", file).exit_code == 0
    assert user_project.run("reconcile").exit_code == 0


def test_reconcile_of_one_pipeline_shows_no_other(user_project: UserProject):
    user_project.submit("notes")
    user_project.submit("letters", "odd")
    result = user_project.run("reconcile", "letters")
    assert "letters" in result.output and "odd" in result.output
    assert "notes " not in result.output


def test_reconcile_lists_what_nobody_knows_the_cost_of(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("claude()", 'claude(on_unknown="hold")')
    )
    user_project.emulator.fault("create", "drop_before", times=1)
    user_project.submit()
    user_project.emulator.clear_faults()
    user_project.clock.advance(600)
    shown = user_project.run("reconcile", "notes")
    assert shown.exit_code == 3
    file = shown.output.split("--resend ")[1].split(",")[0]
    user_project.run("held", "--drop", file)
    listed = json.loads(user_project.run("reconcile", "notes", "--json").stdout)
    assert [(cost["file"], cost["requests"]) for cost in listed["costs_unknown"]] == [(file, 4)]
    assert "whose cost is unknown" in user_project.run("reconcile", "notes").output


@only_whole
def test_an_api_that_does_not_answer_is_an_error_and_changes_nothing(user_project: UserProject):
    user_project.submit()
    before = user_project.states()
    user_project.emulator.stop()
    for command in (("reconcile",), ("cancel", "notes", "--yes")):
        result = user_project.run(*command)
        assert result.exit_code == 1
        assert user_project.emulator.base_url in result.output
    assert user_project.states() == before


def test_pipelines_of_two_accounts_in_one_store_are_each_settled_by_their_own(
    user_project: UserProject,
):
    user_project.emulator.configure(keys={"shop-key": "main", "other-key": "other"})
    user_project.write(
        "pipelines.py",
        CODE
        + "defs = dg.Definitions.merge(\n"
        + "    build_definitions(pipeline('notes'), claude=claude(), store=store),\n"
        + "    build_definitions(pipeline('cheap', claude_key='other')),\n"
        + "    dg.Definitions(resources={'other': claude(api_key='other-key')}),\n)\n",
    )
    with inside(user_project.folder):
        for name in ("notes", "cheap"):
            nights = user_project.nights(name)
            nights.definitions = sys.modules["pipelines"].defs
            user_project.emulator.fault("create", "status_before", status=400, times=1)
            nights.submit()
    result = user_project.run("reconcile", "--json")
    assert result.exit_code == 3
    lines = json.loads(result.stdout)["files"]
    assert len({line["file"] for line in lines}) == len(lines) == 8
    sent = {line["batch_id"] for line in lines if not line["todo"]}
    assert sent == {batch["id"] for batch in user_project.emulator.batches()}
    held = [line for line in lines if line["todo"]]
    assert {line["pipeline"] for line in held} == {"notes", "cheap"}
    assert all("held --resend" in line["todo"] for line in held)


def test_a_pipeline_that_left_the_code_can_still_be_cancelled(user_project: UserProject):
    user_project.submit("letters", "odd")
    user_project.write(
        "pipelines.py",
        CODE + "defs = build_definitions(pipeline('notes'), claude=claude(), store=store)\n",
    )
    assert user_project.run("cancel", "letters", "--yes").exit_code == 0
    assert {batch["processing_status"] for batch in user_project.emulator.batches()} == {
        "canceling"
    }


def test_cancel_asks_first_and_says_what_it_is_about(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("claude()", "claude(max_queued_requests=4)")
    )
    user_project.submit()
    result = user_project.run("cancel", "notes", say="n\n")
    assert result.exit_code == 1
    words = " ".join(result.output.split())
    assert "1 4 sent: the API works on it" in words
    assert "3 6 not sent: it is withdrawn" in words
    assert "answered by now is paid for, and is still collected" in words
    assert "Nothing was cancelled" in words
    assert [state for _, state in user_project.states()] == [
        "in_progress",
        "ready",
        "ready",
        "ready",
    ]
    assert "Say --yes" in user_project.run("cancel", "notes").output


def test_what_is_cancelled_is_collected_as_far_as_it_was_answered(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("claude()", "claude(max_queued_requests=4)")
    )
    user_project.emulator.configure(manual=False, batch_seconds=3600)
    user_project.submit()
    batch = user_project.emulator.batches()[0]["id"]
    user_project.clock.advance(1800)
    result = user_project.run("cancel", "notes", say="y\n")
    assert result.exit_code == 0
    assert f"Cancelled batches\n{batch}" in result.output
    assert "notes_submit" in result.output
    user_project.clock.advance(600)
    with inside(user_project.folder):
        nights = user_project.nights("notes")
        nights.until_quiet()
        found = sorted(row["_status"] for row in nights.rows().values())
    assert found == ["answered"] * 2 + ["canceled"] * 8
    assert user_project.emulator.bill()["requests"] == 2


def test_cancelling_twice_or_nothing_is_nothing_to_do(user_project: UserProject):
    user_project.submit()
    assert user_project.run("cancel", "notes", "--yes").exit_code == 0
    for command in (("cancel", "notes"), ("cancel", "letters", "--partition", "odd")):
        result = user_project.run(*command)
        assert result.exit_code == 0
        assert "nothing to cancel" in result.output


def test_cancel_takes_one_partition(user_project: UserProject):
    user_project.submit("letters", "odd")
    user_project.submit("letters", "even")
    user_project.run("cancel", "letters", "--partition", "odd", "--yes")
    statuses = sorted(batch["processing_status"] for batch in user_project.emulator.batches())
    assert statuses == ["canceling", "canceling", "in_progress", "in_progress"]


def test_a_held_file_is_not_cancelled_and_that_is_said(user_project: UserProject):
    user_project.emulator.fault("create", "status_before", status=400, times=1)
    user_project.submit()
    result = user_project.run("cancel", "notes", "--yes")
    assert "batch-pipeline held notes" in result.output
    assert ("notes", "held") in user_project.states()


def lose_ledger(user_project: UserProject) -> None:
    for path in (user_project.folder / "data" / "batches").glob("ledger.sqlite*"):
        path.unlink()


def test_a_lost_ledger_is_rebuilt_and_nothing_is_bought_twice(user_project: UserProject):
    user_project.submit()
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    user_project.submit("letters", "odd")
    lose_ledger(user_project)
    for command in (("held",), ("reconcile",), ("cancel", "notes", "--yes")):
        result = user_project.run(*command)
        assert result.exit_code == 1
        assert "rebuild-ledger" in result.output
    assert user_project.run("rebuild-ledger", say="n\n").exit_code == 1
    result = user_project.run("rebuild-ledger", say="y\n")
    assert result.exit_code == 0
    assert "Collected before, with their rows in the store: 4 files" in " ".join(
        result.output.split()
    )
    assert "Open or held" in result.output and "letters" in result.output
    with inside(user_project.folder):
        notes, letters = user_project.nights("notes"), user_project.nights("letters")
        notes.submit()
        user_project.clock.advance(600)
        letters.tick_and_run()
        user_project.emulator.end()
        letters.until_quiet()
        assert {row["_status"] for row in notes.rows().values()} == {"answered"}
        assert {row["_status"] for row in letters.rows().values()} == {"answered"}
    assert user_project.emulator.bill()["requests"] == 15
    assert len(user_project.emulator.batches()) == 6


def test_a_ledger_that_is_not_lost_is_not_rebuilt(user_project: UserProject):
    user_project.submit()
    result = user_project.run("rebuild-ledger", "--yes")
    assert result.exit_code == 1
    assert "is not empty" in result.output


def test_without_a_key_the_ledger_is_rebuilt_and_what_to_do_next_is_said(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    lose_ledger(user_project)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    words = ["rebuild-ledger", "--yes", "--store", str(user_project.folder / "data" / "batches")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 3
    said = " ".join(result.output.split())
    assert "1 submission with 4 files" in said
    assert "There is no API key" in said and "then: batch-pipeline reconcile" in said
    assert user_project.run("reconcile").exit_code == 0
