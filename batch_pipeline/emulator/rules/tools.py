"""Tools, and the choice among them."""

import re
from typing import Any

from batch_pipeline.emulator.betas import NEEDED_BY_TOOL
from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.rules.rule import OUR_READING, Asked, needs_beta, rule
from batch_pipeline.emulator.rules.shape import a_text, an_object, fields_of, one_of
from batch_pipeline.emulator.schemas import check_schema, is_schema

MAX_STRICT_TOOLS = 20
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CUSTOM = {
    "type": "text?",
    "description": "text",
    "allowed_callers": "list",
    "cache_control": "object?",
    "defer_loading": "truth",
    "eager_input_streaming": "truth?",
    "input_examples": "list",
    "strict": "truth",
}
# SDK types/tool_union_param.py, types/beta/beta_tool_union_param.py: type -> the name it must have.
# Toolsets have none.
KNOWN: dict[str, str | None] = {
    "bash_20241022": "bash",
    "bash_20250124": "bash",
    "code_execution_20250522": "code_execution",
    "code_execution_20250825": "code_execution",
    "code_execution_20260120": "code_execution",
    "code_execution_20260521": "code_execution",
    "browser_toolset_20260801": None,
    "computer_toolset_20260801": None,
    "computer_20241022": "computer",
    "computer_20250124": "computer",
    "computer_20251124": "computer",
    "memory_20250818": "memory",
    "text_editor_20241022": "str_replace_editor",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool",
    "text_editor_20250728": "str_replace_based_edit_tool",
    "web_search_20250305": "web_search",
    "web_search_20260209": "web_search",
    "web_search_20260318": "web_search",
    "web_fetch_20250910": "web_fetch",
    "web_fetch_20260209": "web_fetch",
    "web_fetch_20260309": "web_fetch",
    "web_fetch_20260318": "web_fetch",
    "tool_search_tool_bm25_20251119": "tool_search_tool_bm25",
    "tool_search_tool_bm25": "tool_search_tool_bm25",
    "tool_search_tool_regex_20251119": "tool_search_tool_regex",
    "tool_search_tool_regex": "tool_search_tool_regex",
    "advisor_20260301": "advisor",
    "mcp_toolset": None,
}


def is_custom(tool: dict[str, Any]) -> bool:
    """Whether a tool is the client's own, which a call of it is answered by."""
    return tool.get("type") in (None, "custom")


@rule("SDK types/tool_union_param.py, types/beta/beta_tool_union_param.py")
def unknown_tool(asked: Asked) -> None:
    """A tool of no type that there is, or one of the API's own under another name than its own."""
    for index, tool in enumerate(asked.params.get("tools") or ()):
        where = f"tools.{index}"
        found = an_object(tool, where)
        if is_custom(found):
            continue
        kind = found["type"]
        if not isinstance(kind, str) or kind not in KNOWN:
            listed = ", ".join(f"'{name}'" for name in ("custom", *KNOWN))
            raise invalid(
                f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected "
                f"tags: {listed}"
            )
        name = KNOWN[kind]
        if name is None:
            if "name" in found:
                raise invalid(f"{where}.{kind}.name: Extra inputs are not permitted")
        elif "name" not in found:
            raise invalid(f"{where}.{kind}.name: Field required")
        else:
            one_of(found["name"], (name,), f"{where}.{kind}.name")


@rule("docs Computer use tool, Advisor tool, MCP connector: each names its beta")
def tool_without_its_beta(asked: Asked) -> None:
    """A tool that is in beta, without its beta header."""
    for index, tool in enumerate(asked.params.get("tools") or ()):
        needed = NEEDED_BY_TOOL.get(tool.get("type") or "")
        if needed is not None:
            needs_beta(asked, f"tools.{index}.{tool['type']}", needed)


@rule("docs: what's new in Opus 5.5, Sonnet 5.5, Fable 5.2; Haiku 5.5 migration guide")
def tool_the_model_refuses(asked: Asked) -> None:
    """An earlier computer use tool on models that only take the toolset."""
    for tool in asked.params.get("tools") or ():
        if tool.get("type") in asked.model.ways.no_tools:
            raise invalid(f"'{asked.params['model']}' does not support tool types: {tool['type']}")


