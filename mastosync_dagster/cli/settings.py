"""Every variable, read by the code that commands and runs read it with: `check` shows what none of them would take.

Those of the database and of the storages are read where their connections are tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.alerts.delivery import check_receivers
from mastosync_dagster.alerts.nights import check_monitor
from mastosync_dagster.copy.spending import check_prices
from mastosync_dagster.cutover.media_host import check_addresses, media_host
from mastosync_dagster.environment import (
    SettingsError,
    alert_good_nights,
    cache_lost,
    retry_nights,
    rows_per_partition,
)
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.policy import instance_policy, policy_of
from mastosync_dagster.memory import run_memory
from mastosync_dagster.prune.config import PruneConfig
from mastosync_dagster.runs.config import wrong_variables
from mastosync_dagster.runs.retention import RetentionConfig
from mastosync_dagster.sync.automation import Nightly
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig
from mastosync_dagster.verify.config import VerifyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIGS = (ChangesConfig, CopyConfig, VerifyConfig, PruneConfig, RetentionConfig)
_OF_RUNS = (run_memory, retry_nights, rows_per_partition, cache_lost)
"""What a run reads beside its config."""
_OF_OTHERS = (
    *(instance_policy, Nightly.read, check_prices),
    *(check_receivers, check_monitor, alert_good_nights, media_host, check_addresses),
)
"""What single commands read, the services, or a night at its end."""


def read_settings(plan: ChangesConfig, copy: CopyConfig) -> None:
    """Read what a run of these configs reads. Raises a `SettingsError`."""
    policy_of(plan)
    copy.budget()
    for read in _OF_RUNS:
        read()


def ensure_settings() -> None:
    """Raise a `SettingsError` about all that is wrong with the variables."""
    if wrong := wrong_settings():
        raise SettingsError(" ".join(wrong))


def wrong_settings() -> list[str]:
    """Return what is wrong with the variables, a sentence each.

    Raises:
        SettingsError: They cannot be read at all.
    """
    found = [problem for config in _CONFIGS for problem in wrong_variables(config)]
    # Configs share variables, and one that makes no config is reason enough that it has no budget.
    return list(dict.fromkeys([*found, *_problems()]))


def _problems() -> Iterator[str]:
    for read in (*_OF_RUNS, *_OF_OTHERS):
        try:
            read()
        except AdminError as error:
            yield str(error)
