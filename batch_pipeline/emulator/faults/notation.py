"""Faults as they are written and shown on the command line."""

import re
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch_pipeline.emulator.faults.kind import ANY, CALLS, KINDS, Kind, Setting
from batch_pipeline.emulator.faults.table import fault_of

FORM = "[CALL:]KIND[:NAME=VALUE,...]"
EXAMPLE = "create:drop_after:nth=2,times=3"
# A comma inside a value (a text, JSON) is not followed by the name of a setting.
_NEXT = re.compile(r",(?=\s*[a-z_]+\s*=)")
_WIDTH = 110


def read_fault(text: str) -> dict[str, Any]:
    """The description of a fault that is written as `[CALL:]KIND[:NAME=VALUE,...]`.

    Raises:
        ValueError: It is not written like that, or there is no such call, kind or setting.
    """
    head, _, rest = text.strip().partition(":")
    on = head.strip() if head.strip() in (*CALLS, ANY) else None
    if on is not None:
        head, _, rest = rest.partition(":")
    description: dict[str, Any] = {"kind": head.strip(), **({"on": on} if on else {})}
    if not head.strip() or "=" in head:
        raise ValueError(f"write {FORM}, such as {EXAMPLE}")
    if head.strip() not in KINDS:
        fault_of(description)  # says which there are
    for setting in _NEXT.split(rest) if rest.strip() else ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is no setting: write {FORM}, such as {EXAMPLE}")
        description[name.strip()] = value.strip()
    fault_of(description)
    return description


def show_kinds(console: Console | None = None) -> None:
    """Print every kind of fault: its name, its usual call, what happens, and its settings."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("kind", no_wrap=True, style="bold")
    table.add_column("on", no_wrap=True)
    table.add_column("what happens", ratio=3)
    table.add_column("settings", ratio=2)
    for kind in KINDS.values():
        table.add_row(kind.name, kind.on, Text(_plain(kind.does)), Text(_settings_of(kind)))
    console.print(table)
    console.print(
        Text(
            f"\n--fault {FORM}, such as {EXAMPLE}\n\n"
            f"CALL is any or one of {', '.join(CALLS)}; without it, the one under `on`.\n"
            "nth=2: it hits from the 2nd such call on. times=3: three calls; times=all: every one.\n"
            "batch_id=ID, key=KEY: only calls about this batch, with this API key.\n"
            "when=before, when=after: before or after the call itself is done.\n"
            "which=oldest, newest, all or an ID: the batch; without it, the one that the call is about."
        )
    )


def _plain(text: str) -> str:
    return text.replace("`", "")


def _settings_of(kind: Kind) -> str:
    shown = [_setting(name, one) for name, one in kind.settings.items()]
    if kind.lasting:
        shown.append("times=all")
    return ", ".join(shown)


def _setting(name: str, setting: Setting) -> str:
    if setting.required:
        return f"{name}=?"
    if setting.default is None:
        return name
    if isinstance(setting.default, bool):
        return f"{name}={str(setting.default).lower()}"
    return f"{name}={setting.default}"
