"""The pages, and the blocks of code in them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from markdown_it import MarkdownIt
from markdown_it.token import Token
from sybil import Document, Example, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.typing import Evaluator

ROOT = Path(__file__).parents[2]
HISTORY = "CHANGELOG.md"  # tells what was, so nothing in it is run
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != HISTORY
)
GUIDES = [path for path in PAGES if path.parent.name == "howto"]  # by situation
NIGHTS = [path for path in PAGES if path in GUIDES or path.name == "testing.md"]
"""Pages whose blocks play nights, or run tests: `make soak` runs them, the sample reads them."""
TEXT = "text"  # pictures, and what a command prints
_HTML_CODE = re.compile(r"<\s*(pre|code|script)\b", re.IGNORECASE)


class Blocks:
    """A parser for Sybil: every fence of a page is an example, whatever its language."""

    def __init__(self, evaluators: Mapping[str, Evaluator]):
        """Take who runs the blocks of each language."""
        self._evaluators = evaluators
        self._fences = RawFencedCodeBlockLexer(
            re.compile(r"(?P<info>[^\n]*)$\n", re.MULTILINE),
            {"info": "language", "source": "source"},
        )

    def __call__(self, document: Document) -> Iterable[Region]:
        """Yield the blocks."""
        for region in self._fences(document):
            language = region.lexemes["language"].strip()
            region.parsed = region.lexemes["source"]
            region.evaluator = self._evaluators.get(language, nobody_runs)
            yield region


def nobody_runs(example: Example) -> NoReturn:
    """Refuse a block that would not be checked."""
    language = example.region.lexemes["language"].strip()
    raise AssertionError(
        f"Nobody runs blocks of {language!r}. Say which language it is; what is not to be run is ```text."
        if not language
        else f"Nobody runs blocks of {language!r}. Teach it to batch_pipeline_tests/docs, or make it ```text."
    )


def blocks(page: Path, evaluators: Mapping[str, Evaluator]) -> Document:
    """Return a page with its blocks.

    Raises:
        AssertionError: code stands in it in a way in which it would not be run.
    """
    document = Document.parse(str(page), Blocks(evaluators))
    tokens = tokens_of(document.text)
    for token in tokens:
        where = f"{page}, line {(token.map or [0])[0] + 1}"
        assert token.type != "code_block", f"{where}: indented code would not be run; use a fence."
        is_html = token.type in ("html_block", "html_inline")
        assert not (is_html and _HTML_CODE.search(token.content)), f"{where}: code in HTML."
    fences = [token.map[0] + 1 for token in tokens if token.type == "fence" and token.map]
    found = [example.line for example in document.examples()]
    assert found == fences, f"{page}: fences at {fences}, but blocks were found at {found}."
    return document


def tokens_of(text: str) -> list[Token]:
    """Return what a page consists of, in its order."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [one for token in tokens for one in (token, *(token.children or ()))]
