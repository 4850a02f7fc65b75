"""Twelve wrong files, read as a stranger would: where it is wrong, which field, what is right.

`dg check yaml` goes by the JSON Schema alone and words its messages itself; loading says it in ours.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox
from dagster_dg_core.check import check_yaml
from dagster_dg_core.context import DgContext

from batch_pipeline import BatchPipelineComponent
from batch_pipeline.definitions.component_problems import YamlError

RIGHT = """\
type: batch_pipeline.BatchPipelineComponent
attributes:
  name: tickets
  source:
    database: warehouse.duckdb
    table: tickets
    key: ticket_id
  request:
    model: claude-haiku-4-5
    max_tokens: 64
    prompt: "{{ subject }}"
  schedule:
    cron: 0 23 * * *
"""

# What is changed; what loading says, from the line on; what dg check yaml says, if a schema can tell.
WRONG = [
    (
        ("max_tokens: 64", "max_token: 64"),
        "line 8, column 3: attributes.request: max_tokens is missing.",
        "defs.yaml:10 - .*attributes.request.max_token .*'the name max_tokens' was expected",
    ),
    (
        ("schedule:", "shedule:"),
        "line 12, column 3: attributes.shedule: there is no field shedule; did you mean schedule?",
        "defs.yaml:12 - .*attributes.shedule .*'the name schedule' was expected",
    ),
    (
        ("table: tickets", "tabel: tickets"),
        "line 6, column 5: attributes.source.tabel: there is no field tabel; did you mean table?",
        "defs.yaml:6 - .*attributes.source.tabel .*'the name table' was expected",
    ),
    (
        ("    key: ticket_id\n", ""),
        "line 4, column 3: attributes.source: key is missing.",
        "defs.yaml:4 - .*attributes.source .*'key' is a required property",
    ),
    (
        ("max_tokens: 64", "max_tokens: many"),
        "line 10, column 5: attributes.request.max_tokens is 'many'; it must be a valid integer.",
        "defs.yaml:10 - .*attributes.request.max_tokens .*'many' is not of type 'integer'",
    ),
    (
        ("  schedule:", "  refresh: change\n  schedule:"),
        "line 12, column 3: attributes.refresh is 'change'; it must be 'changed' or 'new'. Did you mean changed?",
        "defs.yaml:12 - .*attributes.refresh .*'change' is not one of .*'changed', 'new'",
    ),
    (
        ("  schedule:", "  partitions: {type: dayly, start_date: 2026-01-01}\n  schedule:"),
        "line 12, column 16: attributes.partitions.type: type is 'dayly'; it must be one of hourly, daily, weekly, "
        "monthly, time_window, static, dynamic, multi. Did you mean daily?",
        "defs.yaml:12 - .*attributes.partitions.type .*'dayly' is not one of .*'daily'",
    ),
    (
        ("cron: 0 23 * * *", "cron: every night"),
        "line 13, column 5: attributes.schedule.cron: Schedule: cron is 'every night'; it must be a cron string of "
        "five fields (minute, hour, day of the month, month, weekday), such as 0 23 * * *.",
        None,
    ),
    (
        ("  schedule:", "  budget: {per_night_usd: 5}\n  schedule:"),
        "line 12, column 12: attributes.budget.per_night_usd: there is no field per_night_usd; did you mean "
        "per_month_usd?",
        "defs.yaml:12 - .*attributes.budget.per_night_usd .*'per_night_usd' was unexpected",
    ),
    (
        ('prompt: "{{ subject }}"', "prompt: Sort this."),
        "line 11, column 5: attributes.request.prompt: prompt reads no column: every record would be asked the same. "
        "Name one, e.g. {{ description }}.",
        None,
    ),
    (
        ('prompt: "{{ subject }}"', "prompt_file: question.md"),
        "line 11, column 5: attributes.request.prompt_file: there is no file ",
        None,
    ),
    (
        ("  schedule:", "  op: {pol: warehouse}\n  schedule:"),
        "line 12, column 8: attributes.op.pol: there is no field pol; did you mean pool?",
        "defs.yaml:12 - .*attributes.op.pol .*'the name pool' was expected",
    ),
]


@pytest.fixture(scope="module")
def project() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as sandbox:
        (sandbox.defs_folder_path / "tickets").mkdir()
        yield sandbox


def loading_says(project: DefsFolderSandbox, folder: Path) -> str:
    with (
        pytest.raises(Exception) as failed,
        project.load_component_and_build_defs(defs_path=folder),
    ):
        pass
    error: BaseException | None = failed.value
    while error is not None and not isinstance(error, YamlError):
        error = error.__cause__ or error.__context__
    return str(error)


@pytest.mark.every_form
@pytest.mark.parametrize(("change", "loading", "checking"), WRONG)
def test_a_wrong_file_says_where_and_what_is_right(
    project: DefsFolderSandbox,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    loading: str,
    checking: str | None,
) -> None:
    folder = project.defs_folder_path / "tickets"
    file = folder / "defs.yaml"
    assert change[0] in RIGHT
    file.write_text(RIGHT.replace(*change, 1))
    said = loading_says(project, folder)
    assert f"{file.resolve()}, {loading}" in said
    if checking is not None:
        dg_context = DgContext.for_project_environment(project.project_root, {})
        assert not check_yaml(dg_context, [folder], validate_requirements=False)
        shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
        assert re.search(checking, shown), shown


def test_several_wrong_fields_are_named_at_once(project: DefsFolderSandbox) -> None:
    folder = project.defs_folder_path / "tickets"
    text = RIGHT.replace("max_tokens", "max_token").replace("name: tickets", "name: 7")
    (folder / "defs.yaml").write_text(text)
    said = loading_says(project, folder)
    assert said.startswith("3 things are wrong:\n")
    assert "attributes.name is 7; it must be a valid string." in said
    assert "there is no field max_token; did you mean max_tokens?" in said


def test_no_attributes_at_all_names_what_is_needed(project: DefsFolderSandbox) -> None:
    folder = project.defs_folder_path / "tickets"
    (folder / "defs.yaml").write_text("type: batch_pipeline.BatchPipelineComponent\n")
    said = loading_says(project, folder)
    assert all(f"attributes: {one} is missing." in said for one in ("name", "source"))


def test_the_schema_describes_every_field_and_leaves_none_open() -> None:
    model = BatchPipelineComponent.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    own = {name: one for name, one in schema["$defs"].items() if name.endswith("Fields")}
    del own["TranslationFields"]  # Dagster's own words
    for name, one in {"attributes": schema, **own}.items():
        assert one["additionalProperties"] is False, name
        for field, shown in one["properties"].items():
            assert shown.get("description"), (name, field)
            assert "type" in shown or "const" in shown, (name, field)
            assert field in one.get("required", []) or "default" in shown, (name, field)
    assert not any("UNSET" in str(one) for one in schema["properties"].values())
