"""The machine: days, nights and accidents in any order, each step beside the model (`truth`)."""

from __future__ import annotations

import functools
import signal
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mastosync_dagster.plan.decisions import WRITING
from mastosync_dagster.ranges.partitions import FileType, register_ranges
from mastosync_dagster.records.findings import Finding, read_findings
from mastosync_dagster_tests.model.run_process import BEFORE_READING, LABELS
from mastosync_dagster_tests.model.truth import ACCOUNTS, MEDIA, File, Mistake, Truth
from mastosync_dagster_tests.model.world import Faults
from mastosync_dagster_tests.support.living import md5
from mastosync_dagster_tests.support.web import PNG

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from mastosync_dagster_tests.model.world import Runs, StillInstance, World

FILE_TYPES = [ACCOUNTS, MEDIA]
BEGIN_ACCOUNTS, BEGIN_PICTURES = 3, 9
FAULTS = {
    "no PUT": Faults(frozenset({"PUT"}), status="403 Forbidden", code="AccessDenied"),
    "no ACL": Faults(frozenset({"PUT"}), acls=True, status="403 Forbidden", code="AccessDenied"),
    "some PUTs": Faults(frozenset({"PUT"}), each=3),
    "no ACLs to read": Faults(frozenset({"GET"}), acls=True, status="403 Forbidden", code="AccessDenied"),
}
_DIFFERENT = {Finding.ABSENT, Finding.SIZE_DIFFERS, Finding.CONTENT_DIFFERS}
_ONE_BY_ONE = {"concurrency": 1, "max_attempts": 1}
_PICK = st.integers(0, 2**16)
_LABELS = st.sampled_from(LABELS)


def _row_of(key: str) -> tuple[str, int]:
    """Return table and row id of an object's key."""
    parts = key.removeprefix("cache/").split("/")
    return parts[0], int("".join(part for part in parts[2:-2] if part.isdecimal()))


