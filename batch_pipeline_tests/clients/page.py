"""The tables of docs/emulator.md that are made from lists: each stands between marks."""

from batch_pipeline_tests.clients.own_environment import ROOT

PAGE = ROOT / "docs" / "emulator.md"
END = "<!-- end -->"


def with_table(page: str, name: str, table: str) -> str:
    """A page with a table of today between its marks."""
    begin = f"<!-- made by batch_pipeline_tests.clients: {name} -->\n"
    before, after = page.split(begin)
    return before + begin + table + END + after.split(END, 1)[1]


def write_table(name: str, table: str) -> None:
    """Write a table into the page."""
    page = PAGE.read_text()
    changed = with_table(page, name, table)
    if changed != page:
        PAGE.write_text(changed)


def table_of(page: str, name: str) -> str:
    """The table that stands between its marks."""
    begin = f"<!-- made by batch_pipeline_tests.clients: {name} -->\n"
    return page.split(begin)[1].split(END, 1)[0]
