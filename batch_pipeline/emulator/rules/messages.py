"""The turns of a conversation."""

from typing import Any

from batch_pipeline.emulator.betas import NEWEST_VERSION
from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.rules.rule import OUR_READING, Asked, rule
from batch_pipeline.emulator.rules.shape import a_list, a_text, fields_of

MAX_MESSAGES = 100_000
ROLES = ("user", "assistant", "system")
_SYSTEM_FIELDS = {"clear_at": "text?", "output_config": "object?"}


@rule("SDK types/message_create_params.py: limit of 100,000; message_param.py")
def wrong_messages(asked: Asked) -> None:
    """No messages, too many, or one of another shape."""
    messages = asked.params["messages"]
    if not messages:
        raise invalid("messages: at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise invalid(f"messages: at most {MAX_MESSAGES} messages are allowed")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise invalid(f"{where}: Input should be an object")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise invalid(f"{where}.role: Input should be 'user' or 'assistant'")
        optional = _SYSTEM_FIELDS if role == "system" else {}
        fields_of(message, where, {"role": "any", "content": "any"}, optional)
        content = message["content"]
        if not isinstance(content, str | list):
            raise invalid(f"{where}.content: Input should be a valid string or list")


@rule("docs Errors, Common validation errors (stored copies of clients' threads)")
def empty_content(asked: Asked) -> None:
    """A turn without content, or text of nothing but blanks."""
    for index, message in enumerate(asked.params["messages"]):
        content = message["content"]
        if not content:
            role = message["role"]
            raise invalid(f"messages.{index}: {role} messages must have non-empty content")
        if isinstance(content, str) and not content.strip():
            raise invalid("messages: text content blocks must contain non-whitespace text")


@rule(OUR_READING)
def first_turn(asked: Asked) -> None:
    """A conversation that the assistant begins."""
    if asked.params["messages"][0]["role"] == "assistant":
        raise invalid('messages: first message must use the "user" role')


@rule("docs Errors, Prefill not supported; SDK types/message_create_params.py; jobrunr/JavaClaw#36")
def prefill(asked: Asked) -> None:
    """A last turn of the assistant's: on 4.6 and later, with thinking, or one that ends in a blank."""
    last = asked.params["messages"][-1]
    text = _last_text(last["content"]) if last["role"] == "assistant" else None
    if text is None:
        return
    if not asked.model.ways.prefill:
        raise invalid(
            "This model does not support assistant message prefill. The conversation must end with "
            "a user message."
        )
    if asked.thinking == "enabled":
        raise invalid("messages: prefilling is not supported while thinking is enabled")
    if text != text.rstrip():
        raise invalid("messages: final assistant content cannot end with trailing whitespace")


def _last_text(content: Any) -> str | None:
    """What a turn ends with, None when it ends with no text: such a turn can be gone on with."""
    if isinstance(content, str):
        return content
    last = content[-1]
    return last.get("text") if isinstance(last, dict) and last.get("type") == "text" else None


@rule("SDK types/message_create_params.py, text_block_param.py")
def wrong_system(asked: Asked) -> None:
    """A system prompt that is neither text nor text blocks, or an empty block of one."""
    system = asked.params.get("system")
    for position, block in enumerate(system if isinstance(system, list) else ()):
        where = f"system.{position}"
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid(f"{where}.type: Input should be 'text'")
        optional = {"cache_control": "object?", "citations": "list?"}
        fields_of(block, where, {"type": "text", "text": "text"}, optional)
        if not block["text"]:
            raise invalid("system: text content blocks must be non-empty")


@rule(
    "docs Migrating to 2026-10-21: document blocks in assistant turns, citations of a user's text"
)
def blocks_that_are_gone(asked: Asked) -> None:
    """Under version 2026-10-21: a document in an assistant's turn, citations on a user's text."""
    if asked.occasion.version != NEWEST_VERSION:
        return
    for index, message in enumerate(asked.params["messages"]):
        if not isinstance(message["content"], list):
            continue
        for position, block in enumerate(message["content"]):
            if not isinstance(block, dict):
                continue
            where = f"messages.{index}.content.{position}"
            if message["role"] == "assistant" and block.get("type") == "document":
                raise invalid(f"{where}: document blocks are not supported in assistant messages")
            if message["role"] == "user" and block.get("type") == "text" and block.get("citations"):
                raise invalid(f"{where}.citations: not supported on text blocks of user messages")


@rule("docs Troubleshooting tool use: results follow their calls at once")
def calls_and_results(asked: Asked) -> None:
    """A tool call without its result in the next turn, or a result without its call."""
    open_calls: set[str] = set()
    for index, message in enumerate(asked.params["messages"]):
        if message["role"] == "system":
            continue
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = {
            a_text(block.get("tool_use_id"), f"messages.{index}.content.{at}.tool_use_id")
            for at, block in enumerate(blocks)
            if isinstance(block, dict) and block.get("type") == "tool_result"
        }
        if message["role"] == "user" and (missing := sorted(open_calls - results)):
            raise invalid(
                f"messages.{index}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
        if foreign := sorted(results - open_calls):
            raise invalid(
                f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(foreign)}. Each `tool_result` block must have a corresponding "
                "`tool_use` block in the previous message."
            )
        calls = {
            a_text(block.get("id"), f"messages.{index}.content.{at}.id")
            for at, block in enumerate(blocks)
            if isinstance(block, dict) and block.get("type") == "tool_use"
        }
        # Turns of the same role that follow each other are one turn.
        open_calls = open_calls | calls if message["role"] == "assistant" else set()


def content_lists(asked: Asked) -> list[tuple[str, str, list[Any]]]:
    """Each list of blocks in the turns: its place, whose turn it is, the blocks."""
    return [
        (f"messages.{index}.content", message["role"], a_list(message["content"], "content"))
        for index, message in enumerate(asked.params["messages"])
        if isinstance(message["content"], list)
    ]
