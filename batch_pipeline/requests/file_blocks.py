"""Images and documents in messages, by the short forms that a template may declare them in.

A block ``{"type": "image", "path": "{{ photo }}"}`` becomes the API's block with a ``source``: what kind of file
it is, is told from its bytes, which are put in as base64. So are ``bytes`` of a column; ``url`` and ``file_id``
are passed on, and the API fetches what they name.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.records.files import FilesRead, FilesRoot, FileUnusable, PathText

BLOCKS = ("image", "document")
FORMS = ("path", "bytes", "url", "file_id")
MOST_REQUEST_BYTES = 32_000_000
"""Of a request of the Messages API (API overview, request size limits)."""
MOST_IMAGE_BYTES = 5 * 1024 * 1024 * 3 // 4
"""Of an image, so that its base64 has 5 MB: more is a 400."""
MOST_DOCUMENT_BYTES = MOST_REQUEST_BYTES * 3 // 4
SIGNATURES = (
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("application/pdf", re.compile(rb"%PDF-")),
)
"""What files of a media type begin with: all types that the API takes, besides text."""
TEXT = "text/plain"
_COLUMN = re.compile(r"""\{\{\s*(?:([A-Za-z_]\w*)|record\[(?:"([^"]*)"|'([^']*)')\])\s*\}\}""")


def short_blocks(messages: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the blocks of messages that name a file in a short form, or in none at all."""
    if isinstance(messages, Mapping):
        if messages.get("type") in BLOCKS and "source" not in messages:
            yield messages
        for inner in messages.values():
            yield from short_blocks(inner)
    elif isinstance(messages, Sequence) and not isinstance(messages, str | bytes):
        for inner in messages:
            yield from short_blocks(inner)


def check_blocks(messages: Any, files_root: str | None) -> None:
    """Refuse short forms that could not be filled.

    Raises:
        InputError: it names the block.
    """
    has_path = False
    for block in short_blocks(messages):
        given = [form for form in FORMS if form in block]
        kind = block["type"]
        if len(given) != 1:
            raise InputError(
                f"The {kind} block {dict(block)!r:.200} in messages needs one of path, bytes, url, file_id (or the API's "
                f"own source); it has {' and '.join(given) or 'none'}."
            )
        (form,) = given
        value = block[form]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"The {kind} block in messages: {form} is {value!r}; it must be text.")
        if form == "bytes" and "{" in value:
            raise InputError(
                f"The {kind} block in messages: bytes is {value!r}; it must be the name of a column of bytes, such as "
                'bytes: "photo".'
            )
        if form == "path":
            has_path = True
            path_text(value)
    if files_root is not None and (not isinstance(files_root, str) or not files_root):
        raise InputError(f"files_root must be a folder or a URL, not {files_root!r}.")
    if files_root is not None and files_root.lower().startswith(("http://", "https://")):
        raise InputError(
            f"files_root is {files_root!r}: a web server does not tell which files it has, nor when one changes. Name them "
            "by url, which the API fetches; or put them into a folder or an object store."
        )
    if has_path and files_root is None:
        raise InputError(
            "A block in messages has a path, and records may name any: set files_root to the folder (or the URL) below "
            "which the files are. Nothing outside of it is read."
        )
    if files_root is not None and not has_path:
        raise InputError(
            "files_root is the folder of files that messages name by a path, and no block has one."
        )


def path_text(declared: str) -> PathText:
    """Return a path as texts and columns.

    Raises:
        InputError: something else than a column stands in it.
    """
    parts: list[tuple[str, bool]] = []
    end = 0
    for found in _COLUMN.finditer(declared):
        parts += [(declared[end : found.start()], False)]
        parts += [(next(name for name in found.groups() if name is not None), True)]
        end = found.end()
    parts += [(declared[end:], False)]
    if any(
        mark in text for text, is_column in parts if not is_column for mark in ("{{", "{%", "{#")
    ):
        raise InputError(
            f"The path {declared!r} of a block in messages may hold text and columns alone, such as "
            "{{ folder }}/{{ photo }}.jpg: whether a file has changed is found out by them. Let the source's query "
            "compute a column of the path."
        )
    return PathText(tuple((text, is_column) for text, is_column in parts if text))


def files_read(messages: Any, files_root: str | None) -> FilesRead | None:
    """Return which files messages name by a path; None when they name none."""
    paths = [path_text(block["path"]) for block in short_blocks(messages) if "path" in block]
    if not paths or files_root is None:
        return None
    return FilesRead(files_root, tuple(dict.fromkeys(paths)))


def bytes_columns(messages: Any, available: Mapping[str, str]) -> list[str]:
    """Return the columns whose bytes are put in.

    Raises:
        InputError: the source has no such column, or it has no bytes.
    """
    names = [block["bytes"] for block in short_blocks(messages) if "bytes" in block]
    for name in names:
        if available.get(name) != "BLOB":
            what = f"is {available[name]}" if name in available else "is not in the source"
            raise InputError(
                f"A block in messages takes the bytes of the column `{name}`, which {what}; it must be BLOB. For files that "
                "a column names use path."
            )
    return names


class FileBlocks:
    """Fills the short forms of one template.

    Args:
        files_root: where files are that are named by a path.
    """

    def __init__(self, files_root: str | None) -> None:
        self._root = FilesRoot(files_root) if files_root is not None else None

    def filled(self, part: Any, record: Mapping[str, Any]) -> Any:
        """Return messages with a ``source`` in each block that has a short form.

        Args:
            part: the messages of a record, rendered.
            record: column to value.

        Raises:
            FileUnusable: a file cannot be sent.
            InputError: the file system does not answer.
        """
        if isinstance(part, list):
            return [self.filled(inner, record) for inner in part]
        if not isinstance(part, Mapping):
            return part
        if part.get("type") not in BLOCKS or "source" in part:
            return {name: self.filled(inner, record) for name, inner in part.items()}
        rest = {name: value for name, value in part.items() if name not in ("type", *FORMS)}
        return {"type": part["type"], "source": self._source(part, record), **rest}

    def _source(self, block: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        kind = block["type"]
        for form in ("url", "file_id"):
            if form in block:
                if not block[form].strip():
                    raise FileUnusable(f"The record names no {form} for its {kind}.")
                return {"type": "file" if form == "file_id" else form, form: block[form]}
        most = MOST_IMAGE_BYTES if kind == "image" else MOST_DOCUMENT_BYTES
        if "path" in block:
            assert self._root is not None
            named, data = f"The file {block['path']}", self._root.read(block["path"], most)
        else:
            named, data = f"What is in the column {block['bytes']}", record[block["bytes"]]
            if not data:
                raise FileUnusable(f"{named} is {'NULL' if data is None else 'empty'}.")
            if len(data) > most:
                raise FileUnusable(
                    f"{named} is too large: {len(data):,} bytes; {most:,} at most can be sent."
                )
        return _source_of(kind, data, named)


def _source_of(kind: str, data: bytes, named: str) -> dict[str, Any]:
    """Return the API's source for a file's bytes.

    Raises:
        FileUnusable: it is of no kind that the block takes.
    """
    media = next((name for name, begins in SIGNATURES if begins.match(data)), None)
    if kind == "image" and media is not None and media.startswith("image/"):
        return _base64(media, data)
    if kind == "document" and media == "application/pdf":
        return _base64(media, data)
    text = _text(data) if media is None else None
    if kind == "document" and text is not None:
        return {"type": "text", "media_type": TEXT, "data": text}
    is_ = media or (TEXT if text is not None else "of no kind that is known")
    wanted = "a PNG, JPEG, GIF or WebP" if kind == "image" else "a PDF, or text in UTF-8"
    raise FileUnusable(f"{named} is {is_}; in a block of type {kind} it must be {wanted}.")


def _base64(media: str, data: bytes) -> dict[str, Any]:
    return {"type": "base64", "media_type": media, "data": base64.b64encode(data).decode("ascii")}


def _text(data: bytes) -> str | None:
    """Return bytes as text; None when they are none, or blank."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text if "\0" not in text and text.strip() else None
