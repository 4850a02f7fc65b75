"""The Celery app of a worker: Dagster's tasks; a run says by a tag which worker works on it."""

import os
from typing import Any

from celery.signals import task_prerun
from dagster import DagsterInstance
from dagster._serdes import unpack_value
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from batch_pipeline_tests.cluster.worker_tags import RUN_TAG, WORKER_VARIABLE

app = make_app()
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    worker_disable_prefetch=True,  # what waits behind a long run would be taken for one that does not start
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)

execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)


@task_prerun.connect
def say_who(kwargs: dict[str, Any] | None = None, **_more: Any) -> None:
    """Give the run a tag with the name of this worker."""
    given = kwargs or {}
    if "execute_job_args_packed" in given:
        args: Any = unpack_value(given["execute_job_args_packed"])
        with DagsterInstance.get() as instance:
            instance.add_run_tags(args.run_id, {RUN_TAG: os.environ[WORKER_VARIABLE]})
