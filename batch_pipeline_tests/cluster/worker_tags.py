"""What says which worker works on a run: a variable of the worker, a tag of the run."""

WORKER_VARIABLE = "CLUSTER_WORKER"
RUN_TAG = "cluster/worker"
QUEUE_TAG = "dagster-celery/queue"
"""The tag with which a run goes to the queue of one worker."""
