"""The Admin API's usage and cost reports, made from the emulator's bill.

Forms and limits: docs "Usage and Cost API" and the Admin API's reference. A batch counts in the bucket in
which it ended, a direct message in that of its answer.
"""

import base64
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool

from batch_pipeline.emulator.calls import ADMIN_KEY, Call
from batch_pipeline.emulator.catalog import charge, find_model
from batch_pipeline.emulator.clock import from_rfc3339, to_rfc3339
from batch_pipeline.emulator.errors import ApiError, invalid
from batch_pipeline.emulator.queries import integer_of, values_of
from batch_pipeline.emulator.replies import Reply

_WIDTHS = {"1m": (60, 60, 1440), "1h": (3600, 24, 168), "1d": (86_400, 7, 31)}
"""Width of a bucket: its seconds, how many a page has, and how many at most."""
_TOKENS = {
    "uncached_input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cache_read_input_tokens": ("cache_read_input_tokens",),
    "cache_creation.ephemeral_5m_input_tokens": ("cache_creation", "ephemeral_5m_input_tokens"),
    "cache_creation.ephemeral_1h_input_tokens": ("cache_creation", "ephemeral_1h_input_tokens"),
}
_NO_USAGE: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
}
_GROUPS = {"model", "service_tier", "workspace_id"}


async def usage_report(call: Call) -> Reply:
    """Tokens of messages, by bucket of time and by what is asked for."""
    width = call.request.query_params.get("bucket_width", "1d")
    groups = set(values_of(call.request, "group_by"))
    if unknown := groups - _GROUPS:
        raise invalid(f"group_by: the emulator groups by {sorted(_GROUPS)}, not {sorted(unknown)}")
    return await run_in_threadpool(_report, call, width, groups, _usage_results)


async def cost_report(call: Call) -> Reply:
    """Costs by day, in cents, and by what is asked for."""
    width = call.request.query_params.get("bucket_width", "1d")
    if width != "1d":
        raise invalid("bucket_width: Input should be '1d'")
    groups = set(values_of(call.request, "group_by"))
    if unknown := groups - {"description", "workspace_id"}:
        raise invalid(
            f"group_by: Input should be 'workspace_id' or 'description', not {sorted(unknown)}"
        )
    return await run_in_threadpool(_report, call, width, groups, _cost_results)


