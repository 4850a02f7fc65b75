"""The asset ``batch_costs``: what all pipelines of a store have sent and what it cost, as a table for dashboards."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import Schedule
from batch_pipeline.results.destinations import DuckDBTable

NAME = "batch_costs"
HOURLY = Schedule("5 * * * *", status=dg.DefaultScheduleStatus.RUNNING)


def batch_costs(
    to: DuckDBTable | str,
    *,
    schedule: str | Schedule | None = HOURLY,
    upstream: Sequence[dg.AssetKey | str | Sequence[str]] = (),
    key_prefix: str | Sequence[str] = (),
    group_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    store_key: str = "store",
) -> dg.Definitions:
    """Return an asset that keeps the costs of all pipelines of a store in a table, with its job and schedule.

    A row is a request file. The table is written anew each time, in one step, from the ledger alone: neither
    the API nor the answers are read. Merge it with the pipelines' definitions, once for each store.

    Args:
        to: a table of a DuckDB database; or the path or URL of a Parquet file, which ends in ``.parquet``.
        schedule: when it is written: a cron string in UTC, or a ``Schedule``; None: by whatever else you let it.
        upstream: assets that it follows, for lineage, such as ``["invoices", "results"]``.
        key_prefix: put before the asset's key.
        group_name: Dagster's group; None: ``batch_costs``.
        tags: of the asset.
        store_key: the resource that it asks for.

    Raises:
        InputError: ``to`` is neither, or the schedule is none.
    """
    known = isinstance(to, DuckDBTable) or hasattr(to, "env_var_name")
    if not known and not (isinstance(to, str) and to.endswith(".parquet")):
        raise InputError(
            f"batch_costs: to is {to!r}; it must be DuckDBTable(database=..., table=...), or the path or URL of a file "
            "that ends in .parquet."
        )
    if isinstance(schedule, str):
        schedule = Schedule(schedule, status=dg.DefaultScheduleStatus.RUNNING)
    if schedule is not None and not isinstance(schedule, Schedule):
        raise InputError(
            f"batch_costs: schedule is {schedule!r}; it must be a cron string, Schedule(...) or None."
        )
    prefix = [key_prefix] if isinstance(key_prefix, str) else list(key_prefix)

    @dg.asset(
        key=[*prefix, NAME],
        deps=[dg.AssetKey.from_coercible(key) for key in upstream],
        description="What the pipelines of the store have sent and what it cost, a row for each request file, from the "
        "ledger. It is written anew each time.",
        group_name=group_name or NAME,
        tags=tags,
        kinds={"duckdb" if isinstance(to, DuckDBTable) else "parquet"},
        required_resource_keys={store_key},
    )
    def costs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=write(getattr(context.resources, store_key), to))

    job = dg.define_asset_job(
        f"{NAME}_update",
        selection=dg.AssetSelection.assets(costs),
        executor_def=dg.in_process_executor,
        description="Writes the table of what was sent and what it cost anew.",
    )
    schedules = [] if schedule is None else [
        dg.ScheduleDefinition(
            name=f"{NAME}_schedule",
            job=job,
            cron_schedule=schedule.cron,
            execution_timezone=schedule.timezone,
            default_status=schedule.status,
        )
    ]  # fmt: skip
    return dg.Definitions(assets=[costs], jobs=[job], schedules=schedules)


def write(resource: Any, to: DuckDBTable | str) -> dict[str, Any]:
    """Write the table of a store's costs anew; return what is shown of it.

    Args:
        resource: the ``BatchStore``.
        to: where.
    """
    import pyarrow as pa

    from batch_pipeline.definitions.failures import as_failures
    from batch_pipeline.definitions.metadata import place_of, schema
    from batch_pipeline.results.whole_table import replace_table
    from batch_pipeline.store.costs import COLUMNS, each

    with as_failures():
        store = resource.open()
        rows = each(store)
        kinds = {
            "bigint": pa.int64(),
            "double": pa.float64(),
            "date": pa.date32(),
            "timestamptz": pa.timestamp("us", "UTC"),
            "varchar": pa.string(),
        }
        table = pa.table(
            {
                name: pa.array([row[name] for row in rows], kinds[kind])
                for name, kind in COLUMNS.items()
            }
        )
        where = replace_table(to, table, f"batch_pipeline batch_costs of {store.ledger.id}")
    month = f"{store.clock.now():%Y-%m}"
    return {
        "dagster/row_count": len(rows),
        "rows": len(rows),
        "cost_usd": sum(row["cost_usd"] for row in rows),
        "cost_usd_this_month": sum(row["cost_usd"] for row in rows if row["month"] == month),
        "requests_of_unknown_cost": sum(row["unknown"] for row in rows),
        "requests_open": sum(row["open"] for row in rows),
        "table": where,
        **(place_of(to) if isinstance(to, DuckDBTable) else {}),
        **schema([*COLUMNS.items()]),
    }
