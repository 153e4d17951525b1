"""Which storage is right where their bytes differ: after the switch, after rot, after damage, without a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.plan.decisions import Decision
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding, FindingLine, read_findings
from mastosync_dagster.records.manifest import ManifestLine, read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.refetch import remedies
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync import steps
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster.verify.repairs import verification_of
from mastosync_dagster_tests.support.life import MINUTE, Life
from mastosync_dagster_tests.support.living import md5
from mastosync_dagster_tests.support.manifests import newest_of_each
from mastosync_dagster_tests.support.proxy import Kind, Rule, ShortList
from mastosync_dagster_tests.support.reporting import report

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster_tests.support.corners import Bucket

pytestmark = pytest.mark.long

MEDIA = FileType.MEDIA_ATTACHMENTS
KINDS = {"mp4": "video/mp4", "mp3": "audio/mpeg"}


def body_of(bucket: Bucket, key: str) -> bytes:
    return bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def flip(bucket: Bucket, key: str) -> bytes:
    """Change a byte of an object; return what it was."""
    body = body_of(bucket, key)
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=bytes([body[0] ^ 1, *body[1:]]))
    return body


def cut(bucket: Bucket, key: str) -> bytes:
    """Cut an object short; return what it was."""
    body = body_of(bucket, key)
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body[: len(body) // 2])
    return body


def lines(life: Life, run_id: str) -> dict[str, ManifestLine]:
    """Return the manifest of a run over changed rows, by key."""
    file = Path(life.world.environment["DAGSTER_HOME"], "manifests", "sync_changes", "changes", f"{run_id}.parquet")
    return {line.key: line for batch in read_manifest(file) for line in batch}


def sync(life: Life, *, overwrite: bool = False) -> dg.ExecuteInProcessResult:
    """Sync every row of media_attachments. Without manifests ACLs would be set again, which this server has not."""
    config = {"file_types": [MEDIA.value], "overwrite": overwrite, "privacy": "none"}
    return life.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}})


def verify(life: Life, **config: object) -> tuple[bool, dict[str, FindingLine]]:
    """Verify all ranges of media_attachments; return whether all was well, and the findings by key."""
    success = True
    for key in life.world.dagster.get_dynamic_partitions(MEDIA.partitions_name):
        ops = {"ops": {"media_attachments_verification": {"config": config}}}
        success = life.run("verify_media_attachments", key, config=ops).success and success
    store = manifest_store(life.world.dagster, S3Bucket.destination())
    found: dict[str, FindingLine] = {}
    for manifest in newest_of_each(store, verification_of(MEDIA)):
        with store.file(manifest) as path:
            found.update((line.key, line) for batch in read_findings(path) for line in batch)
    return success, found


@pytest.fixture
def copied(life: Life) -> tuple[Life, str]:
    """A life whose media is copied, with the key of a preview among it: nobody knows how long that must be."""
    row_id = life.living.post_picture()
    for key in life.world.register(MEDIA)[MEDIA]:
        assert life.run("sync_media_attachments", key).success
    (preview,) = (key for key in life.living.expected if str(row_id)[:6] in key.replace("/", "") and "/small/" in key)
    return life, preview


@pytest.mark.long(cases=1)
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("size_known", "delays"), [(True, (1, 90)), (False, (30,))])
def test_what_mastodon_converts_at_the_new_storage_is_not_overwritten_with_the_raw_upload(
    life: Life, *, size_known: bool, delays: tuple[int, ...]
) -> None:
    for key in life.world.register(MEDIA)[MEDIA]:
        assert life.run("sync_media_attachments", key).success
    assert life.night().success
    living, before, converted = life.day(), life.world.source, list[str]()
    for minutes in delays:
        raw = [living.upload_raw(extension, kind, size_known=size_known) for extension, kind in KINDS.items()]
        assert life.night().success
        assert life.differences() == []
        # The switch: from now on Mastodon writes to the new storage.
        living.source = life.world.destination
        living.pass_time(minutes * MINUTE)
        converted += [living.convert_in_place(row_id, size_known=size_known) for row_id in raw]
        result = life.night()
        assert result.success
        assert life.differences() == []
        recorded = lines(life, result.run_id)
        assert {recorded[key].outcome for key in converted[-2:]} == {Outcome.PRESENT}
        assert {recorded[key].detail for key in converted[-2:]} == {Decision.WRITTEN_THERE.words}
        # And back again, for the next ones.
        living.source = before
    life.world.register(MEDIA)
    success, found = verify(life)
    assert {found[key].finding for key in converted} == {Finding.DESTINATION_NEWER}
    assert success
    # Whoever runs it once more, or over every row, changes nothing.
    assert sync(life).success
    assert life.differences() == []


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("size_known", [True, False])
def test_a_conversion_at_the_new_storage_that_the_row_does_not_show_yet_stays(life: Life, *, size_known: bool) -> None:
    living = life.living
    row_id = living.upload_raw("mp4", KINDS["mp4"], size_known=size_known)
    key = living.original(row_id)
    assert sync(life).success
    living.source = life.world.destination
    living.update("media_attachments", row_id, processing=1, updated_at=living.now.replace(tzinfo=None))
    living.put(key)
    result = sync(life)
    assert result.success
    assert lines(life, result.run_id)[key].outcome is Outcome.PRESENT
    assert md5(body_of(life.world.destination, key)) == living.expected[key]


@pytest.mark.long(cases=0)
@pytest.mark.timeout(240)
def test_a_plan_from_before_a_conversion_at_the_new_storage_writes_nothing_over_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, old, new = life.living, life.world.source, life.world.destination
    raw = [living.upload_raw(extension, kind) for extension, kind in KINDS.items()]
    *_, newest = life.world.register(MEDIA)[MEDIA]
    keys = list[str]()

    def later(*arguments: Any) -> object:
        """Before this run copies what it has planned, another one copies it; the switch; Mastodon converts it."""
        for row_id in raw:
            key = living.original(row_id)
            new.client.put_object(Bucket=new.name, Key=key, Body=body_of(old, key))
        living.source = new
        living.pass_time(30 * MINUTE)
        keys.extend(living.convert_in_place(row_id, size_known=True) for row_id in raw)
        return copy_planned(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "copy_planned", later)
        assert not life.run("sync_media_attachments", newest).success
    assert [md5(body_of(new, key)) for key in keys] == [living.expected[key] for key in keys]
    # The next plan knows of both: they stay.
    assert life.run("sync_media_attachments", newest).success
    assert [md5(body_of(new, key)) for key in keys] == [living.expected[key] for key in keys]


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("size_known", [True, False])
def test_an_emoji_that_was_given_another_picture_after_the_switch_keeps_it(life: Life, *, size_known: bool) -> None:
    """``tootctl emojis import --overwrite`` keeps the file's name."""
    life.copy_everything()
    assert life.night().success
    living = life.day()
    row_id = living.import_emoji(size_known=size_known)
    living.source = life.world.destination
    living.pass_time(60 * MINUTE)
    living.import_emoji(row_id, size_known=size_known)
    # Where the storages' clocks show no difference nothing tells which is newer, and the night names them.
    life.night()
    assert life.differences() == []


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("size_known", [True, False])
def test_a_listing_that_was_cut_short_writes_nothing_over_a_conversion(life: Life, *, size_known: bool) -> None:
    assert sync(life).success
    living = life.living
    raw = [living.upload_raw(extension, kind, size_known=size_known) for extension, kind in KINDS.items()]
    assert sync(life).success
    living.source = life.world.destination
    living.pass_time(30 * MINUTE)
    keys = [living.convert_in_place(row_id, size_known=size_known) for row_id in raw]
    life.world.destination_proxy.set_rules(Rule(ShortList(1), kinds=frozenset({Kind.LIST})))
    sync(life)
    new = life.world.destination
    assert [md5(body_of(new, key)) for key in keys] == [living.expected[key] for key in keys]


