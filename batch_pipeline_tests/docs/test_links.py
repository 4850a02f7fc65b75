"""Every link of a page leads somewhere."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from batch_pipeline_tests.docs.pages import GUIDES, PAGES, ROOT, tokens_of

ELSEWHERE = re.compile(r"[a-z]+:")


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return [
        str(token.attrs[name])
        for token in tokens_of(page.read_text())
        for name in ("href", "src")
        if name in token.attrs
    ]


def anchors(page: Path) -> set[str]:
    """Return the names under which a page's headings can be linked, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [
        "".join(child.content for child in inline.children or ())
        for heading, inline in pairwise(tokens)
        if heading.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def linked(page: Path) -> set[Path]:
    """Return the files that a page leads to."""
    return {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}


def test_the_readme_leads_to_every_page() -> None:
    readme, guides = ROOT / "README.md", ROOT / "docs" / "howto" / "index.md"
    assert {*PAGES} - {readme, *GUIDES} <= linked(readme)
    assert guides in linked(readme)
    assert {*GUIDES} - {guides} <= linked(guides)


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
