"""`history` tells everything that happened with one record."""

import json
from typing import Any

import duckdb
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject


def story(user_project: UserProject, key: str, name: str = "notes") -> list[dict[str, Any]]:
    result = user_project.run("history", name, key, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["submissions"]


def night(user_project: UserProject) -> None:
    with inside(user_project.folder):
        nights = user_project.nights("notes")
        nights.submit()
        user_project.emulator.end()
        nights.until_quiet()


def update(user_project: UserProject, sql: str) -> None:
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute(sql)


def test_a_record_on_its_way(user_project: UserProject):
    user_project.submit()
    [asked] = story(user_project, "3")
    assert (asked["status"], asked["state"], asked["attempt"]) == (None, "in_progress", 1)
    assert asked["batch_id"] in {batch["id"] for batch in user_project.emulator.batches()}
    assert asked["custom_id"].endswith("-1-3")
    result = user_project.run("history", "notes", "3")
    assert result.exit_code == 0
    assert "at the API" in result.output and asked["batch_id"] in result.output


def test_what_was_not_asked_says_why(user_project: UserProject):
    update(user_project, "update notes set text = 'the same' where id in (3, 4)")
    rules = "request=MessageTemplate(", 'answer_when={"id = 1": "told"}, request=MessageTemplate('
    user_project.write("pipelines.py", (CODE + TWO).replace(*rules, 1))
    night(user_project)
    [ruled], [asked], [same] = (story(user_project, key) for key in "134")
    assert (ruled["reason"], ruled["status"], ruled["answer"]) == (
        "rule",
        "rule",
        {"answer": "told"},
    )
    assert asked["duplicate_of"] is None and same["duplicate_of"] == asked["custom_id"]
    outputs = [user_project.run("history", "notes", key).output for key in "134"]
    assert "settled by a rule" in outputs[0] and asked["custom_id"] in outputs[2]
    assert [output.count("Asked 0 times") for output in outputs] == [1, 0, 1]


def test_an_answer_then_new_content_then_another_question(user_project: UserProject):
    night(user_project)
    update(user_project, "update notes set text = 'other words' where id = 3")
    night(user_project)
    user_project.write("pipelines.py", (CODE + TWO).replace("{{ text }}", "Sort: {{ text }}"))
    night(user_project)
    first, second, third = story(user_project, "3")
    assert [one["reason"] for one in (first, second, third)] == ["new", "changed", "version"]
    assert [one["status"] for one in (first, second, third)] == ["answered"] * 3
    assert [one["is_new_content"] for one in (first, second, third)] == [False, True, False]
    assert [one["is_new_version"] for one in (first, second, third)] == [False, False, True]
    assert len({one["batch_id"] for one in (first, second, third)}) == 3
    assert first["answer"]["answer"] and first["cost_usd"] > 0 and first["published_at"]
    assert len(story(user_project, "4")) == 2
    output = user_project.run("history", "notes", "3").output
    assert "its content changed" in output and "the question changed" in output
    assert "Asked 3 times" in output


@only_whole
def test_attempts_that_failed_are_shown_with_their_reason(user_project: UserProject):
    user_project.emulator.configure(manual=False, rates={"errored": 1.0})
    user_project.submit()
    with inside(user_project.folder):
        nights = user_project.nights("notes")
        nights.tick_and_run()
        user_project.emulator.configure(manual=False, rates={})
        nights.until_quiet()
    first, second = story(user_project, "0")
    assert (first["status"], second["status"]) == ("errored", "answered")
    assert (first["attempt"], second["attempt"], second["reason"]) == (1, 2, "retry")
    assert first["error"] and first["answer"] == {}


@only_whole
def test_an_answer_that_was_published_again_and_a_key_that_left(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("**more,\n", 'on_deleted="drop", **more,\n', 1)
    )
    night(user_project)
    update(user_project, "delete from notes where id = 5")
    night(user_project)
    update(user_project, "insert into notes values (5, 'note 5', 'odd')")
    night(user_project)
    reasons = [(one["reason"], one["cost_usd"] is not None) for one in story(user_project, "5")]
    assert reasons == [("new", True), ("deleted", False), ("reuse", False)]
    output = user_project.run("history", "notes", "5").output
    assert "published again, at no cost" in output and "Asked 1 time;" in output


@only_whole
def test_a_record_that_could_not_be_asked_says_why(user_project: UserProject):
    update(user_project, "update notes set text = ' ' where id = 2")
    night(user_project)
    [asked] = story(user_project, "2")
    assert (asked["status"], asked["batch_id"]) == ("rejected", None)
    assert "The prompt is empty" in asked["error"]


def test_an_unknown_key_is_an_error_that_shows_how_keys_look(user_project: UserProject):
    user_project.submit()
    result = user_project.run("history", "notes", "note-3")
    assert result.exit_code == 1
    assert "No submission of notes ever had the key note-3 (id)" in result.output
    assert "Keys look like: 0; 1; 2; 3; 4" in result.output


def test_keys_of_several_columns(user_project: UserProject):
    user_project.write("pipelines.py", (CODE + TWO).replace('key="id"', 'key=["half", "id"]'))
    update(user_project, "update notes set half = 'a, b' where id = 8")
    user_project.submit()
    assert story(user_project, "odd,3")[0]["custom_id"].endswith("-odd_3")
    assert len(story(user_project, '["a, b", "8"]')) == 1
    result = user_project.run("history", "notes", "3")
    assert result.exit_code == 1
    assert "2 columns (half, id)" in result.output
    assert "even,0" in user_project.run("history", "notes", "odd,77").output


def test_without_the_code_the_key_column_is_named(user_project: UserProject):
    user_project.submit("letters", "odd")
    store = ["--store", str(user_project.folder / "data" / "batches")]
    assert CliRunner().invoke(main, ["history", "letters", "3", *store]).exit_code == 2
    words = ["history", "letters", "3", "--key-column", "id", *store]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    assert "odd" in result.output


def test_hostile_answers_do_not_steer_the_terminal(user_project: UserProject):
    update(
        user_project, "update notes set text = '[red]' || chr(27) || '[2J' || chr(7) where id = 1"
    )
    night(user_project)
    output = user_project.run("history", "notes", "1").output
    assert not {"\x1b", "\x07"} & set(output)
