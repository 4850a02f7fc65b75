"""Faults that lie in wait for calls.

A fault is laid for a call by name and for its n-th time from now. What it can do is one of
`fault_kinds.KINDS`; the one place where each call asks for its faults is `calls.ApiCall`.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.emulator.fault_kinds import KINDS, Kind
from batch_pipeline.emulator.replies import Reply

CALLS = (
    "create",
    "retrieve",
    "list",
    "cancel",
    "delete",
    "results",
    "messages",
    "count_tokens",
    "models",
)


@dataclass
class Fault:
    """A fault that lies in wait.

    Attributes:
        on: Name of the call it waits for, or `any`.
        kind: What it does.
        nth: Which matching call from now is the first that it hits; 1 = the next.
        times: How many calls it hits, one after the other; None = all.
        batch_id: Only calls about this batch.
        settings: Further settings of its kind.
    """

    on: str
    kind: Kind
    nth: int = 1
    times: int | None = 1
    batch_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    hits: int = 0

    def takes(self, call: str, batch_id: str | None) -> bool:
        """Whether it hits this call; counts the call."""
        if self.on not in ("any", call) or self.batch_id not in (None, batch_id):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def as_dict(self) -> dict[str, Any]:
        return {
            "on": self.on,
            "kind": self.kind.name,
            "nth": self.nth,
            "times": self.times,
            "batch_id": self.batch_id,
            **self.settings,
            "seen": self.seen,
            "hits": self.hits,
        }


class FaultTable:
    """All faults that lie in wait."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, description: dict[str, Any]) -> Fault:
        """Lay a fault as described over admin HTTP.

        Raises:
            ValueError: There is no such call, kind or setting.
        """
        settings = dict(description)
        on = settings.pop("on", "any")
        if on not in (*CALLS, "any"):
            raise ValueError(f"unknown call {on!r}; there are any, {', '.join(CALLS)}")
        name = settings.pop("kind", None)
        if name not in KINDS:
            raise ValueError(f"unknown kind {name!r}; there are {', '.join(sorted(KINDS))}")
        common = {key: settings.pop(key) for key in ("nth", "times", "batch_id") if key in settings}
        unknown = sorted(set(settings) - set(KINDS[name].settings))
        if unknown:
            raise ValueError(f"{name} has no setting {unknown}; it has {KINDS[name].settings}")
        fault = Fault(on, KINDS[name], settings=settings, **common)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, call: str, batch_id: str | None) -> list[Fault]:
        """The faults that hit a call, in the order in which they were laid."""
        with self._lock:
            return [fault for fault in self._faults if fault.takes(call, batch_id)]

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.as_dict() for fault in self._faults]


async def apply_before(faults: list[Fault]) -> Reply | None:
    """Let faults act before a call; the reply that replaces the call, or None."""
    for fault in faults:
        if fault.kind.stage == "before":
            reply = await fault.kind.apply(**fault.settings)
            if reply is not None:
                return reply
    return None


async def apply_after(faults: list[Fault], reply: Reply) -> Reply:
    """Let faults act on the reply of a call."""
    for fault in faults:
        if fault.kind.stage == "after":
            reply = await fault.kind.apply(reply, **fault.settings)
        elif fault.kind.stage == "lines" and reply.lines is not None:
            reply.lines = fault.kind.apply(reply.lines, **fault.settings)
    return reply
