"""`preview` shows what a run would send, and changes nothing; `--send` asks it now."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.cli import preview_requests
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject

CLERK = 'system="You are a clerk who sorts notes. " * 50, '
SORTED = 'output={"type": "object", "properties": {"kind": {"type": "string", "enum": ["a", "b"]}}, "required": ["kind"]}, '


def ask(user_project: UserProject, *words: str) -> dict[str, Any]:
    result = user_project.run("preview", "notes", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_requests_are_shown_before_anything_was_ever_run(user_project: UserProject):
    user_project.write("pipelines.py", (CODE + TWO).replace('prompt="', f'{CLERK}prompt="'))
    result = user_project.run("preview", "notes", "-n", "2")
    assert result.exit_code == 0
    assert "10 of 10 records would be asked now (10 new)" in result.output
    assert "model: claude-haiku-4-5" in result.output and "max_tokens: 50" in result.output
    assert "system (1,650 characters): You are a clerk" in result.output
    assert result.output.count("You are a clerk") < 20
    assert "user: note 0" in result.output and "user: note 1" in result.output
    assert "note 2" not in result.output
    assert "counted by the API" in result.output and "Nothing was sent" in result.output
    assert not (user_project.folder / "data").exists()
    assert user_project.emulator.bill()["messages"] == 0


def test_only_what_needs_an_answer_is_shown_and_nothing_is_changed(user_project: UserProject):
    user_project.submit()
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = 'new words' where id = 7")
    before, kept = files(user_project.folder / "data"), user_project.states()
    found = ask(user_project)
    assert (found["asked"], found["reasons"], found["settled"]) == (1, {"changed": 1}, 9)
    [request] = found["requests"]
    assert request["key"] == ["7"]
    assert request["params"]["messages"] == [{"role": "user", "content": "new words"}]
    assert found["estimate"]["usd_likely"] is None  # ten answers tell too little
    assert files(user_project.folder / "data").keys() == before.keys()
    assert user_project.states() == kept


def test_what_it_shows_is_what_a_run_sends(user_project: UserProject):
    user_project.write("pipelines.py", (CODE + TWO).replace('prompt="', f'{SORTED}{CLERK}prompt="'))
    found = ask(user_project, "-n", "10")
    user_project.submit()
    written = [
        json.loads(line)
        for path in sorted((user_project.folder / "data").rglob("requests/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [one["params"] for one in found["requests"]] == [one["params"] for one in written]


def estimated(
    user_project: UserProject, name: str = "notes", part: str | None = None, **config: Any
) -> dict[str, Any]:
    """Submit; return what the run says of tokens and USD, by the names that a preview has for them."""
    with inside(user_project.folder):
        nights = user_project.nights(name)
        nights.submit(part, **({"ops": {f"{name}__records": {"config": config}}} if config else {}))
        shown = nights.metadata("requests")
    return {
        "input_tokens": shown["estimated_input_tokens"],
        "output_tokens_max": shown["output_tokens_at_most"],
        "usd_max": shown["estimated_usd_at_most"],
        "usd_expected": shown["estimated_usd_expected"],
        "usd_reserved": shown["estimated_usd_reserved"],
        "usd_synchronous": shown["estimated_usd_synchronous"],
        "input_tokens_by": shown["estimated_by"],
    }


@pytest.mark.parametrize("template", ["", CLERK, f'{CLERK}cache="1h", ', SORTED])
def test_its_estimate_is_the_one_that_the_run_says(
    user_project: UserProject, template: str, capfd: pytest.CaptureFixture[str]
):
    user_project.write("pipelines.py", (CODE + TWO).replace('prompt="', f'{template}prompt="'))
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = repeat('word ', id)")
    before = [ask_in_part(user_project, number) for number in ("1", "5", "10")]
    assert before[0] == before[1] == before[2]
    assert before[0].pop("usd_likely") is None
    assert before[0] == estimated(user_project)
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = 'new words' where id >= 6")
    again = ask_in_part(user_project, "2", "--where", "id <> 7")
    assert again.pop("usd_likely") is None  # ten answers tell too little
    capfd.readouterr()
    assert again == estimated(user_project, where="id <> 7")
    assert f"at most ${again['usd_max']:.4f}, " in capfd.readouterr().err


def ask_in_part(user_project: UserProject, number: str, *words: str) -> dict[str, Any]:
    """Return a preview's estimate; a record that cannot be asked is no error here."""
    result = user_project.run("preview", "notes", "-n", number, *words, "--json")
    assert result.exit_code in (0, 3), result.output
    return json.loads(result.stdout)["estimate"]


def test_its_estimate_without_the_api_and_of_a_partition_is_the_runs(user_project: UserProject):
    shown = user_project.run("preview", "letters", "--partition", "odd", "-n", "1", "--json")
    user_project.write(".env", f"SHOP_KEY=shop-key\nSHOP_URL={user_project.emulator.base_url}/x\n")
    deaf = user_project.run("preview", "letters", "--partition", "odd", "-n", "1", "--json")
    user_project.write(".env", f"SHOP_KEY=shop-key\nSHOP_URL={user_project.emulator.base_url}\n")
    found = json.loads(shown.stdout)["estimate"]
    by_size = json.loads(deaf.stdout)["estimate"]
    assert "the API did not count any" in by_size.pop("input_tokens_by")
    assert by_size["usd_max"] == found["usd_max"] and "the API counted" in found["input_tokens_by"]
    assert found.pop("usd_likely") is None
    assert found == estimated(user_project, "letters", "odd")


