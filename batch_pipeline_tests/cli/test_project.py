"""The pipelines of a user's project are found as Dagster finds them, however it names its code."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.cli.project import Project, find_project, inside, load_project
from batch_pipeline.errors import InputError
from batch_pipeline.settings import project_path

CODE = """
import dagster as dg
from batch_pipeline import *

def pipeline(name, **more):
    return BatchPipeline(
        name=name,
        source=DuckDBSource(database="warehouse.duckdb", table="notes", key="id"),
        request=MessageTemplate(model="claude-haiku-4-5", max_tokens=50, prompt="{{ text }}"),
        **more,
    )

claude = ClaudeBatches(api_key=dg.EnvVar("BP_TEST_KEY"))
store = BatchStore(root="data/batches")
"""
ONE = CODE + 'defs = build_definitions(pipeline("notes"), claude=claude, store=store)\n'


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose modules are forgotten after the test."""
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def names(project: Project) -> list[str]:
    return [one.pipeline.name for one in project.declared]


def load(folder: Path, files: dict[str, str]) -> Project:
    return load_project(find_project(write(folder, files)))


def problem(folder: Path, files: dict[str, str]) -> str:
    with pytest.raises(InputError) as raised:
        load(folder, files)
    return str(raised.value)


def workspace(*targets: str) -> str:
    return "load_from:\n" + "".join(f"  - {target}\n" for target in targets)


def test_the_project_is_the_nearest_folder_that_names_code(folder: Path):
    write(folder, {"workspace.yaml": workspace("python_module: some.module")})
    write(folder, {"package/pyproject.toml": "[project]\nname = 'no-code-here'\n"})
    write(folder, {"package/deep/down/notes.txt": ""})
    assert find_project(folder / "package" / "deep" / "down") == folder
    write(folder, {"package/deep/pyproject.toml": '[tool.dagster]\nmodule_name = "other"\n'})
    assert find_project(folder / "package" / "deep" / "down") == folder / "package" / "deep"


def test_the_working_directory_is_where_the_search_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    write(folder, {"workspace.yaml": workspace("python_module: some.module"), "sub/x": ""})
    monkeypatch.chdir(folder / "sub")
    assert find_project() == folder


def test_without_a_project_it_says_where_was_looked_and_how_to_name_one(folder: Path):
    write(folder, {"pyproject.toml": "[project]\nname = 'no-code-here'\n", "sub/x": ""})
    with pytest.raises(InputError) as raised:
        find_project(folder / "sub")
    said = str(raised.value)
    assert str(folder / "sub") in said and str(folder / "pyproject.toml") in said
    assert "--project" in said and "--store" in said


def test_a_module_with_definitions(folder: Path):
    found = load(folder, {"workspace.yaml": workspace("python_module: bp_one"), "bp_one.py": ONE})
    assert names(found) == ["notes"]
    assert found.declared[0].pipeline.source.keys == ("id",)
    assert found.declared[0].store.root == "data/batches"
    assert found.declared[0].claude.url == "https://api.anthropic.com"


def test_files_with_an_attribute_and_a_working_directory(folder: Path):
    code = ONE.replace("defs =", "from beside import answer\nmine =") + "other = dg.Definitions()\n"
    found = load(
        folder,
        {
            "workspace.yaml": workspace(
                "python_file: {relative_path: code/one.py, attribute: mine, working_directory: lib}"
            ),
            "code/one.py": code,
            "lib/beside.py": "answer = 42",
        },
    )
    assert names(found) == ["notes"]


def test_several_code_locations(folder: Path):
    found = load(
        folder,
        {
            "workspace.yaml": workspace(
                "python_module: bp_first",
                "python_module: {module_name: bp_second, attribute: make}",
            ),
            "bp_first.py": ONE,
            "bp_second.py": CODE
            + "def make():\n    return build_definitions(pipeline('second'), claude=claude, store=store)\n",
        },
    )
    assert names(found) == ["notes", "second"]


def test_a_definitions_function_is_called_once(folder: Path):
    code = CODE + (
        "calls = []\n"
        "@dg.definitions\n"
        "def defs():\n"
        "    calls.append(1)\n"
        "    return build_definitions(pipeline('lazy'), claude=claude, store=store)\n"
    )
    found = load(
        folder, {"workspace.yaml": workspace("python_module: bp_lazy"), "bp_lazy.py": code}
    )
    assert names(found) == ["lazy"]
    assert sys.modules["bp_lazy"].calls == [1]