def _report(call: Call, width: str, groups: set[str], results_of: Any) -> Reply:
    if not call.scene.key.startswith(ADMIN_KEY):
        raise ApiError("authentication_error", "invalid x-api-key")
    if width not in _WIDTHS:
        raise invalid("bucket_width: Input should be '1m', '1h' or '1d'")
    seconds, usual, most = _WIDTHS[width]
    query = call.request.query_params
    limit = integer_of(query.get("limit", str(usual)))
    if limit is None or not 1 <= limit <= most:
        raise invalid(f"limit: Input should be between 1 and {most}")
    first, end = _range(call, seconds)
    last = min(first + limit * seconds, end)
    tiers, models = values_of(call.request, "service_tiers"), values_of(call.request, "models")
    found: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for line in _lines(call):
        chosen = (not tiers or line["tier"] in tiers) and (not models or line["model"] in models)
        if chosen and first <= line["at"] < last:
            found[line["at"] // seconds * seconds].append(line)
    data = [
        {
            "starting_at": to_rfc3339(start),
            "ending_at": to_rfc3339(start + seconds),
            "results": results_of(found.get(start, []), groups),
        }
        for start in (first + place * seconds for place in range(int((last - first) / seconds)))
    ]
    more = last < end
    page = base64.urlsafe_b64encode(str(last).encode()).decode() if more else None
    return Reply(
        document={"data": data, "has_more": more, "next_page": f"page_{page}" if more else None}
    )


def _range(call: Call, seconds: int) -> tuple[float, float]:
    query = call.request.query_params
    moments: dict[str, float] = {}
    for name in ("starting_at", "ending_at"):
        if name in query:
            try:
                moments[name] = from_rfc3339(query[name])
            except ValueError:
                raise invalid(f"{name}: Input should be a valid RFC 3339 timestamp") from None
    if "starting_at" not in moments:
        raise invalid("starting_at: Field required")
    first = moments["starting_at"] // seconds * seconds
    now = call.emulator.clock.now()
    # The bucket that is not over yet is one, too.
    end = -(-moments.get("ending_at", now) // seconds) * seconds
    if page := query.get("page"):
        try:
            first = float(base64.urlsafe_b64decode(page.removeprefix("page_")))
        except ValueError:
            raise invalid("page: Input should be a next_page of an earlier reply") from None
    return first, max(end, first)


def _lines(call: Call) -> Iterator[dict[str, Any]]:
    """What was billed, a request each: when, whose, in which tier, and its usage."""
    emulator = call.emulator
    emulator.settle()
    whose = {batch.id: batch for batch in emulator.bill.batches()}
    for text in emulator.bill.lines():
        line = orjson.loads(text)
        if line["usage"] is not None:
            batch = whose[line["batch_id"]]
            yield {**_line(line), "at": batch.ended_at, "workspace": batch.workspace}
    for line in emulator.bill.messages():
        yield {**_line(line), "at": line.get("at", 0.0), "workspace": line.get("workspace")}


def _line(line: dict[str, Any]) -> dict[str, Any]:
    batch = line["batch_id"] is not None
    return {
        "model": find_model(line["model"]).id,
        "tier": "batch" if batch else "standard",
        "usage": line["usage"],
        "usd": Decimal(line["usd"] or 0),
        "batch": batch,
    }


def _grouped(lines: list[dict[str, Any]], names: list[str]) -> dict[tuple, list[dict[str, Any]]]:
    found: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        found[tuple(line[name] for name in names)].append(line)
    return dict(sorted(found.items(), key=str))


def _usage_results(lines: list[dict[str, Any]], groups: set[str]) -> list[dict[str, Any]]:
    names = {"model": "model", "service_tier": "tier", "workspace_id": "workspace"}
    asked = [name for name in names if name in groups]
    results: list[dict[str, Any]] = []
    for values, of_one in _grouped(lines, [names[name] for name in asked]).items():
        counts = {kind: sum(_count(line["usage"], kind) for line in of_one) for kind in _TOKENS}
        results.append(
            {
                "uncached_input_tokens": counts["uncached_input_tokens"],
                "cache_creation": {
                    kind.partition(".")[2]: count for kind, count in counts.items() if "." in kind
                },
                "cache_read_input_tokens": counts["cache_read_input_tokens"],
                "output_tokens": counts["output_tokens"],
                "server_tool_use": {"web_search_requests": 0},
                **dict.fromkeys(("api_key_id", "context_window", *names)),
                **_shown(dict(zip(asked, values, strict=True))),
            }
        )
    return results


def _cost_results(lines: list[dict[str, Any]], groups: set[str]) -> list[dict[str, Any]]:
    by_description = "description" in groups
    names = ["workspace"] if "workspace_id" in groups else []
    names += ["model", "tier"] if by_description else []
    results: list[dict[str, Any]] = []
    for values, of_one in _grouped(lines, names).items():
        known = dict(zip(names, values, strict=True))
        whose = _shown({"workspace_id": known.get("workspace")})
        nothing = dict.fromkeys(
            ("description", "cost_type", "context_window", "model", "service_tier", "token_type")
        )
        if not by_description:
            usd = sum((line["usd"] for line in of_one), Decimal(0))
            results.append({"currency": "USD", "amount": _cents(usd), **nothing, **whose})
            continue
        for kind in _TOKENS:
            usd = sum((_part(line, kind) for line in of_one), Decimal(0))
            if usd:
                what = {
                    "description": f"{find_model(known['model']).name} Usage - {kind}",
                    "cost_type": "tokens",
                    "model": known["model"],
                    "service_tier": known["tier"],
                    "token_type": kind,
                }
                results.append(
                    {"currency": "USD", "amount": _cents(usd), **nothing, **what, **whose}
                )
    return results


def _part(line: dict[str, Any], kind: str) -> Decimal:
    """What one kind of tokens cost; input gets what the price of long prompts adds."""
    if kind == "uncached_input_tokens":
        others = (_part(line, other) for other in _TOKENS if other != kind)
        return line["usd"] - sum(others, Decimal(0))
    one = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    usage = {**_NO_USAGE, "cache_creation": one, "inference_geo": line["usage"]["inference_geo"]}
    path = _TOKENS[kind]
    (one if len(path) > 1 else usage)[path[-1]] = _count(line["usage"], kind)
    return charge(line["model"], usage, batch=line["batch"]) or Decimal(0)


def _count(usage: dict[str, Any], kind: str) -> int:
    found: Any = usage
    for name in _TOKENS[kind]:
        found = found[name]
    return found


def _cents(usd: Decimal) -> str:
    return format(usd * 100, "f")


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """The default workspace has no id."""
    if values.get("workspace_id") == "default":
        values["workspace_id"] = None
    return values
