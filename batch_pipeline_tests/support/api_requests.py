"""Requests as the tests of the emulator send them."""

# The SDK's types for requests are narrower than what some tests mean to send: hence `Any`.
from typing import Any

MODEL = "claude-haiku-4-5"


def params(prompt: str = "Say hello.", **changes: Any) -> Any:
    """Parameters of one message; a change to None leaves a parameter out."""
    asked = {
        "model": MODEL,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": prompt}],
        **changes,
    }
    return {name: value for name, value in asked.items() if value is not None}


def requests(count: int, prefix: str = "record", **changes: Any) -> list[Any]:
    """Requests with prompts of their own."""
    return [
        {"custom_id": f"{prefix}-{number}", "params": params(f"{prefix} {number}", **changes)}
        for number in range(count)
    ]


def with_schema(schema: dict[str, Any], prompt: str, **changes: Any) -> Any:
    """Parameters of a message that wants an answer under a schema."""
    form = {"format": {"type": "json_schema", "schema": schema}}
    return params(prompt, output_config=form, **changes)
