"""Headers that a user gives for all calls: which may be given, and what their values may be.

What they hold is treated as secret: no message shows a value.
"""

import re
from collections.abc import Mapping

from batch_pipeline.errors import InputError, plain

BETA_HEADER = "anthropic-beta"
WORKSPACE_HEADER = "anthropic-workspace-id"
USER_PROFILE_HEADER = "anthropic-user-profile-id"

KEYS = (
    "authorization",
    "x-api-key",
    "api-key",
    "anthropic-api-key",
    "proxy-authorization",
    "cookie",
)
"""Headers that carry who one is."""
OWN_FIELDS = {
    **dict.fromkeys(KEYS, "ClaudeBatches(api_key=...)"),
    BETA_HEADER: "MessageTemplate(betas=[...])",
    WORKSPACE_HEADER: "ClaudeBatches(workspace=...)",
    USER_PROFILE_HEADER: "ClaudeBatches(user_profile=...)",
}
"""Headers that have a field of their own."""
OF_THE_CLIENT = (
    "anthropic-version", "host", "content-type", "content-length", "content-encoding", "accept",
    "accept-encoding", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade",
)  # fmt: skip
"""Headers that say how the client speaks: another value would make its calls mean something else."""
HOW = 'headers={"x-team": "billing"}: names and texts'
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KEY = re.compile(r"sk-ant-|bearer ", re.IGNORECASE)


def check_headers(headers: object) -> None:
    """Refuse headers that cannot be given, when they are declared.

    Raises:
        InputError: it names the header and the field that is meant, and shows no value.
    """
    if not isinstance(headers, Mapping):
        raise InputError(f"ClaudeBatches: headers must be a mapping: {HOW}.")
    seen: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"ClaudeBatches: headers has {plain(repr(name))}, which is no name of a header: {HOW}."
            )
        lower = name.lower()
        if lower in seen:
            raise InputError(
                f"ClaudeBatches: headers has {name} twice; upper case is no difference."
            )
        seen.add(lower)
        if lower in OWN_FIELDS:
            raise InputError(f"ClaudeBatches: headers has {name}; use {OWN_FIELDS[lower]} instead.")
        if lower in OF_THE_CLIENT or lower.startswith("x-stainless-"):
            raise InputError(
                f"ClaudeBatches: headers has {name}, which the client sets itself. Remove it."
            )
        if not isinstance(value, str):
            raise InputError(f"ClaudeBatches: headers: the value of {name} must be a text.")
        if not hasattr(value, "env_var_name"):
            _check_value(name, value)


def check_values(headers: Mapping[str, str]) -> None:
    """Refuse values that cannot be sent, when they are known.

    Raises:
        InputError: it names the header, and shows no value.
    """
    for name, value in headers.items():
        _check_value(name, value)


def _check_value(name: str, value: str) -> None:
    if _KEY.match(value.strip()):
        raise InputError(
            f"ClaudeBatches: headers: {name} holds what looks like an API key; use "
            "ClaudeBatches(api_key=...) instead. Nothing was sent."
        )
    if not value.isascii() or not value.strip().isprintable():
        raise InputError(
            f"ClaudeBatches: headers: the value of {name} holds a character that no header has (a line "
            "break, a letter outside ASCII). Nothing was sent."
        )
