"""Run config of the ops: what is refused, and in which words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.expected.policy import EVERYTHING
from mastosync_dagster.mastodon import Selection
from mastosync_dagster.sync.config import ChangesConfig, CopyConfig, InvalidTimestampError, parse_timestamp
from mastosync_dagster.sync.incremental import History

if TYPE_CHECKING:
    from mastosync_dagster.sync.incremental import TableSelection

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01T03:00:00Z", datetime(2026, 11, 1, 3, 0, tzinfo=timezone.utc)),
        ("2026-11-01T03:00:00+01:00", datetime(2026, 11, 1, 2, 0, tzinfo=timezone.utc)),
        (" 2026-11-01 03:00:00.5+00:00 ", datetime(2026, 11, 1, 3, 0, 0, 500_000, tzinfo=timezone.utc)),
    ],
)
def test_a_timestamp_is_iso_8601_with_a_zone(text: str, expected: datetime) -> None:
    assert parse_timestamp(text, now=NOW) == expected
    assert parse_timestamp(text, now=NOW).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesterday", "not a timestamp"),
        ("2026-11-01T03:00:00", "no time zone"),
        ("2026-11-20T12:00:01Z", "in the future"),
        ("", "not a timestamp"),
        ("0001-01-01T00:00:00Z", "leave it out"),
        ("0001-01-01T00:00:00+14:00", "leave it out"),
    ],
)
def test_anything_else_is_refused_in_plain_words(text: str, message: str) -> None:
    with pytest.raises(InvalidTimestampError, match=message):
        parse_timestamp(text, now=NOW)


def shares(config: ChangesConfig) -> tuple[TableSelection, ...]:
    with dg.DagsterInstance.ephemeral() as instance:
        return config.shares(History(instance, "a destination", NOW, EVERYTHING, NOW), NOW)


def test_a_selection_per_file_type_carries_the_bounds_and_begins_ten_minutes_early() -> None:
    config = ChangesConfig(file_types=["accounts"], changed_since="2026-11-01T03:00:00Z", limit=5, offset=2)
    since = datetime(2026, 11, 1, 2, 50, tzinfo=timezone.utc)
    (share,) = shares(config)
    assert share.selection == Selection(table="accounts", changed_since=since, limit=5, offset=2)


def test_all_rows_of_all_file_types_by_default() -> None:
    tables = ["media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"]
    assert [share.selection for share in shares(ChangesConfig())] == [Selection(table) for table in tables]


def test_a_file_type_named_twice_is_taken_once() -> None:
    assert len(shares(ChangesConfig(file_types=["accounts", "accounts"]))) == 1


def test_an_unknown_file_type_is_named_together_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"^file_types: unknown file type 'statuses': known are media_attachments"):
        ChangesConfig(file_types=["accounts", "statuses"])


@pytest.mark.parametrize("field", ["limit", "offset"])
def test_negative_bounds_are_refused(field: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{field} must be a whole number from 0 to 1\d+\.$"):
        ChangesConfig.model_validate({field: -1})


def test_rates_may_come_from_variables_and_run_config_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_SOURCE_MEGABYTES_PER_SECOND", "2.5")
    monkeypatch.setenv("MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND", "20")
    settings = CopyConfig(destination_requests_per_second=7).copy_settings()
    assert settings.source_bytes_per_second == 2_500_000
    assert settings.destination_requests_per_second == 7
    assert settings.source_requests_per_second is None
    for wrong in ("0", "-1", "1e3", "nan", "fast", "1,5"):
        monkeypatch.setenv("MASTOSYNC_SOURCE_MEGABYTES_PER_SECOND", wrong)
        with pytest.raises(SettingsError, match="MASTOSYNC_SOURCE_MEGABYTES_PER_SECOND must be a number above 0"):
            CopyConfig()
