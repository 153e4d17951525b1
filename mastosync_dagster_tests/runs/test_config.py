"""Every field of run config has its variable; a run's own config wins, and a wrong variable is a sentence."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, get_args

import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.environment import LOCAL_ONLY, REMOTE, REMOTE_DAYS, RUN, VARIABLES, SettingsError
from mastosync_dagster.expected.policy import policy_of
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.config import PolicyConfig
from mastosync_dagster_tests.support.run_configs import every_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg
    from pydantic.fields import FieldInfo

WITHOUT = {"file_types", "changed_since", "limit", "offset", "overwrite", "delete", "max_delete", "max_share"}
"""What a run is about, and what lets it write over objects or delete them."""
POLICY = {"local_only": LOCAL_ONLY, "remote_days": REMOTE_DAYS, "remote": REMOTE}
"""They hold together or not at all: `policy_of` reads their variables."""
ONLY_FOR_BOTO3 = {"max_attempts", "use_ssl", "use_unsigned_session"}
"""Fields of dagster-aws' resource that no transfer reads."""


def every_field() -> Iterator[tuple[type[dg.Config], str, FieldInfo]]:
    for config in sorted(every_config(), key=lambda each: each.__name__):
        for name, field in config.model_fields.items():
            yield config, name, field


def other_value(field: FieldInfo) -> tuple[str, object]:
    """Return the text of a variable, and the value that it stands for, which is not the default."""
    kinds = {*get_args(field.annotation), field.annotation}
    default = field.get_default(call_default_factory=True, validated_data={})
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            other = next(member for member in kind if member is not default)
            return f" {other.value.upper()} ", other
    if bool in kinds:
        return str(not default), not default
    if int in kinds:
        number = 17 if default is None else default + 1
        return f" {number} ", number
    if float in kinds:
        return "0.25", 0.25
    return "some text", "some text"


def test_every_field_of_every_run_config_has_a_variable_that_holds_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name for _, name, _ in every_field()}
    assert {"privacy", "memory_mb", "single_put_mb", "headers", "acls"} <= names
    assert names - WITHOUT == RUN.keys()
    for config, name, field in every_field():
        if name in WITHOUT or name in POLICY:
            continue
        variable = RUN[name]
        assert variable in VARIABLES
        default = getattr(config(), name)
        unset = "Unset or null" if default is None else "Unset"
        assert f"{unset}: {variable}, else " in (field.description or ""), f"{config.__name__}.{name}"
        text, value = other_value(field)
        monkeypatch.setenv(variable, text)
        assert getattr(config(), name) == value != default
        # As Dagster hands on what the launchpad shows: null is unset.
        assert getattr(config(**{name: None}), name) == value
        if default is not None:
            given = default.name if isinstance(default, Enum) else default
            assert getattr(config(**{name: given}), name) == default
        monkeypatch.setenv(variable, "")
        assert getattr(config(), name) == default
        if field.annotation not in {str, str | None}:
            monkeypatch.setenv(variable, "-3")
            with pytest.raises(SettingsError, match=f"{variable} must be "):
                config()
        monkeypatch.delenv(variable)


def test_which_part_is_wanted_has_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"local_only": "true", "remote_days": "30", "remote": "accounts=never"}.items():
        monkeypatch.setenv(POLICY[name], text)
        assert str(policy_of(PolicyConfig())) != "everything"
        assert str(policy_of(PolicyConfig(local_only=False))) == "everything"
        monkeypatch.delenv(POLICY[name])


def test_every_field_of_the_resources_has_a_variable() -> None:
    database = MastodonDatabase()
    assert database.VARIABLES.keys() == MastodonDatabase.model_fields.keys()
    for bucket in (S3Bucket.source(), S3Bucket.destination()):
        assert bucket.variables.keys() == type(bucket).model_fields.keys() - ONLY_FOR_BOTO3


def test_a_wrong_variable_ends_a_run_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_PAGE_ROWS", "half")
    result = build_definitions().resolve_job_def("prune_every_range").execute_in_process(raise_on_error=False)
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    sentence = "MASTOSYNC_PAGE_ROWS must be a whole number from 1 to 50000."
    assert failed.user_failure_data is not None
    assert failed.user_failure_data.description == sentence
    assert failed.error is not None
    assert not failed.error.stack
