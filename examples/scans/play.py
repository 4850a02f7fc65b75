"""A night in which a letter's file is missing, and one after it came."""

import struct
import zlib
from pathlib import Path

from examples.stage import Stage

SCANS = Path("data/scans")
LETTERS = {
    "L-1": "Invoice 2045: please pay EUR 596.40 by 31 March 2026.",
    "L-2": "The water is cut off on Tuesday from 8 to 12.",
    "L-3": "Second reminder: EUR 120.00, due on 1 April 2026.",
}
CHARTS = {"north.png": (10, 40, 25), "south.png": (45, 20, 30)}


def play(stage: Stage) -> None:
    """Read all that is there; then the letter that came late."""
    SCANS.mkdir(exist_ok=True)
    for name, bars in CHARTS.items():
        _write(SCANS / name, _png(bars))
    _write(SCANS / "notes.png", b"These are notes, and no picture.")
    for name in ("L-1", "L-2"):
        _write(SCANS / f"{name}.pdf", _pdf(LETTERS[name]))
    stage.night("letters")
    stage.night("charts")
    stage.show("select letter_id, subject, amount, due, _status, _error from letter_demands")
    _write(SCANS / "L-3.pdf", _pdf(LETTERS["L-3"]))
    stage.night("letters")
    stage.show("select letter_id, subject, amount, due, _status from letter_demands")
    stage.show("select chart_id, answer, _status, _error from chart_readings")


def _write(path: Path, data: bytes) -> None:
    """Write a file once: written again, it would be another one."""
    if not path.exists():
        path.write_bytes(data)


def _pdf(text: str) -> bytes:
    """Return a PDF of one page with one line."""
    drawn = f"BT /F1 14 Tf 50 780 Td ({text}) Tj ET".encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    pdf, places = b"%PDF-1.4\n", list[int]()
    for number, one in enumerate(objects, 1):
        places.append(len(pdf))
        pdf += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    lines = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return (
        pdf
        + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, lines)
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(pdf))
    )


def _png(bars: tuple[int, ...], width: int = 20, height: int = 50) -> bytes:
    """Return a picture of bars, dark on white."""
    rows = b""
    for row in range(height):
        points = (b"\x30" if height - row <= bar else b"\xff" for bar in bars)
        rows += b"\0" + b"\xff".join(point * width for point in points)
    head = struct.pack(">IIBBBBB", len(bars) * (width + 1) - 1, height, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
