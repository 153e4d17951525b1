"""Delivers a message to the webhook and to the addresses of Apprise, each of which is read here alone."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.alerts.requests import all_in_time, check_url, pause, post
from mastosync_dagster.environment import ALERT_URLS, ALERT_WEBHOOK, Environment, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    import apprise

NOT_SET = f"{ALERT_WEBHOOK} and {ALERT_URLS} are not set"
_ATTEMPTS = 3
_ESCAPE = re.compile(r"\\(?=[^A-Za-z0-9\s])")
"""Of Markdown, which a subject is not."""
_UNKNOWN = "Apprise knows no such address. Is it complete, and percent-encoded?"
_SCHEME = re.compile(r"[A-Za-z0-9]{1,20}(?=://)")


class AlertError(Exception):
    """A receiver did not take the message. The text says why, without the URL, which is a secret."""


@dataclass(frozen=True)
class Delivery:
    """What has become of a message.

    Attributes:
        taken: How many receivers have it.
        problems: Why others have not, a sentence each, without a URL.
    """

    taken: int = 0
    problems: tuple[str, ...] = ()

    @property
    def has_receivers(self) -> bool:
        """Whether the settings name any."""
        return bool(self.taken or self.problems)

    def raise_if_lost(self) -> None:
        """Raise an `AlertError` where nobody has the message."""
        if self.problems and not self.taken:
            raise AlertError("; ".join(self.problems))


def deliver(message: str) -> Delivery:
    """Send a message in Markdown to every receiver that the settings name. It raises where they cannot be read."""
    environment = Environment.read()
    webhook = environment.text(ALERT_WEBHOOK)
    urls = (environment.text(ALERT_URLS) or "").split()
    # All at once: who sends the message must not wait for one receiver after the other.
    works: list[Callable[[], str | None]] = [partial(_notify, url, message) for url in urls]
    if webhook is not None:
        works.append(partial(_post, webhook, message))
    whys = all_in_time(works)
    problems = [
        f"address {number} of {len(urls)} in {ALERT_URLS}{_scheme(url)}: {why}"
        for number, (url, why) in enumerate(zip(urls, whys, strict=False), start=1)
        if why is not None
    ]
    if webhook is not None and whys[-1] is not None:
        problems.insert(0, f"the webhook of {ALERT_WEBHOOK} did not take the message: {whys[-1]}")
    return Delivery(len(works) - len(problems), tuple(problems))


def check_receivers() -> None:
    """Raise a `SettingsError` where the settings name a receiver that no message can be sent to. It sends nothing."""
    environment = Environment.read()
    if (webhook := environment.text(ALERT_WEBHOOK)) is not None:
        check_url(webhook, ALERT_WEBHOOK)
    urls = (environment.text(ALERT_URLS) or "").split()
    for number, url in enumerate(urls, start=1):
        if _receiver(url) is None:
            raise SettingsError(f"{ALERT_URLS}, address {number} of {len(urls)}{_scheme(url)}: {_UNKNOWN}")


def post_alert(url: str, message: str) -> None:
    """Post a message to an incoming webhook, as Slack and Mattermost understand it: ``{"text": …}``.

    A webhook that does not take it at the third attempt, or in time, raises AlertError.
    """
    why = _post(url, message)
    if why is not None:
        raise AlertError(f"the webhook of {ALERT_WEBHOOK} did not take the message: {why}")


def _post(url: str, message: str) -> str | None:
    body = json.dumps({"text": message}).encode()
    try:
        return post(url, ALERT_WEBHOOK, body, "application/json", attempts=_ATTEMPTS)
    except SettingsError as error:
        return str(error)


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return f" ({found[0].lower()}://)" if found else ""


def _notify(url: str, message: str) -> str | None:
    """Send a message by Apprise. Returns why it was not taken; None: it was."""
    receiver = _receiver(url)
    if receiver is None:
        return _UNKNOWN
    title = _ESCAPE.sub("", message.partition("\n")[0])
    for attempt in range(1, _ATTEMPTS + 1):
        if receiver.notify(body=message, title=title, body_format="markdown"):
            return None
        if attempt < _ATTEMPTS:
            pause()
    return "it did not take the message, or cannot be reached. `apprise -vv -b test URL` shows why"


def _receiver(url: str) -> apprise.Apprise | None:
    """Return the receiver of an address; None: Apprise knows none."""
    import apprise  # noqa: PLC0415  (a hundred services, which nothing else needs)

    # Its own messages may quote what a server answers.
    logging.getLogger("apprise").disabled = True
    # A redirected POST becomes a GET without the message, whose answer would be called delivered.
    asset = apprise.AppriseAsset(app_id="mastosync", http_redirects=False, secure_logging=True)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return None
    receiver = apprise.Apprise(asset=asset)
    receiver.add(service)
    return receiver