def test_merged_definitions(folder: Path):
    code = CODE + (
        "defs = dg.Definitions.merge(\n"
        "    build_definitions(pipeline('a')), build_definitions(pipeline('b', store_key='lake')),\n"
        "    dg.Definitions(resources={'claude': claude, 'store': store, 'lake': BatchStore(root='lake')}),\n"
        ")\n"
    )
    found = load(
        folder, {"workspace.yaml": workspace("python_module: bp_merged"), "bp_merged.py": code}
    )
    assert {one.pipeline.name: one.store.root for one in found.declared} == {
        "a": "data/batches",
        "b": "lake",
    }


def test_resources_that_a_repository_has_bound(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BP_TEST_KEY", "a-key")
    found = load(
        folder,
        {
            "workspace.yaml": workspace("python_module: {module_name: bp_repo, attribute: repo}"),
            "bp_repo.py": ONE + "repo = defs.get_repository_def()\n",
        },
    )
    assert names(found) == ["notes"]
    assert found.declared[0].store.root == "data/batches"
    assert found.declared[0].claude.api()._key == "a-key"


def test_changed_specs_do_not_hide_a_pipeline(folder: Path):
    code = (
        ONE
        + "defs = defs.map_asset_specs(func=lambda spec: spec.replace_attributes(group_name='g'))\n"
    )
    found = load(
        folder, {"workspace.yaml": workspace("python_module: bp_specs"), "bp_specs.py": code}
    )
    assert names(found) == ["notes"]


def test_a_pyproject_with_a_module(folder: Path):
    found = load(
        folder,
        {
            "pyproject.toml": '[tool.dagster]\nmodule_name = "bp_toml.defs"\n',
            "bp_toml/defs.py": ONE,
        },
    )
    assert names(found) == ["notes"]


DG_RESOURCES = CODE + (
    "@dg.definitions\n"
    "def resources():\n"
    "    return dg.Definitions(resources={'claude': claude, 'store': store})\n"
)
COMPONENT = """
type: batch_pipeline.BatchPipelineComponent
attributes:
  name: tickets
  source: {database: warehouse.duckdb, table: tickets, key: ticket_id}
  request: {model: claude-haiku-4-5, max_tokens: 64, prompt: "{{ subject }}"}
"""
DG_PROJECT = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "ROOT"\n'


def dg_project(root: str, more: str = "") -> dict[str, str]:
    return {
        "pyproject.toml": DG_PROJECT.replace("ROOT", root) + more,
        f"{root}/__init__.py": "",
        f"{root}/defs/__init__.py": "",
        f"{root}/defs/resources.py": DG_RESOURCES,
        f"{root}/defs/tickets/defs.yaml": COMPONENT,
    }


def test_a_project_of_components(folder: Path):
    entry = (
        "from pathlib import Path\nfrom dagster import definitions, load_from_defs_folder\n"
        "@definitions\ndef defs():\n"
        "    return load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    found = load(folder, {**dg_project("bp_comp"), "bp_comp/definitions.py": entry})
    assert names(found) == ["tickets"]
    assert found.declared[0].store.root == "data/batches"


def test_a_project_of_components_that_loads_itself(folder: Path):
    found = load(folder, dg_project("bp_auto", "autoload_defs = true\n"))
    assert names(found) == ["tickets"]


def test_a_project_of_components_with_a_module_of_its_own(folder: Path):
    files = {
        "dg.toml": '[project]\nroot_module = "bp_own"\ncode_location_target_module = "bp_own.entry"\n',
        "bp_own/entry.py": ONE,
    }
    assert names(load(folder, files)) == ["notes"]


def test_paths_variables_and_modules_are_the_projects_while_a_command_is_inside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BP_BEFORE", "outside")
    write(folder, {".env": "BP_BEFORE=inside\nBP_NEW=1\n", "pyproject.toml": "", "data/x": ""})
    here, path = Path.cwd(), list(sys.path)
    with inside(folder):
        assert project_path("data/batches") == str(folder / "data" / "batches")
        assert (os.environ["BP_BEFORE"], os.environ["BP_NEW"]) == ("inside", "1")
        assert sys.path[0] == str(folder)
    assert (Path.cwd(), sys.path) == (here, path)
    assert os.environ["BP_BEFORE"] == "outside" and "BP_NEW" not in os.environ


def test_what_user_code_prints_is_not_an_answer(folder: Path, capsys: pytest.CaptureFixture[str]):
    load(
        folder,
        {
            "workspace.yaml": workspace("python_module: bp_loud"),
            "bp_loud.py": "print('hello')\n" + ONE,
        },
    )
    out, err = capsys.readouterr()
    assert "hello" not in out and "hello" in err


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        ("x = 1\nx = undefined\n", 2, "NameError: name 'undefined' is not defined"),
        ("x = 1\n\nimport bp_no_such_package\n", 3, "ModuleNotFoundError"),
        ("x = (1\n", 1, "SyntaxError"),
        (CODE + "pipeline('no spaces please')\n", 6, "InputError: A pipeline's name"),
        ("import sys\nsys.exit('not configured')\n", 2, "SystemExit: not configured"),
    ],
)
def test_an_error_of_user_code_is_shown_with_its_file_and_line(
    folder: Path, code: str, line: int, words: str
):
    files = {"workspace.yaml": workspace("python_module: bp_broken"), "bp_broken.py": code}
    said = problem(folder, files)
    assert words in said
    assert f"{folder / 'bp_broken.py'}, line {line}" in said
    assert "--store" in said


