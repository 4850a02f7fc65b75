"""What a call answers, before it becomes HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class ConnectionDropped(Exception):
    """The connection is to be closed without (the rest of) a reply.

    Args:
        while_sending: Close it before the client has sent everything.
        waiting: Do not close it: wait until the client does.
    """

    def __init__(self, while_sending: bool = False, waiting: bool = False) -> None:
        super().__init__()
        self.while_sending = while_sending
        self.waiting = waiting


@dataclass
class Reply:
    """The answer to a call: one of `document`, `body` and `lines`.

    Attributes:
        document: JSON body.
        body: Body as it is.
        lines: Body that is streamed without a length; raising `ConnectionDropped` cuts it off.
        headers: Extra headers.
        date_offset: Seconds by which the `Date` header is off.
        bytewise: Each piece of `lines` is sent by itself.
        by_proxy: It comes from something in between, so it has none of the API's own headers.
    """

    status: int = 200
    document: dict[str, Any] | None = None
    body: bytes | None = None
    lines: Iterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    date_offset: float = 0.0
    bytewise: bool = False
    by_proxy: bool = False
