"""The job ``NAME_probe``: a look, from where a pipeline's runs happen, at all that a night needs.

`batch-pipeline doctor --deep` launches it. It asks nothing, and changes nothing.
"""

import socket
from contextlib import closing
from pathlib import Path

import dagster as dg

from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.jobs import PIPELINE_TAG
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.errors import StoreError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.settings import project_path

HOST_TAG = "batch_pipeline/host"
SAME = "Give every process that runs a stage the same store: an object store, or one volume at one path on all of them."


def op_name(pipeline: BatchPipeline) -> str:
    """Return the name of the op that looks; no asset of a user's is called so."""
    return f"look_of_{pipeline.name}_probe"


def build_probe(pipeline: BatchPipeline) -> dg.JobDefinition:
    """Return the job ``NAME_probe``."""

    @dg.op(
        name=op_name(pipeline),
        config_schema={
            "ledger": dg.Field(str, description="The id of the ledger that must be found."),
            "file": dg.Field(str, description="A file of the store that must be found."),
        },
        required_resource_keys={pipeline.claude_key, pipeline.store_key},
        tags=pipeline.op_options("records").get("op_tags"),
        out=dg.Out(dg.Nothing),
    )
    def look(context: dg.OpExecutionContext) -> None:
        host = socket.gethostname()
        context.instance.add_run_tags(context.run_id, {HOST_TAG: host})
        with as_failures():
            look_from_here(
                pipeline,
                getattr(context.resources, pipeline.claude_key),
                getattr(context.resources, pipeline.store_key),
                context.op_config["ledger"],
                context.op_config["file"],
            )
        context.log.info(f"Store, ledger, API, source and destination are reached from {host}")

    @dg.job(
        name=f"{pipeline.name}_probe",
        description="Looks whether store, ledger, API, source and destination are reached from where runs happen. "
        "`batch-pipeline doctor --deep` launches it; it asks nothing, and changes nothing.",
        tags={PIPELINE_TAG: pipeline.name, **pipeline.tags},
        executor_def=pipeline.executor or dg.in_process_executor,
    )
    def probe() -> None:
        look()

    return probe


def look_from_here(
    pipeline: BatchPipeline, claude: ClaudeBatches, resource: BatchStore, ledger: str, file: str
) -> None:
    """See that this process reaches the store that another one has opened, and all else a night needs.

    Args:
        pipeline: whose source and destination are looked at.
        claude: its API.
        resource: its store.
        ledger: the id of the ledger that the other process found.
        file: a file that the other process has put into the store.

    Raises:
        BatchPipelineError: something is not reached, or is another one here.
    """
    from batch_pipeline.definitions.rows import source_of, wanted_of
    from batch_pipeline.records.reading import open_source

    host, root = socket.gethostname(), project_path(resource.root)
    # To open a store that is not there would make it.
    if "://" not in root and not Path(root).is_dir():
        raise StoreError(f"On {host} there is no folder {root}, which the store is. {SAME}")
    own = resource.sqlite_file()
    if own is not None and not Path(own).is_file():
        raise StoreError(
            f"On {host} there is no file {own}, which the ledger is. Set BatchStore(ledger=...) to a PostgreSQL URL "
            "that every process that runs a stage reaches."
        )
    store = resource.open()
    if store.ledger.id != ledger:
        raise StoreError(
            f"On {host} the ledger at {store.ledger.shown} is {store.ledger.id}, and not {ledger}, which `doctor` "
            "found: what one of them knows to be paid, the other would ask again. Set BatchStore(ledger=...) to one "
            "PostgreSQL URL for all."
        )
    if not store.files.exists(file):
        raise StoreError(
            f"On {host} the store {root} does not have the file {file}, which `doctor` has just put into it: it is "
            f"another store of the same name. {SAME}"
        )
    with closing(claude.api()) as api:
        api.identify()
    for asked in pipeline.by_variant.values():
        with open_source(source_of(asked, store)) as connection:
            connection.execute("select 1 from source limit 1")
    if pipeline.destination is not None:
        pipeline.destination.check(wanted_of(pipeline, store))
