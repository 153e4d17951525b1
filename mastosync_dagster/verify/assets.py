"""Proof that a copy is whole: an asset per file type whose partitions are the verifications of its ID ranges.

A run looks at one range at both sides, changes nothing, and writes a file of findings. Being an asset of its own, it
shows in the UI which ranges have been verified, and which have been synced since.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets.

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field, field_validator

from mastosync_dagster.environment import copy_private
from mastosync_dagster.expected.orphans import Extras
from mastosync_dagster.expected.privacy import Marks, Privacy, known_privacy
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.expected.records import Records
from mastosync_dagster.expected.source_check import Witnesses, look_for_originals, wrong_source
from mastosync_dagster.mastodon import CACHE_FOLDERS, IdRange, Selection, read_schema, walk_rows
from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.ranges.partitions import FileType, registered_range
from mastosync_dagster.records.findings import DIFFERENCES, FINDINGS, Finding
from mastosync_dagster.records.findings_text import counted, findings_table, first_findings, foreign_text, top_text
from mastosync_dagster.records.summaries import ONLY_THERE
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.history import place_of
from mastosync_dagster.runs.manifests import About, manifest_store
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.verify.audit import AuditCounts, AuditSettings, Depth, audit
from mastosync_dagster.verify.repairs import verification_of

CHECK_NAME = "verified"
GROUP = "verification"

_SIDES = ("source", "destination")
_WARNED = (Finding.SOURCE_DIFFERS, Finding.EXTRA)
"""What does not end a run as a failure, and does not let its check pass."""
_UNWANTED = (Finding.EXTRA, Finding.FOREIGN, Finding.FOREIGN_AT_SOURCE)
_NOTABLE = (Finding.SOURCE_DIFFERS, Finding.DESTINATION_NEWER, Finding.MISSING, *_UNWANTED)
"""What is told beside the differences."""

# Of the tables that are copied: Mastodon has kept more (imports), and what lies there goes with the old bucket too.
_FOLDERS: Mapping[str, frozenset[str]] = {
    "": frozenset({CACHE, *(f"{file_type.value}/" for file_type in FileType)}),
    CACHE: frozenset(f"{CACHE}{file_type.value}/" for file_type in FileType) & CACHE_FOLDERS,
}


class VerifyConfig(dg.Config):
    """How closely to look."""

    full: bool = Field(default=False, description="Read every object at both sides, and compare the bodies.")
    headers: str = Field(
        default=Depth.SAMPLE.value,
        description="Compare Content-Type, Cache-Control, metadata (a request a side): of none, a sample, or all.",
    )
    acls: str = Field(
        default=Depth.SAMPLE.value,
        description="Look who may read an object (a request): of none, a sample, or all, where there are ACLs.",
    )
    privacy: str = Field(default=Privacy.MASTODON.value, description="As for the sync: mastodon, source or none.")
    copy_private: bool | None = Field(
        default=None, description="As for the sync: private objects are wanted at a destination without ACLs too."
    )
    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")
    listers: int = Field(default=8, ge=1, le=64, description="Listing requests in flight, both sides together.")
    readers: int = Field(default=16, ge=1, le=256, description="Objects looked at closer at a time.")

    @field_validator("headers", "acls")
    @classmethod
    def _known_depth(cls, name: str) -> str:
        known = [depth.value for depth in Depth]
        if name not in known:
            raise ValueError(f"unknown depth {name!r}: known are {', '.join(known)}")
        return name

    @field_validator("privacy")
    @classmethod
    def _known_privacy(cls, name: str) -> str:
        return known_privacy(name)

    def audit_settings(self) -> AuditSettings:
        """Return the settings of the audit."""
        return AuditSettings(
            full=self.full,
            headers=Depth(self.headers),
            acls=Depth(self.acls),
            as_source=Privacy(self.privacy) is Privacy.SOURCE,
            copy_private=bool(copy_private() if self.copy_private is None else self.copy_private),
            listers=self.listers,
            readers=self.readers,
        )


def verification_asset(file_type: FileType) -> dg.AssetsDefinition:
    """Return the asset ``<asset>_verification``: what was found at the destination, a partition per ID range."""

    @dg.asset(
        name=f"{file_type.value}_verification",
        description=f"Which ID ranges of {file_type.value} are proven whole at the destination, and what was found.",
        group_name=GROUP,
        kinds={"s3", "postgres"},
        partitions_def=file_type.partitions,
        deps=[file_type.value],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK_NAME,
                asset=f"{file_type.value}_verification",
                description="What the source has is at the destination as it must be (else an error), and nothing that"
                " no row expects, nor is the source damaged (a warning).",
            )
        ],
    )
    def asset(  # noqa: PLR0917  (Dagster passes config and resources by name)
        context: dg.AssetExecutionContext,
        config: VerifyConfig,
        mastodon_db: MastodonDatabase,
        source: S3Bucket,
        destination: S3Bucket,
        progress: dg.ResourceParam[ProgressReporter],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        with plain_failures(), working(context.instance, context.run.run_id):
            ids = registered_range(context.instance, file_type, context.partition_key)
            told = _verify(context, config, file_type, ids, _Sides(mastodon_db, source, destination, progress))
        if told.different or told.wrong_source:
            yield told.check()
        told.raise_if_wrong_source()
        told.raise_if_different()
        yield dg.MaterializeResult(metadata=told.metadata())
        # A check is about the newest materialization before it: told first, it would not be about this one.
        yield told.check()

    return asset


def all_verifications() -> list[dg.AssetsDefinition]:
    """Return the verifications of all file types."""
    return [verification_asset(file_type) for file_type in FileType]


def verify_job(file_type: FileType) -> UnresolvedAssetJobDefinition:
    """Return the partitioned job ``verify_<asset>``: a run is one ID range."""
    return dg.define_asset_job(
        f"verify_{file_type.value}",
        selection=dg.AssetSelection.assets(f"{file_type.value}_verification"),
        description=f"Hold the destination against rows and source, for one ID range of {file_type.value}.",
    )


@dataclass(frozen=True)
class _Sides:
    database: MastodonDatabase
    source: S3Bucket
    destination: S3Bucket
    progress: ProgressReporter


@dataclass(frozen=True)
class _Told:
    """What the end of a verification is told from.

    Attributes:
        counts: What was counted.
        settings: How closely was looked.
        table: The first differences, in Markdown.
        location: Where the findings are; empty: they are not kept.
        seconds: How long it took.
        wrong_source: Says that the source is not the one that the rows speak of; None: nothing shows that.
    """

    counts: AuditCounts
    settings: AuditSettings
    table: str
    location: str
    seconds: float
    wrong_source: StorageError | None = None

    @property
    def different(self) -> int:
        return sum(self.counts.findings[finding] for finding in DIFFERENCES)

    @property
    def _not_compared(self) -> int:
        """Objects of which bodies were to be compared, and the source has none."""
        return self.counts.only_at_destination if self.settings.full else 0

    @property
    def summary(self) -> str:
        findings = self.counts.findings
        wanted = (Finding.EQUAL, *DIFFERENCES, *_NOTABLE)
        only_there = self.counts.only_at_destination
        notes = [
            f"{only_there:,} of the equal ones are only at the destination" if only_there else "",
            f"{self._not_compared:,} bodies could not be compared, since the source has none"
            if self._not_compared
            else "",
            *(foreign_text(side, top) for side, top in zip(_SIDES, self.counts.tops, strict=True)),
            f"{self.counts.left_out:,} objects that a listing lacked were there when they were asked for by name: it is"
            " not to be relied on"
            if self.counts.left_out
            else "",
            f"who may read the objects could not be seen: {self.counts.acls_unknown}"
            if self.counts.acls_unknown
            else "",
            "the destination may not be listed, so extra objects were not looked for" if self.counts.unlisted else "",
        ]
        return "; ".join(filter(None, [counted(findings, wanted) or "no objects", *notes]))

    def check(self) -> dg.AssetCheckResult:
        """Return the asset check."""
        failed = self.different > 0 or self.wrong_source is not None
        blind = self.settings.acls is Depth.ALL and self.counts.acls_unknown is not None
        return dg.AssetCheckResult(
            passed=not (failed or any(self.counts.findings[finding] for finding in _WARNED) or blind),
            check_name=CHECK_NAME,
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            description=f"{self.wrong_source}: {self.summary}" if self.wrong_source else self.summary,
            metadata={finding.value: self.counts.findings[finding] for finding in Finding},
        )

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return the numbers that the UI plots, the first differences, and where the findings are."""
        counts = self.counts
        numbers = {
            "rows": counts.rows,
            **{finding.value: counts.findings[finding] for finding in Finding if finding is not Finding.DELETED},
            ONLY_THERE: counts.only_at_destination,
            "headers_compared": counts.headers,
            "acls_compared": counts.acls,
            "bodies_compared": counts.bodies,
            "bodies_not_compared": self._not_compared,
            "bytes_read": counts.bytes,
            "list_requests": counts.list_requests,
            "head_requests": counts.head_requests,
        }
        return {
            **{name: dg.MetadataValue.int(number) for name, number in numbers.items()},
            "seconds": dg.MetadataValue.float(round(self.seconds, 3)),
            "summary": dg.MetadataValue.text(self.summary),
            **{
                f"top of the {side}": dg.MetadataValue.md(top_text(top))
                for side, top in zip(_SIDES, counts.tops, strict=True)
            },
            "differences": dg.MetadataValue.md(self.table),
            **({"findings": dg.MetadataValue.path(self.location)} if self.location else {}),
        }

    @property
    def _remedy(self) -> str:
        undecided = self.counts.findings[Finding.UNDECIDED]
        puts_right = "A sync of the same range puts them right"
        if not undecided:
            return f"{puts_right}."
        return (
            f"{puts_right}, but for {undecided:,} of which nothing tells which side is right: look at both, and"
            " sync them with overwrite: true in the plan's config to take the source's."
        )

    def raise_if_wrong_source(self) -> None:
        """Raise the failure that ends a run whose source proves nothing."""
        if self.wrong_source is not None:
            raise dg.Failure(
                description=f"{self.wrong_source}. What was found proves nothing, and is not kept: {self.summary}",
                metadata=self.metadata(),
                allow_retries=False,
            )

    def raise_if_different(self) -> None:
        """Raise the failure that ends a run that found differences."""
        if self.different:
            raise dg.Failure(
                description=f"{self.different:,} objects are not at the destination as they must be: {self.summary}."
                f" {self._remedy}",
                metadata=self.metadata(),
                allow_retries=False,
            )


