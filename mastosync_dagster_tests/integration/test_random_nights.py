"""Lives of random nights, most of them bad: whatever happened, one good night, and everything is right.

Runs are processes of their own, so that they can be killed. Days pass by the instance's clock, and nobody sleeps.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.forked_runs import forked_runs
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mastosync_dagster_tests.support.forked_runs import ForkedRuns
    from mastosync_dagster_tests.support.installation import Installation

MEDIA = FileType.MEDIA_ATTACHMENTS
ACCOUNTS, PICTURES = 8, 24
NIGHTS = int(os.environ.get("NIGHTS", "200"))
SEEDS = int(os.environ.get("SEEDS", "10"))
FILE_TYPES = [FileType.ACCOUNTS.value, MEDIA.value]
WRITES = frozenset({Kind.PUT})
ACLS = frozenset({Kind.OTHER})
EVERYTHING = frozenset({Kind.PUT, Kind.OTHER, Kind.LIST, Kind.HEAD})


SETTINGS = {
    "DESTINATION_S3_PERMISSION": "public-read",
    "MASTOSYNC_COPY_PRIVATE": "",
    "MASTOSYNC_RETRY_NIGHTS": "366",
}


@dataclass
class RandomLife:
    """An instance with a few accounts and their pictures, and nights that copy it.

    Attributes:
        world: Its servers.
        living: Its rows and objects.
        dice: Decides.
        nights: Executes nights.
        backfills: Executes runs of ID ranges beside them.
        history: What happened, for whoever reads a failure.
    """

    world: Installation
    living: LivingInstance
    dice: random.Random
    nights: ForkedRuns
    backfills: ForkedRuns
    history: list[str] = field(default_factory=list)
    accounts: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)

    # --- the day -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Fill the instance, and copy its ranges."""
        for _ in range(ACCOUNTS):
            self.accounts.append(self.living.sign_up())
        for _ in range(PICTURES):
            self.post()
        self.world.register(FileType.ACCOUNTS, MEDIA)
        for file_type in (FileType.ACCOUNTS, MEDIA):
            for key in self.world.dagster.get_dynamic_partitions(file_type.partitions_name):
                self.start(self.backfills, f"sync_{file_type.value}", partition=key)
                assert self.backfills.end()

    def start(self, runs: ForkedRuns, job: str, **wanted: object) -> int:
        """Begin a run on a machine whose clock is the instance's; return its process id."""
        variables = {**self.world.environment, **SETTINGS}
        return runs.start(variables, ahead=self.living.ahead.total_seconds(), job=job, **wanted)

    def post(self) -> None:
        picture = self.living.post_picture()
        self.living.update(MEDIA.value, picture, account_id=self.dice.choice(self.accounts))
        self.pictures.append(picture)

    def suspend(self) -> None:
        self.living.update("accounts", self.dice.choice(self.accounts), suspended_at=self.living.now)

    def unsuspend(self) -> None:
        suspended = self.living.execute("SELECT id FROM accounts WHERE suspended_at IS NOT NULL")
        if suspended:
            self.living.update("accounts", self.dice.choice(sorted(suspended))[0], suspended_at=None)

    def delete_post(self) -> None:
        if len(self.pictures) > PICTURES // 2:
            self.living.delete_post(self.pictures.pop(self.dice.randrange(len(self.pictures))))

    def change_avatar(self) -> None:
        self.living.change_avatar(self.dice.choice(self.accounts))

    def late_row(self) -> None:
        """A row that is committed minutes after the time that stands in it."""
        self.post()
        late = (self.living.now - timedelta(minutes=self.dice.randrange(9))).replace(tzinfo=None)
        self.living.update(MEDIA.value, self.pictures[-1], created_at=late, file_updated_at=late)

    def day(self) -> None:
        events = (self.post, self.suspend, self.unsuspend, self.delete_post, self.change_avatar, self.late_row)
        for _ in range(self.dice.randrange(1, 5)):
            event = self.dice.choice(events)
            self.history.append(event.__name__)
            event()
        self.living.pass_time(timedelta(hours=12))

    # --- the night -----------------------------------------------------------------------------------------------

    def night(self, *rules: Rule, end_it: signal.Signals | None = None) -> bool | None:
        """Run a night while the destination misbehaves; end its process at some request, if that is wanted."""
        proxy = self.world.destination_proxy
        proxy.set_rules(*rules)
        proxy.forget()
        plan = {"config": {"file_types": FILE_TYPES, "changed_since": "last"}}
        config = {"ops": {"plan_changes": plan, "copy": {"config": {"max_attempts": 2}}}}
        pid = self.start(self.nights, "sync_changes", config=config)
        if end_it is not None:
            self._wait_for_requests(pid, self.dice.randrange(1, 60))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, end_it)
        success = self.nights.end()
        proxy.set_rules()
        return success

    def _wait_for_requests(self, pid: int, number: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.world.destination_proxy.requests) < number and time.monotonic() < deadline:
            if not Path(f"/proc/{pid}/stat").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
                return
            time.sleep(0.002)

    def beside_a_range(self) -> None:
        """A run of an ID range is planned; accounts are suspended or come back; a night; the range goes on, or dies."""
        key = self.world.dagster.get_dynamic_partitions(MEDIA.partitions_name)[0]
        proxy = self.world.destination_proxy
        proxy.set_rules(Rule(Delay(1), kinds=frozenset({Kind.LIST, *ACLS}), key=r"."))
        proxy.forget()
        pid = self.start(self.backfills, f"sync_{MEDIA.value}", partition=key)
        self._wait_for_requests(pid, self.dice.randrange(1, 4))
        self.dice.choice((self.suspend, self.unsuspend))()
        self.night()
        if self.dice.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.backfills.end()

    def bad_night(self) -> None:
        bad: Sequence[tuple[str, Callable[[], object]]] = (
            ("killed", lambda: self.night(end_it=signal.SIGKILL)),
            ("terminated", lambda: self.night(end_it=signal.SIGTERM)),
            ("503", lambda: self.night(Rule(Answer(503, "SlowDown"), kinds=EVERYTHING, probability=0.4))),
            ("writes refused", lambda: self.night(Rule(Answer(403, "AccessDenied"), kinds=WRITES))),
            ("no right to set ACLs", lambda: self.night(Rule(Answer(403, "AccessDenied"), kinds=ACLS, method="PUT"))),
            ("expired keys", lambda: self.night(Rule(Answer(403, "InvalidAccessKeyId"), kinds=EVERYTHING, skip=5))),
            ("beside a range", self.beside_a_range),
            ("good", self.night),
        )
        name, night = self.dice.choice(bad)
        self.history.append(f"-- {name}")
        night()

    # --- the morning ---------------------------------------------------------------------------------------------

    def wrong(self) -> dict[str, str]:
        """Return what is not as it must be: bytes, and who may read them."""
        client, bucket = self.world.destination.client, self.world.destination.name
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        found = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}
        private = {
            row_id
            for (row_id,) in self.living.execute(
                "SELECT m.id FROM media_attachments m JOIN accounts a ON a.id = m.account_id"
                " WHERE a.suspended_at IS NOT NULL"
            )
        }
        hidden = tuple(
            folder.rsplit("/", 2)[0]
            for row_id in private
            for folder in [self.living.key(MEDIA.value, "file", row_id, "original", "name")]
        )
        wrong = {}
        for key, digest in self.living.expected.items():
            expected = 403 if key.startswith(hidden or "-") else 200
            if found.get(key) != digest:
                wrong[key] = "absent" if key not in found else "another"
            elif (status := anonymous_status(self.world.destination.server, bucket, key)) != expected:
                wrong[key] = f"{status} instead of {expected}"
        return wrong