def test_an_error_of_a_definitions_function_and_one_deep_in_a_component(folder: Path):
    lazy = "import dagster as dg\n@dg.definitions\ndef defs():\n    raise ValueError('no such thing')\n"
    said = problem(
        folder, {"workspace.yaml": workspace("python_module: bp_late"), "bp_late.py": lazy}
    )
    assert "ValueError: no such thing" in said and "line 4" in said
    files = dg_project("bp_wrong", "autoload_defs = true\n")
    files["bp_wrong/defs/tickets/defs.yaml"] = COMPONENT.replace("key:", "keys:")
    said = problem(folder, files)
    assert "keys" in said and "did you mean key" in said
    assert f"{folder / 'bp_wrong' / 'defs' / 'tickets' / 'defs.yaml'}, line 5" in said


def test_a_module_that_is_not_there(folder: Path):
    said = problem(folder, {"workspace.yaml": workspace("python_module: bp_nowhere")})
    assert "No module named 'bp_nowhere'" in said and str(folder) in said


def test_files_that_name_no_code_rightly(folder: Path):
    said = problem(folder, {"workspace.yaml": "load_from:\n  - python_modul: bp\n"})
    assert str(folder / "workspace.yaml") in said and "python_modul" in said
    assert str(folder / "pyproject.toml") in problem(folder, {"pyproject.toml": "[tool.dagster\n"})


def test_a_resource_that_is_missing_or_another_thing(folder: Path):
    code = CODE + "defs = build_definitions(pipeline('notes'), claude=claude)\n"
    said = problem(
        folder, {"workspace.yaml": workspace("python_module: bp_less"), "bp_less.py": code}
    )
    assert "notes" in said and "store (store_key)" in said and "claude" in said
    code = CODE + (
        "defs = dg.Definitions.merge(build_definitions(pipeline('notes'), claude=claude), "
        "dg.Definitions(resources={'store': 'data/batches'}))\n"
    )
    said = problem(
        folder, {"workspace.yaml": workspace("python_module: bp_text"), "bp_text.py": code}
    )
    assert "must be a BatchStore" in said


def test_a_server_or_another_python_cannot_be_imported_and_the_rest_is(folder: Path):
    server = "grpc_server: {host: far, port: 4000, location_name: far_away}"
    said = problem(folder, {"workspace.yaml": workspace(server)})
    assert "far_away" in said and "gRPC" in said and "--store" in said
    other = "python_module: {module_name: bp_there, executable_path: /opt/other/bin/python}"
    found = load(
        folder,
        {"workspace.yaml": workspace(server, other, "python_module: bp_here"), "bp_here.py": ONE},
    )
    assert names(found) == ["notes"]
    assert ["far_away" in found.left_out[0], "/opt/other" in found.left_out[1]] == [True, True]


def test_a_project_without_a_batch_pipeline(folder: Path):
    code = "import dagster as dg\n@dg.asset\ndef other(): ...\n"
    said = problem(
        folder, {"workspace.yaml": workspace("python_module: bp_none"), "bp_none.py": code}
    )
    assert "no batch pipeline" in said


def test_what_a_pipeline_is_to_the_code_is_not_shown_in_the_ui(folder: Path):
    load(folder, {"workspace.yaml": workspace("python_module: bp_quiet"), "bp_quiet.py": ONE})
    definitions: dg.Definitions = sys.modules["bp_quiet"].defs
    assert all(
        "BatchPipeline(" not in str(spec.metadata) for spec in definitions.resolve_all_asset_specs()
    )
