"""Dagster's own part: loading a code location, and a run around steps that have nothing to do."""

from benchmarks.meter import Meter
from benchmarks.night import Night


def overhead(night: Night, meter: Meter) -> None:
    """Measure a code location and a run, in a process that has loaded neither yet.

    Args:
        night: one that was played.
        meter: measures.
    """
    with meter.stage("import dagster"):
        import dagster as dg
    with meter.stage("import batch_pipeline, and define"):
        from batch_pipeline import build_definitions
        from benchmarks.pipeline import pipeline_of, resources_of

        claude, store = resources_of(night)
        definitions = build_definitions(pipeline_of(night), claude=claude, store=store)
        definitions.get_repository_def()
    from benchmarks.stages import submit

    submit(night, Meter(night.url))  # loads what both need
    with meter.stage("submit, nothing to ask: the steps alone"):
        submit(night, Meter(night.url))
    job = definitions.resolve_job_def("bench_submit")
    with dg.DagsterInstance.ephemeral() as instance, meter.stage("the same in a run of Dagster"):
        job.execute_in_process(instance=instance)
