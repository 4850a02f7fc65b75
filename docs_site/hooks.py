"""MkDocs' hook: it brings in the pages that do not lie in `docs/`, and has all of them read as CommonMark."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs_site import commonmark, outside, reference  # noqa: E402

MADE = {outside.COMPARISON[0]: outside.comparison, **reference.MADE}
_FILES = {shown: file for file, shown in outside.BROUGHT_IN.items()} | {
    outside.COMPARISON[0]: "README.md"
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in `docs/`."""
    for file, shown in outside.BROUGHT_IN.items():
        files.append(File.generated(config, shown, abs_src_path=str(ROOT / file)))
    for shown, make in MADE.items():
        files.append(File.generated(config, shown, content=make()))
    style = str(ROOT / "docs_site" / "site.css")
    files.append(File.generated(config, "site.css", abs_src_path=style))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Return a page as Python-Markdown must have it, its links as the site has them."""
    shown = page.file.src_uri
    if not shown.startswith("reference/"):
        file = _FILES.get(shown, f"docs/{shown}")
        markdown = outside.with_links(markdown, shown, file, config.repo_url or None)
    return commonmark.for_python_markdown(markdown)
