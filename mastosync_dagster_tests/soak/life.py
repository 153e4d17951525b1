"""An instance that lives by the real clock, between proxies that misbehave, and a destination that forgets."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.faults.scenarios import MIXED
from mastosync_dagster_tests.support.corners import create_bucket, create_database, environment_of
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.proxy import Kind, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.proxy import Proxy

_ROWS = 660
_PICTURES, _PEOPLE = 40, 4
"""What comes in a minute."""
_MINUTES_KEPT = 15
"""Then as much goes as comes: the instance stays as large as it is."""
_LOST = 30
"""Objects that the destination loses before a backfill."""


@dataclass
class SoakedLife:
    """The instance, its destination and what stands before both.

    Attributes:
        settings: What an admin would write down about them.
        put: Requests so far that wrote an object to the destination.
    """

    living: LivingInstance
    destination: Bucket
    proxies: tuple[Proxy, Proxy]
    settings: dict[str, str]
    put: int = 0
    _dice: random.Random = field(default_factory=lambda: random.Random(5))
    _pictures: list[int] = field(default_factory=list)
    _people: list[int] = field(default_factory=list)
    _first_accounts: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many requests have been answered wrongly so far."""
        return sum(proxy.injected for proxy in self.proxies)

    def minute(self) -> None:
        """Let people do what they do in a minute."""
        self._people += [self.living.sign_up() for _ in range(_PEOPLE)]
        self._pictures += [self.living.post_picture() for _ in range(_PICTURES)]
        self.living.change_avatar(self._dice.choice(self._people))
        for ids, kept, delete in (
            (self._pictures, _MINUTES_KEPT * _PICTURES, self.living.delete_post),
            (self._people, _MINUTES_KEPT * _PEOPLE, self.living.delete_account),
        ):
            while len(ids) > kept:
                delete(ids.pop(self._dice.randrange(len(ids))))
        # What proxies remember of requests is the test's own.
        self.put += self.proxies[1].count(Kind.PUT)
        for proxy in self.proxies:
            proxy.forget()

    def misbehave(self) -> None:
        """Let both storages do what networks and providers do, from now on; what happens seldom begins anew."""
        for proxy, rules in zip(self.proxies, (MIXED.source, MIXED.destination), strict=True):
            proxy.set_rules(*rules)

    def behave(self) -> None:
        """Let both storages work."""
        for proxy in self.proxies:
            proxy.set_rules()

    def lose_accounts(self) -> None:
        """Let the destination lose objects of the accounts that were there at the beginning."""
        for key in self._dice.sample(self._first_accounts, _LOST):
            self.destination.client.delete_object(Bucket=self.destination.name, Key=key)

    def differences(self) -> list[str]:
        """Compare the destination with what the rows say."""
        return self.living.differences(self.destination)


@contextlib.contextmanager
def soaked_life(
    postgres: PostgresServer, source_server: S3Server, destination_server: S3Server, home: Path
) -> Iterator[SoakedLife]:
    """Generate an instance, and let it live until the block ends; both storages work at first."""
    database, source, destination = (
        create_database(postgres),
        create_bucket(source_server),
        create_bucket(destination_server),
    )
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, source_server, source.name, cases=ALL_CASES, rows=_ROWS)
    living = LivingInstance.of(database, source, instance.objects_of(*FileType))
    with s3_proxy(source_server.endpoint, seed=1) as before, s3_proxy(destination_server.endpoint, seed=1) as behind:
        settings = environment_of(database, source, destination, before.endpoint, behind.endpoint, home)
        del settings["DAGSTER_HOME"]
        # rclone's server keeps no ACLs, and nobody reads it without a signature.
        settings |= {"DESTINATION_S3_PERMISSION": "", "MASTOSYNC_COPY_PRIVATE": "true"}
        settings |= {"MASTOSYNC_ROWS_PER_PARTITION": "500", "MASTOSYNC_NIGHTLY_CRON": "* * * * *"}
        accounts = sorted(each.key for each in instance.objects_of(FileType.ACCOUNTS))
        yield SoakedLife(living, destination, (before, behind), settings, _first_accounts=accounts)
