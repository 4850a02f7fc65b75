"""When a scheduled pipeline is late: Dagster's freshness policy of ``NAME/records``."""

from datetime import timedelta
from itertools import pairwise

import dagster as dg
from dagster._utils.schedules import cron_string_iterator

from batch_pipeline.pipeline import Schedule

TICKS = 60  # a month of nights and more: the longest pause between two of them is among these
LATE = timedelta(hours=2)  # a daemon that was down catches up, and a run may wait for its turn


def freshness_of(nightly: Schedule | None) -> dg.FreshnessPolicy | None:
    """Return the policy of the asset that every night makes anew, whether there is anything to ask or not.

    That is ``NAME/records``. ``NAME/results`` changes in nights that asked something, up to a day later: a
    policy of its own would call quiet nights stale.

    Returns:
        A window of the longest pause of the schedule and two hours; None: there is no schedule.
    """
    if nightly is None:
        return None
    ticks = cron_string_iterator(0, nightly.cron, nightly.timezone)
    times = [next(ticks) for _ in range(TICKS)]
    pause = max(later - earlier for earlier, later in pairwise(times))
    return dg.FreshnessPolicy.time_window(fail_window=pause + LATE)
