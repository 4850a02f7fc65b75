"""CommonMark, in which the pages are written, as Python-Markdown reads it.

GitHub and the tests read the pages as CommonMark; MkDocs does not. They differ in how far what belongs
to an item of a list is indented, whether a list may follow a paragraph at once, and in `|` in the code of tables.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

_INDENT = 4
_MARKER = re.compile(r"(?:[-*+]|\d+[.)])\s+")
_CODE = re.compile(r"`[^`]*`")
_ARROW = re.compile(r"\s*(\S+) --> (\S+?)(?:: (.*))?")


def _tokens(markdown: str) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)


def code_lines(markdown: str) -> set[int]:
    """Return the numbers of the lines, from 0, that are blocks of code."""
    return {
        line
        for token in _tokens(markdown)
        if token.type in ("fence", "code_block") and token.map
        for line in range(*token.map)
    }


def for_python_markdown(markdown: str) -> str:
    """Return a page as Python-Markdown must have it to show the same."""
    return _with_lists(_with_tables(with_states(markdown)))


def _with_tables(markdown: str) -> str:
    lines = markdown.split("\n")
    for token in _tokens(markdown):
        if token.type == "table_open" and token.map:
            for number in range(*token.map):
                lines[number] = _CODE.sub(lambda code: code[0].replace("\\|", "|"), lines[number])
    return "\n".join(lines)


def _with_lists(markdown: str) -> str:
    lines = markdown.split("\n")
    cut = [0] * len(lines)  # how many columns of indentation belong to the items around a line
    depth = [0] * len(lines)
    blank_before: set[int] = set()
    open_lists: list[Token] = []
    tokens = _tokens(markdown)
    for place, token in enumerate(tokens):
        if token.type in ("bullet_list_open", "ordered_list_open") and token.map:
            if not open_lists:
                blank_before.add(token.map[0])
            open_lists.append(token)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            open_lists.pop()
        elif token.type == "list_item_open" and token.map:
            begin, end = token.map
            marker = _MARKER.match(lines[begin][cut[begin] :])
            width = len(marker[0]) if marker else 2
            if not tokens[place + 1].hidden:  # there are blank lines in the list
                blank_before.add(begin)
            for number in range(begin + 1, end):
                cut[number] += width
                depth[number] += 1
    made: list[str] = []
    for number, line in enumerate(lines):
        if number in blank_before and made and made[-1].strip():
            made.append("")
        indented = len(line) - len(line.lstrip(" "))
        made.append(" " * (_INDENT * depth[number]) + line[min(cut[number], indented) :])
    return "\n".join(line if line.strip() else "" for line in made)


def with_states(markdown: str) -> str:
    """Return a page with a table in the place of each picture of states.

    What draws such pictures would have to be loaded from elsewhere by who reads the page.
    """
    lines = markdown.split("\n")
    for token in reversed(_tokens(markdown)):
        if token.type == "fence" and token.info.strip() == "mermaid" and token.map:
            rows = ["| from | to | when |", "|---|---|---|"]
            for line in token.content.splitlines():
                if arrow := _ARROW.fullmatch(line):
                    here, there = (
                        {"[*]": ""}.get(name, f"`{name}`") for name in (arrow[1], arrow[2])
                    )
                    rows.append(f"| {here} | {there} | {arrow[3] or ''} |")
            lines[slice(*token.map)] = ["", *rows, ""]
    return "\n".join(lines)
