"""Finding a secret in what was written: in any file, and in what files hold packed."""

import base64
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq


class Written:
    """All that stands below a folder, read once.

    The bytes of every file, the rows of every SQLite database with its WAL, the rows of every Parquet
    file, and what of these is compressed by zlib, as Dagster's snapshots are.
    """

    def __init__(self, folder: Path):
        self._parts: list[tuple[str, bytes]] = []
        for path in folder.rglob("*"):
            if path.is_file():
                shown = str(path.relative_to(folder))
                self._parts += [
                    (f"{shown}: {where}", part)
                    for where, data in _contents(path)
                    for part in _inflated(data)
                ]

    def traces(self, secret: str) -> list[str]:
        """Return where a secret stands: as it is, escaped, in hex, or in base64 at any offset."""
        forms = _forms(secret)
        return sorted({w for w, data in self._parts if any(form in data for form in forms)})


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    forms = {
        raw,
        quote(secret, safe="").encode(),
        json.dumps(secret)[1:-1].encode(),
        raw.hex().encode(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # Without the letters that hold bits of what stands before and behind it.
            text = encode(b"\0" * offset + raw).rstrip(b"=")
            forms.add(text[4 if offset else 0 : len(text) - 1])
    return forms


def _inflated(data: bytes) -> Iterator[bytes]:
    yield data
    for bits in (zlib.MAX_WBITS, zlib.MAX_WBITS | 16):
        try:
            yield zlib.decompress(data, bits)
        except zlib.error:
            continue


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    data = path.read_bytes()
    yield "bytes", data
    if data.startswith(b"SQLite format 3\0"):
        yield from _rows(path)
    elif data.startswith(b"PAR1"):
        yield "rows", repr(pq.read_table(path).to_pylist()).encode(errors="surrogatepass")


def _rows(path: Path) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            for row in database.execute(f'select * from "{table}"'):
                for value in row:
                    if isinstance(value, str | bytes):
                        yield table, value if isinstance(value, bytes) else value.encode()
    database.close()
