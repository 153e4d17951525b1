"""A Mastodon that people use while it is moved: it writes to the bucket of its ``.env.production``, with ACLs."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster_tests.support.living import LivingInstance, md5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster_tests.support.corners import Bucket

_HURRY, _AT_EASE = 0.1, 1.0
"""Seconds between two things that people do: while a test waits for them, and else. A slow machine must not fill up."""
_MEDIA_OF = "SELECT id FROM media_attachments WHERE account_id = %(account)s"


@dataclass
class Mastodon(LivingInstance):
    """An instance in which somebody does something all the time.

    Attributes:
        private: Keys that not everybody may read, from before they are made so.
        hidden: Those of them that have been made so.
        running: The units that run.
        buckets: What ``S3_BUCKET`` may name.
    """

    private: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    done: int = 0
    pause: float = _AT_EASE
    _next_bucket: Bucket | None = None
    _queue: list[int] = field(default_factory=list)
    _busy: threading.Lock = field(default_factory=threading.Lock)

    # --- the machine -------------------------------------------------------------------------------------------

    def stop(self, service: str) -> None:
        """Stop a unit; what it is doing ends first."""
        self.running.discard(service)
        with self._busy:
            pass

    def start(self, service: str) -> None:
        """Start a unit; it reads the environment anew."""
        if self._next_bucket is not None:
            self.source = self._next_bucket
        self.running.add(service)

    def configure(self, lines: str) -> None:
        """Take over lines of ``.env.production``, for the next start."""
        values = dict(line.split("=", 1) for line in lines.splitlines() if "=" in line and not line.startswith("#"))
        self._next_bucket = self.buckets[values["S3_BUCKET"]]
        assert values["S3_PERMISSION"] == "public-read"
        assert values["S3_ALIAS_HOST"] == "files.example.com"
        assert values["AWS_SECRET_ACCESS_KEY"] == ""

    def query(self, statement: str) -> str:
        """Ask the database as psql does with -At."""
        ((value,),) = self.execute(statement)
        return str(value)

    # --- its objects -------------------------------------------------------------------------------------------

    def put(self, key: str) -> int:
        """Write an object that everybody may read."""
        body = self._random.randbytes(self._random.randrange(20, 2000))
        self.source.client.put_object(
            Bucket=self.source.name,
            Key=key,
            Body=body,
            ACL="public-read",
            ContentType="image/png",
            CacheControl="public, max-age=315576000, immutable",
        )
        self.expected[key] = md5(body)
        self.written[key] += 1
        return len(body)

    def remove(self, key: str) -> None:
        """Delete an object, which no row expects any more."""
        self.expected.pop(key)
        self.source.client.delete_object(Bucket=self.source.name, Key=key)

    def suspend(self, account: int) -> None:
        """Suspend an account: its row, then the ACL of each of its media's objects, as far as they are there."""
        rows = [row_id for (row_id,) in self.execute(_MEDIA_OF, {"account": account})]
        folders = [self.key("media_attachments", "file", row_id, "", "").rstrip("/") for row_id in rows]
        keys = {key for key in self.expected for folder in folders if key.startswith(folder)}
        self.private |= keys
        self.update("accounts", account, suspended_at=self.now.replace(tzinfo=None))
        for key in keys:
            with contextlib.suppress(self.source.client.exceptions.ClientError):
                self.source.client.put_object_acl(Bucket=self.source.name, Key=key, ACL="private")

    # --- its life ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Let people use it until the block ends."""
        self.running |= {"mastodon-web", "mastodon-sidekiq"}
        end = threading.Event()
        workers = [threading.Thread(target=self._work, args=(end, work)) for work in (self._web, self._sidekiq)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            end.set()
            for worker in workers:
                worker.join()
        if self.errors:
            raise self.errors[0]

    def _work(self, end: threading.Event, work: Callable[[random.Random], None]) -> None:
        dice = random.Random(3)
        try:
            while not end.wait(self.pause):
                work(dice)
        except BaseException as error:  # noqa: BLE001  (the test raises it)
            self.errors.append(error)

    def _web(self, dice: random.Random) -> None:
        with self._busy:
            if "mastodon-web" not in self.running:
                return
            self.done += 1
            account, picture = self.sign_up(), self.post_picture()
            self.update("media_attachments", picture, account_id=account)
            match dice.randrange(6):
                case 0:
                    self.change_avatar(account)
                case 1:
                    self.delete_post(picture)
                case 2:
                    self.suspend(account)
                case 3:
                    self._queue.append(self.upload_raw("mp4", "video/mp4"))
                case _:
                    self.add_emoji()

    def _sidekiq(self, _: random.Random) -> None:
        with self._busy:
            if "mastodon-sidekiq" not in self.running or not self._queue:
                return
            row_id = self._queue.pop(0)
            # A worker reads the raw file from the bucket of its own environment: there it must be.
            self.source.client.get_object(Bucket=self.source.name, Key=self.original(row_id))
            self.convert_in_place(row_id)

    def wait(self, count: int) -> None:
        """Wait until people have done some more."""
        until, deadline = self.done + count, time.monotonic() + 60
        self.pause = _HURRY
        while self.done < until:
            assert not self.errors, self.errors
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.pause = _AT_EASE
