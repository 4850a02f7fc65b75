"""A plugin of pytest for the Python SDK's own tests: makes what they name exist in the emulator.

Its tests are generated from the API's description and were written for a server that knows every id.
They run in an environment that has the SDK and not this package, so only the standard library is used.
The variable `EMULATOR_DATABASE` names the emulator's database: no call of the API gives an id of one's
own choice.
"""

import json
import os
import sqlite3
import urllib.request
from typing import Any

BATCH_ID, FILE_ID = "message_batch_id", "file_id"
REQUEST = {
    "custom_id": "one",
    "params": {
        "model": "claude-haiku-4-5",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "Hello, world"}],
    },
}
FORM = (
    b"--form\r\n"
    b'content-disposition: form-data; name="file"; filename="note.txt"\r\n'
    b"content-type: text/plain\r\n\r\nHello, world\r\n"
    b"--form--\r\n"
)


def pytest_runtest_setup(item: Any) -> None:
    """Make anew what the test is about: the test before it may have deleted it."""
    if item.path.name == "test_batches.py":
        _make_batch(ended="delete" in item.name)
    elif item.path.name == "test_files.py":
        _make_file()


def _make_batch(ended: bool) -> None:
    made = _post("/v1/messages/batches", json.dumps({"requests": [REQUEST]}).encode())
    if ended:
        _post("/_emulator/end", json.dumps({"batch_id": made["id"]}).encode())
    _rename("batches", "id", made["id"], BATCH_ID)
    _rename("texts", "batch_id", made["id"], BATCH_ID)


def _make_file() -> None:
    made = _post("/v1/files", FORM, "multipart/form-data; boundary=form")
    contents = os.path.join(os.path.dirname(os.environ["EMULATOR_DATABASE"]), "files")
    os.replace(os.path.join(contents, made["id"]), os.path.join(contents, FILE_ID))
    _rename("files", "id", made["id"], FILE_ID)


def _rename(table: str, column: str, old: str, new: str) -> None:
    database = sqlite3.connect(os.environ["EMULATOR_DATABASE"], timeout=30)
    with database:
        database.execute(f"delete from {table} where {column} = ?", (new,))
        database.execute(f"update {table} set {column} = ? where {column} = ?", (new, old))
    database.close()


def _post(path: str, body: bytes, content_type: str = "application/json") -> Any:
    headers = {"content-type": content_type, "x-api-key": "any", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(os.environ["TEST_API_BASE_URL"] + path, body, headers)
    # Not through a proxy of the environment: the emulator is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as reply:
        return json.load(reply)
