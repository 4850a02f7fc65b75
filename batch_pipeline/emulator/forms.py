"""The parts of a `multipart/form-data` body."""

import re
from email.message import Message
from email.parser import BytesHeaderParser
from typing import NamedTuple

from batch_pipeline.emulator.errors import invalid

_MAX_PARTS = 100
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class Part(NamedTuple):
    """A field of a form: `filename` is None where it is no file."""

    name: str
    filename: str | None
    mime_type: str | None
    content: bytes


def parts_of(content_type: str, body: bytes) -> list[Part]:
    """Take a form apart.

    Raises:
        ApiError: It is no form.
    """
    declared = Message()
    declared["content-type"] = content_type.encode("ascii", "replace").decode()
    boundary = declared.get_boundary()
    if declared.get_content_type() != "multipart/form-data" or not boundary:
        raise invalid("The request body must be multipart/form-data")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii", "replace"))
    parts = []
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            return parts
        head, separator, content = piece.partition(b"\r\n\r\n")
        if not separator or len(parts) >= _MAX_PARTS:
            raise invalid("The form is malformed")
        headers = BytesHeaderParser().parsebytes(head.lstrip())
        name = headers.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise invalid("The form is malformed: a part has no name")
        mime_type = headers.get("content-type", "").partition(";")[0].strip()
        known = mime_type if _MEDIA_TYPE.fullmatch(mime_type) else None
        parts.append(Part(name, headers.get_filename(), known, content))
    raise invalid("The form is malformed: it does not end")
