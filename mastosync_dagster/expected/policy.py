"""Which part of an instance is wanted: everything, or less of what is remote, the copies of other servers' files.

What a policy leaves out is counted. It is never copied, and never called missing; where it is at the destination it
stays, for its row expects it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mastosync_dagster.environment import (
    LOCAL_ONLY,
    REMOTE,
    REMOTE_DAYS,
    SettingsError,
    local_only,
    remote_by_file_type,
    remote_days,
)
from mastosync_dagster.mastodon import EVERY_REMOTE_ROW, TABLES, RemoteRule, has_remote_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mastosync_dagster.mastodon import RemoteWindow

_NEVER = RemoteRule(0)


@dataclass(frozen=True, slots=True)
class Policy:
    """The subset of an instance that is wanted. Local files always are.

    Attributes:
        rules: Table and rule of the tables of whose remote rows not all are wanted, by name.
    """

    rules: tuple[tuple[str, RemoteRule], ...] = ()

    def rule(self, table: str) -> RemoteRule:
        """Return which remote rows of a table are wanted."""
        return dict(self.rules).get(table, EVERY_REMOTE_ROW)

    def window(self, table: str, now: datetime) -> RemoteWindow | None:
        """Return the remote rows of a table that are wanted at a time, by the database's clock; None: all."""
        return self.rule(table).window(now)

    def __str__(self) -> str:
        return ", ".join(f"{table}: {rule}" for table, rule in self.rules) or "everything"


EVERYTHING = Policy()


@dataclass(frozen=True, slots=True)
class PolicyNames:
    """What the settings of a policy are called where they come from, for messages."""

    local_only: str
    remote_days: str
    remote: str


IN_CONFIG = PolicyNames("local_only", "remote_days", "remote")
IN_OPTIONS = PolicyNames("--local-only", "--remote-days", "--remote")
IN_ENVIRONMENT = PolicyNames(LOCAL_ONLY, REMOTE_DAYS, REMOTE)


def make_policy(
    *, local_only: bool, remote_days: int | None, remote: Mapping[str, str], names: PolicyNames = IN_CONFIG
) -> Policy:
    """Return the policy of some settings.

    Args:
        local_only: No remote file is wanted.
        remote_days: Remote attachments and preview cards of the last so many days are wanted, and all remote avatars
            and emoji, which have no such time.
        remote: ``always``, ``never`` or a number of days, by file type. It wins over the other two.
        names: What these three are called.

    Raises:
        SettingsError: They contradict each other, or one makes no sense.
    """
    if local_only and remote_days is not None:
        raise SettingsError(f"{names.local_only} and {names.remote_days} contradict each other: set one of them.")
    rules: dict[str, RemoteRule] = {}
    for table in filter(has_remote_rows, TABLES):
        if local_only:
            rules[table] = _NEVER
        elif remote_days is not None and TABLES[table].age_column is not None:
            rules[table] = RemoteRule(remote_days)
    for table, text in remote.items():
        rules[table] = _rule(table, text, names.remote)
    return Policy(tuple(sorted((table, rule) for table, rule in rules.items() if rule != EVERY_REMOTE_ROW)))


def _rule(table: str, text: str, name: str) -> RemoteRule:
    if table not in TABLES or not has_remote_rows(table):
        known = ", ".join(filter(has_remote_rows, TABLES))
        raise SettingsError(f"{name} names {table!r}; file types with remote files are {known}.")
    has_age = TABLES[table].age_column is not None
    try:
        rule = RemoteRule.parse(text)
    except ValueError:
        rule = None
    if rule is None or (rule.days and not has_age):
        days = f" or {table}=30, a number of days" if has_age else ""
        raise SettingsError(f"{name} says {text!r} of {table}: write {table}=always or {table}=never{days}.")
    return rule


def instance_policy() -> Policy:
    """Return the policy of the installation: MASTOSYNC_LOCAL_ONLY, MASTOSYNC_REMOTE_DAYS and MASTOSYNC_REMOTE.

    Raises:
        SettingsError: As `make_policy`.
    """
    return make_policy(
        local_only=bool(local_only()), remote_days=remote_days(), remote=remote_by_file_type(), names=IN_ENVIRONMENT
    )


class PolicySettings(Protocol):
    """The run config of a policy (`runs.config`)."""

    @property
    def local_only(self) -> bool | None: ...  # noqa: D102  (see the config)
    @property
    def remote_days(self) -> int | None: ...  # noqa: D102  (as above)
    @property
    def remote(self) -> dict[str, str]: ...  # noqa: D102  (as above)


def policy_of(config: PolicySettings) -> Policy:
    """Return the policy of a run: that of its config, if it says anything, else the installation's.

    Raises:
        SettingsError: As `make_policy`.
    """
    if config.local_only is None and config.remote_days is None and not config.remote:
        return instance_policy()
    return make_policy(local_only=bool(config.local_only), remote_days=config.remote_days, remote=config.remote)
