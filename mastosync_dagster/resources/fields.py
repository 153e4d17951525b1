"""Resource fields that fall back to environment variables at run time, and secrets that never stand in run config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mastosync_dagster.environment import (
    SECRET_PREFIX,
    MissingSettingError,
    SettingsError,
    may_be_named,
    names_that_may_stand,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mastosync_dagster.environment import Environment

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""A character that no secret has, and that no header may have."""


class Secret(dg.Config):
    """The name of the variable that holds a secret, never the secret.

    Run config is stored and shown: a literal in the place of ``{env: NAME}`` is refused before the run exists.
    """

    env: str = Field(
        description="Environment variable, or line of the file MASTOSYNC_ENV_FILE names, with the secret: the one that "
        f"the field falls back to, or one whose name begins with {SECRET_PREFIX}."
    )


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
        apart: Fields that fall back to nothing: credentials, where run config says to which host they would go.
    """

    resource: str
    config: object
    variables: Mapping[str, str]
    environment: Environment
    between: Mapping[str, str] = field(default_factory=dict, repr=False)
    between_name: str = ""
    apart: frozenset[str] = frozenset()

    def path(self, name: str) -> str:
        """Return a field's path in the run config."""
        return f"resources.{self.resource}.config.{name}"

    def name(self, name: str) -> str:
        """Return what to change in words, such as ``DB_HOST (or resources.mastodon_db.config.host)``."""
        if getattr(self.config, name) is not None or name in self.apart:
            return self.path(name)
        if name in self.between:
            return self.between_name
        return f"{self.variables[name]} (or {self.path(name)})"

    def text(self, name: str) -> str | None:
        """Return a field's text; None where it has none."""
        own = getattr(self.config, name)
        if own is not None:
            return str(own) or None
        return self.between.get(name) or (None if name in self.apart else self.environment.text(self.variables[name]))

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
            SettingsError: The field names no variable that it may, or the secret is none that can be sent.
        """
        own = getattr(self.config, name)
        if isinstance(own, Secret):
            known = () if name in self.apart else (self.variables[name],)
            value: str | None = self.environment.secret(own.env, wanted_by=self.path(name), own=known)
        else:
            value = self.text(name)
        if value is not None and CONTROL.search(value):
            # What is sent as a header would stand in the HTTP library's own message.
            where = own.env if isinstance(own, Secret) else self.name(name)
            raise SettingsError(f"{where} holds a line break or another control character, which no secret may have.")
        return value

    def detached(self, name: str, *credentials: str) -> frozenset[str]:
        """Return the credentials that must stand in run config as well, where a host or endpoint does.

        Args:
            name: The field of the host or endpoint.
            credentials: The fields of what is told to it.
        """
        return frozenset(credentials) if getattr(self.config, name) is not None else frozenset()

    def alone(self, name: str, *credentials: str) -> str:
        """Return the sentence for a host in run config that has no credentials beside it."""
        return (
            f"{self.path(name)} stands in run config, and credentials of the environment do not go to it: set "
            f"{' and '.join(map(self.path, credentials))} there too, a secret as {{env: {SECRET_PREFIX}…}}."
        )

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


def refuse_variables(context: dg.InitResourceContext, resource: str, variables: Mapping[str, str]) -> None:
    """Make sure that a run's config names no variable but those that its fields know.

    Dagster itself puts a variable's value in the place of ``{env: NAME}`` wherever a text or a number is wanted: in a
    host's name, a key prefix, or a moment that is quoted in a message.

    Args:
        context: Of the resource, when a run begins.
        resource: Its key in ``Definitions``.
        variables: Which variable each of its fields falls back to.

    Raises:
        SettingsError: It names another one.
    """
    config = {} if context.run is None else context.run.run_config
    for path, name in _named_variables(config):
        mine = path[:3] == ("resources", resource, "config")
        if path[:1] == ("resources",) and not mine:
            continue  # another resource's
        own = [variables[path[3]]] if mine and len(path) == 4 and path[3] in variables else []  # noqa: PLR2004  (a field)
        if not may_be_named(name, own):
            raise SettingsError(
                f"{'.'.join(path)} may not name the environment variable that it does: {{env: NAME}} takes "
                f"{names_that_may_stand(own)}."
            )


def _named_variables(config: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every ``{env: NAME}`` in a run config, as the path to it and the name."""
    if isinstance(config, Mapping):
        if config.keys() == {"env"} and isinstance(config["env"], str):
            yield path, config["env"]
            return
        for key, value in config.items():
            yield from _named_variables(value, (*path, str(key)))
    elif isinstance(config, list):
        for value in config:
            yield from _named_variables(value, path)
