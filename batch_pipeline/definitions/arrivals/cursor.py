"""What the arrivals sensor remembers from tick to tick.

It is a hint: without it the sensor counts what needs an answer, instead of telling what is new.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from batch_pipeline.records.fingerprint import Group

VERSION = 1
MOST_GROUPS = 2_000  # a cursor is written at every tick


@dataclass
class Waiting:
    """Records that arrived and are not asked yet, in one partition.

    Attributes:
        since: a Unix time: a run that began then or later has seen them.
        why: what arrived.
        base: what was there before; None when that is not known.
        sure: something did arrive; else nobody knows, and it has to be counted.
        count: how many need an answer, when that was counted and is too few.
    """

    since: float
    why: str
    base: Group | None = None
    sure: bool = True
    count: int | None = None


@dataclass
class Memory:
    """The cursor.

    Attributes:
        basis: what the groups are groups of; with another basis nothing is known.
        seen: how the source looked at the last tick.
        since: when it was first seen to look so, a Unix time.
        changing: since when it has looked different from what was read; None: it has not.
        read: how it looked when it was last read.
        columns: what was read then besides the key's.
        groups: what was found then, by partition.
        rest: one hash over the partitions that are too many to remember, the oldest.
        note: why the last read was not a whole one.
        upstream: the last event that was seen of each upstream asset.
        waiting: what arrived and is not asked yet, by partition.
    """

    basis: str
    seen: str | None = None
    since: float = 0.0
    changing: float | None = None
    read: str | None = None
    columns: list[str] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    rest: str = ""
    note: str = ""
    upstream: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)

    def text(self) -> str:
        """Return it as a cursor."""
        plain = asdict(self)
        plain["groups"] = {
            key: [one.rows, one.newest, one.keys, one.content] for key, one in self.groups.items()
        }
        return json.dumps({"version": VERSION, **plain}, separators=(",", ":"))


def remembered(cursor: str | None, basis: str, now: float) -> Memory:
    """Return what a cursor says; an empty memory when it is none of ours, or about something else.

    What a clock wrote that was ahead counts as of ``now``, a Unix time.
    """
    memory = _said(cursor, basis)
    memory.since = min(memory.since, now)
    memory.changing = None if memory.changing is None else min(memory.changing, now)
    for one in memory.waiting.values():
        one.since = min(one.since, now)
    return memory


def _said(cursor: str | None, basis: str) -> Memory:
    try:
        value: dict[str, Any] = json.loads(cursor or "")
        if value.pop("version") != VERSION or value["basis"] != basis:
            return Memory(basis)
        waiting: Mapping[str, Any] = value.pop("waiting")
        groups: Mapping[str, Any] = value.pop("groups")
        return Memory(
            **value,
            groups={key: Group(*one) for key, one in groups.items()},
            waiting={
                key: Waiting(**{**one, "base": Group(**one["base"]) if one["base"] else None})
                for key, one in waiting.items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Memory(basis)