@only_whole
def test_longer_answers_to_what_was_cut_short_are_in_both_estimates(user_project: UserProject):
    user_project.emulator.configure(manual=False, rates={"truncated": 1.0})
    user_project.submit()
    with inside(user_project.folder):
        user_project.nights("notes").tick_and_run()
    found = ask_in_part(user_project, "3")
    assert found["output_tokens_max"] == 10 * 100
    found.pop("usd_likely")
    assert found == estimated(user_project)


def test_of_more_records_than_are_weighed_the_first_ones_tell(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    whole = ask(user_project, "-n", "2")["estimate"]
    monkeypatch.setattr(preview_requests, "MOST_WEIGHED", 4)
    result = user_project.run("preview", "notes", "-n", "2")
    assert "going by the first 4" in " ".join(result.output.split())
    found = ask(user_project, "-n", "2")["estimate"]
    assert found["usd_max"] == pytest.approx(whole["usd_max"], rel=0.1)


def test_the_shown_requests_cost_what_the_whole_does(user_project: UserProject):
    found = ask(user_project, "-n", "10")
    assert sum(one["usd_max"] for one in found["requests"]) == pytest.approx(
        found["estimate"]["usd_max"], rel=0.01
    )


@only_whole
def test_nothing_to_ask_says_so_and_force_shows_it_all_the_same(user_project: UserProject):
    user_project.submit()
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    result = user_project.run("preview", "notes")
    assert result.exit_code == 0
    assert "nothing of 10 records would be asked now (10 settled," in result.output
    assert ask(user_project, "--force")["asked"] == 10
    assert ask(user_project, "--force", "--where", "id < 3")["asked"] == 3


def test_a_record_that_cannot_be_asked_is_marked(user_project: UserProject):
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = ' ' where id = 1")
    result = user_project.run("preview", "notes", "-n", "2")
    assert result.exit_code == 3
    assert "this record cannot be asked. The prompt is empty" in " ".join(result.output.split())
    assert "user: note 0" in result.output


@only_whole
def test_without_the_api_tokens_are_estimated_and_that_is_said(user_project: UserProject):
    user_project.emulator.stop()
    result = user_project.run("preview", "notes", "-n", "1")
    assert result.exit_code == 0
    assert "estimated from the size of the requests" in " ".join(result.output.split())
    assert user_project.run("preview", "notes", "--send", "--yes").exit_code == 1


def test_sending_asks_first_and_judges_the_answers(user_project: UserProject):
    user_project.write("pipelines.py", (CODE + TWO).replace('prompt="', f'{SORTED}prompt="'))
    refused = user_project.run("preview", "notes", "-n", "2", "--send", say="n\n")
    assert refused.exit_code == 1
    assert "Ask 2 requests now" in refused.output and "at most about $0.00" in refused.output
    assert "Nothing was sent" in refused.output
    assert user_project.emulator.bill()["messages"] == 0
    result = user_project.run("preview", "notes", "-n", "2", "--send", say="y\n")
    assert result.exit_code == 0
    assert result.output.count('\n    {"kind":') == 2
    assert "not in the ledger" in " ".join(result.output.split())
    assert user_project.emulator.bill()["messages"] == 2
    assert ask(user_project)["asked"] == 10


def test_what_sending_cost_is_the_full_price(user_project: UserProject):
    answers = ask(user_project, "-n", "3", "--send", "--yes")["answers"]
    assert [one["status"] for one in answers] == ["answered"] * 3
    assert sum(one["cost_usd"] for one in answers) == pytest.approx(
        float(user_project.emulator.bill()["messages_usd"]), rel=1e-6
    )


def test_an_answer_that_is_refused_is_shown_and_an_exit_code(user_project: UserProject):
    user_project.emulator.fault("messages", "status_before", status=400, times=1)
    result = user_project.run("preview", "notes", "-n", "2", "--send", "--yes")
    assert result.exit_code == 3
    words = " ".join(result.output.split())
    assert "0 rejected" in words and "1 answered" in words


def test_a_pipeline_with_partitions_wants_one_named(user_project: UserProject):
    result = user_project.run("preview", "letters")
    assert result.exit_code == 2
    assert "even, odd" in result.output
    assert "5 of 5 records" in user_project.run("preview", "letters", "--partition", "odd").output
    assert (
        "no partition third"
        in user_project.run("preview", "letters", "--partition", "third").output
    )
    assert user_project.run("preview", "notes", "--partition", "odd").exit_code == 2


def test_a_key_of_another_workspace_is_noted(user_project: UserProject):
    user_project.emulator.configure(keys={"shop-key": "main", "other-key": "other"})
    user_project.submit()
    user_project.write(".env", f"SHOP_KEY=other-key\nSHOP_URL={user_project.emulator.base_url}\n")
    result = user_project.run("preview", "notes", "-n", "1")
    assert "the key belongs to" in result.stderr and "force: true" in result.stderr


def test_hostile_records_do_not_steer_the_terminal(user_project: UserProject):
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = '[bold]x' || chr(27) || '[31mred' where id = 0")
    output = user_project.run("preview", "notes", "-n", "1").output
    assert "\x1b" not in output
    assert "[bold]x\\x1b[31mred" in output


def test_a_selection_that_nobody_built_is_asked_afresh_as_a_run_does(user_project: UserProject):
    user_project.submit()
    assert ask(user_project)["in_flight"] == 10
    with user_project.store().ledger.write() as tx:
        tx.exec_driver_sql("update submissions set state = 'selected'")
    assert ask(user_project)["asked"] == 10