def _verify(
    context: dg.AssetExecutionContext, config: VerifyConfig, file_type: FileType, ids: IdRange, sides: _Sides
) -> _Told:
    started = time.monotonic()
    source, destination = sides.source.storage(), sides.destination.storage()
    ensure_different(sides.source, sides.destination)
    path = work_folder.create_work_folder(context.instance, context.run.run_id) / FINDINGS
    settings, table = config.audit_settings(), file_type.value
    about = About(place_of(sides.destination), acls=destination.settings.has_acls)
    with sides.database.session() as connect, sides.progress.watch(context.log) as watcher:
        with contextlib.closing(connect()) as connection:
            schema = read_schema(connection, [table])
        pages = walk_rows(connect, schema, Selection(table, ids=ids), page_rows=config.page_rows)
        records = Records(
            connect,
            schema,
            store=manifest_store(context.instance, sides.destination),
            about=about,
            prefix=destination.settings.prefix,
            warn=context.log.warning,
        )
        with Extras(connect, schema, table, ids) as extras:
            counts = audit(
                covering_batches(pages, ids, Marks(privacy=Privacy(config.privacy))),
                source,
                destination,
                path,
                settings,
                knowledge=records.known,
                extras=extras.among,
                folders=_FOLDERS,
                about=about.metadata(),
                stop=threading.Event(),
                on_progress=lambda so_far: watcher.told(
                    f"looked at {so_far.rows:,} rows: {counted(so_far.findings, list(Finding))}"
                ),
            )
    told = _tell(context, file_type, sides, path, counts, settings, started)
    work_folder.remove_work_folder(context.instance, context.run.run_id)
    line = f"{told.summary}; {counts.list_requests:,} list requests, in {told.seconds:.1f} s"
    context.log.info(line)
    return told


