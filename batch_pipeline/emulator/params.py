"""Checking the parameters of one message, as the API does when it processes it."""

from collections.abc import Iterator
from typing import Any

from batch_pipeline.emulator.catalog import Model, find_model
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.schemas import check_schema

MAX_CACHE_BREAKPOINTS = 4
MAX_STRICT_TOOLS = 20
_KNOWN = frozenset(
    "model max_tokens messages system stream stop_sequences temperature top_p top_k metadata tools "
    "tool_choice thinking output_config output_format cache_control container context_management "
    "diagnostics inference_geo mcp_servers service_tier speed fallbacks".split()
)
_REFUSED_IN_BATCHES = ("speed", "store", "previous_thread_event_id", "cache_hint", "context_hint")
_SAMPLING_DEFAULTS = {"temperature": 1, "top_p": None, "top_k": None}


def check_params(params: dict[str, Any], *, batch: bool) -> None:
    """Raise the error that the API would answer these parameters with.

    Args:
        params: Parameters of one message.
        batch: Whether they stand in a batch, where some are refused.
    """
    if batch:
        for name in _REFUSED_IN_BATCHES:
            if params.get(name) is not None:
                raise invalid(f"{name}: not supported in the Message Batches API")
    for name in params:
        if name not in _KNOWN:
            raise invalid(f"{name}: Extra inputs are not permitted")
    if params.get("stream"):
        where = "in the Message Batches API" if batch else "by the emulator"
        raise invalid(f"stream: streaming is not supported {where}")
    model = _check_model(params)
    _check_max_tokens(params, model)
    _check_messages(params)
    _check_system(params)
    _check_sampling(params, model)
    _check_tools(params, model)
    _check_output_config(params)
    _check_cache_control(params)


def _check_model(params: dict[str, Any]) -> Model:
    name = params.get("model")
    if name is None:
        raise invalid("model: Field required")
    if not isinstance(name, str):
        raise invalid("model: Input should be a valid string")
    if not name.startswith("claude-"):
        raise ApiError("not_found_error", f"model: {name}")
    return find_model(name)


def _check_max_tokens(params: dict[str, Any], model: Model) -> None:
    max_tokens = params.get("max_tokens")
    if max_tokens is None:
        raise invalid("max_tokens: Field required")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise invalid("max_tokens: Input should be a valid integer")
    if max_tokens < 1:
        raise invalid("max_tokens: Input should be greater than or equal to 1")
    # Batches may ask for up to 300,000 with a beta header, which a request does not show.
    if max_tokens > max(model.max_output, 300_000):
        raise invalid(
            f"max_tokens: {max_tokens} > {model.max_output}, which is the maximum allowed number "
            f"of output tokens for {params['model']}"
        )


def _check_messages(params: dict[str, Any]) -> None:
    messages = params.get("messages")
    if messages is None:
        raise invalid("messages: Field required")
    if not isinstance(messages, list):
        raise invalid("messages: Input should be a valid list")
    if not messages:
        raise invalid("messages: at least one message is required")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise invalid(f"{where}: Input should be an object")
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise invalid(f"{where}.role: Input should be 'user' or 'assistant'")
        if "content" not in message:
            raise invalid(f"{where}.content: Field required")
        _check_content(message["content"], where, role)
    if messages[0].get("role") == "assistant":
        raise invalid('messages: first message must use the "user" role')


def _check_content(content: Any, where: str, role: str) -> None:
    if isinstance(content, str):
        if not content:
            raise invalid(f"{where}: {role} messages must have non-empty content")
        if not content.strip():
            raise invalid("messages: text content blocks must contain non-whitespace text")
        return
    if not isinstance(content, list):
        raise invalid(f"{where}.content: Input should be a valid string or list")
    if not content:
        raise invalid(f"{where}: {role} messages must have non-empty content")
    for position, block in enumerate(content):
        _check_block(block, f"{where}.content.{position}")


def _check_block(block: Any, where: str) -> None:
    if not isinstance(block, dict):
        raise invalid(f"{where}: Input should be an object")
    if not isinstance(block.get("type"), str):
        raise invalid(f"{where}.type: Field required")
    if block["type"] != "text":
        return
    text = block.get("text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text: Field required")
    if not text:
        raise invalid("messages: text content blocks must be non-empty")
    if not text.strip():
        raise invalid("messages: text content blocks must contain non-whitespace text")


