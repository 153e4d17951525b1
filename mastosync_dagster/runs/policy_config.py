"""Run config of which part of an instance is wanted: the same for a sync, a verification and a prune."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from mastosync_dagster.environment import LOCAL_ONLY, REMOTE, REMOTE_DAYS

_UNSET = "With neither of the three, the installation's variables decide."


class PolicyConfig(dg.Config):
    """Which part of the instance is wanted: the settings of `expected.policy.policy_of`."""

    local_only: bool | None = Field(
        default=None,
        description="true: only local files, none of other servers'. false: all, whatever the installation's variables"
        f" are. None: {LOCAL_ONLY}. {_UNSET}",
    )
    remote_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Of other servers' files only attachments and preview cards of the last so many days, as tootctl"
        f" media remove --days counts them. None: {REMOTE_DAYS}. {_UNSET}",
    )
    remote: dict[str, str] = Field(
        default={},
        description="Other servers' files by file type: always, never or a number of days, such as accounts: never."
        f" It wins over the other two. Empty: {REMOTE}. {_UNSET}",
    )
