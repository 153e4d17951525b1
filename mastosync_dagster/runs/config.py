"""Run config that falls back to the variables of the installation, field by field, when a run begins."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, get_args

import dagster as dg
from pydantic import Field, ValidationError, model_validator

from mastosync_dagster.environment import (
    LOCAL_ONLY,
    REMOTE,
    REMOTE_DAYS,
    RUN,
    Environment,
    SettingsError,
    choice,
    decimal_number,
    whole_number,
)
from mastosync_dagster.runs.failures import PlainFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_UNSET = "With neither of the three, the installation's variables decide."


class RunSettingError(PlainFailure, SettingsError):
    """A run's config, or a variable of `RUN`, is wrong: a failure by itself, as it is made before the op begins."""


def setting(name: str, default: object, description: str, otherwise: str = "", **bounds: float) -> Any:
    """Return the field ``name`` of a run config: unset (or null), its variable holds, and then ``default``.

    ``otherwise`` is what the default is called in the description, where its own text does not say it.
    """
    shown = otherwise or (default.value if isinstance(default, Enum) else str(default).lower())
    # The launchpad shows a setting whose default is None as null.
    unset = "Unset or null" if default is None else "Unset"
    text = f"{description} {unset}: {RUN[name]}, else {shown}."
    # A factory: Dagster puts a plain default into the config of each run, and it would count as set there.
    return Field(default_factory=lambda: default, description=text, **bounds)  # type: ignore[call-overload]  # bounds


class RunConfig(dg.Config):
    """A run config whose fields made by `setting` fall back to variables. What is wrong is a `RunSettingError`."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            # Pydantic's own text has its types in it, and the address of its manual, several lines for each field.
            problems = (_sentence(type(self).model_fields, each) for each in error.errors(include_url=False))
            raise RunSettingError(" ".join(dict.fromkeys(problems))) from None

    @model_validator(mode="before")
    @classmethod
    def _read_variables(cls, given: dict[str, object]) -> dict[str, object]:
        """Return the values that are given, and those of variables in the place of others."""
        values = dict(given)
        try:
            environment = Environment.read()
            for name in [name for name in settings_of(cls) if values.get(name) is None]:
                value = _value(cls, name, environment)
                values.pop(name, None)
                if value is not None:
                    values[name] = value
        except SettingsError as error:
            raise RunSettingError(str(error)) from None
        return values


def _sentence(fields: Mapping[str, FieldInfo], wrong: ErrorDetails) -> str:
    """Return what a field must be, in the words that its variable has too."""
    field = str(wrong["loc"][0])
    name = f"{_op_name()}{field}"
    try:
        _parse(str(wrong["input"]), name, fields[field])
    except SettingsError as error:
        return str(error)
    own = wrong.get("ctx", {}).get("error", wrong["msg"])  # what a validator of the field has raised
    return f"{name}: {own}."


def _op_name() -> str:
    """Return the name of the op that a config is made for, with a full stop; outside of a run, nothing."""
    try:
        return f"{dg.OpExecutionContext.get().op.name}."
    except dg.DagsterInvariantViolationError:
        return ""


def settings_of(config: type[dg.Config]) -> list[str]:
    """Return the fields of a run config that were made by `setting`."""
    return [name for name, field in config.model_fields.items() if field.default_factory is not None]


def wrong_variables(config: type[dg.Config]) -> list[str]:
    """Return what is wrong with the variables that a run config falls back to, a sentence each."""
    environment, problems = Environment.read(), []
    for name in settings_of(config):
        try:
            _value(config, name, environment)
        except SettingsError as error:
            problems.append(str(error))
    return problems


def _value(config: type[dg.Config], name: str, environment: Environment) -> object:
    """Return what the variable of a field says; None: it is unset."""
    text = environment.text(RUN[name])
    return None if text is None else _parse(text, RUN[name], config.model_fields[name])


def _parse(text: str, variable: str, field: FieldInfo) -> object:
    """Return a variable's text as a field has it: its type and its bounds say what is right."""
    kinds = {*get_args(field.annotation), field.annotation}
    enum = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)), None)
    bounds = {
        kind: getattr(each, kind) for each in field.metadata for kind in ("ge", "le", "gt") if hasattr(each, kind)
    }
    if enum is not None:
        return enum(choice(text, name=variable, allowed=[member.value for member in enum]))
    if bool in kinds:
        return choice(text, name=variable) == "true"
    if int in kinds:
        return whole_number(text, name=variable, lowest=int(bounds["ge"]), highest=int(bounds["le"]))
    if float in kinds:
        return decimal_number(text, name=variable, **bounds)
    return text


class PolicyConfig(RunConfig):
    """Which part of the instance is wanted, for `expected.policy.policy_of`, which reads the variables: all or none."""

    local_only: bool | None = Field(
        default=None,
        description="true: only local files, none of other servers'. false: all, whatever the installation's variables"
        f" are. Unset or null: {LOCAL_ONLY}. {_UNSET}",
    )
    remote_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Of other servers' files only attachments and preview cards of the last so many days, as tootctl"
        f" media remove --days counts them. Unset or null: {REMOTE_DAYS}. {_UNSET}",
    )
    remote: dict[str, str] = Field(
        default={},
        description="Other servers' files by file type: always, never or a number of days, such as accounts: never."
        f" It wins over the other two. Empty: {REMOTE}. {_UNSET}",
    )
