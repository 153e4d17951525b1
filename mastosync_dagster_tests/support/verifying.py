"""Verifications of a test's installation, and what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding, FindingLine, read_findings
from mastosync_dagster.records.summaries import with_counters
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.verify.repairs import verification_of
from mastosync_dagster_tests.support.manifests import newest_of_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation


MEDIA = FileType.MEDIA_ATTACHMENTS


def media_range(world: Installation) -> str:
    (key,) = world.dagster.get_dynamic_partitions(MEDIA.partitions_name)
    return key


def verify(world: Installation, **config: object) -> dg.ExecuteInProcessResult:
    ops = {"media_attachments_verification": {"config": config}}
    return world.run("verify_media_attachments", media_range(world), {"ops": ops})


def findings(world: Installation) -> list[FindingLine]:
    """Return the findings of the newest verification."""
    store = manifest_store(world.dagster, S3Bucket.destination())
    (manifest,) = newest_of_each(store, verification_of(MEDIA))
    with store.file(manifest) as path:
        return [line for lines in read_findings(path) for line in lines]


def unequal(world: Installation) -> dict[str, Finding]:
    lines = findings(world)
    assert len({line.key for line in lines}) == len(lines)
    return {line.key: line.finding for line in lines if line.finding not in {Finding.EQUAL, Finding.MISSING}}


def metadata(result: dg.ExecuteInProcessResult) -> Mapping[str, object]:
    (event,) = result.asset_materializations_for_node("media_attachments_verification")
    return with_counters({name: value.value for name, value in event.metadata.items()})


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation
