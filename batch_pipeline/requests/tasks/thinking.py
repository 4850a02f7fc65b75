"""What a model thinks before it answers a task: nothing where it can be told so, else there is room.

Thinking is paid as output and counts to `max_tokens`: a model that thinks unasked would use up the few
tokens of a label and be cut short. What is here of a model never changes: `params` are part of a question,
so that each record would be asked again.
"""

import re
from collections.abc import Mapping
from typing import Any

ROOM = 2_048
"""Tokens that a model may think before a short answer; one that was cut short gets twice as many."""
MUCH_ROOM = 16_384
"""The same where the user asks for an effort of more than `high`."""
MUCH = ("xhigh", "max")
TURNED_OFF = {
    "claude-haiku-5-5": "disabled",
    "claude-opus-5": "disabled",
    "claude-sonnet-5": "disabled",
    "claude-sonnet-5-5": "between_tools",
}
"""How a model that thinks unasked is told not to (each model's "What's new" page, 2026). Sonnet 5.5 has
`between_tools` in place of `disabled`: without tools its answer is only text. No effort above high."""
_UNASKED_NEVER = re.compile(r"claude-(3-.+|(opus|sonnet|haiku)-4(-\d{1,2})?)")
"""Models that think only when they are asked to."""
_DATE = re.compile(r"-20\d{6}$")


def without_thinking(model: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the parameters of a request that needs no thinking, and the tokens of what is thought.

    What the user says of `thinking` is left as it is. Where nothing is said, thinking is turned off if
    the model takes that.
    """
    said = dict(params)
    name = _DATE.sub("", model)
    config = said.get("output_config")
    effort = config.get("effort") if isinstance(config, Mapping) else None
    room = MUCH_ROOM if effort in MUCH else ROOM
    if said.get("thinking") is None and name in TURNED_OFF and effort not in MUCH:
        said["thinking"] = {"type": TURNED_OFF[name]}
    thinking = said.get("thinking")
    if thinking is None:
        return said, 0 if _UNASKED_NEVER.fullmatch(name) else room
    kind = thinking.get("type") if isinstance(thinking, Mapping) else None
    if kind == "enabled" and isinstance(budget := thinking.get("budget_tokens"), int):
        return said, budget
    if kind == "disabled" or (kind == "between_tools" and not said.get("tools")):
        return said, 0
    return said, room
