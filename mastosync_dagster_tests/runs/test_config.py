"""Every field of run config has its variable; a run's own config wins, and a wrong variable is a sentence."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, get_args

import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.environment import LOCAL_ONLY, REMOTE, REMOTE_DAYS, RUN, VARIABLES, SettingsError
from mastosync_dagster.expected.policy import policy_of
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.config import PolicyConfig, RunSettingError
from mastosync_dagster.sync.config import CopyConfig
from mastosync_dagster_tests.support.run_configs import every_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import dagster as dg
    from pydantic.fields import FieldInfo

WITHOUT = {"file_types", "changed_since", "limit", "offset", "overwrite", "delete", "max_delete", "max_share"}
"""What a run is about, and what lets it write over objects or delete them."""
POLICY = {"local_only": LOCAL_ONLY, "remote_days": REMOTE_DAYS, "remote": REMOTE}
"""They hold together or not at all: `policy_of` reads their variables."""
BESIDE = {name: {"max_dollars": 5} for name in ("prices_from", "prices_to")}
"""What a field is refused without."""
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
            assert getattr(config(**{name: given, **BESIDE.get(name, {})}), name) == default
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


WHOLE = [-(10**18), -1, 10**18, 10**30, 10**400]
"""No field takes any of them."""
DECIMAL = [-1.0, -1e-9, 1e10, 1e18, 1e305, 1.7e308, float("inf"), float("-inf"), float("nan")]


def numbers() -> Iterator[tuple[type[dg.Config], str, str, list[int] | list[float]]]:
    """Yield every number of every run config, what it must be, and values that it does not take."""
    for config, name, field in every_field():
        kinds = {*get_args(field.annotation), field.annotation}
        if int in kinds:
            yield config, name, "a whole number from ", WHOLE
        elif float in kinds:
            yield config, name, "a number ", DECIMAL


def test_a_wrong_number_of_any_field_is_refused_in_one_sentence() -> None:
    found = list(numbers())
    assert {"page_rows", "limit", "offset", "remote_days", "max_share", "max_gigabytes", "days"} <= {
        name for _, name, _, _ in found
    }
    for config, name, what, values in found:
        for value in values:
            with pytest.raises(RunSettingError, match=f"^{name} must be {what}[0-9a-z, .]+\\.$") as raised:
                config(**{name: value})
            assert str(raised.value).count("must be") == 1


def test_the_bounds_of_every_number_are_named_and_are_right() -> None:
    for config, name, what, values in numbers():
        with pytest.raises(RunSettingError) as raised:
            config(**{name: values[0]})
        text = str(raised.value)
        if what == "a whole number from ":
            lowest, highest = map(int, re.findall(r"from (\d+) to (\d+)\.$", text)[0])
            for number, right in ((lowest, True), (highest, True), (lowest - 1, False), (highest + 1, False)):
                assert _takes(config, name, number) is right, (name, number)
        else:
            (highest,) = re.findall(r"(?:to (\d+)|above 0, (\d+) at the most), such as", text)
            assert _takes(config, name, float("".join(highest)))
            assert not _takes(config, name, float("".join(highest)) + 1)


def _takes(config: type[dg.Config], name: str, number: float) -> bool:
    try:
        config(**{name: number})
    except RunSettingError:
        return False
    return True


def test_all_that_is_wrong_with_a_config_is_said_at_once() -> None:
    wrong = {"page_rows": 0, "listers": 10**9, "file_types": ["accounts "], "remote_days": 0}
    (config,) = [each for each in every_config() if each.__name__ == "ChangesConfig"]
    with pytest.raises(RunSettingError) as raised:
        config(**wrong)
    text = str(raised.value)
    for name in wrong:
        assert text.count(name) == 1, text
    assert "'accounts '" in text
    assert "pydantic" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("job", "op", "config", "says"),
    [
        ("sync_changes", "plan_changes", {"page_rows": 0}, "plan_changes.page_rows must be a whole number from 1 to "),
        ("sync_changes", "plan_changes", {"offset": 10**26}, "plan_changes.offset must be a whole number from 0 to "),
        ("sync_changes", "plan_changes", {"file_types": []}, "plan_changes.file_types: no file type is named"),
        ("sync_changes", "plan_changes", {"file_types": ["accounts "]}, "file_types: unknown file type 'accounts '"),
        ("prune_every_range", "prune_all", {"max_share": float("nan")}, "prune_all.max_share must be a number from 0"),
        ("prune_every_range", "prune_all", {"file_types": []}, "prune_all.file_types: no file type is named"),
        ("delete_old_runs", "delete_records", {"days": 0}, "delete_records.days must be a whole number from 1 to "),
    ],
)
def test_a_run_whose_config_is_wrong_fails_with_one_sentence(
    job: str, op: str, config: Mapping[str, object], says: str
) -> None:
    run_config = {"ops": {op: {"config": dict(config)}}}
    result = build_definitions().resolve_job_def(job).execute_in_process(run_config=run_config, raise_on_error=False)
    (failed,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None
    description = failed.user_failure_data.description or ""
    assert says in description
    assert description.count(op) == 1
    assert failed.error is not None
    assert (failed.error.message.strip(), failed.error.stack, failed.error.cause) == (description, [], None)


@pytest.mark.parametrize("given", [{"prices_from": "amazon"}, {"prices_to": "amazon"}, {"prices": "/p.yaml"}])
def test_prices_without_dollars_to_limit_are_refused(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = given
    for other in ({}, {"max_gigabytes": 5.0}, {"max_dollars": None}):
        with pytest.raises(
            RunSettingError, match=f"^{name} without max_dollars .* limits nothing: set that, or MASTOSYNC_MAX_DOLLARS,"
        ):
            CopyConfig(**given, **other)
    assert CopyConfig(**given, max_dollars=5).max_dollars == 5
    assert CopyConfig(**{name: None}).max_dollars is None
    # An estimate reads the variables too.
    monkeypatch.setenv(RUN[name], given[name])
    assert getattr(CopyConfig(), name) == given[name]
    monkeypatch.setenv("MASTOSYNC_MAX_DOLLARS", "5")
    assert CopyConfig(**given).max_dollars == 5
