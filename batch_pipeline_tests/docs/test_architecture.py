"""docs/architecture.md is about the code as it is."""

import re

import pytest

from batch_pipeline.store.tables import metadata
from batch_pipeline_tests.docs.pages import ROOT
from batch_pipeline_tests.docs.state_diagram import PAGE, diagram, drawn

TEXT = PAGE.read_text()
PACKAGE, TESTS = ROOT / "batch_pipeline", ROOT / "batch_pipeline_tests"
FILE = re.compile(r"`([a-z_]+(?:/[a-z_]+)*\.py)`")
TEST = re.compile(r"`([a-z_/]+/test_\w+\.py)::(test_\w+)`")
NAME_IN_FILE = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.py)`: `(\w+)`")


def test_the_picture_of_the_states_is_fresh() -> None:
    assert diagram() in TEXT and drawn(TEXT) == TEXT, (
        "the steps have changed: run python -m batch_pipeline_tests.docs.state_diagram"
    )


def test_a_step_that_is_not_in_the_picture_makes_it_stale() -> None:
    assert drawn(TEXT.replace("    ended --> collected", "    ended --> held")) == TEXT


@pytest.mark.parametrize("name", sorted(set(FILE.findall(TEXT))))
def test_a_file_that_is_named_is_there(name: str) -> None:
    rooms = [PACKAGE, *(folder for folder in PACKAGE.iterdir() if folder.is_dir())]
    assert any((room / name).is_file() for room in rooms), name


@pytest.mark.parametrize(("file", "name"), TEST.findall(TEXT))
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), NAME_IN_FILE.findall(TEXT))
def test_a_name_is_in_the_file_that_it_is_said_to_be_in(file: str, name: str) -> None:
    assert re.search(rf"^(def |class )?{name}\b", (PACKAGE / file).read_text(), re.MULTILINE)


def test_every_table_of_the_ledger_is_told() -> None:
    told = TEXT.partition("## The ledger's tables")[2].partition("\n## ")[0]
    assert {name for name in metadata.tables if f"`{name}`" not in told} == set()


def test_every_room_is_told() -> None:
    told = TEXT.partition("## The rooms")[2].partition("\n## ")[0]
    rooms = [room.name for room in PACKAGE.iterdir() if (room / "__init__.py").is_file()]
    modules = [file.name for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]
    assert {name for name in rooms if f"`{name}/`" not in told} == set()
    assert {name for name in modules if f"`{name}`" not in told} == set()
