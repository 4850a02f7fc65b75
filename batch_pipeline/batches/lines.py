"""Reading lines from what a stranger sends: none is longer than can be held in memory."""

from collections.abc import Iterable, Iterator
from typing import Protocol

MOST_LINE_BYTES = 32_000_000  # the longest answer of a model has 1 MB; tools may add files to it
SHOWN_BYTES = 1_000  # what is left of a line that is longer
LARGE_LINE_BYTES = 4_000_000
MOST_PARTS = 1_000_000  # of a large line: a million small values take 100 MB when they are parsed
CHUNK = 1 << 20


class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


def lines_of(chunks: Iterable[bytes], most: int = MOST_LINE_BYTES) -> Iterator[bytes]:
    """Yield all but blank lines, each with its line end.

    Of a line that is longer than ``most`` bytes only the beginning is yielded, which is no JSON.
    """
    rest = b""
    skipping = False
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if skipping:
                skipping = False
            elif len(line) > most:
                yield _cut(line)
            elif line.strip():
                yield line + b"\n"
        if skipping:
            rest = b""
        elif len(rest) > most:
            yield _cut(rest)
            rest, skipping = b"", True
    if rest.strip():
        yield rest + b"\n"


def _cut(line: bytes) -> bytes:
    """Return the beginning of a line, with a mark that makes it unreadable as JSON."""
    return line[:SHOWN_BYTES] + b" ... a line that is too long\n"


def lines_in(file: Readable, most: int = MOST_LINE_BYTES) -> Iterator[bytes]:
    """Yield all but blank lines of an open file, as ``lines_of`` does."""
    return lines_of(iter(lambda: file.read(CHUNK), b""), most)


def is_overfull(line: bytes) -> bool:
    """Whether a line has so many small parts that to parse it would take the memory."""
    if len(line) <= LARGE_LINE_BYTES:
        return False
    return sum(line.count(mark) for mark in (b",", b"[", b"{", b":")) > MOST_PARTS