@pytest.fixture
def empty(world_with_acls: Installation) -> Installation:
    """The servers, without the generated instance's rows."""
    world = world_with_acls
    living = LivingInstance.of(world.database, world.source, [])
    for table in ("media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"):
        living.execute(f'DELETE FROM "{table}"')  # noqa: S608  (the names above)
    return world


def live(world: Installation, seed: int, nights: int, folder: Path) -> tuple[dict[str, str], Counter[str]]:
    """Live through days and nights, and one good night; return what is wrong then, and which nights there were."""
    living = LivingInstance(world.database, world.source, {}, Counter())
    with forked_runs(folder / "nights.log") as by_night, forked_runs(folder / "ranges.log") as beside:
        life = RandomLife(world, living, random.Random(seed), by_night, beside)
        world.destination_proxy.clock = lambda: living.now
        life.begin()
        for _ in range(nights):
            life.day()
            life.bad_night()
        life.day()
        success = life.night()
        wrong = life.wrong()
    assert success, (folder / "nights.log").read_text()[-3000:]
    kinds = Counter(event for event in life.history if event.startswith("--"))
    assert not wrong, (wrong, life.history)
    return wrong, kinds


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
def test_after_a_dozen_random_nights_one_good_night_makes_everything_right(
    empty: Installation, seed: int, tmp_path: Path
) -> None:
    _, kinds = live(empty, seed, 12, tmp_path)
    assert len(kinds) > 3


@pytest.mark.nights
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(100, 100 + SEEDS))
def test_after_a_life_of_random_nights_one_good_night_makes_everything_right(
    empty: Installation, seed: int, tmp_path: Path, report: Callable[[object], None]
) -> None:
    started = time.monotonic()
    wrong, kinds = live(empty, seed, NIGHTS, tmp_path)
    counts = ", ".join(f"{count} {name[3:]}" for name, count in kinds.most_common())
    seconds = time.monotonic() - started
    report(f"NIGHTS seed {seed}: {kinds.total()} nights in {seconds:.0f} s: {counts}; {len(wrong)} wrong")
