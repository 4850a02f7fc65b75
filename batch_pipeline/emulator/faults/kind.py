"""What a kind of fault is, and the table of all kinds.

To add one, write a function and register it with `@kind(...)`: its name is what users call it, the
first line of its docstring is what they read about it, its keyword arguments are what it can be told.
"""

import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeVar

from batch_pipeline.emulator.emulator import Emulator
from batch_pipeline.emulator.errors import ApiError

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
    "files",
    "reports",
)
ANY = "any"

Stage = Literal["scene", "batches", "before", "reply", "after", "lines"]
When = Literal["before", "after"]


@dataclass
class Scene:
    """A call as a fault finds it.

    Attributes:
        emulator: The emulator that answers it.
        call: Its name, one of `CALLS`.
        path: The path that was called.
        key: Its API key, or "".
        workspace: Whose call it is; None when the key is refused. A fault may change it.
        refusal: Why the key is refused.
        batch_id: The batch it is about; of a `create`, known once it was done.
        clock_offset: Seconds by which the clock that its reply shows is off.
        unlisted_seconds: A list lacks batches that are younger than this.
        unlisted_newest: A list lacks as many of the newest batches.
        circles: A list says of each page that there is more, and begins anew on the next.
    """

    emulator: Emulator
    call: str
    path: str
    key: str
    workspace: str | None
    refusal: ApiError | None
    batch_id: str | None
    clock_offset: float = 0.0
    unlisted_seconds: float = 0.0
    unlisted_newest: int = 0
    circles: bool = False


@dataclass(frozen=True)
class Setting:
    """Something that a fault can be told."""

    hint: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


# What every fault can be told.
COMMON = {
    "nth": Setting(int, 1),
    "times": Setting(int | None, 1),
    "batch_id": Setting(str | None, None),
    "key": Setting(str | None, None),
}


@dataclass(frozen=True)
class Kind:
    """One way in which a call can go wrong.

    Attributes:
        name: What users call it.
        stage: When and on what it acts: on the `scene` before the call is looked at, on `batches`
            of the emulator, `before` the call is done, with a `reply` in place of the call's own,
            `after` it was done, or on the `lines` of its results.
        apply: The function that does it.
        calls: The calls for which it makes sense; the first is the default.
        when: For stages `batches` and `reply`: whether it acts before or after the call is done.
            None: as the call allows, see `when_of`.
        open_only: For stage `batches`: it is about batches that have not ended.
        lasting: Once its call has come, it hits every call until it is cleared.
    """

    name: str
    stage: Stage
    apply: Callable[..., Any]
    calls: tuple[str, ...]
    when: When | None = None
    open_only: bool = False
    lasting: bool = False

    @property
    def on(self) -> str:
        """The call that it waits for when none is named."""
        return ANY if self.calls == CALLS else self.calls[0]

    @property
    def does(self) -> str:
        """What happens, in a sentence or two."""
        return " ".join((self.apply.__doc__ or "").split())

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """What it can be told beside `COMMON`."""
        hints = typing.get_type_hints(self.apply, include_extras=True)
        parameters = inspect.signature(self.apply).parameters.values()
        own = {
            p.name: Setting(hints[p.name], p.default)
            for p in parameters
            if p.kind is p.KEYWORD_ONLY
        }
        if self.stage in ("batches", "reply"):
            own["when"] = Setting(When | None if self.when is None else When, self.when)
        if self.stage == "batches":
            own["which"] = Setting(str | None, None)
        return own

    @property
    def common(self) -> dict[str, Setting]:
        """What every fault can be told, with the defaults of this kind."""
        return {**COMMON, "times": Setting(int | None, None)} if self.lasting else COMMON

    def checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Every setting, from those that were given and the defaults.

        Args:
            settings: What it was told; texts are read as what the setting takes.

        Raises:
            ValueError: A setting is unknown, missing, or not of its type.
        """
        known = {**self.settings, **self.common}
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(
                f"{self.name} has no setting {', '.join(unknown)}; it has {', '.join(known)}"
            )
        missing = [name for name, one in known.items() if one.required and name not in settings]
        if missing:
            raise ValueError(f"{self.name} needs the setting {', '.join(missing)}")
        return {
            name: _checked(self.name, name, one.hint, settings[name])
            if name in settings
            else one.default
            for name, one in known.items()
        }


KINDS: dict[str, Kind] = {}

Function = TypeVar("Function", bound=Callable[..., Any])


def kind(
    stage: Stage,
    *calls: str,
    when: When | None = None,
    open_only: bool = False,
    lasting: bool = False,
) -> Callable[[Function], Function]:
    """Register a kind of fault.

    The function is called with, and returns, by `stage`:

    - `scene`: the `Scene`; nothing.
    - `batches`: the `Scene` and the id of a batch; nothing. Called in a thread.
    - `before`: nothing but settings; a `Reply` or None. Awaited.
    - `reply`: the `Scene`; a `Reply`. Awaited.
    - `after`: the `Reply` of the call; the `Reply` to send. Awaited.
    - `lines`: an iterator over the lines of the results; another one.

    Args:
        stage: When and on what it acts.
        *calls: The calls for which it makes sense, the most usual first; none: all.
        when: For stage `reply`: its default.
        open_only: For stage `batches`: it is about batches that have not ended.
        lasting: Once its call has come, it hits every call until it is cleared.
    """

    def register(function: Function) -> Function:
        name = function.__name__
        default = when or ("before" if stage == "reply" else None)
        KINDS[name] = Kind(name, stage, function, calls or CALLS, default, open_only, lasting)
        return function

    return register


def _checked(kind: str, name: str, hint: Any, value: Any) -> Any:
    nothing = ("none", "all") if name == "times" else ("none",)
    if value in nothing and type(None) in typing.get_args(hint):
        return None
    try:
        return _adapter(hint).validate_python(value)
    except ValueError:
        if isinstance(value, str):
            try:
                return _adapter(hint).validate_python(json.loads(value))
            except ValueError:
                pass
    shown = f"{kind}: {name} cannot be {value!r}"
    raise ValueError(f"{shown}; it is {describe(hint)}")


@lru_cache(maxsize=64)
def _adapter(hint: Any) -> Any:
    # Imported late: an emulator that no fault is laid for starts without it.
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def describe(hint: Any) -> str:
    """What a setting takes, in words: `a number or none`."""
    if hint is type(None):
        return "none"
    if hint in _WORDS:
        return _WORDS[hint]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, arguments))
    if typing.get_origin(hint) is dict:
        return "a JSON object"
    return " or ".join(map(describe, arguments))
