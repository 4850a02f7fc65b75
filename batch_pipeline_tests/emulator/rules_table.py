"""The table of rules in docs/emulator.md, made from the rules themselves.

`python -m batch_pipeline_tests.emulator.rules_table` writes it anew.
"""

from pathlib import Path

from batch_pipeline.emulator.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "emulator.md"
BEGIN, END = "<!-- made by batch_pipeline_tests.emulator.rules_table -->\n", "<!-- end -->"


def rules_table() -> str:
    """A row for each rule: what is refused, and from what we know it."""
    rows = [f"| {rule.refuses} | {rule.source} |" for rule in RULES]
    return "\n".join(["| refused | source |", "|---|---|", *rows]) + "\n"


def with_table(page: str) -> str:
    """A page with the table of today between its marks."""
    before, after = page.split(BEGIN)
    return before + BEGIN + rules_table() + END + after.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
