"""An S3 over HTTP, moto's, that fails and dawdles when it is told to.

    python -m batch_pipeline_tests.cluster.object_store PORT

`POST /_trouble {"seed": 1, "failing": 0.05, "slow": 0.1, "seconds": 2}`: a share of the calls is answered
with a 500 or a 503, half of them after the work was done; a share takes so much longer. `GET /_calls`
counts the calls by method.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class Troubled:
    """A WSGI app around moto's.

    Args:
        app: moto's.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.draw = random.Random(0)
        self.failing, self.slow, self.seconds = 0.0, 0.0, 0.0
        self.calls: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/_trouble":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            self._tell(json.loads(environ["wsgi.input"].read(length) or b"{}"))
        if path in ("/_trouble", "/_calls"):
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.calls).encode()]
        with self.lock:
            self.calls[environ["REQUEST_METHOD"]] += 1
            fails, before = self.draw.random() < self.failing, self.draw.random() < 0.5
            dawdles = self.draw.random() < self.slow
            self.calls["failed"] += fails
            self.calls["slow"] += dawdles
        if dawdles:
            time.sleep(self.seconds)
        if fails and before:
            return self._failed(environ, start)
        found = self.app(environ, start if not fails else _unsaid)
        if not fails:
            return found
        for _ in found:  # what was asked is done; only its reply is lost
            pass
        return self._failed(environ, start)

    def _tell(self, told: dict[str, Any]) -> None:
        with self.lock:
            self.draw = random.Random(told.get("seed", 0))
            self.failing, self.slow = told.get("failing", 0.0), told.get("slow", 0.0)
            self.seconds = told.get("seconds", 0.0)

    def _failed(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length and environ["wsgi.input"].readable():
            environ["wsgi.input"].read()
        start("500 Internal Server Error", [("Content-Type", "application/xml"), ("Content-Length", str(len(ERROR)))])  # fmt: skip
        return [ERROR]


def _unsaid(*_: Any) -> Callable[[bytes], None]:
    return lambda _more: None


class Quiet(WSGIRequestHandler):
    """A handler that keeps connections, and no log of calls."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        pass


def main() -> None:
    """Serve until the end."""
    app = Troubled(create_backend_app("s3"))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    main()
