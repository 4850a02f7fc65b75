"""`status` shows how the pipelines stand, from the ledger alone, once or again and again."""

import json
import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from batch_pipeline.cli import status
from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject


def pipelines(user_project: UserProject, *words: str) -> list[dict]:
    return json.loads(user_project.run("status", *words, "--json").stdout)["pipelines"]


def test_a_project_that_never_asked_says_how_to_begin(user_project: UserProject):
    result = user_project.run("status")
    assert result.exit_code == 0
    assert "Nothing was asked yet" in result.output and "notes_submit" in result.output
    assert not (user_project.folder / "data").exists()


def test_a_night_from_sent_to_done(user_project: UserProject):
    user_project.submit()
    user_project.clock.advance(20 * 60)
    shown = user_project.run("status")
    assert shown.exit_code == 0
    words = " ".join(shown.output.split())
    assert "notes 0 of 4 0 of 10 20 min" in words
    assert "the API works on 4 batches" in words
    assert "letters" in words and "letters_submit" in words
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    [notes, letters] = pipelines(user_project)
    assert (notes["batches"], notes["batches_ended"], notes["open"]) == (4, 4, 0)
    assert (notes["asked"], notes["answered"], notes["done"]) == (10, 10, True)
    assert notes["cost_usd"] == notes["cost_this_month_usd"] > 0
    assert notes["sent_to_ended_batches"] == 4 and notes["records_late"] == 0
    assert notes["sent_to_ended_p95_seconds"] >= notes["sent_to_ended_p50_seconds"] >= 20 * 60
    assert "half of its batches took 20 min at most" in " ".join(
        user_project.run("status").output.split()
    )
    assert letters["submission"] == 0


@only_whole
def test_a_retry_belongs_to_the_night_that_it_is_a_retry_of(user_project: UserProject):
    user_project.emulator.configure(manual=False, rates={"errored": 0.5})
    user_project.submit()
    with inside(user_project.folder):
        nights = user_project.nights("notes")
        nights.tick_and_run()
        [failed, _] = pipelines(user_project)
        assert failed["other"]["errored"] == failed["retryable"] > 0
        user_project.emulator.configure(manual=False, rates={})
        nights.until_quiet()
    [notes, _] = pipelines(user_project)
    assert notes["submission"] > 1
    assert (notes["asked"], notes["answered"], notes["other"]) == (10, 10, {})


def test_what_came_back_without_an_answer_is_counted(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("**more,\n", "max_attempts=1, **more,\n", 1)
    )
    user_project.emulator.configure(manual=False, rates={"errored": 1.0})
    user_project.submit()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    [notes, _] = pipelines(user_project)
    assert (notes["answered"], notes["other"], notes["done"]) == (0, {"errored": 10}, True)
    assert "Without an answer: 10 errored" in user_project.run("status").output


def test_a_named_pipeline_is_shown_partition_by_partition(user_project: UserProject):
    user_project.submit("letters", "odd")
    user_project.submit("letters", "even")
    found = {one["partition"]: one for one in pipelines(user_project, "letters")}
    assert {key: one["asked"] for key, one in found.items()} == {"even": 5, "odd": 5}
    [_, whole] = pipelines(user_project)
    assert (whole["partition"], whole["asked"], whole["open"]) == (None, 10, 4)


def test_partitions_that_were_never_selected_from_are_said(user_project: UserProject):
    user_project.submit("letters", "odd")
    words = " ".join(user_project.run("status").output.split())
    assert "Of all 5 source rows" in words and "5 on their way" in words
    assert "1 of 2 partitions was never selected from (even): its rows are not in that" in words
    user_project.submit("letters", "even")
    words = " ".join(user_project.run("status").output.split())
    assert "Of all 10 source rows" in words and "never selected from" not in words


