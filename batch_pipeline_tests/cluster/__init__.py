"""`make cluster`: nights on many machines, played on one: PostgreSQL, Redis, Celery workers, an object store."""
