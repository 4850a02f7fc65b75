"""Bytes that are kept in memory while they are few, and in a file when they are many."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Making a file takes longer than everything else that is done for a small batch.
MEMORY_BYTES = 256 * 1024

Text = bytes | mmap.mmap


class Spool:
    """Something that is written once and then read.

    Args:
        path: The file to use when it grows large; it is not there before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._memory = bytearray()
        self._file: BinaryIO | None = None

    @property
    def in_memory(self) -> bytes | None:
        """All of it, or None when it is in the file."""
        return None if self._file is not None else bytes(self._memory)

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._file is None:
            self._memory += data
            if len(self._memory) > MEMORY_BYTES:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("wb")
                self._file.write(self._memory)
                self._memory.clear()
        else:
            self._file.write(data)

    @contextmanager
    def reading(self) -> Iterator[Text]:
        """All of it; nothing is written any more."""
        if self._file is None:
            yield bytes(self._memory)
            return
        self._file.close()
        with mapped(self.path) as text:
            yield text

    def move_to(self, path: Path) -> None:
        """Give the file its place; nothing is written any more."""
        assert self._file is not None
        self._file.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path.rename(path)

    def discard(self) -> None:
        """Remove the file, if it is still in its first place."""
        if self._file is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file that is not empty, as memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield text
