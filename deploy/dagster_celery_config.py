"""What Celery's workers go by: `celery -A dagster_celery.app worker` finds this module by its name."""

import os

broker_url = os.environ["CELERY_BROKER_URL"]
result_backend = os.environ["CELERY_RESULT_BACKEND"]
worker_prefetch_multiplier = 1
# A worker takes a run when it has room for it: one that waits behind a long run would be taken for one that
# does not start.
worker_disable_prefetch = True
broker_connection_retry_on_startup = True
# A broker that is restarted is waited for.
broker_connection_max_retries = None
