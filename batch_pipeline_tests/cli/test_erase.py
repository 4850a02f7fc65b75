"""`erase` takes what is held about a person, and leaves the books."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from batch_pipeline import ParquetDataset
from batch_pipeline.cli.project import inside
from batch_pipeline.results.erase import erase
from batch_pipeline.results.holding import Holding
from batch_pipeline.results.lost import rebuild_lost
from batch_pipeline.results.publish import publish
from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import table_name
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.tables import submissions
from batch_pipeline_tests.support.extent import extent, only_whole
from batch_pipeline_tests.support.stage_calls import PlayedNights
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject

WORD = "hildegard"


def night(user_project: UserProject, name: str = "notes") -> None:
    submit(user_project, name)
    with inside(user_project.folder):
        user_project.emulator.end()
        played(user_project, name).collect()


def submit(user_project: UserProject, name: str = "notes") -> None:
    with inside(user_project.folder):
        played(user_project, name).submit()


def played(user_project: UserProject, name: str = "notes") -> PlayedNights:
    one = user_project.nights(name)
    return PlayedNights(one.pipeline, one.claude, one.store)


def where(folder: Path, word: str = WORD) -> list[str]:
    """Return the files of the store that hold a word, in whatever form."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("ledger.sqlite"):
            continue
        told = path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".parquet":
            told = json.dumps(parquet.read_table(path).to_pylist(), default=str)
        if word in told:
            found.append(path.relative_to(folder).parts[-2] + "/" + path.suffix)
    return found


def erased(user_project: UserProject, *words: str) -> dict[str, Any]:
    result = user_project.run("erase", "notes", *words, "--yes", "--json")
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)["stores"]
    return found


def rows(user_project: UserProject) -> dict[Any, dict[str, Any]]:
    with inside(user_project.folder):
        return user_project.nights("notes").rows()


def test_what_is_held_about_a_person_is_gone_and_nothing_is_paid_again(
    user_project: UserProject,
) -> None:
    store = user_project.folder / "data" / "batches"
    user_project.change(f"update notes set text = '{WORD} was here' where id = 3")
    night(user_project)
    assert {*where(store)} >= {"requests/.jsonl", "answers/.jsonl", "results/.parquet", "data/.parquet"}  # fmt: skip
    bill = user_project.emulator.bill()
    costs = user_project.run("costs", "--json").stdout

    still = user_project.run("erase", "notes", "3", "--yes")
    assert still.exit_code == 1 and "remove them there first" in still.output
    user_project.change("delete from notes where id = 3")
    tried = user_project.run("erase", "notes", "3", "--dry-run")
    assert tried.exit_code == 0 and where(store), tried.output
    unsaid = user_project.run("erase", "notes", "3", say="n\n")
    assert unsaid.exit_code == 1 and where(store)
    found = erased(user_project, "3")
    assert (found["records"], found["rows"], found["requests"], found["answers"]) == (1, 1, 1, 1)
    assert found["table_rows"] == 1 and len(found["batches"]) == 1
    assert where(store) == []
    assert 3 not in rows(user_project) and len(rows(user_project)) == 9

    user_project.change(f"insert into notes values (3, '{WORD} was here', 'odd')")
    night(user_project)
    assert user_project.emulator.bill() == bill
    assert user_project.run("costs", "--json").stdout == costs
    assert len(rows(user_project)) == 9 and where(store) == []
    told = user_project.run("history", "notes", "3").output
    assert "erased" in told and WORD not in told

    again = erased(user_project, "3", "--force")
    assert again["finished"] and again["records"] == 0
    # Nothing is thought damaged, and what is lost is made again without it.
    opened = user_project.store()
    with inside(user_project.folder), closing(user_project.nights("notes").claude.api()) as api:
        assert rebuild_lost(opened, api, "notes", 3, thorough=True) == ([], [])
        for path in store.rglob("answers/*.jsonl"):
            path.unlink()
        for path in store.rglob("results/*.parquet"):
            path.unlink()
        done, failed = rebuild_lost(opened, api, "notes", 3, thorough=True)
        assert done and not failed
        assert rebuild_lost(opened, api, "notes", 3, thorough=True) == ([], [])
    assert where(store) == []
    for path in store.glob("ledger.*"):
        path.unlink()
    assert user_project.run("rebuild-ledger", "--yes").exit_code == 0
    night(user_project)
    assert user_project.emulator.bill() == bill
    assert len(rows(user_project)) == 9 and where(store) == []


class Ended(BaseException):
    """The process is gone."""


