"""The demo's code location: `workspace.yaml` loads it, `make dev` shows it, `make demo` runs it."""

import dagster as dg

from batch_pipeline import BatchStore, ClaudeBatches, build_definitions
from batch_pipeline.demo.invoices import approvals_asset, incoming_asset, invoices_pipeline
from batch_pipeline.demo.packages import accuracy_asset, incoming_packages_asset, packages_pipeline
from batch_pipeline.demo.places import Places, emulator_port

REQUESTS_PER_BATCH = 400  # small, so that there are several batches to watch
LOOK_SECONDS = 5


def demo_claude(live: bool) -> ClaudeBatches:
    """Return the API that is asked: the real one, or the emulator on this machine."""
    if live:
        return ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY"))
    return ClaudeBatches(
        api_key="any-key-is-good-for-the-emulator",
        base_url=f"http://127.0.0.1:{emulator_port()}",
        max_batch_requests=REQUESTS_PER_BATCH,
        poll_interval_seconds=LOOK_SECONDS,
        reconcile_after_seconds=10,
    )


def demo_definitions(live: bool = False) -> dg.Definitions:
    """Return both pipelines, what is downstream of them, and what makes that run by itself."""
    places = Places(live)
    downstream = [approvals_asset(places), accuracy_asset(places)]
    pipelines = build_definitions(
        invoices_pipeline(places),
        packages_pipeline(places),
        claude=demo_claude(live),
        store=BatchStore(root=places.store),
    )
    project = dg.Definitions(
        assets=[incoming_asset(places), incoming_packages_asset(places), *downstream],
        sensors=[
            # Without a sensor of one's own, automation conditions wait to be switched on in the UI.
            dg.AutomationConditionSensorDefinition(
                "downstream",
                target=dg.AssetSelection.assets(*downstream),
                default_status=dg.DefaultSensorStatus.RUNNING,
                minimum_interval_seconds=LOOK_SECONDS,
            )
        ],
    )
    return dg.Definitions.merge(pipelines, project)


defs = demo_definitions()
