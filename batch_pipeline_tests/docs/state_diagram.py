"""The picture of a request file's states in docs/architecture.md, made from ``STEPS``.

python -m batch_pipeline_tests.docs.state_diagram     writes it
"""

import re

from batch_pipeline.store.tables import STEPS, FileState
from batch_pipeline_tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PLACE = re.compile(r"(<!-- made by [\w.]+state_diagram -->\n).*?(<!-- end -->)", re.DOTALL)
FIRST = FileState.READY


def diagram() -> str:
    """Return the states and the steps between them as a Mermaid block."""
    steps = [f"    {come_from} --> {to}: {why}" for (come_from, to), why in STEPS.items()]
    last = [state for state in FileState if not any(tail == state for tail, _ in STEPS)]
    ends = [f"    {state} --> [*]" for state in last]
    lines = ["stateDiagram-v2", f"    [*] --> {FIRST}", *steps, *ends]
    return "\n".join(["```mermaid", *lines, "```", ""])


def drawn(text: str) -> str:
    """Return a page with the picture as it must be."""
    return PLACE.sub(lambda place: f"{place[1]}{diagram()}{place[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