def test_an_erasure_that_ends_at_any_step_is_finished_by_erasing_again(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_project.change(f"update notes set text = '{WORD} was here' where id = 3")
    night(user_project)
    whole = user_project.folder / "data" / "batches"
    labels = pa.table({"key": [["3"], ["4"]], "label": [WORD, "b"]})
    (whole / "notes" / "labels").mkdir()
    parquet.write_table(labels, whole / "notes" / "labels" / "20260101-1a2b3c.parquet")
    left = [0]

    def counting(method: Any) -> Any:
        def count(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Ended
            return method(*args, **more)

        return count

    for kind, name in ((Files, "put"), (Ledger, "_writing"), (Files, "remove")):
        monkeypatch.setattr(kind, name, counting(getattr(kind, name)))

    def run(copy: Path, steps: int) -> bool:
        left[0] = 0
        store = open_store(str(copy), clock=user_project.clock)
        table = ParquetDataset(path=store.files.url(table_name("notes")))
        left[0] = steps
        try:
            erase(store, "notes", ["id"], [["3"]], table)
        except Ended:
            return False
        left[0] = 0
        report = account(store, "notes", table)
        assert (report.missing, report.lost, report.unexpected, report.back) == (0, 0, 0, 0)
        return True

    def account(store: Store, name: str, table: ParquetDataset) -> Holding:
        after = publish(store, name, table, ["id"]).after
        assert after is not None
        assert after.records == 9 and table.row_count() == 9
        return after

    step = 0
    while True:
        step += extent(sample=7, whole=1)
        copy = user_project.folder / f"copy-{step}"
        shutil.copytree(whole, copy)
        done = run(copy, step)
        if not done:
            user_project.clock.advance(300)  # what it held is free again
            assert run(copy, 0)
        assert where(copy) == [], step
        shutil.rmtree(copy)
        if done:
            break
    assert step > 15


def test_what_is_on_its_way_or_unknown_is_refused(user_project: UserProject) -> None:
    submit(user_project)
    user_project.change("delete from notes where id = 3")
    for words, why in (
        (["3"], user_project.emulator.batches()[0]["id"]),
        (["77"], "ever had 1 key: 77 (id)"),
        (["3", "78"], "ever had 1 key: 78 (id)"),
    ):
        result = user_project.run("erase", "notes", *words, "--yes")
        assert result.exit_code == 1 and why in result.output, result.output
    store = user_project.store()
    assert not store.ledger.rows(submissions.select().where(submissions.c.version == "erased"))


@only_whole
def test_an_answer_that_another_record_shares_stays_as_long_as_that_needs_it(
    user_project: UserProject,
) -> None:
    store = user_project.folder / "data" / "batches"
    code = (CODE + TWO).replace('key="id"', 'key=["half", "id"]')
    table = 'destination=DuckDBTable(database="warehouse.duckdb", table="sorted"), **more,'
    user_project.write("pipelines.py", code.replace("**more,", table, 1))
    user_project.change(f"update notes set text = '{WORD} was here' where id in (3, 4)")
    night(user_project)
    found = erased(user_project, "odd,3", "--force")
    assert (found["shared"], found["requests"], found["rows"]) == (1, 0, 1)
    assert {*rows(user_project)} == {(("even", "odd")[n % 2], n) for n in range(10) if n != 3}
    assert rows(user_project)["even", 4]["answer"]
    night(user_project)
    bill = user_project.emulator.bill()
    found = erased(user_project, '["even","4"]', "--force")
    assert (found["shared"], found["requests"], found["answers"]) == (0, 1, 1)
    assert where(store) == []
    night(user_project)
    assert user_project.emulator.bill() == bill
    # On purpose it is asked again, and is no erased record then.
    with inside(user_project.folder):
        nights = played(user_project)
        nights.submit(force=True, where="id = 4")
        user_project.emulator.end()
        nights.collect()
    assert rows(user_project)["even", 4]["answer"] and len(rows(user_project)) == 9


@only_whole
def test_what_lies_in_the_store_under_an_earlier_name_goes_too(user_project: UserProject) -> None:
    store = user_project.folder / "data" / "batches"
    user_project.change(f"update notes set text = '{WORD} was here' where id = 3")
    night(user_project)
    renamed = 'pipeline("memos", renamed_from="notes")'
    user_project.write("pipelines.py", (CODE + TWO).replace('pipeline("notes")', renamed))
    night(user_project, "memos")
    user_project.change("delete from notes where id = 3")
    counts = []
    for how in ("--dry-run", "--yes"):
        result = user_project.run("erase", "memos", "3", how, "--json")
        assert result.exit_code == 0, result.output
        counts.append(json.loads(result.stdout)["stores"][0]["table_rows"])
    assert counts == [2, 2]
    assert where(store) == []


@only_whole
def test_the_answers_of_all_variants_and_of_a_better_model_go(user_project: UserProject) -> None:
    user_project.emulator.configure(manual=False)
    store = user_project.folder / "data" / "batches"
    user_project.change(f"update notes set text = '{WORD} was here' where id = 3")
    variants = 'variants={"a": {"prompt": "A: {{ text }}"}, "b": {"prompt": "B: {{ text }}"}}, '
    better = 'escalate=Escalate(to="claude-sonnet-5", when=["true"]), '
    for place, more in enumerate((variants, better)):
        code = (CODE + TWO).replace("**more,", f"{more}**more,", 1)
        user_project.write("pipelines.py", code.replace("data/batches", f"data/batches/{place}"))
        with inside(user_project.folder):
            nights = played(user_project)
            nights.submit()
            nights.until_quiet()
        assert where(store)
        bill = user_project.emulator.bill()
        assert erased(user_project, "3", "--force")["records"] == 2
        assert where(store) == []
        with inside(user_project.folder):
            nights.submit()
            nights.until_quiet()
            if more == better:
                assert len(nights.rows()) == 9
        assert user_project.emulator.bill() == bill
