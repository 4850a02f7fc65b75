"""What the documentation site makes of the pages; `make docs` builds it, and fails for a link that leads nowhere."""

import re
from pathlib import Path

import pytest

import batch_pipeline
from batch_pipeline import BatchPipelineComponent, ClaudeBatchesComponent
from batch_pipeline_tests.docs.pages import ROOT
from docs_site import commonmark, outside, reference

NAV = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nvalidation:")[0]


def link(text: str, shown: str = "operations.md", repo_url: str | None = None) -> str:
    return outside.with_links(text, shown, f"docs/{shown}", repo_url)


@pytest.mark.parametrize(
    ("written", "on_the_site"),
    [
        ("[a](cli.md#looking)", "[a](cli.md#looking)"),
        ("[a](#here), [b](https://b.example/c)", "[a](#here), [b](https://b.example/c)"),
        ("[a](../README.md#60-seconds)", "[a](index.md#60-seconds)"),
        ("[a](../examples/tickets)", "[a](examples/tickets.md)"),
        ("[over\nlines](../llms.txt)", "[over\nlines](llms.txt)"),
        ("[faults/](../batch_pipeline_tests/faults)", "`faults/`"),
        ("[`node`](../batch_pipeline_tests/node)", "`node`"),
        ("[![a](b.png)](b.png)", "[![a](b.png)](b.png)"),
        ("`[a](../batch_pipeline)`", "`[a](../batch_pipeline)`"),
        ("```text\n[a](../batch_pipeline)\n```", "```text\n[a](../batch_pipeline)\n```"),
    ],
)
def test_a_link_leads_to_where_the_site_shows_it(written: str, on_the_site: str) -> None:
    assert link(written) == on_the_site


def test_links_of_pages_in_other_folders_lead_there_too() -> None:
    assert link("[a](../cli.md)", "howto/held.md") == "[a](../cli.md)"
    assert outside.with_links("[a](docs/cli.md)", "index.md", "README.md", None) == "[a](cli.md)"
    of_example = outside.with_links(
        "[a](../../docs/cli.md)", "examples/daily.md", "examples/daily/README.md", None
    )
    assert of_example == "[a](../cli.md)"


def test_code_is_linked_once_the_repository_has_an_address() -> None:
    linked = link("[faults/](../batch_pipeline_tests/faults)", repo_url="https://code.example/b/")
    assert linked == "[faults/](https://code.example/b/blob/HEAD/batch_pipeline_tests/faults)"


def test_the_comparison_is_the_readmes() -> None:
    page = outside.comparison()
    assert page.startswith("# How it compares\n") and "LLMBatchOperator" in page
    assert "\n## " not in page


def test_lists_are_indented_and_set_apart_as_python_markdown_wants_it() -> None:
    written = "Text:\n- one\n  goes on\n  1. in it\n\n     ```text\n       x\n     ```\n- two\n"
    assert commonmark.for_python_markdown(written) == (
        "Text:\n\n- one\n    goes on\n\n    1. in it\n\n        ```text\n          x\n        ```\n- two\n"
    )


def test_what_is_no_list_stays() -> None:
    written = "# A\n\nb\n    c\n\n```text\n- no\n  list\n```\n\n| a | b |\n|---|---|\n| - | c |\n"
    assert commonmark.for_python_markdown(written) == written


def test_a_bar_in_the_code_of_a_table_is_a_bar() -> None:
    table = "| a | b |\n|---|---|\n| `int \\| None` | c \\| d |\n"
    assert "| `int | None` | c \\| d |" in commonmark.for_python_markdown(table)


def test_the_picture_of_states_is_a_table() -> None:
    page = commonmark.for_python_markdown((ROOT / "docs" / "architecture.md").read_text())
    assert "mermaid\n" not in page
    assert "|  | `ready` |  |\n" in page
    assert "| `held` | `ready` | a person says to send it again |" in page


def test_every_page_stands_in_the_menu() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    brought = {shown for shown in outside.BROUGHT_IN.values() if shown.endswith(".md")}
    expected = pages | brought | {*reference.MADE} | {outside.COMPARISON[0]}
    assert sorted(re.findall(r"[\w/.-]+\.md\b", NAV)) == sorted(expected)


def test_every_public_name_has_its_place_in_the_reference() -> None:
    page = reference.python()
    assert {*re.findall(r"::: batch_pipeline\.(\w+)$", page, re.MULTILINE)} == {
        *batch_pipeline.__all__
    }


def test_every_field_of_the_components_has_its_row_in_the_reference() -> None:
    page = reference.yaml()
    for component in (BatchPipelineComponent, ClaudeBatchesComponent):
        assert all(f"\n| `{name}` | " in page for name in component.model_fields)
    assert '| `refresh` | `"changed"`, `"new"` | `"changed"` |' in page
    assert "| `source` | [DuckDBSource](#duckdbsource), [ParquetSource](#parquetsource), " in page
    assert {*re.findall(r"\]\(#(\w+)\)", page)} <= {
        title.lower() for title in re.findall(r"^### (\w+)$", page, re.MULTILINE)
    }


def words(page: Path, chapter: str = "") -> set[str]:
    rows = re.findall(
        r"^\| (.+?) \| ", page.read_text().partition(chapter)[2].partition("\n## ")[0], re.MULTILINE
    )
    return {word for row in rows for word in row.split(", ")}


def test_the_glossary_has_every_word() -> None:
    rows = re.findall(r"^\| (.+?) \| ", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    told = {word for row in rows for word in row.split(", ")}
    assert words(ROOT / "docs" / "architecture.md", "## Words") <= told
    assert words(ROOT / "README.md", "The pages use each of these words for one thing") <= told