@rule("SDK types/tool_param.py; docs Define tools: the pattern of a name")
def wrong_custom_tool(asked: Asked) -> None:
    """A tool of one's own without name or schema, or with a field that tools have not."""
    for index, tool in enumerate(asked.params.get("tools") or ()):
        if not is_custom(tool):
            continue
        where = f"tools.{index}.custom"
        if "name" not in tool:
            raise invalid(f"tools.{index}.name: Field required")
        fields_of(tool, where, {"name": "text", "input_schema": "object"}, _CUSTOM)
        if not _NAME.fullmatch(tool["name"]):
            raise invalid(f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        schema = tool["input_schema"]
        if "type" not in schema:
            raise invalid(f"{where}.input_schema.type: Field required")
        one_of(schema["type"], ("object",), f"{where}.input_schema.type")
        if not is_schema(schema):
            raise invalid(
                f"{where}.input_schema: JSON schema is invalid. It must match JSON Schema draft "
                "2020-12"
            )


@rule("docs Define tools (tools: Tool names must be unique.)")
def tool_named_twice(asked: Asked) -> None:
    """Two tools of one name."""
    names = _names(asked)
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")


@rule(
    "docs Structured outputs 2026-08-22 (reference 8): 20 strict tools, and what schemas may have"
)
def wrong_strict_tool(asked: Asked) -> None:
    """More than 20 strict tools, or one whose schema is not of the strict kind."""
    strict = 0
    for index, tool in enumerate(asked.params.get("tools") or ()):
        if is_custom(tool) and tool.get("strict"):
            strict += 1
            check_schema(tool["input_schema"], f"tools.{index}.custom.input_schema")
    if strict > MAX_STRICT_TOOLS:
        raise invalid(f"tools: at most {MAX_STRICT_TOOLS} strict tools, not {strict}")


@rule("SDK types/tool_choice_*_param.py")
def wrong_tool_choice(asked: Asked) -> None:
    """A choice of no kind that there is, without tools, or of a tool that is not among them."""
    choice = asked.params.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type")
    if not isinstance(kind, str) or kind not in ("auto", "any", "tool", "none"):
        raise invalid("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    required = {"type": "any", **({"name": "text"} if kind == "tool" else {})}
    optional = {} if kind == "none" else {"disable_parallel_tool_use": "truth"}
    fields_of(choice, f"tool_choice.{kind}", required, optional)
    if not asked.params.get("tools"):
        raise invalid("tool_choice: may only be specified while providing tools")
    if kind == "tool" and a_text(choice["name"], "tool_choice.name") not in _names(asked):
        raise invalid(f"tool_choice: Tool '{choice['name']}' not found in provided tools")


@rule("docs What's new in Claude Fable 5.1 has the words; Opus 5.5, Sonnet 5.5")
def forced_tool(asked: Asked) -> None:
    """`tool_choice` any or tool on models that cannot be forced."""
    if _forced(asked) and not asked.model.ways.forced_tools:
        raise invalid('tool_choice: type "tool" and "any" are not supported for this model.')


@rule("docs Extended thinking; usestrix/strix#505 has the words")
def forced_tool_while_thinking(asked: Asked) -> None:
    """`tool_choice` any or tool where thinking was asked for."""
    if _forced(asked) and asked.thinking in ("enabled", "adaptive"):
        raise invalid("tool_choice: Thinking may not be enabled when tool_choice forces tool use.")


@rule(OUR_READING)
def toolset_without_server(asked: Asked) -> None:
    """An MCP toolset whose server is not among `mcp_servers`."""
    servers = {server["name"] for server in asked.params.get("mcp_servers") or ()}
    for index, tool in enumerate(asked.params.get("tools") or ()):
        if tool.get("type") == "mcp_toolset":
            where = f"tools.{index}.mcp_toolset"
            fields_of(tool, where, {"type": "any", "mcp_server_name": "text"}, more=True)
            if tool["mcp_server_name"] not in servers:
                raise invalid(f"{where}.mcp_server_name: no such server in mcp_servers")


def _forced(asked: Asked) -> bool:
    return (asked.params.get("tool_choice") or {}).get("type") in ("any", "tool")


def _names(asked: Asked) -> list[str]:
    return [tool["name"] for tool in asked.params.get("tools") or () if "name" in tool]
