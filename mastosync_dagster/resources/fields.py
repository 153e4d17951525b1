"""Resource fields that fall back to environment variables at run time, and secrets that never stand in run config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mastosync_dagster.environment import MissingSettingError, SettingsError, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mastosync_dagster.environment import Environment


class Secret(dg.Config):
    """The name of the variable that holds a secret, never the secret.

    Run config is stored and shown: a literal in the place of ``{env: NAME}`` is refused before the run exists.
    """

    env: str = Field(description="Environment variable, or line of the file MASTOSYNC_ENV_FILE names, with the secret.")


@dataclass(frozen=True, slots=True)
class Fields:
    """A resource's fields over the environment variables they fall back to.

    A field that is None falls back to its variable; a field that is an empty text means "none", whatever the variable
    says. Every error names what to change: the variable and the field.

    Attributes:
        resource: The resource's key in ``Definitions``.
        config: The resource itself.
        variables: Which variable each field falls back to.
        environment: The variables' values.
        between: Values that win over the variables and lose to the fields: the parts of DATABASE_URL.
        between_name: What to call those in messages.
    """

    resource: str
    config: object
    variables: Mapping[str, str]
    environment: Environment
    between: Mapping[str, str] = field(default_factory=dict, repr=False)
    between_name: str = ""

    def path(self, name: str) -> str:
        """Return a field's path in the run config."""
        return f"resources.{self.resource}.config.{name}"

    def name(self, name: str) -> str:
        """Return what to change in words, such as ``DB_HOST (or resources.mastodon_db.config.host)``."""
        if getattr(self.config, name) is not None:
            return self.path(name)
        if name in self.between:
            return self.between_name
        return f"{self.variables[name]} (or {self.path(name)})"

    def text(self, name: str) -> str | None:
        """Return a field's text; None where it has none."""
        own = getattr(self.config, name)
        if own is not None:
            return str(own) or None
        return self.between.get(name) or self.environment.text(self.variables[name])

    def needed(self, name: str) -> str:
        """Return a field's text.

        Raises:
            MissingSettingError: It has none.
        """
        value = self.text(name)
        if value is None:
            raise MissingSettingError(f"{self.variables[name]} is not set: set it, or {self.path(name)}.")
        return value

    def text_or_empty(self, name: str, *, default: str) -> str:
        """Return a field's text where an empty variable means something; ``default`` where it is unset."""
        own = getattr(self.config, name)
        value = self.environment.text_or_empty(self.variables[name]) if own is None else str(own)
        return default if value is None else value

    def secret(self, name: str) -> str | None:
        """Return a secret; None where there is none.

        Raises:
            MissingSettingError: The variable that the field names is not set.
            SettingsError: The field names no variable.
        """
        own = getattr(self.config, name)
        if isinstance(own, Secret):
            return self.environment.secret(own.env, wanted_by=self.path(name))
        return self.between.get(name) or self.environment.text(self.variables[name])

    def port(self, name: str, *, default: int) -> int:
        """Return a TCP port.

        Raises:
            SettingsError: It is none.
        """
        value = self.text(name)
        return default if value is None else whole_number(value, name=self.name(name), lowest=1, highest=65535)

    def one_of(self, name: str, allowed: Sequence[str], *, default: str) -> str:
        """Return a field's text, which must be one of a list.

        Raises:
            SettingsError: It is not.
        """
        value = self.text(name) or default
        if value not in allowed:
            raise SettingsError(f"{self.name(name)} must be one of {', '.join(allowed)}.")
        return value