def step(**draws: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a rule. A life begins with its first: Hypothesis makes some lives without any."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(self: Lives, **drawn: object) -> None:
            self.begin()
            function(self, **drawn)

        make_rule: Any = rule  # its overloads know no rule whose arguments come from elsewhere
        return make_rule(**draws)(run)  # type: ignore[no-any-return]  # a rule, as Hypothesis' types do not say

    return decorate


class Lives(RuleBasedStateMachine):
    """A life of an instance and its copy.

    Attributes:
        world: Its servers.
        mistake: How its model is wrong on purpose.
        lives: Gets the events of each life that has ended.
    """

    world: ClassVar[World]
    mistake: ClassVar[Mistake | None] = None
    lives: ClassVar[list[list[str]]]

    # --- the beginning -------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.truth, self.events = Truth(self.mistake), list[str]()
        self.bodies: dict[str, bytes] = {}
        self.backups: list[tuple[dict[str, str], Truth]] = []
        self.raw: list[int] = []
        self.accounts: list[int] = []
        self.ranges: list[tuple[str, str]] = []

    def begin(self) -> None:
        """Fill the instance and copy its ranges, once."""
        if self.ranges:
            return
        self.living: StillInstance = self.world.begin_life()
        self.living.put, self.living.remove = self._put, self._remove  # type: ignore[method-assign]  # it tells the model
        self.accounts = [self.living.sign_up() for _ in range(BEGIN_ACCOUNTS)]
        for number in range(BEGIN_PICTURES):
            self._post(number)
        self.living.pass_time(timedelta(hours=1))
        self._register()
        for table, partition in self.ranges:
            self._sync_range(table, partition)

    def teardown(self) -> None:
        if self.ranges:
            if self.truth.away is not None:
                self.world.beside.go_on(signal.SIGKILL)
            self.world.end_life()
            self.lives.append(self.events)

    def _tell(self, what: str) -> None:
        self.events.append(what)
        self.world.steps[what.partition(":")[0]] += 1

    def _put(self, key: str) -> int:
        body = self.living._random.randbytes(self.living._random.randrange(20, 2000))
        self._write(key, body)
        return len(body)

    def _write(self, key: str, body: bytes, *, remote: bool = False) -> None:
        content = md5(body)
        self.bodies[content] = body
        bucket = self.living.source
        acl: dict[str, Any] = {"ACL": "public-read"} if self.truth.switched else {}
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body, **acl)
        self.truth.write(key, File(*_row_of(key), content, remote))

    def _remove(self, key: str) -> None:
        self.living.source.client.delete_object(Bucket=self.living.source.name, Key=key)
        self.truth.delete(key)

    def _keys_of(self, table: str, row: int) -> list[str]:
        return self.truth.keys(lambda key: self.truth.files[key][:2] == (table, row))

    def _change(self, storage: str, key: str, body: bytes | None) -> None:
        """Change an object without Mastodon."""
        bucket = self.world.source if storage == "source" else self.world.destination
        if body is None:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
            return
        self.bodies[md5(body)] = body
        acl = {} if storage == "source" else {"ACL": "private" if self.truth.is_private(key) else "public-read"}
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body, **acl)  # type: ignore[arg-type]  # two words

    def _set_acl(self, key: str, acl: str) -> None:
        bucket = self.world.destination
        bucket.client.put_object_acl(Bucket=bucket.name, Key=key, ACL=acl)  # type: ignore[arg-type]  # two words

    def _media_rows(self) -> list[int]:
        return sorted({file.row for file in self.truth.files.values() if file.table == MEDIA})

    # --- people --------------------------------------------------------------------------------------------------

    def _post(self, pick: int) -> int:
        self.living.pass_time(timedelta(minutes=1))
        row, account = self.living.post_picture(), self.accounts[pick % len(self.accounts)]
        self._own(row, account)
        return row

    def _own(self, row: int, account: int) -> None:
        self.living.update(MEDIA, row, account_id=account)
        self.truth.owners[row] = account

    @step(pick=_PICK)
    def post(self, pick: int) -> None:
        self._tell("post")
        self._post(pick)

    @step(pick=_PICK, minutes=st.integers(1, 9))
    def late_row(self, pick: int, minutes: int) -> None:
        """A row that is committed minutes after the time that stands in it."""
        self._tell("late row")
        row = self._post(pick)
        late = (self.living.now - timedelta(minutes=minutes)).replace(tzinfo=None)
        self.living.update(MEDIA, row, created_at=late, updated_at=late, file_updated_at=late)

    @step(pick=_PICK)
    def remote_post(self, pick: int) -> None:
        """A post of another server, whose picture that server keeps."""
        self._tell("remote post")
        self.living.pass_time(timedelta(minutes=1))
        row = self.living.next_id(MEDIA)
        folder = self.living.key(MEDIA, "file", row, "original", "")
        original = f"cache/{folder}{row}.png"
        self._write(original, PNG, remote=True)
        self._put(original.replace("/original/", "/small/"))
        now = self.living.now.replace(tzinfo=None)
        values = {
            "remote_url": self.world.web.url("/good.png"),
            "file_file_name": f"{row}.png",
            "file_content_type": "image/png",
            "file_updated_at": now,
            "file_file_size": len(PNG),
            "file_storage_schema_version": 1,
            "processing": 2,
        }
        self.living.insert(MEDIA, row, values)
        self._own(row, self.accounts[pick % len(self.accounts)])

    @step(pick=_PICK)
    def sign_up(self, pick: int) -> None:
        """An account, or another avatar of one."""
        self.living.pass_time(timedelta(minutes=1))
        if pick % 3 == 0 and not self._known_only():
            self._tell("sign up")
            self.accounts.append(self.living.sign_up())
            return
        self._tell("another avatar")
        self.living.change_avatar(self.accounts[pick % len(self.accounts)])

    def _known_only(self) -> bool:
        return len(self.accounts) > 2 * BEGIN_ACCOUNTS

    @step(pick=_PICK)
    def suspend(self, pick: int) -> None:
        account = self.accounts[pick % len(self.accounts)]
        back = account in self.truth.suspended
        self._tell("unsuspend" if back else "suspend")
        self.living.pass_time(timedelta(minutes=1))
        self.living.update(ACCOUNTS, account, suspended_at=None if back else self.living.now.replace(tzinfo=None))
        (self.truth.suspended.discard if back else self.truth.suspended.add)(account)
        if self.truth.switched:  # Mastodon sets the ACLs in its own bucket
            for key in self.truth.keys(lambda key: self.truth.owners.get(self.truth.files[key].row) == account):
                if key in self.world.see():
                    self._set_acl(key, "public-read" if back else "private")

    @precondition(lambda self: len(self._media_rows()) > BEGIN_PICTURES // 2)
    @step(pick=_PICK)
    def delete_post(self, pick: int) -> None:
        self._tell("delete post")
        rows = self._media_rows()
        row = rows[pick % len(rows)]
        self.living.execute(f"DELETE FROM media_attachments WHERE id = {row}")  # noqa: S608  (a number)
        for key in self._keys_of(MEDIA, row):
            self._remove(key)
        self.raw = [each for each in self.raw if each != row]

    @step(pick=_PICK)
    def upload_video(self, pick: int) -> None:
        """A video that Mastodon will convert under the same key."""
        self._tell("upload video")
        self.living.pass_time(timedelta(minutes=1))
        row = self.living.upload_raw("mp4", "video/mp4")
        self._own(row, self.accounts[pick % len(self.accounts)])
        self.raw.append(row)

    @precondition(lambda self: self._convertible())
    @step(pick=_PICK)
    def convert_video(self, pick: int) -> None:
        self._tell("convert video")
        self.living.pass_time(timedelta(minutes=2))
        rows = self._convertible()
        row = rows[pick % len(rows)]
        self.raw.remove(row)
        self.living.convert_in_place(row)

    def _convertible(self) -> list[int]:
        """Return videos whose raw file Mastodon still has, and nobody has damaged."""
        return [
            row
            for row in self.raw
            if not any(key in self.truth.unnoticed or key in self.truth.lost for key in self._keys_of(MEDIA, row))
        ]

    @step(hours=st.integers(1, 60))
    def pass_time(self, hours: int) -> None:
        self._tell("time passes")
        self.living.pass_time(timedelta(hours=hours))

    # --- accidents -----------------------------------------------------------------------------------------------

    def _pick(self, pick: int, wanted: Callable[[str], bool]) -> str | None:
        keys = self.truth.keys(wanted)
        return keys[pick % len(keys)] if keys else None

    @precondition(lambda self: any(map(self.truth.losable, self.truth.files)))
    @step(pick=_PICK, only_remote=st.booleans())
    def source_loses(self, pick: int, *, only_remote: bool) -> None:
        files = self.truth.files
        remote = self._pick(pick, lambda key: files[key].remote and self.truth.losable(key)) if only_remote else None
        key = remote or self._pick(pick, self.truth.losable)
        assert key is not None
        self._tell(f"the source loses: {key}")
        self._change("source", key, None)
        self.truth.lose_at_source(key)

    @precondition(lambda self: any(key in self.truth.files for key in self.truth.lost))
    @step(pick=_PICK)
    def source_has_it_again(self, pick: int) -> None:
        key = self._pick(pick, lambda key: key in self.truth.lost)
        assert key is not None
        self._tell(f"the source has again: {key}")
        self._change("source", key, self.bodies[self.truth.lost[key]])
        self.truth.come_back(key)

    def _rotten(self, key: str, *, cut: bool) -> bytes:
        (content,) = {self.truth.source[key]}
        body = self.bodies[content]
        return body[: len(body) // 2] if cut else bytes([body[0] ^ 1]) + body[1:]

    @precondition(lambda self: any(map(self.truth.is_settled, self.truth.files)))
    @step(pick=_PICK, cut=st.booleans())
    def source_rots(self, pick: int, *, cut: bool) -> None:
        key = self._pick(pick, self._is_whole)
        if key is None:
            return
        self._tell(f"the source rots: {key}")
        body = self._rotten(key, cut=cut)
        self._change("source", key, body)
        self.truth.rot_at_source(key, md5(body))

    def _is_whole(self, key: str) -> bool:
        """Tell whether both storages have an object as Mastodon has written it."""
        return self.truth.is_settled(key) and self.truth.source.get(key) == self.truth.files[key].content

    @precondition(lambda self: any(map(self._is_whole, self.truth.files)))
    @step(pick=_PICK, how=st.sampled_from(["lost", "cut", "flipped"]))
    def destination_loses(self, pick: int, how: str) -> None:
        key = self._pick(pick, self._is_whole)
        assert key is not None
        self._tell(f"the destination loses ({how}): {key}")
        if how == "lost":
            self._change("destination", key, None)
            self.truth.lose_there(key)
        else:
            body = self._rotten(key, cut=how == "cut")
            self._change("destination", key, body)
            self.truth.damage_there(key, md5(body))
            if self.truth.files[key].row in self.raw:
                # For so long it may be what Mastodon has made of the video there.
                self.living.pass_time(WRITING)

    @precondition(lambda self: any(map(self._is_whole, self.truth.files)))
    @step(pick=_PICK)
    def somebody_sets_an_acl(self, pick: int) -> None:
        """A private object is made public by hand, or the other way round."""
        key = self._pick(pick, self._is_whole)
        assert key is not None
        private = self.truth.is_private(key)
        self._tell(f"somebody {'shows' if private else 'hides'}: {key}")
        self._set_acl(key, "public-read" if private else "private")
        if not private:
            self.truth.hidden.add(key)

    @rule()
    def back_up(self) -> None:
        if not self.ranges:
            return  # the first life that Hypothesis makes is the first rule again and again
        self._tell("backup")
        self.backups = [*self.backups[-2:], (self.world.dump(), self.truth.backup())]

    @precondition(lambda self: self.backups and not self.truth.switched)
    @step(pick=_PICK, files_too=st.booleans())
    def restore(self, pick: int, *, files_too: bool) -> None:
        """The database is restored from a backup; the files that its rows have and that are gone may be, too."""
        rows, old = self.backups[pick % len(self.backups)]
        self._tell("restore")
        self.living.pass_time(timedelta(hours=1))
        self.world.restore(rows)
        self.accounts = sorted({file.row for file in old.files.values() if file.table == ACCOUNTS})
        for key in self.truth.restore(old):
            if files_too and key not in self.truth.source:
                content = self.truth.files[key].content
                self._change("source", key, self.bodies[content])
                self.truth._put(key, content)
        self.raw = []

    # --- runs ----------------------------------------------------------------------------------------------------

    def _run(self, job: str, *, runs: Runs | None = None, **wanted: Any) -> bool | str | None:
        self.living.pass_time(timedelta(minutes=10))
        world = self.world
        return (runs or world.runs).start(variables=world.environment, clock=str(world.clock.file), job=job, **wanted)

    def _sync(self, *, since_last: bool = True, refetch: bool = False, **wanted: Any) -> bool | str | None:
        plan = {"file_types": FILE_TYPES, "wait_seconds": 0, "listers": 1}
        if since_last:
            plan["changed_since"] = "last"
        config = {"plan_changes": {"config": plan}, "copy": {"config": {**_ONE_BY_ONE, "refetch": refetch}}}
        return self._run("sync_changes", config={"ops": config}, **wanted)

    def _check(self, *, access: bool) -> None:
        found = self.world.see(self.truth.files if access else ())
        wrong = self.truth.wrong_contents(found)
        if access:
            wrong |= self.truth.wrong_access(found)
        assert not wrong, (wrong, self.events, self._logs())
        if access:
            self.truth.settle(found)

    def _logs(self) -> str:
        return self.world.runs.log.read_text()[-3000:] + self.world.beside.log.read_text()[-2000:]

    def _is_good(self, success: bool | str | None) -> None:  # noqa: FBT001  (an answer)
        """After a night that came to its end: compare everything."""
        assert success is True, (success, self.events, self._logs())
        self.truth.good(list(self.truth.files), every_row=False, night=True)
        self._check(access=True)

    def _has_ended(self, success: bool | str | None) -> None:  # noqa: FBT001  (an answer)
        """After a night that was to be killed: nothing must be lost, and if it came to its end, it was a good one."""
        if success is None:
            self._check(access=False)
        else:
            self._is_good(success)

    @step()
    def night(self) -> None:
        self._tell("good night")
        self.living.pass_time(timedelta(hours=12))
        self.truth.may_write()
        self._is_good(self._sync())

    @step(label=_LABELS, number=st.integers(1, 3))
    def killed_night(self, label: str, number: int) -> None:
        self.living.pass_time(timedelta(hours=12))
        self.truth.may_write()
        success = self._sync(stop=(label, number, signal.SIGKILL))
        self._tell(f"{'night that was not killed' if success else 'night killed'}: {label} {number}")
        self._has_ended(success)

    @step(label=_LABELS, number=st.integers(1, 3))
    def terminated_night(self, label: str, number: int) -> None:
        self.truth.may_write()
        success = self._sync(stop=(label, number, signal.SIGTERM))
        self._tell(f"{'night that was not terminated' if success else 'night terminated'}: {label} {number}")
        if success:
            self._is_good(success)
        self._check(access=False)

    @step(fault=st.sampled_from(sorted(FAULTS)))
    def bad_night(self, fault: str) -> None:
        self.living.pass_time(timedelta(hours=12))
        self.truth.may_write()
        faults, kind = self.world.faults, FAULTS[fault]
        for name in ("methods", "acls", "each", "status", "code"):
            setattr(faults, name, getattr(kind, name))
        success = self._sync()
        faults.methods = frozenset()
        self._tell(f"bad night: {fault}{', and all was well' if success else ''}")
        if success:
            self._is_good(success)
        self._check(access=False)

    @precondition(lambda self: self.truth.away is None)
    @step(label=_LABELS, number=st.integers(1, 2), pick=_PICK, of_a_range=st.booleans())
    def pause_a_run(self, label: str, number: int, pick: int, *, of_a_range: bool) -> None:
        """Hold up a run beside which others go on."""
        stop: dict[str, Any] = {"stop": (label, number, signal.SIGSTOP), "runs": self.world.beside}
        self.truth.may_write()
        if of_a_range:
            table, partition = self.ranges[pick % len(self.ranges)]
            success = self._run(f"sync_{table}", partition=partition, config=self._range_config(table), **stop)
        else:
            success = self._sync(**stop)
        self._tell(f"{'run held up' if success == 'stopped' else 'run not held up'}: {label} {number} {of_a_range}")
        if success == "stopped":
            self.truth.pause(has_read=label not in BEFORE_READING)
        elif of_a_range:
            self._range_is_good(success, table, partition)
        else:
            self._is_good(success)

    @precondition(lambda self: self.truth.away is not None)
    @step(kill=st.booleans())
    def end_the_pause(self, *, kill: bool) -> None:
        self._tell(f"held up run {'killed' if kill else 'goes on'}")
        self.world.beside.go_on(signal.SIGKILL if kill else signal.SIGCONT)
        self.truth.end_pause()
        self._check(access=False)

    @step(refetch=st.booleans())
    def every_row(self, *, refetch: bool) -> None:
        self._tell("refetch" if refetch else "every row")
        self.truth.may_write()
        success = self._sync(since_last=False, refetch=refetch)
        assert success is True, (success, self.events, self._logs())
        self.truth.good(list(self.truth.files), every_row=True, night=True)
        if refetch:
            self.truth.refetched()
        self._check(access=False)

    # --- ID ranges -----------------------------------------------------------------------------------------------

    def _register(self) -> None:
        self.ranges = []
        with self.world.dagster() as dagster:
            for table in FILE_TYPES:
                file_type = FileType(table)
                register_ranges(dagster, file_type, self.living.connect, rows_per_partition=8)
                keys = dagster.get_dynamic_partitions(file_type.partitions_name)
                self.ranges += [(table, key) for key in keys]

    def _in_range(self, table: str, partition: str) -> list[str]:
        low, high = map(int, partition.split("-"))
        files = self.truth.files
        return self.truth.keys(lambda key: files[key].table == table and low <= files[key].row <= high)

    @staticmethod
    def _range_config(table: str) -> dict[str, object]:
        ops = {"plan": {"config": {"wait_seconds": 0, "listers": 1}}, "copy": {"config": _ONE_BY_ONE}}
        return {"ops": {table: {"ops": ops}}}

    def _sync_range(self, table: str, partition: str) -> None:
        self.truth.may_write()
        success = self._run(f"sync_{table}", partition=partition, config=self._range_config(table))
        self._range_is_good(success, table, partition)

    def _range_is_good(self, success: object, table: str, partition: str) -> None:
        assert success is True, (success, self.events, self._logs())
        self.truth.good(self._in_range(table, partition), every_row=True, night=False)
        self._check(access=False)

    @step(pick=_PICK)
    def sync_range(self, pick: int) -> None:
        """Register new ranges, and run one of all."""
        self._tell("range")
        self._register()
        self._sync_range(*self.ranges[pick % len(self.ranges)])

    @step(pick=_PICK)
    def verify(self, pick: int) -> None:
        """Verify a range with bodies, headers and ACLs; what it finds must be what was done to it; repair it."""
        self._tell("verify")
        table, partition = self.ranges[pick % len(self.ranges)]
        config = {f"{table}_verification": {"config": {"headers": "all", "acls": "all", "full": True}}}
        self._run(f"verify_{table}", partition=partition, config={"ops": config})
        files = (self.world.home / "manifests" / f"verify_{table}" / partition).glob("*.parquet")
        newest = max(files, key=lambda file: file.stat().st_mtime_ns)
        named = defaultdict[str, set[Finding]](set)
        for lines in read_findings(newest):
            for line in lines:
                named[line.key].add(line.finding)
        keys, truth = self._in_range(table, partition), self.truth
        for key in keys:
            if key in truth.unnoticed and key in truth.source and truth.source[key] not in truth.there[key]:
                assert named[key] & _DIFFERENT, (key, named[key], self.events, self._logs())
            elif self._is_whole(key):
                assert not named[key] & _DIFFERENT, (key, named[key], self.events, self._logs())
        self._sync_range(table, partition)
        truth.hidden -= {key for key in keys if self._is_whole(key) and Finding.ACL_DIFFERS in named[key]}

    @step()
    def prune(self) -> None:
        """Delete what no row expects; what one expects must stay."""
        self._tell("prune")
        self._run(
            "prune_every_range", config={"ops": {"prune_all": {"config": {"delete": True, "file_types": FILE_TYPES}}}}
        )
        self._check(access=False)
        found = self.world.see()
        for key in self.truth.there.keys() - self.truth.files.keys():
            self.truth.there[key] = {found[key].content if key in found else None}

    @precondition(lambda self: not self.truth.switched and self.truth.away is None and len(self.events) > 20)
    @step()
    def switch(self) -> None:
        """After a good night, Mastodon writes to the new bucket."""
        self.night()
        self._tell("switch")
        self.truth.switched = True
        self.living.source = self.world.destination
