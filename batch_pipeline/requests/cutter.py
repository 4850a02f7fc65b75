"""Request files: lines written one after the other, and cut at the API's limits."""

import os
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENVELOPE = len('{"requests":[') + len("]}")
"""Bytes of a batch's body around its requests."""


@dataclass(frozen=True)
class Limits:
    """The most that one batch may hold: requests, and bytes of the body that is posted."""

    max_requests: int
    max_bytes: int


@dataclass(frozen=True)
class RequestFile:
    """One JSONL file.

    Attributes:
        path: where it is.
        seq: its number, from 0.
        requests: its lines.
        bytes: of the body that is posted: ``{"requests":[`` line ``,`` line ... ``]}``.
        first_row: the first record's ``_row`` in ``records.parquet``.
        last_row: the last record's, inclusive.
    """

    path: str
    seq: int
    requests: int
    bytes: int
    first_row: int
    last_row: int


class Cutter:
    """Writes lines into files so that no two files have the same number of requests.

    A batch in the API's list shows its number of requests and nothing else of ours, so a distinct
    number is what ties a batch to its file when the reply to a POST was lost. File ``r`` takes at
    most ``max_requests - r`` (not below half of ``max_requests``). A file that ends at a number
    already used, because of bytes, gives its last lines to the next one.
    """

    def __init__(self, limits: Limits, out_dir: Path, seed: bool = False):
        """Begin.

        Args:
            limits: of one batch.
            out_dir: gets the files.
            seed: the first file gets one request, which fills the cache for the others.
        """
        self._limits = limits
        self._seed = seed
        self._least = max(1, limits.max_requests // 2)
        self._out_dir = out_dir
        self._files: list[RequestFile] = []
        self._used: set[int] = set()
        self._open()

    def _open(self) -> None:
        self._path = self._out_dir / f"{len(self._files):05d}.jsonl"
        self._out = open(self._path, "w+b", buffering=1 << 18)
        self._most = max(self._limits.max_requests - len(self._files), self._least)
        if self._seed and not self._files:
            self._most = 1
        self._rows = array("q")
        self._ends = array("q")

    def add(self, rows: Sequence[int], ends: Sequence[int], lines: memoryview) -> None:
        """Write lines, none of which is larger than a batch may be.

        Args:
            rows: the records' ``_row``.
            ends: where in ``lines`` each line ends, with its line end.
            lines: one after the other.
        """
        place = start = 0
        while place < len(rows):
            written = self._ends[-1] if self._ends else 0
            # The line end of a file's last line is not posted.
            last = self._limits.max_bytes - ENVELOPE + 1 - written + start
            most = min(len(rows), place + self._most - len(self._rows))
            upto = bisect_right(ends, last, place, max(most, place))
            if upto == place and not self._rows:
                upto += 1
            if upto == place:
                self._cut(self._distinct(len(self._rows)))
                continue
            self._out.write(lines[start : ends[upto - 1]])
            self._rows.extend(rows[place:upto])
            self._ends.extend(end - start + written for end in ends[place:upto])
            place, start = upto, ends[upto - 1]

    def _distinct(self, count: int) -> int:
        """Return the largest unused number up to ``count``, or ``count`` when there is none."""
        least = self._least if count >= self._least else 1
        return next((n for n in range(count, least - 1, -1) if n not in self._used), count)

    def _cut(self, keep: int) -> None:
        """Close the file after ``keep`` lines; the others begin the next file."""
        done, rows, ends = self._out, self._rows, self._ends
        size = ends[keep - 1]
        self._files.append(
            RequestFile(
                str(self._path),
                len(self._files),
                keep,
                size - 1 + ENVELOPE,
                rows[0],
                rows[keep - 1],
            )
        )
        self._used.add(keep)
        self._open()
        if keep < len(rows):
            done.seek(size)
            shutil.copyfileobj(done, self._out)
            done.truncate(size)
            self._rows.extend(rows[keep:])
            self._ends.extend(end - size for end in ends[keep:])
        done.close()

    def finish(self) -> list[RequestFile]:
        """Close the last file, in two where one would have a used number, and return them all."""
        while self._rows:
            count = len(self._rows)
            keep = count
            if count in self._used:
                free = (n for n in range(count - 1, count // 2, -1))
                pairs = (n for n in free if not {n, count - n} & self._used)
                keep = next(pairs, count)
            self._cut(keep)
        return self._files

    def close(self) -> None:
        """Remove the file that was begun and got no line."""
        if not self._out.closed:
            self._out.close()
            os.unlink(self._path)
