"""`python -m batch_pipeline.emulator STATE_DIR --port 8787 --options '{"batch_seconds": 5}'`."""

import argparse
import json
import os
import sys
import threading

from batch_pipeline.emulator.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m batch_pipeline.emulator", description=__doc__)
    parser.add_argument("state_dir")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--options", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when stdin closes")
    arguments = parser.parse_args()
    if arguments.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    try:
        serve(arguments.state_dir, arguments.host, arguments.port, **arguments.options)
    except ValueError as error:
        parser.error(str(error))


def _stop_with_stdin() -> None:
    # Whoever started us holds the other end: when it dies, however it dies, reading ends.
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
