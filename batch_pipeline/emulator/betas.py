"""The headers `anthropic-version` and `anthropic-beta`, and what needs a beta.

Sources: "SDK" is the installed package `anthropic` 2.11.0; "reference" is the project's notes on the
API; the rest is named by page or thread. Where there is no source it says "our reading".
"""

from collections.abc import Iterable

from batch_pipeline.emulator.errors import invalid

NEWEST_VERSION = "2026-10-21"
# SDK _constants.py sends the last; docs "API versioning" has all three (directus-labs/extensions#285).
VERSIONS = ("2023-01-01", "2023-06-01", NEWEST_VERSION)

LONG_OUTPUT = "output-300k-2026-03-24"

# SDK types/anthropic_beta_param.py, whole.
_TYPED = """
computer-use-2024-10-22 computer-use-2025-01-24 output-128k-2025-02-19 mcp-client-2025-04-04
mcp-client-2025-11-20 dev-full-thinking-2025-05-14 interleaved-thinking-2025-05-14
code-execution-2025-05-22 context-1m-2025-08-07 context-management-2025-06-27
model-context-window-exceeded-2025-08-26 fast-mode-2026-02-01 output-300k-2026-03-24
user-profiles-2026-03-24 user-profiles-2026-08-18 user-profiles-2026-09-04 advisor-tool-2026-03-01
managed-agents-2026-04-01 dreaming-2026-04-21 thinking-token-count-2026-05-13
server-side-fallback-2026-06-01 server-side-fallback-2026-07-01 fallback-credit-2026-06-01
fallback-credit-2026-07-01 agent-memory-2026-07-22 mid-conversation-tool-changes-2026-07-01
compact-2026-01-12 computer-use-2025-11-24 mcp-tunnels-2026-06-22 structured-outputs-2025-11-13
task-budgets-2026-03-13 thinking-display-updates-2026-08-18
mid-conversation-output-config-2026-07-01 thinking-binding-controls-2026-08-01
mid-conversation-system-clear-at-2026-08-21 compact-2026-09-04 inline-tools-2026-09-15
mcp-client-2026-09-15 ce-plugins-2026-09-01 spend-limit-reads-2026-09-26
telemetry-destinations-2026-08-11 webhooks-2026-10-07 admin-user-sign-out-2026-10-08
message-threads-2026-08-12 analytics-usage-cost-2026-08-24 experimental-claude-tag-2026-10-21
message-batches-2024-09-24 prompt-caching-2024-07-31 pdfs-2024-09-25 token-counting-2024-11-01
token-efficient-tools-2025-02-19 files-api-2025-04-14 extended-cache-ttl-2025-04-11
skills-2025-10-02 cache-diagnosis-2026-04-07 ce-user-management-2026-07-13
ce-claude-code-managed-settings-2026-10-06 user-profiles-billing-2026-10-01
"""
# Documented for what needs none by now, and still sent by clients (litellm, langchain, ai-sdk). That
# the API goes on taking them is our reading: it does so with structured-outputs-2025-11-13.
_EARLIER = """
effort-2025-11-24 fine-grained-tool-streaming-2025-05-14 advanced-tool-use-2025-11-20
web-search-2025-03-05 web-fetch-2025-09-10 search-results-2025-06-09 code-execution-2025-08-25
tool-search-tool-2025-10-19 tool-examples-2025-10-29 max-tokens-3-5-sonnet-2024-07-15
"""
KNOWN = frozenset((_TYPED + _EARLIER).split())

COMPACTION_EDIT = "compact-2026-01-12"
INTERLEAVED = "interleaved-thinking-2025-05-14"
# What a request may only hold with one of these. Each is typed in the SDK's `beta` types alone.
NEEDED_BY_FIELD: dict[str, tuple[str, ...]] = {
    # docs "Context editing", "Compaction"
    "context_management": ("context-management-2025-06-27", COMPACTION_EDIT),
    # docs "MCP connector"; langchain-ai/langchain#34116
    "mcp_servers": ("mcp-client-2025-04-04", "mcp-client-2025-11-20", "mcp-client-2026-09-15"),
    # Wei-Shaw/sub2api#6454: "fallbacks: Extra inputs are not permitted". That a batch takes them is our
    # reading, from the SDK's types; copies of docs "Migrating to Claude Fable 5" and "Refusals and
    # fallback" of summer 2026 say that the Message Batches API does not.
    "fallbacks": ("server-side-fallback-2026-06-01", "server-side-fallback-2026-07-01"),
    # the same thread
    "fallback_credit_token": (
        "fallback-credit-2026-06-01",
        "fallback-credit-2026-07-01",
        "server-side-fallback-2026-07-01",
    ),
    # SDK types/beta/message_create_params.py; which beta by its name is our reading
    "compaction": ("compact-2026-09-04",),
    "billing_policy": ("user-profiles-billing-2026-10-01",),
    "thread": ("message-threads-2026-08-12",),
    # docs "Structured outputs": taken with its header for a transition period
    "output_format": ("structured-outputs-2025-11-13",),
}
NEEDED_BY_TOOL: dict[str, tuple[str, ...]] = {
    # docs "Computer use tool", one beta for each version of the tool
    "computer_20241022": ("computer-use-2024-10-22",),
    "bash_20241022": ("computer-use-2024-10-22",),
    "text_editor_20241022": ("computer-use-2024-10-22",),
    "computer_20250124": ("computer-use-2025-01-24",),
    "computer_20251124": ("computer-use-2025-11-24",),
    # docs "Advisor tool"
    "advisor_20260301": ("advisor-tool-2026-03-01",),
    # docs "MCP connector": toolsets came with the second version
    "mcp_toolset": ("mcp-client-2025-11-20", "mcp-client-2026-09-15"),
}
NEEDED_BY_SETTING: dict[str, tuple[str, ...]] = {
    # developersdigest.tech "400 invalid_request_error", after docs "Errors"
    "thinking.block_binding": ("thinking-binding-controls-2026-08-01",),
    # docs "What's new in Claude Fable 5.1"
    "thinking.display": ("thinking-display-updates-2026-08-18",),
    # docs "Task budgets (beta)"
    "output_config.task_budget": ("task-budgets-2026-03-13",),
}


def check_version(version: str | None) -> str:
    """The version that a call asks for.

    Raises:
        ApiError: It names none, or none that there is (decolua/9router#1227 has the words).
    """
    if version is None:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def check_betas(headers: Iterable[str]) -> frozenset[str]:
    """The betas that a call names, in one header or in several.

    Raises:
        ApiError: One of them is unknown (anthropics/claude-code#46105 has the words).
    """
    named = {name.strip() for header in headers for name in header.split(",")} - {""}
    unknown = sorted(named - KNOWN)
    if unknown:
        listed = ", ".join(f"`{name}`" for name in unknown)
        raise invalid(
            f"Unexpected value(s) {listed} for the `anthropic-beta` header. Please consult our "
            "documentation at docs.claude.com or try again without the header."
        )
    return frozenset(named)