def _check_system(params: dict[str, Any]) -> None:
    system = params.get("system")
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise invalid("system: Input should be a valid string or list")
    for position, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid(f"system.{position}.type: Input should be 'text'")
        if not isinstance(block.get("text"), str):
            raise invalid(f"system.{position}.text: Field required")
        if not block["text"]:
            raise invalid("system: text content blocks must be non-empty")


def _check_sampling(params: dict[str, Any], model: Model) -> None:
    for name, default in _SAMPLING_DEFAULTS.items():
        value = params.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise invalid(f"{name}: Input should be a valid number")
        if name != "top_k" and not 0 <= value <= 1:
            raise invalid(f"{name}: range: 0..1")
        if "sampling" in model.refuses and value != default:
            raise invalid(f"{name}: is not supported for this model")


def _check_tools(params: dict[str, Any], model: Model) -> None:
    tools = params.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise invalid("tools: Input should be a valid list")
    names = set()
    strict = 0
    for index, tool in enumerate(tools or ()):
        where = f"tools.{index}"
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise invalid(f"{where}.name: Field required")
        if tool["name"] in names:
            raise invalid("tools: Tool names must be unique.")
        names.add(tool["name"])
        if tool.get("type", "custom") != "custom":
            continue
        if not isinstance(tool.get("input_schema"), dict):
            raise invalid(f"{where}.custom.input_schema: Field required")
        if tool.get("strict"):
            strict += 1
            check_schema(tool["input_schema"], f"{where}.custom.input_schema")
    if strict > MAX_STRICT_TOOLS:
        raise invalid(f"tools: at most {MAX_STRICT_TOOLS} strict tools, not {strict}")
    _check_tool_choice(params, model, names)


def _check_tool_choice(params: dict[str, Any], model: Model, names: set[str]) -> None:
    choice = params.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise invalid("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if not names:
        raise invalid("tool_choice: may only be specified while providing tools")
    if kind not in ("any", "tool"):
        return
    if "forced tools" in model.refuses:
        raise invalid(f"tool_choice: forcing tool use is not supported for {params['model']}")
    if (params.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        raise invalid("tool_choice: Thinking may not be enabled when tool_choice forces tool use.")
    if kind == "tool" and choice.get("name") not in names:
        raise invalid(f"tool_choice: Tool '{choice.get('name')}' not found in provided tools")


def _check_output_config(params: dict[str, Any]) -> None:
    config = params.get("output_config")
    if config is None:
        return
    if not isinstance(config, dict):
        raise invalid("output_config: Input should be an object")
    form = config.get("format")
    if form is None:
        return
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise invalid("output_config.format.type: Input should be 'json_schema'")
    if "schema" not in form:
        raise invalid("output_config.format.schema: Field required")
    check_schema(form["schema"], "output_config.format.schema")


def _check_cache_control(params: dict[str, Any]) -> None:
    found = [block["cache_control"] for block in cacheable_blocks(params) if _marked(block)]
    if params.get("cache_control") is not None:
        found.append(params["cache_control"])
    if len(found) > MAX_CACHE_BREAKPOINTS:
        raise invalid(
            f"A maximum of {MAX_CACHE_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {len(found)}."
        )
    short_seen = False
    for control in found:
        if not isinstance(control, dict) or control.get("type") != "ephemeral":
            raise invalid("cache_control.type: Input should be 'ephemeral'")
        ttl = control.get("ttl", "5m")
        if ttl not in ("5m", "1h"):
            raise invalid("cache_control.ttl: Input should be '5m' or '1h'")
        if ttl == "1h" and short_seen:
            raise invalid("cache_control: a ttl='1h' block must not come after a ttl='5m' block")
        short_seen = short_seen or ttl == "5m"


def cacheable_blocks(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that may carry `cache_control`, in the order of the prompt."""
    yield from params.get("tools") or ()
    if isinstance(params.get("system"), list):
        yield from params["system"]
    for message in params["messages"]:
        if isinstance(message["content"], list):
            yield from message["content"]


def _marked(block: dict[str, Any]) -> bool:
    return block.get("cache_control") is not None
