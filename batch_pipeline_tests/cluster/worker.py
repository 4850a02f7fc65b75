"""The Celery app of a worker: Dagster's, by deploy/dagster_celery_config.py; a run says by a tag which worker works on it."""

import os
from typing import Any

from celery.signals import task_prerun
from dagster import DagsterInstance
from dagster._serdes import unpack_value
from dagster_celery.app import app

from batch_pipeline_tests.cluster.worker_tags import RUN_TAG, WORKER_VARIABLE

__all__ = ["app"]


@task_prerun.connect
def say_who(kwargs: dict[str, Any] | None = None, **_more: Any) -> None:
    """Give the run a tag with the name of this worker."""
    given = kwargs or {}
    if "execute_job_args_packed" in given:
        args: Any = unpack_value(given["execute_job_args_packed"])
        with DagsterInstance.get() as instance:
            instance.add_run_tags(args.run_id, {RUN_TAG: os.environ[WORKER_VARIABLE]})
