"""Faults that lie in wait for calls.

A fault is laid for a call by name and for its n-th time from now; what it does is its kind. The one
place where each call asks for its faults is `calls.ApiCall`.
"""

import difflib
import threading
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from batch_pipeline.emulator.faults.kind import ANY, CALLS, COMMON, KINDS, Kind, Scene, When
from batch_pipeline.emulator.replies import Reply

# Calls about no batch, as they begin: a fault on these that waits for a batch would never hit.
_WITHOUT_BATCH = ("create", "list", "messages", "count_tokens", "models", "reports")


@dataclass
class Fault:
    """A fault that lies in wait.

    Attributes:
        on: Name of the call it waits for, or `any` (of those that its kind makes sense for).
        kind: What it does.
        settings: What its kind was told.
        nth: Which matching call from now is the first that it hits; 1 = the next.
        times: How many calls it hits, one after the other; None = all.
        batch_id: Only calls about this batch.
        key: Only calls with this API key.
        seen: Matching calls so far.
        hits: Calls that it has hit.
    """

    on: str
    kind: Kind
    settings: dict[str, Any]
    nth: int = 1
    times: int | None = 1
    batch_id: str | None = None
    key: str | None = None
    seen: int = 0
    hits: int = 0

    def takes(self, scene: Scene) -> bool:
        """Whether it hits this call; counts the call."""
        if not self._matches(scene):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def _matches(self, scene: Scene) -> bool:
        if self.key not in (None, scene.key):
            return False
        if self.kind.lasting and self.hits:
            return True
        calls = self.kind.calls if self.on == ANY else (self.on,)
        return scene.call in calls and self.batch_id in (None, scene.batch_id)

    def when(self, scene: Scene) -> When:
        """Whether it acts before or after a call is done."""
        if self.kind.stage in ("after", "lines"):
            return "after"
        # A batch that is about to be created is not there yet; any other is changed in time for
        # the call to show it.
        usual = "after" if self.kind.stage == "batches" and scene.call == "create" else "before"
        return self.settings.get("when") or usual

    def own_settings(self) -> dict[str, Any]:
        """What the function of its kind is called with."""
        steering = ("when", "which") if self.kind.stage in ("reply", "batches") else ()
        return {name: value for name, value in self.settings.items() if name not in steering}

    def as_dict(self) -> dict[str, Any]:
        return {
            "on": self.on,
            "kind": self.kind.name,
            "nth": self.nth,
            "times": self.times,
            "batch_id": self.batch_id,
            "key": self.key,
            **self.settings,
            "seen": self.seen,
            "hits": self.hits,
        }


def fault_of(description: dict[str, Any]) -> Fault:
    """The fault that a description means.

    Args:
        description: `kind`; `on`, `nth`, `times`, `batch_id`, `key` and settings of the kind.

    Raises:
        ValueError: There is no such call, kind or setting, or they do not go together.
    """
    settings = dict(description)
    name = settings.pop("kind", None)
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}{_meant(name)}; there are {', '.join(KINDS)}")
    kind = KINDS[name]
    on = settings.pop("on", None) or kind.on
    if on not in (*CALLS, ANY):
        raise ValueError(f"unknown call {on!r}; there are any, {', '.join(CALLS)}")
    if on not in (*kind.calls, ANY):
        raise ValueError(f"{name} makes no sense on {on}; it does on {', '.join(kind.calls)}")
    settings = kind.checked(settings)
    common = {key: settings.pop(key) for key in COMMON}
    for count in ("nth", "times"):
        if common[count] is not None and common[count] < 1:
            raise ValueError(f"{count} must be 1 or more, not {common[count]}")
    if common["batch_id"] and on in _WITHOUT_BATCH:
        instead = "; `which` says which batch is meant" if "which" in settings else ""
        raise ValueError(
            f"a {on} call is not about one batch, so batch_id would never fit{instead}"
        )
    return Fault(on, kind, settings, **common)


def _meant(name: Any) -> str:
    close = difflib.get_close_matches(str(name), KINDS, 1)
    return f", did you mean {close[0]}" if close else ""


class FaultTable:
    """All faults that lie in wait."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, description: dict[str, Any]) -> Fault:
        """Lay a fault, as `fault_of` reads it.

        Raises:
            ValueError: There is no such call, kind or setting.
        """
        fault = fault_of(description)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self, kind: str | None = None) -> None:
        """Take away all faults, or those of one kind."""
        with self._lock:
            self._faults = [one for one in self._faults if kind not in (None, one.kind.name)]

    def take(self, scene: Scene) -> list[Fault]:
        """The faults that hit a call, in the order in which they were laid."""
        with self._lock:
            return [fault for fault in self._faults if fault.takes(scene)]

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.as_dict() for fault in self._faults]


async def apply_before(faults: list[Fault], scene: Scene) -> Reply | None:
    """Let faults act before a call; the reply that replaces the call, or None."""
    for fault in faults:
        if fault.kind.stage == "scene":
            fault.kind.apply(scene, **fault.own_settings())
    now = [fault for fault in faults if fault.when(scene) == "before"]
    await _change_batches(now, scene)
    for fault in now:
        reply = None
        if fault.kind.stage == "before":
            reply = await fault.kind.apply(**fault.own_settings())
        elif fault.kind.stage == "reply":
            reply = await fault.kind.apply(scene, **fault.own_settings())
        if reply is not None:
            return reply
    return None


async def apply_after(faults: list[Fault], scene: Scene, reply: Reply) -> Reply:
    """Let faults act after a call was done, and on its reply."""
    now = [fault for fault in faults if fault.when(scene) == "after"]
    await _change_batches(now, scene)
    for fault in now:
        if fault.kind.stage == "after":
            reply = await fault.kind.apply(reply, **fault.own_settings())
        elif fault.kind.stage == "reply":
            reply = await fault.kind.apply(scene, **fault.own_settings())
        elif fault.kind.stage == "lines" and reply.lines is not None:
            reply.lines = fault.kind.apply(reply.lines, **fault.own_settings())
    return reply


async def _change_batches(faults: list[Fault], scene: Scene) -> None:
    for fault in faults:
        if fault.kind.stage == "batches":
            for id in await run_in_threadpool(_batches_of, fault, scene):
                await run_in_threadpool(fault.kind.apply, scene, id, **fault.own_settings())


def _batches_of(fault: Fault, scene: Scene) -> list[str]:
    """The batches that a fault is about: what it was told, else the call's, else the oldest."""
    if scene.workspace is None:
        return []
    found = scene.emulator.batch_ids(scene.workspace, open_only=fault.kind.open_only)
    match fault.settings["which"] or scene.batch_id or "oldest":
        case "all":
            return found
        case "oldest":
            return found[:1]
        case "newest":
            return found[-1:]
        case id:
            return [one for one in found if one == id]
