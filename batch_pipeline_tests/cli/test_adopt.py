"""`adopt` takes over a batch that was made elsewhere: it is paid once, and its answers stand in the table."""

import json
import shutil
from collections.abc import Sequence
from typing import Any
from urllib.request import Request, urlopen

import anthropic
import pytest

from batch_pipeline.cli.project import inside
from batch_pipeline.results import adopt as adoption
from batch_pipeline.results import rebuild as rebuilding
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.requests.test_file_blocks import png
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.stage_calls import PlayedNights
from batch_pipeline_tests.support.user_project import CODE, UserProject


def by_hand(project: UserProject, ids: Sequence[str], key: str = "shop-key") -> str:
    """Make a batch as a script would; return its id."""
    client = anthropic.Anthropic(api_key=key, base_url=project.emulator.base_url)
    requests: Any = [
        {
            "custom_id": name,
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 50,
                "messages": [{"role": "user", "content": f"note {name}"}],
            },
        }
        for name in ids
    ]
    return client.messages.batches.create(requests=requests).id


def taken(project: UserProject, batch: str, *more: str) -> dict[str, Any]:
    result = project.run("adopt", batch, "--pipeline", "notes", "--yes", "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(project: UserProject, batch: str, *more: str) -> str:
    result = project.run("adopt", batch, "--pipeline", "notes", "--yes", *more)
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


def rows(project: UserProject) -> dict[int, dict[str, Any]]:
    with inside(project.folder):
        return project.nights("notes").rows()


def nights(project: UserProject) -> Nights:
    one = project.nights("notes")
    return PlayedNights(one.pipeline, one.claude, one.store)


def night(project: UserProject) -> None:
    with inside(project.folder):
        run = nights(project)
        run.submit()
        project.emulator.end()
        run.until_quiet()


def paid(project: UserProject) -> int:
    return project.emulator.bill()["requests"]


def ledger_cost(project: UserProject) -> float:
    found = project.run("costs", "notes", "--by", "batch", "--json")
    return sum(row["cost_usd"] for row in json.loads(found.stdout)["costs"])


def test_what_a_script_asked_joins_the_table_and_is_not_asked_again(user_project: UserProject):
    batch = by_hand(user_project, ["0", "1", "2", "77"])
    user_project.emulator.end()
    said = user_project.run("adopt", batch, "--pipeline", "notes", say="n\n")
    assert said.exit_code == 1 and "Nothing was changed" in said.output
    assert "No record has the key of 1 request: 77" in said.output and user_project.states() == []
    found = taken(user_project, batch)
    assert (found["records"], found["unmatched"], found["requests"]) == (3, 1, 4)
    assert found["statuses"] == {"answered": 4} and found["rows"] == 3
    table = rows(user_project)
    assert {*table} == {0, 1, 2} and {row["_batch_id"] for row in table.values()} == {batch}
    assert all(row["answer"] and row["text"] == f"note {key}" for key, row in table.items())
    # The whole batch was paid, the result of no record as well; it counts once.
    bill = float(user_project.emulator.bill()["usd"])
    assert ledger_cost(user_project) == pytest.approx(bill) == found["cost_usd"]
    again = taken(user_project, batch)
    assert again["already"] and again["submission"] == found["submission"]
    assert "was taken over" in refused_for(user_project, "letters", batch)
    assert ledger_cost(user_project) == pytest.approx(bill)
    # What the batch answered is not asked; what it did not, is.
    night(user_project)
    assert paid(user_project) == 4 + 7 and len(rows(user_project)) == 10
    assert rows(user_project)[1]["_batch_id"] == batch
    night(user_project)
    assert paid(user_project) == 11
    [kept] = (user_project.folder / "data").rglob(f"answers/*{batch}*")
    url = f"{user_project.emulator.base_url}/v1/messages/batches/{batch}/results"
    head = {"x-api-key": "shop-key", "anthropic-version": "2023-06-01"}
    with urlopen(Request(url, headers=head)) as served:
        assert sorted(kept.read_bytes().splitlines()) == sorted(served.read().splitlines())


def refused_for(project: UserProject, pipeline: str, batch: str) -> str:
    more = ["--partition", "odd"] if pipeline == "letters" else []
    result = project.run("adopt", batch, "--pipeline", pipeline, "--yes", *more)
    assert result.exit_code == 1
    return " ".join(result.output.split())


def test_what_failed_in_it_is_asked_again_and_the_key_may_be_told_by_sql(user_project: UserProject):
    user_project.emulator.configure(rates={"errored": 1.0}, manual=True)
    batch = by_hand(user_project, [f"ask-{n}-x" for n in range(10)])
    user_project.emulator.end()
    user_project.emulator.configure(rates={}, manual=True)
    assert "--key-from" in refused(user_project, batch)
    assert "cannot be used" in refused(user_project, batch, "--key-from", "nope(custom_id)")
    assert "the same key" in refused(user_project, batch, "--key-from", "'7'")
    found = taken(user_project, batch, "--key-from", "split_part(custom_id, '-', 2)")
    assert found["records"] == 10 and found["statuses"] == {"errored": 10}
    assert {row["_attempt"] for row in rows(user_project).values()} == {1}
    asked = json.loads(user_project.run("preview", "notes", "--json", "-n", "1").stdout)
    assert asked["reasons"] == {"retry": 10} and asked["requests"][0]["attempt"] == 2
    again = by_hand(user_project, ["0"])
    user_project.emulator.end()
    taken(user_project, again)
    [earlier] = json.loads(rows(user_project)[0]["_attempts"])
    assert earlier["batch"] == batch and earlier["reason"]


def test_an_export_that_was_sent_by_hand_comes_back_by_its_own_custom_ids(
    user_project: UserProject,
):
    to = user_project.folder / "out.jsonl"
    user_project.store()
    batch = _exported_and_sent(user_project)
    user_project.change("update notes set text = 'other words' where id = 4")
    # It has not ended: the file tells what is in it.
    assert "--requests FILE" in refused(user_project, batch)
    other = user_project.folder / "other.jsonl"
    other.write_text(to.read_text().split("\n")[0] + "\n")
    assert "is not what" in refused(user_project, batch, "--requests", str(other))
    found = taken(user_project, batch, "--requests", str(to))
    # The content of one is another by now: its answer is not an answer to that.
    assert (found["state"], found["records"], found["unmatched"]) == ("in_progress", 9, 1)
    assert user_project.states() == [("notes", "in_progress")]
    with inside(user_project.folder):
        nights(user_project).submit()  # only what is not on its way
    assert paid(user_project) == 0 and len(user_project.states()) == 2
    user_project.emulator.end()
    with inside(user_project.folder):
        nights(user_project).until_quiet()
    assert paid(user_project) == 11 and len(rows(user_project)) == 10
    assert rows(user_project)[3]["_batch_id"] == batch != rows(user_project)[4]["_batch_id"]
    assert ledger_cost(user_project) == pytest.approx(float(user_project.emulator.bill()["usd"]))


def test_what_a_lost_store_has_paid_comes_back_from_the_batches_that_the_table_names(
    user_project: UserProject,
):
    table = 'destination=DuckDBTable(database="warehouse.duckdb", table="answers")'
    notes = f'defs = build_definitions(pipeline("notes", {table}), claude=claude(max_batch_requests=10), store=store)\n'
    user_project.write("pipelines.py", CODE + notes)
    night(user_project)
    shutil.rmtree(user_project.folder / "data")
    with inside(user_project.folder):
        said = nights(user_project).refusal("submit", {})
    assert "batch-pipeline adopt BATCH --pipeline notes" in said and "_batch_id" in said
    [batch] = {row["_batch_id"] for row in rows(user_project).values()}
    assert taken(user_project, batch)["records"] == 10
    night(user_project)
    assert paid(user_project) == 10 == len(rows(user_project))
    assert ledger_cost(user_project) == pytest.approx(float(user_project.emulator.bill()["usd"]))


def test_what_is_the_ledgers_own_or_nobodys_is_refused(user_project: UserProject):
    with inside(user_project.folder):
        nights(user_project).submit()
    own = [batch["id"] for batch in user_project.emulator.batches()]
    assert "was sent from here, and the ledger has it: submission 1 of notes" in refused(
        user_project, own[0]
    )
    batch = by_hand(user_project, ["0", "1"])
    foreign = by_hand(user_project, ["0"], key="another-key")
    user_project.emulator.end()
    assert "on their way already" in refused(user_project, batch)
    with inside(user_project.folder):
        nights(user_project).until_quiet()
    before = rows(user_project)[0]["_batch_id"]
    assert "knows no batch msgbatch_no" in refused(user_project, "msgbatch_no")
    if foreign not in [one["id"] for one in user_project.emulator.batches()]:
        assert "another workspace's or organization's" in refused(user_project, foreign)
    found = taken(user_project, batch)
    assert found["answered_before"] == 2
    assert rows(user_project)[0]["_batch_id"] == batch != before


class Ended(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["files", "commit", "manifest", "collect"])
def test_a_process_that_ends_anywhere_takes_it_over_once(
    user_project: UserProject, where: str, monkeypatch: pytest.MonkeyPatch
):
    batch = by_hand(user_project, ["0", "1", "2"])
    user_project.emulator.end()

    def end(*_: Any, **__: Any) -> None:
        raise Ended

    commit = adoption.commit_adoption
    with monkeypatch.context() as patch:
        match where:
            case "files":
                patch.setattr(adoption, "new_submission_id", end)
            case "commit":
                patch.setattr(adoption, "commit_adoption", end)
            case "manifest":
                patch.setattr(adoption, "keep_manifests", end)
            case _:
                patch.setattr("batch_pipeline.results.fetch.fetch", end)
        with pytest.raises(Ended):
            user_project.run("adopt", batch, "--pipeline", "notes", "--yes")
    assert commit is adoption.commit_adoption
    found = taken(user_project, batch)
    assert found["already"] is (where in ("manifest", "collect"))
    assert {*rows(user_project)} == {0, 1, 2}
    assert ledger_cost(user_project) == pytest.approx(float(user_project.emulator.bill()["usd"]))
    assert user_project.states() == [("notes", "collected")]
    if where == "collect":
        _lose_the_ledger(user_project)
        assert user_project.states() == [("notes", "collected")]
        assert taken(user_project, batch)["already"]
    night(user_project)
    assert paid(user_project) == 10


def _lose_the_ledger(project: UserProject) -> Store:
    root = project.folder / "data" / "batches"
    for path in root.glob("ledger.sqlite*"):
        path.unlink()
    store = open_store(str(root), lost=True)
    rebuilding.rebuild(store)
    return store


def test_a_selection_meanwhile_is_noticed(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    batch = by_hand(user_project, ["0"])
    user_project.emulator.end()
    look = adoption.look

    def slow(*given: Any) -> Any:
        found = look(*given)
        with inside(user_project.folder):
            nights(user_project).select("records")
        return found

    monkeypatch.setattr(adoption, "look", slow)
    assert "another run selected records" in refused(user_project, batch)
    rows_of = user_project.store().ledger.rows(request_files.select())
    assert all(row["batch_id"] != batch for row in rows_of)


@only_whole
def test_a_batch_of_one_variant_joins_the_rows_of_that_one(user_project: UserProject):
    two = 'pipeline("notes", variants={"plain": {}, "kind": {"system": "Be kind."}})'
    code = f"defs = build_definitions({two}, claude=claude(), store=store)\n"
    user_project.write("pipelines.py", CODE + code)
    batch = by_hand(user_project, ["0", "1"])
    user_project.emulator.end()
    unnamed = user_project.run("adopt", batch, "--pipeline", "notes", "--yes")
    assert unnamed.exit_code == 2 and "--variant, of plain, kind" in unnamed.output
    found = taken(user_project, batch, "--variant", "kind")
    assert (found["records"], found["rows"]) == (2, 2)
    elsewhere = refused(user_project, batch, "--variant", "plain")
    assert "was taken over" in elsewhere and "1 of notes variant kind, collected" in elsewhere
    again = user_project.run("adopt", batch, "--pipeline", "notes", "--variant", "kind").output
    assert "is here already" in again and "when it has ended" not in again
    night(user_project)
    with inside(user_project.folder):
        kinds = [key for key, row in rows(user_project).items() if row["_batch_id"] == batch]
        count = len(rows(user_project))
    assert len(kinds) == 2 and paid(user_project) == count, (kinds, count)


PHOTOS = """
photo = {"type": "image", "path": "{{ id }}.png"}
turn = {"role": "user", "content": [photo, {"type": "text", "text": "{{ text }}"}]}
asks = MessageTemplate(model="claude-haiku-4-5", max_tokens=50, files_root="photos", messages=[turn])
notes = BatchPipeline(
    name="notes", source=DuckDBSource(database="warehouse.duckdb", table="notes", key="id"), request=asks
)
defs = build_definitions(notes, claude=claude(), store=store)
"""


def test_answers_about_files_are_answers_about_the_files_as_they_are(user_project: UserProject):
    folder = user_project.folder / "photos"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(png(number))
    user_project.write("pipelines.py", CODE + PHOTOS)
    user_project.store()
    ours = _exported_and_sent(user_project, "-n", "3")
    theirs = by_hand(user_project, ["7", "8", "9"])
    user_project.emulator.end()
    for batch in (ours, theirs):
        assert taken(user_project, batch)["records"] == 3
    (folder / "8.png").write_bytes(png(200))
    night(user_project)
    assert paid(user_project) == 6 + 4 + 1 and len(rows(user_project)) == 10


def _exported_and_sent(project: UserProject, *more: str) -> str:
    to = project.folder / "out.jsonl"
    assert project.run("export", "notes", "--to", str(to), *more).exit_code == 0
    client = anthropic.Anthropic(api_key="shop-key", base_url=project.emulator.base_url)
    requests: Any = [json.loads(line) for line in to.open()]
    return client.messages.batches.create(requests=requests).id
