"""Resource fields that fall back to environment variables at run time, and secrets that run config only names."""

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
    allowed_names,
    may_be_named,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mastosync_dagster.environment import Environment

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Secret(dg.Config):
    """The name of the variable that holds a secret.

    Run config is stored and shown. Dagster refuses a literal secret in place of ``{env: NAME}`` before the run exists.
    """

    env: str = Field(
        description="Environment variable, or line of the file MASTOSYNC_ENV_FILE names, with the secret: the one that "
        f"the field falls back to, or one whose name begins with {SECRET_PREFIX}."
    )


@dataclass(frozen=True, slots=True)
class Fields:
    """A resource's fields over the environment variables they fall back to.

    A field that is None falls back to its variable; an empty text means "none", whatever the variable says. Every error
    names what to change: the variable and the field. `number` has the bounds, and no field has any: Dagster
    makes a resource before any op begins, and shows an error there with its stack.

    Attributes:
        resource: The resource's key in ``Definitions``.
        config: The resource itself.
        between: Values that win over the variables and lose to the fields: the parts of DATABASE_URL.
        between_name: The name of DATABASE_URL in messages.
        apart: Fields without a fallback: credentials, if run config names the host that they would go to.
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
        """Return a field's name in messages, such as ``DB_HOST (or resources.mastodon_db.config.host)``."""
        if getattr(self.config, name) is not None or name in self.apart:
            return self.path(name)
        if name in self.between:
            return self.between_name
        return f"{self.variables[name]} (or {self.path(name)})"

    def text(self, name: str) -> str | None:
        """Return a field's text; None if it is not set."""
        own = getattr(self.config, name)
        if own is not None:
            return str(own) or None
        return self.between.get(name) or (None if name in self.apart else self.environment.text(self.variables[name]))

    def needed(self, name: str) -> str:
        """Return a field's text; MissingSettingError if it is not set."""
        value = self.text(name)
        if value is None:
            variable = self.variables[name]
            raise MissingSettingError(
                f"{variable} is not set: set it, or {self.path(name)}. {self.environment.missing(variable)}"
            )
        return value

    def text_or_empty(self, name: str, *, default: str) -> str:
        """Return a field's text, which may be empty; ``default`` if it is unset."""
        own = getattr(self.config, name)
        value = self.environment.text_or_empty(self.variables[name]) if own is None else str(own)
        return default if value is None else value

    def secret(self, name: str) -> str | None:
        """Return a secret; None if it is not set. A variable that the field names must be set."""
        own = getattr(self.config, name)
        if isinstance(own, Secret):
            known = () if name in self.apart else (self.variables[name],)
            value: str | None = self.environment.secret(own.env, wanted_by=self.path(name), own=known)
        else:
            value = self.text(name)
        if value is not None and _CONTROL.search(value):
            # As a header it would be quoted in the HTTP library's own error.
            where = own.env if isinstance(own, Secret) else self.name(name)
            raise SettingsError(f"{where} holds a line break or another control character, which no secret may have.")
        return value

    def detached(self, name: str, *credentials: str) -> frozenset[str]:
        """Return the credentials that run config must set if it sets ``name``, a host or endpoint they are sent to."""
        return frozenset(credentials) if getattr(self.config, name) is not None else frozenset()

    def alone(self, name: str, *credentials: str) -> str:
        """Return the message about a host in run config without its credentials."""
        return (
            f"Run config sets {self.path(name)}, and credentials of the environment are not sent to it: set "
            f"{' and '.join(map(self.path, credentials))} there too, a secret as {{env: {SECRET_PREFIX}…}}."
        )

    def exact_name(self, name: str) -> str:
        """Return a field's name where its value is at fault: of a URL, the part too."""
        known = getattr(self.config, name) is None and name in self.between and name not in self.apart
        return f"{name} in {self.name(name)}" if known else self.name(name)

    def number(self, name: str, *, lowest: int, highest: int, default: int) -> int:
        """Return a whole number within bounds, both included."""
        value = self.text(name)
        return (
            default
            if value is None
            else whole_number(value, name=self.exact_name(name), lowest=lowest, highest=highest)
        )

    def port(self, name: str, *, default: int) -> int:
        """Return a TCP port."""
        return self.number(name, lowest=1, highest=65535, default=default)

    def one_of(self, name: str, allowed: Sequence[str], *, default: str) -> str:
        """Return a field's text, which must be one of ``allowed``."""
        value = self.text(name) or default
        if value not in allowed:
            raise SettingsError(f"{self.exact_name(name)} must be one of {', '.join(allowed)}.")
        return value


def refuse_variables(context: dg.InitResourceContext, resource: str, variables: Mapping[str, str]) -> None:
    """Raise SettingsError if a run's config names a variable that `may_be_named` does not allow for its field.

    Dagster itself replaces ``{env: NAME}`` by the variable's value in every text or number: a host name, a key prefix,
    or a timestamp that a message quotes.
    """
    config = {} if context.run is None else context.run.run_config
    for path, name in _named_variables(config):
        mine = path[:3] == ("resources", resource, "config")
        if path[:1] == ("resources",) and not mine:
            continue  # it is checked by the other resource
        own = [variables[path[3]]] if mine and len(path) == 4 and path[3] in variables else []  # noqa: PLR2004  (a field)
        if not may_be_named(name, own):
            raise SettingsError(
                f"{'.'.join(path)} may not name this environment variable: {{env: NAME}} takes {allowed_names(own)}."
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
