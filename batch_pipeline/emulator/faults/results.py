"""Results that are cut, damaged, or not what was asked for."""

from collections.abc import Iterator

import orjson

from batch_pipeline.emulator.faults.kind import kind
from batch_pipeline.emulator.replies import ConnectionDropped

Lines = Iterator[bytes]


@kind("lines", "results")
def cut_results_mid_line(lines: Lines, *, line: int = 1, clean: bool = True) -> Lines:
    """The results end in the middle of a line (the first is 1). `clean=false`: the connection
    breaks."""
    for index, text in enumerate(lines, start=1):
        if index == line:
            yield text[: len(text) // 2]
            if not clean:
                raise ConnectionDropped
            return
        yield text


@kind("lines", "results")
def cut_results_at_line(lines: Lines, *, line: int = 1, clean: bool = True) -> Lines:
    """The results end after so many lines, without any sign that some are missing. `clean=false`:
    the connection breaks."""
    for index, text in enumerate(lines):
        if index == line:
            if not clean:
                raise ConnectionDropped
            return
        yield text


@kind("lines", "results")
def garbage_line(lines: Lines, *, line: int = 1) -> Lines:
    """The second half of a line is garbage, no text at all (the first line is 1)."""
    for index, text in enumerate(lines, start=1):
        if index == line:
            half = (len(text) - 1) // 2
            yield text[:half] + b"\x00\xff\xfe" * (half // 3 + 1) + b"\n"
        else:
            yield text


@kind("lines", "results")
def foreign_line(
    lines: Lines, *, line: int = 1, custom_id: str = "somebody-elses", instead: bool = False
) -> Lines:
    """A line with a custom_id that is not of this batch is put in. `instead`: in place of a line,
    so that their number is right."""
    for index, text in enumerate(lines, start=1):
        if index == line:
            yield orjson.dumps({**orjson.loads(text), "custom_id": custom_id}) + b"\n"
            if instead:
                continue
        yield text


@kind("lines", "results")
def line_twice(lines: Lines, *, line: int = 1) -> Lines:
    """A line comes twice (the first is 1)."""
    for index, text in enumerate(lines, start=1):
        yield text
        if index == line:
            yield text


@kind("lines", "results")
def line_missing(lines: Lines, *, line: int = 1) -> Lines:
    """A line is left out (the first is 1)."""
    return (text for index, text in enumerate(lines, start=1) if index != line)


@kind("lines", "results")
def line_replaced(lines: Lines, *, line: int = 1, text: str = "not JSON") -> Lines:
    """A line is replaced by a text, or by nothing (the first is 1)."""
    return (
        text.encode() + b"\n" if index == line else original
        for index, original in enumerate(lines, start=1)
    )


@kind("lines", "results")
def line_added(lines: Lines, *, text: str, line: int = 1) -> Lines:
    """A text is put in as a line of its own (the first is 1)."""
    for index, original in enumerate(lines, start=1):
        if index == line:
            yield text.encode() + b"\n"
        yield original