def test_rot_at_the_source_does_not_reach_the_copy_and_is_named(copied: tuple[Life, str]) -> None:
    life, preview = copied
    whole = {preview: flip(life.world.source, preview)}
    original = preview.replace("/small/", "/original/")
    whole[original] = cut(life.world.source, original)
    result = sync(life)
    assert result.success
    for key, body in whole.items():
        assert body_of(life.world.destination, key) == body
        line = lines(life, result.run_id)[key]
        assert (line.outcome, line.detail, line.etag) == (
            Outcome.PRESENT,
            Decision.SOURCE_CHANGED.words,
            md5(body),
        )
    recorded = {each["key"]: each for each in json.loads(report("--format", "json"))["objects"]}
    assert {recorded[key]["what_to_do"] for key in whole} == {remedies.SOURCE_DAMAGED}
    for config in ({}, {"full": True}):
        success, found = verify(life, **config)
        assert {found[key].finding for key in whole} == {Finding.SOURCE_DIFFERS}
        assert success
    # What verify has found does not make a sync of the range do it either.
    for key in life.world.dagster.get_dynamic_partitions(MEDIA.partitions_name):
        ops = {"media_attachments": {"ops": {"plan": {"config": {"privacy": "none"}}}}}
        assert life.run("sync_media_attachments", key, config={"ops": ops}).success
    assert {key: body_of(life.world.destination, key) for key in whole} == whole
    # Somebody who knows better says so.
    assert sync(life, overwrite=True).success
    assert body_of(life.world.destination, preview) == body_of(life.world.source, preview) != whole[preview]


