"""Variants and labels at the command line: said in plain words, and kept apart."""

import csv
import json

import duckdb
import pytest

from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, UserProject

ASKED = """
defs = build_definitions(
    BatchPipeline(
        name="notes", source=DuckDBSource(database="warehouse.duckdb", table="notes", key="id"), destination=DuckDBTable(database="warehouse.duckdb", table="said"), label="kind",
        request=MessageTemplate(
            model="claude-haiku-4-5", max_tokens=50, prompt="{{ text }}",
            output={"type": "object", "properties": {"kind_said": {"type": "string", "enum": ["a", "b"]}},
                    "required": ["kind_said"], "additionalProperties": False},
        ),
        variants={"base": {}, "calm": {"system": "Be calm."}},
    ),
    claude=claude(), store=store,
)
"""


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def project(user_project: UserProject) -> UserProject:
    user_project.write("pipelines.py", CODE + ASKED)
    return user_project


@only_whole
def test_every_command_says_the_variant(project: UserProject) -> None:
    estimated = json.loads(project.run("estimate", "notes", "--json").output)
    assert [(one["variant"], one["asked"]) for one in estimated["variants"]] == [
        ("base", 10),
        ("calm", 10),
    ]
    assert "notes, variant calm: 10 records would be asked" in plain(
        project.run("estimate", "notes", "--variant", "calm").output
    )
    assert "has no variant cool. Its variants are: base, calm" in plain(
        project.run("preview", "notes", "--variant", "cool").output
    )
    project.submit()
    status = project.run("status", "notes").output
    assert "variant base" in status and "variant calm" in status
    assert "Of all 20 rows of 2 variants" in plain(project.run("status").output)
    shown = json.loads(project.run("status", "notes", "--json").output)["pipelines"]
    assert [(one["partition"], one["variant"]) for one in shown] == [(None, "base"), (None, "calm")]
    history = json.loads(project.run("history", "notes", "1", "--json").output)["submissions"]
    assert [(one["partition"], one["variant"]) for one in history] == [("", "base"), ("", "calm")]
    assert "notes calm" in project.run("costs", "--by", "variant").output
    assert "notes, variant calm" in plain(
        project.run("cancel", "notes", "--variant", "calm", "--yes").output
    )
    with inside(project.folder):
        project.emulator.end()
        project.clock.advance(300)
        project.nights("notes").collect()
    statuses = [
        (one["variant"], one["answered"])
        for one in json.loads(project.run("status", "notes", "--json").output)["pipelines"]
    ]
    assert statuses[0] == ("base", 10)


@only_whole
def test_a_sample_is_labelled_and_counts(project: UserProject) -> None:
    assert "Nothing of notes was ever asked" in plain(
        project.run("sample", "notes", "--random", "3", "--csv", "x.csv").output
    )
    with inside(project.folder):
        nights = project.nights("notes")
        nights.submit()
        project.emulator.end()
        project.clock.advance(300)
        nights.collect()
    path = project.folder / "to_label.csv"
    done = project.run("sample", "notes", "--stratified", "6", "--csv", str(path))
    assert done.exit_code == 0 and "6 records to label" in done.output, done.output
    assert "is there already" in plain(
        project.run("sample", "notes", "--random", "3", "--csv", str(path)).output
    )
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        [*rows[0]][-1] == "label"
        and "kind_said" not in rows[0]
        and not any(row["label"] for row in rows)
    )
    for row in rows:
        row["label"] = "a"
    rows[5]["label"] = ""

    def hand_in(**changes: str) -> str:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows([rows[0] | changes, *rows[1:]])
        return plain(project.run("labels", "notes", str(path)).output)

    assert "1 record are not among the results" in hand_in(
        id="999"
    ) or "not among the results" in hand_in(id="999")
    assert "No answer is any of: A" in hand_in(label="A")
    assert "5 labels kept" in hand_in()
    with inside(project.folder):
        from batch_pipeline.definitions.assets.scores import scores_of

        scores, found = scores_of(project.nights("notes").pipeline, project.store())
    labelled = scores.get("base", "labelled")
    assert found.labelled == 5 and labelled is not None and labelled.value == 5
    left = project.folder / "rest.csv"
    assert "5 records to label" in plain(
        project.run("sample", "notes", "--random", "20", "--csv", str(left), "--answers").output
    )
    assert "answer calm" in left.read_text()


@only_whole
def test_what_is_left_is_collected_without_code(project: UserProject) -> None:
    project.submit()
    project.write(
        "pipelines.py",
        CODE + 'defs = build_definitions(pipeline("other"), claude=claude(), store=store)\n',
    )
    project.emulator.end()
    project.clock.advance(300)
    done = project.run("collect", "notes", "--json")
    assert done.exit_code == 0, done.output
    rows = list((project.folder / "data" / "batches" / "notes" / "table").rglob("*.parquet"))
    with duckdb.connect() as con:
        found = con.execute(
            "select _variant, count(*) from read_parquet(?) group by all order by all",
            [[str(one) for one in rows]],
        ).fetchall()
    assert found == [("base", 10), ("calm", 10)]