def _tell(  # noqa: PLR0917  (what one verification knows, and no more)
    context: dg.AssetExecutionContext,
    file_type: FileType,
    sides: _Sides,
    path: Path,
    counts: AuditCounts,
    settings: AuditSettings,
    started: float,
) -> _Told:
    """Keep the findings, and say what they show."""
    wrong = _look_at_source(context, file_type, sides, counts)
    unwanted = (*DIFFERENCES, Finding.SOURCE_DIFFERS, Finding.EXTRA, Finding.FOREIGN, Finding.MISSING)
    lines = first_findings(path, unwanted)
    total = sum(counts.findings[finding] for finding in unwanted)
    location = ""
    if wrong is None:
        # What a wrong source lacks is not lost, and nobody shall read that it was.
        location = manifest_store(context.instance, sides.destination, sides.source).write(
            path, verification_of(file_type), context.partition_key, context.run.run_id
        )
    return _Told(
        counts=counts,
        settings=settings,
        table=findings_table(lines, total, "Everything is as it must be."),
        location=location,
        seconds=time.monotonic() - started,
        wrong_source=wrong,
    )


def _look_at_source(
    context: dg.AssetExecutionContext, file_type: FileType, sides: _Sides, counts: AuditCounts
) -> StorageError | None:
    """Return the error that ends a verification whose source is not the one that the rows speak of, as a sync's."""
    source, destination = sides.source.storage(), sides.destination.storage()

    def look() -> Witnesses:
        with sides.database.session() as connect:
            return look_for_originals(connect, source, destination, {file_type.value})

    lacking = counts.only_at_destination + counts.findings[Finding.MISSING]
    return wrong_source(lacking, counts.wanted, look, (source, destination), context.log.warning, once=True)
