"""Files outside of `docs/` that the site shows, and where the links of all pages lead there."""

import posixpath
import re
from itertools import groupby
from pathlib import Path

from docs_site.commonmark import code_lines

ROOT = Path(__file__).parents[1]
BROUGHT_IN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "llms.txt": "llms.txt",
} | {
    file.relative_to(ROOT).as_posix(): f"examples/{file.parent.name}.md"
    for file in sorted(ROOT.glob("examples/*/README.md"))
}
"""Files of the repository, and what they are called on the site."""

COMPARISON = "other-tools.md", "How it compares"
"""A page that is a chapter of README.md, and the heading of that chapter."""

_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z]+:|#")


def comparison() -> str:
    """Return the chapter of README.md as a page."""
    heading = f"{COMPARISON[1]}\n"
    chapter, _, _ = (
        (ROOT / "README.md").read_text().partition(f"## {heading}")[2].partition("\n## ")
    )
    return f"# {heading}{chapter}\n"


def with_links(markdown: str, shown: str, file: str, repo_url: str | None) -> str:
    """Return a page whose links lead to where the site shows what they name.

    Args:
        markdown: the page.
        shown: what the page is called on the site.
        file: what it is in the repository.
        repo_url: where the repository can be looked at. Without it a link to what the site does not
            show is no link: its text stays, as code.
    """
    of_code = code_lines(markdown)
    parts: list[str] = []
    for is_code, numbered in groupby(
        enumerate(markdown.split("\n")), key=lambda one: one[0] in of_code
    ):
        part = "\n".join(line for _, line in numbered)
        parts.append(part if is_code else _changed(part, shown, file, repo_url))
    return "\n".join(parts)


def _changed(text: str, shown: str, file: str, repo_url: str | None) -> str:
    return _LINK.sub(lambda found: _link(found, text, shown, file, repo_url), text)


def _link(found: re.Match[str], page: str, shown: str, file: str, repo_url: str | None) -> str:
    text, target = found["text"], found["target"]
    paragraph = page.rfind("\n\n", 0, found.start()) + 1
    if page.count("`", paragraph, found.start()) % 2:
        return found[0]  # it stands in code
    text = _changed(text, shown, file, repo_url)  # a picture
    if _ELSEWHERE.match(target):
        return f"[{text}]({target})"
    path, mark, anchor = target.partition("#")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
    place = _place(named)
    if place is not None:
        return (
            f"[{text}]({posixpath.relpath(place, posixpath.dirname(shown) or '.')}{mark}{anchor})"
        )
    if repo_url:
        return f"[{text}]({repo_url.rstrip('/')}/blob/HEAD/{named}{mark}{anchor})"
    return text if "`" in text else f"`{text}`"


def _place(named: str) -> str | None:
    """Return what a file or folder of the repository is called on the site; None: it is not there."""
    for one in (named, f"{named}/README.md"):
        if one in BROUGHT_IN:
            return BROUGHT_IN[one]
    return named.removeprefix("docs/") if named.startswith("docs/") else None