def test_work_of_partitions_that_are_gone_is_said_and_no_sensor_is_promised(
    user_project: UserProject,
):
    user_project.submit("letters", "odd")
    user_project.submit("letters", "even")
    user_project.emulator.end()
    user_project.write("pipelines.py", (CODE + TWO).replace('["even", "odd"]', '["odd", "third"]'))
    words = " ".join(user_project.run("status").output.split())
    assert "No job is launched for partition even, which letters does not have (any more)" in words
    assert "`batch-pipeline collect letters`" in words
    user_project.write("pipelines.py", (CODE + TWO).replace('["even", "odd"]', '["third"]'))
    words = " ".join(user_project.run("status").output.split())
    assert "letters does not have partitions even, odd (any more); the API works on" in words
    assert "which the status sensor" not in words and "Submission" not in words


def test_what_waits_for_a_person_is_an_exit_code(user_project: UserProject):
    user_project.emulator.fault("create", "status_before", status=400, times=1)
    user_project.submit()
    result = user_project.run("status")
    assert result.exit_code == 3
    assert "1 file is held: `batch-pipeline held notes`" in " ".join(result.output.split())
    assert pipelines(user_project, "notes")[0]["waits_for_a_person"]


def test_a_held_pipeline_says_so(user_project: UserProject):
    user_project.emulator.fault("create", "status_before", status=402, times=1)
    with inside(user_project.folder):
        user_project.nights("notes").run("submit", raises=False)
    result = user_project.run("status", "notes")
    assert result.exit_code == 3
    assert "To do: notes is held" in result.output
    assert "not sent, because the pipeline is held" in " ".join(result.output.split())


def test_batches_that_nobody_looks_after_are_noticed(user_project: UserProject):
    user_project.submit()
    with inside(user_project.folder):
        user_project.nights("notes").tick()
    assert "batch-pipeline doctor" not in user_project.run("status", "notes").output
    user_project.clock.advance(3 * 3600)
    assert "The API was last 3 h 0 min ago asked" in " ".join(user_project.run("status", "notes").output.split())  # fmt: skip


def test_a_pipeline_that_is_not_there_is_an_error(user_project: UserProject):
    user_project.submit()
    result = user_project.run("status", "nots")
    assert result.exit_code == 1
    assert "notes" in result.output
    assert user_project.run("status", "--until-done").exit_code == 2


def test_a_store_without_its_code(user_project: UserProject):
    user_project.submit()
    root = str(user_project.folder / "data" / "batches")
    result = CliRunner().invoke(main, ["status", "--store", root])
    assert result.exit_code == 0 and "0 of 4" in result.output


def acting(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]
) -> None:
    """Let something happen at each wait of a command."""
    left = list(steps)

    def sleep(_seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(user_project.clock, "sleep", sleep)


@only_whole
def test_watching_prints_a_line_per_change_and_ends_when_all_is_done(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    nights = user_project.nights("notes")

    def nothing() -> None:
        user_project.clock.advance(60)

    def collected() -> None:
        with inside(user_project.folder):
            user_project.emulator.end()
            nights.until_quiet()

    acting(user_project, monkeypatch, nothing, nothing, collected)
    result = user_project.run("status", "notes", "--watch", "--until-done")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split("notes: ")[1].split(";")[0] for line in lines] == [
        "0 of 4 batches ended",
        "4 of 4 batches ended",
    ]
    assert "10 of 10 answered" in lines[-1]


def test_interrupting_a_watch_is_no_error(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    acting(user_project, monkeypatch)
    result = user_project.run("status", "--watch", "--json")
    assert result.exit_code == 0
    [line] = result.stdout.splitlines()
    assert json.loads(line)["pipelines"][0]["open"] == 4


def test_a_terminal_gets_a_table_that_is_redrawn(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    user_project.submit()
    acting(user_project, monkeypatch)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    result = user_project.run("status", "notes", "--watch")
    assert result.exit_code == 0
    assert "0 of 4" in result.stdout and "Ctrl-C ends this" in result.stdout
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stdout).splitlines()
    assert max(map(len, lines)) <= 80


def test_ages_are_told_in_words():
    from datetime import timedelta

    ages = [status._age(timedelta(minutes=minutes)) for minutes in (1, 41, 150, 3000)]
    assert ages == ["60 s", "41 min", "2 h 30 min", "2 days"]
