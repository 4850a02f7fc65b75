"""What the Console says was used and what it cost, by day: the Admin API's usage and cost reports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable, KeyRefused, NoSuchBatch
from batch_pipeline.errors import InputError

USAGE_PATH = "/v1/organizations/usage_report/messages"
COST_PATH = "/v1/organizations/cost_report"
MOST_DAYS = 31  # that a page has
MOST_PAGES = 200
CENTS = 100


@dataclass
class ConsoleDay:
    """What the Console has of a day, UTC.

    Attributes:
        batch_usd: what batches cost, by model.
        other_usd: what everything else cost: messages, other tiers, tools.
        batch_tokens: tokens of batches, by model: input, read, written and output together.
    """

    batch_usd: dict[str, Decimal] = field(default_factory=dict)
    other_usd: Decimal = Decimal(0)
    batch_tokens: dict[str, int] = field(default_factory=dict)


def console_days(
    api: BatchesApi, first: date, until: date, workspaces: frozenset[str]
) -> dict[date, ConsoleDay]:
    """Ask the Admin API for what was used and what it cost, day by day.

    Args:
        api: the endpoint, with an admin key.
        first: the first day.
        until: the day after the last one.
        workspaces: ids of the workspaces that count; where there are none, or the reports know none of
            them, all do.

    Raises:
        InputError: the key is refused, or this address has no Admin API.
        ApiUnavailable: no answer, or none that can be read.
    """
    found: dict[date, ConsoleDay] = {}
    span = {"starting_at": f"{first}T00:00:00Z", "ending_at": f"{until}T00:00:00Z"}
    costs = {**span, "group_by[]": ["workspace_id", "description"]}
    usage = {**span, "group_by[]": ["workspace_id", "model"], "service_tiers[]": ["batch"]}
    try:
        priced = list(_results(api, COST_PATH, costs))
        used = list(_results(api, USAGE_PATH, usage))
        known = {str(one.get("workspace_id")) for _, one in priced} & workspaces
        for day, one in priced:
            if not known or str(one.get("workspace_id")) in known:
                _add_cost(found.setdefault(day, ConsoleDay()), one)
        for day, one in used:
            if not known or str(one.get("workspace_id")) in known:
                tokens = found.setdefault(day, ConsoleDay()).batch_tokens
                model = str(one.get("model"))
                tokens[model] = tokens.get(model, 0) + _tokens(one)
    except KeyRefused:
        raise InputError(
            "The Admin API does not accept the key in ANTHROPIC_ADMIN_KEY. It needs an "
            "admin key, which begins with sk-ant-admin: an organization's admin makes one in the Console (Settings, "
            "Admin keys). The key of ClaudeBatches cannot read these reports. Nothing was changed."
        ) from None
    except NoSuchBatch:
        raise InputError(
            f"{api.base_url} has no Admin API: a gateway does not pass it on, and individual accounts have none. Use the "
            "public address, or look at the Console's usage and cost pages."
        ) from None
    except (AttributeError, TypeError, ValueError, InvalidOperation) as error:
        raise ApiUnavailable(
            f"{api.base_url} sent a report that cannot be read: {error}"
        ) from error
    return found


def _results(
    api: BatchesApi, path: str, query: Mapping[str, Any]
) -> Iterator[tuple[date, Mapping[str, Any]]]:
    """Yield the results of all pages of a report, each with its day."""
    page: str | None = None
    for _ in range(MOST_PAGES):
        more = {"page": page} if page else {}
        report = api.report(path, {"bucket_width": "1d", "limit": MOST_DAYS, **query, **more})
        for bucket in report["data"]:
            day = datetime.fromisoformat(bucket["starting_at"].replace("Z", "+00:00")).date()
            for one in bucket["results"]:
                yield day, one
        following = report.get("next_page") if report.get("has_more") else None
        if following is None or following == page:
            return
        page = following


def _add_cost(day: ConsoleDay, one: Mapping[str, Any]) -> None:
    usd = Decimal(one["amount"]) / CENTS
    if one.get("service_tier") == "batch":
        model = str(one.get("model"))
        day.batch_usd[model] = day.batch_usd.get(model, Decimal(0)) + usd
    else:
        day.other_usd += usd


def _tokens(one: Mapping[str, Any]) -> int:
    written = one.get("cache_creation") or {}
    names = ("uncached_input_tokens", "cache_read_input_tokens", "output_tokens")
    return sum(int(one.get(name) or 0) for name in names) + sum(
        int(count or 0) for count in written.values()
    )
