"""Strings that are only known at run time: environment variables and paths of the project."""

import os
import re
from pathlib import Path

from batch_pipeline.errors import InputError

PROJECT_MARKERS = ("workspace.yaml", "pyproject.toml")

PUBLIC_API = "https://api.anthropic.com"

LOCK_WAIT_SECONDS = 60.0
"""How long to wait for a database file that another process or connection is using."""


def resolve(value: str) -> str:
    """Return the text of ``value``, reading it from the environment when it is a ``dagster.EnvVar``.

    Args:
        value: a plain string, or an ``EnvVar`` (a ``str`` subclass that knows its variable's name).

    Raises:
        InputError: the environment variable is not set.
    """
    name = getattr(value, "env_var_name", None)
    if name is None:
        return str(value)
    found = os.environ.get(name)
    if not found:
        raise InputError(
            f"The environment variable {name} is not set. Set it where Dagster runs, and try again."
        )
    return found


def project_root() -> Path:
    """Return the folder that relative paths start from.

    The nearest folder at or above the working directory that holds a ``workspace.yaml`` or a
    ``pyproject.toml``; the working directory itself when there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if any((folder / marker).exists() for marker in PROJECT_MARKERS):
            return folder
    return here


def project_path(value: str) -> str:
    """Return ``value`` resolved; a relative local path is taken from the project root, a URL is kept.

    ``~`` is the home folder, unless the project has a folder of that name.
    """
    text = resolve(value)
    if text.startswith("~") and not (project_root() / text).exists():
        text = os.path.expanduser(text)
    if "://" in text or Path(text).is_absolute():
        return text
    return str(project_root() / text)


_PART = re.compile(r'"((?:[^"]|"")+)"|([^".][^.]*)')


def name_parts(name: str) -> list[str] | None:
    """Return the parts of a name as SQL writes it, ``schema."a.b"``; None when it is none.

    A part in double quotes may hold dots; in it a double quote is written twice.
    """
    parts: list[str] = []
    place = 0
    while True:
        found = _PART.match(name, place)
        if found is None or not found.group().strip():
            return None
        quoted, plain = found.groups()
        parts.append(plain if quoted is None else quoted.replace('""', '"'))
        place = found.end()
        if place == len(name):
            return parts
        if name[place] != ".":
            return None
        place += 1
