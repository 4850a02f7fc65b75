"""A Message Batches server that does next to nothing, so that it is never what is measured.

It reads no request: it looks for the custom_ids in the bytes that come, and forgets the rest. A batch
has ended when it is created; its results are custom_ids between bytes that were made beforehand.
What it took and gave is at ``/totals``. Only the standard library is loaded.

Run as: python -m benchmarks.server FOLDER (with text.jsonl and structured.jsonl, see answers.py). It
prints its port, and stops when its standard input ends.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

BATCHES = "/v1/messages/batches"
CUSTOM_ID = re.compile(rb'"custom_id": ?"([A-Za-z0-9_-]{1,64})"')
LONGEST = 100  # bytes of what is looked for
READ_BYTES = 1 << 20
LINES_AT_ONCE = 2_000
MEMBERS = {"anthropic-organization-id": "org-bench", "anthropic-workspace-id": "wrkspc-bench"}


@dataclass
class Batch:
    """A batch that was created, and has ended."""

    id: str
    custom_ids: list[bytes]
    kind: str
    created_at: datetime

    def shown(self, url: str) -> dict[str, object]:
        """Return it as the API shows it."""
        then = self.created_at.isoformat().replace("+00:00", "Z")
        until = (self.created_at + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        counts = {"processing": 0, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended",
            "request_counts": {**counts, "succeeded": len(self.custom_ids)},
            "created_at": then,
            "expires_at": until,
            "ended_at": then,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{url}{BATCHES}/{self.id}/results",
        }


@dataclass
class Shelf:
    """All that the server has: answers made beforehand, batches by id, bytes taken and given."""

    answers: dict[str, list[bytes]]
    batches: dict[str, Batch] = field(default_factory=dict)
    taken: int = 0
    given: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """Answers the calls that both sides make: create, list, retrieve, results."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    shelf: Shelf

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Create a batch, whatever is asked in it."""
        if urlsplit(self.path).path != BATCHES:
            return self._missing()
        left = int(self.headers["Content-Length"])
        self.shelf.taken += left
        found: list[bytes] = []
        kind, rest = "text", b""
        while left:
            piece = self.rfile.read(min(READ_BYTES, left))
            if not piece:
                return  # the client is gone
            left -= len(piece)
            if b'"output_config"' in piece[:READ_BYTES]:
                kind = "structured"
            seen = rest + piece
            end = 0
            for match in CUSTOM_ID.finditer(seen):
                found.append(match[1])
                end = match.end()
            rest = seen[max(end, len(seen) - LONGEST) :]
        with self.shelf.lock:
            number = len(self.shelf.batches)
            batch = Batch(f"msgbatch_{number:012d}", found, kind, datetime.now(UTC))
            self.shelf.batches[batch.id] = batch
        self._say(batch.shown(self._url))

    def do_GET(self) -> None:
        """List batches, show one, or give its results."""
        address = urlsplit(self.path)
        if address.path == "/totals":
            return self._say({"taken": self.shelf.taken, "given": self.shelf.given})
        if address.path == BATCHES:
            return self._list(parse_qs(address.query))
        name, _, rest = address.path.removeprefix(f"{BATCHES}/").partition("/")
        batch = self.shelf.batches.get(name)
        if batch is None or rest not in ("", "results"):
            return self._missing()
        if rest:
            return self._results(batch)
        self._say(batch.shown(self._url))

    @property
    def _url(self) -> str:
        return f"http://{self.headers['Host']}"

    def _list(self, query: dict[str, list[str]]) -> None:
        """Give a page of the list, newest first."""
        limit = int(query.get("limit", ["20"])[0])
        newest = list(reversed(self.shelf.batches.values()))
        after = query.get("after_id", [""])[0]
        start = next((n + 1 for n, one in enumerate(newest) if one.id == after), 0)
        page = [one.shown(self._url) for one in newest[start : start + limit]]
        self._say(
            {
                "data": page,
                "has_more": start + limit < len(newest),
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            }
        )

    def _results(self, batch: Batch) -> None:
        """Give a line for each request, in pieces."""
        self._begin(200, {"Content-Type": "application/x-jsonl", "Transfer-Encoding": "chunked"})
        answers = self.shelf.answers[batch.kind]
        for start in range(0, len(batch.custom_ids), LINES_AT_ONCE):
            some = batch.custom_ids[start : start + LINES_AT_ONCE]
            piece = b"".join(
                b'{"custom_id":"%b"%b' % (one, answers[place % len(answers)])
                for place, one in enumerate(some, start)
            )
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.shelf.given += len(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _missing(self) -> None:
        error = {"type": "not_found_error", "message": "There is no such thing."}
        self._say({"type": "error", "error": error}, 404)

    def _say(self, what: dict[str, object], status: int = 200) -> None:
        body = json.dumps(what).encode()
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, **MEMBERS, "request-id": "req_bench"}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the server in a process of its own; give its address.

    Args:
        folder: with the answers.
    """
    command = [sys.executable, "-m", "benchmarks.server", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def main() -> None:
    """Serve until standard input ends."""
    folder = Path(sys.argv[1])
    names = ("text", "structured")
    answers = {name: (folder / f"{name}.jsonl").read_bytes().splitlines(True) for name in names}
    Handler.shelf = Shelf(answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
