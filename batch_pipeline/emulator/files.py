"""Uploaded files: what the API's Files endpoints keep."""

import mimetypes
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from batch_pipeline.emulator.clock import Clock, to_rfc3339
from batch_pipeline.emulator.database import Database, File
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.forms import Part

MAX_BYTES = 500_000_000
LEAST_SECONDS, MOST_SECONDS = 3_600, 7_776_000
MAX_IDS = 100


class Files:
    """Keeps files in a directory, and what is known of them in the database.

    Args:
        directory: Where their contents are; made when the first is kept.
        database: Where the rest is.
        clock: The emulator's.
    """

    def __init__(self, directory: Path, database: Database, clock: Clock) -> None:
        self.directory = directory
        self._db = database
        self._clock = clock

    def keep(self, workspace: str, part: Part, seconds: int | None) -> File:
        """Take a file that came in a form; it is gone after so many seconds, if that is said."""
        now = self._clock.now()
        id = "file_01" + secrets.token_hex(11)
        # SDK types/file_upload_params.py: only the last part of a path counts as the name.
        name = re.split(r"[/\\]", part.filename or "")[-1]
        guessed = mimetypes.guess_type(name)[0]
        mime_type = part.mime_type or guessed or "application/octet-stream"
        name = name or "unnamed" + (mimetypes.guess_extension(mime_type) or "")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / id).write_bytes(part.content)
        file = File(
            seq=0,
            id=id,
            workspace=workspace,
            filename=name.encode(errors="replace").decode(),
            mime_type=mime_type,
            size_bytes=len(part.content),
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
        )
        self._db.add_file(file)
        return file

    def find(self, workspace: str, id: str) -> File | None:
        """A file that is there; None when it is not, or no longer."""
        file = self._db.file(workspace, id)
        if file is None or (file.expires_at is not None and file.expires_at <= self._clock.now()):
            return None
        return file

    def required(self, workspace: str, id: str) -> File:
        file = self.find(workspace, id)
        if file is None:
            raise ApiError("not_found_error", f"File not found: {id}")
        return file

    def page(self, workspace: str, page: str | None, limit: int) -> tuple[list[File], str | None]:
        """A page of a workspace's files, newest first, and the name of the next one."""
        before = None
        if page:
            number = page.removeprefix("page_")
            if not page.startswith("page_") or not (number.isascii() and number.isdecimal()):
                raise invalid("page: no such page")
            before = int(number[:18])
        files = self._db.files(workspace, before, limit + 1)
        there = [file for file in files[:limit] if self.find(workspace, file.id) is not None]
        more = f"page_{files[limit - 1].seq}" if len(files) > limit else None
        return there, more

    def named(self, workspace: str, ids: list[str]) -> list[File]:
        """Those of some files that are there."""
        if len(set(ids)) > MAX_IDS:
            raise invalid(f"ids: at most {MAX_IDS} entries")
        found = [self.find(workspace, id) for id in dict.fromkeys(ids)]
        return [file for file in found if file is not None]

    def content(self, file: File) -> bytes:
        return (self.directory / file.id).read_bytes()

    def remove(self, file: File) -> None:
        self._db.remove_file(file.id)
        (self.directory / file.id).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all contents; the database is emptied by whoever opened it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def document_of(file: File, downloadable: bool) -> dict[str, Any]:
    """A file as the API shows it."""
    return {
        "id": file.id,
        "type": "file",
        "filename": file.filename,
        "mime_type": file.mime_type,
        "size_bytes": file.size_bytes,
        "created_at": to_rfc3339(file.created_at),
        "expires_at": to_rfc3339(file.expires_at),
        "downloadable": downloadable,
    }