def test_damage_at_the_destination_is_repaired_as_before(copied: tuple[Life, str]) -> None:
    life, preview = copied
    whole = flip(life.world.destination, preview)
    success, found = verify(life)
    assert (success, found[preview].finding) == (False, Finding.CONTENT_DIFFERS)
    assert sync(life).success
    assert body_of(life.world.destination, preview) == whole
    assert verify(life)[0]


@pytest.mark.long(cases=0)
def test_damage_is_repaired_although_the_listing_of_the_source_ends_early(copied: tuple[Life, str]) -> None:
    life, preview = copied
    good = cut(life.world.destination, preview)
    life.world.source_proxy.set_rules(Rule(ShortList(1), kinds=frozenset({Kind.LIST})))
    assert sync(life).success
    assert body_of(life.world.destination, preview) == good


@pytest.mark.long(cases=0)
def test_where_both_storages_have_changed_nothing_is_overwritten_and_both_are_named(copied: tuple[Life, str]) -> None:
    life, preview = copied
    flip(life.world.source, preview)
    cut(life.world.destination, preview)
    there = body_of(life.world.destination, preview)
    result = sync(life)
    assert not result.success
    line = lines(life, result.run_id)[preview]
    assert (line.outcome, line.reason) == (Outcome.FAILED, Reason.SIDES_DIFFER)
    assert "--overwrite" in str(line.detail)
    recorded = {each["key"]: each for each in json.loads(report("--format", "json"))["objects"]}
    assert recorded[preview]["what_to_do"] == remedies.COMPARE
    assert body_of(life.world.destination, preview) == there
    success, found = verify(life)
    assert (success, found[preview].finding) == (False, Finding.UNDECIDED)


@pytest.mark.long(cases=0)
def test_without_manifests_what_is_cut_short_is_repaired_and_what_nobody_can_decide_is_named(
    copied: tuple[Life, str],
) -> None:
    life, preview = copied
    original = preview.replace("/small/", "/original/")
    whole = cut(life.world.destination, original)
    flip(life.world.destination, preview)
    there = body_of(life.world.destination, preview)
    shutil.rmtree(Path(life.world.environment["DAGSTER_HOME"], "manifests"))
    result = sync(life)
    recorded = lines(life, result.run_id)
    assert recorded[original].outcome is Outcome.COPIED
    assert body_of(life.world.destination, original) == whole
    assert (recorded[preview].outcome, recorded[preview].reason) == (Outcome.FAILED, Reason.SIDES_DIFFER)
    assert body_of(life.world.destination, preview) == there
    # And the source's, cut short, does not take the good one's place.
    kept = body_of(life.world.destination, original)
    cut(life.world.source, original)
    shutil.rmtree(Path(life.world.environment["DAGSTER_HOME"], "manifests"))
    assert lines(life, sync(life).run_id)[original].detail == Decision.SOURCE_CUT.words
    assert body_of(life.world.destination, original) == kept


def test_a_manifest_that_is_damaged_is_done_without(copied: tuple[Life, str]) -> None:
    life, preview = copied
    whole = flip(life.world.source, preview)
    for file in Path(life.world.environment["DAGSTER_HOME"], "manifests", MEDIA.value).rglob("*.parquet"):
        file.write_bytes(b"no manifest")
    result = sync(life)
    assert lines(life, result.run_id)[preview].reason is Reason.SIDES_DIFFER
    assert body_of(life.world.destination, preview) == whole
