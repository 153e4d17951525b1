"""The result of a verification in the UI: the asset check, metadata, the failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.records.findings import DIFFERENCES, Finding
from mastosync_dagster.records.findings_text import counted, foreign_text, top_text
from mastosync_dagster.records.summaries import COUNTERS, LEFT_OUT, ONLY_THERE, duration_text
from mastosync_dagster.runs.failures import PlainFailure
from mastosync_dagster.runs.watermarks import DESTINATION, REMOTE_FILES
from mastosync_dagster.verify.settings import CHECK_NAME

if TYPE_CHECKING:
    from mastosync_dagster.s3.errors import StorageError
    from mastosync_dagster.verify.audit import AuditCounts
    from mastosync_dagster.verify.settings import AuditSettings

_STORAGES = ("source", "destination")
_WARNED = (Finding.SOURCE_DIFFERS, Finding.EXTRA)
"""What is no failure of the run, and does not let its check pass."""
_NOTABLE = (
    Finding.SOURCE_DIFFERS,
    Finding.DESTINATION_NEWER,
    Finding.MISSING,
    Finding.EXTRA,
    Finding.FOREIGN,
    Finding.FOREIGN_AT_SOURCE,
)
"""What the summary counts beside the differences."""


@dataclass(frozen=True)
class VerificationReport:
    """The result of a verification.

    Attributes:
        table: The first differences, in Markdown.
        location: Where the findings are; empty: they are not kept.
        destination_id: The destination that was verified.
        wrong_source: Why the source is not the one of the database; None: nothing shows that.
    """

    counts: AuditCounts
    settings: AuditSettings
    table: str
    location: str
    seconds: float
    destination_id: str
    wrong_source: StorageError | None = None

    @property
    def different(self) -> int:
        """Objects that are not at the destination as they must be."""
        return sum(self.counts.findings[finding] for finding in DIFFERENCES)

    @property
    def _not_compared(self) -> int:
        """Objects whose bodies were to be compared, and that the source does not have."""
        return self.counts.only_at_destination if self.settings.full else 0

    @property
    def summary(self) -> str:
        """What was found, in a line."""
        counts, notes = self.counts, []
        if counts.only_at_destination:
            notes.append(f"{counts.only_at_destination:,} of the equal ones are only at the destination")
        if self._not_compared:
            notes.append(f"{self._not_compared:,} bodies could not be compared, since the source has none")
        if counts.left_out:
            notes.append(f"{counts.left_out:,} left out by the policy (other servers' files: {counts.policy})")
        notes += [foreign_text(name, top) for name, top in zip(_STORAGES, counts.tops, strict=True)]
        if counts.beside_unlisted:
            notes.append("what lies in the source's bucket beside its key prefix is unknown: it may not be listed")
        if counts.not_in_listing:
            notes.append(
                f"{counts.not_in_listing:,} objects that a listing lacked were there when they were asked for by name:"
                " that storage's listings are not reliable"
            )
        if counts.acls_unknown:
            notes.append(f"who may read the objects is not known: {counts.acls_unknown}")
        if counts.unlisted:
            notes.append("the destination may not be listed, so orphans were not looked for")
        found = counted(counts.findings, (Finding.EQUAL, *DIFFERENCES, *_NOTABLE))
        return "; ".join(filter(None, [found or "no objects", *notes]))

    def check(self) -> dg.AssetCheckResult:
        """Return the asset check."""
        failed = self.different > 0 or self.wrong_source is not None
        # Who may read the objects was asked for, and cannot be answered.
        blind = self.counts.acls_unknown is not None
        return dg.AssetCheckResult(
            passed=not (failed or any(self.counts.findings[finding] for finding in _WARNED) or blind),
            check_name=CHECK_NAME,
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            description=f"{self.wrong_source}: {self.summary}" if self.wrong_source else self.summary,
            metadata={finding.value: self.counts.findings[finding] for finding in Finding},
        )

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return what an admin reads, first things first; the UI plots each number."""
        counts = self.counts
        counters = {
            "rows": counts.rows,
            **{finding.value: counts.findings[finding] for finding in Finding if finding is not Finding.DELETED},
            "seconds": round(self.seconds, 3),
            ONLY_THERE: counts.only_at_destination,
            LEFT_OUT: counts.left_out,
            "headers_compared": counts.headers,
            "acls_compared": counts.acls,
            "bodies_compared": counts.bodies,
            "bodies_not_compared": self._not_compared,
            "bytes_read": counts.bytes,
            "list_requests": counts.list_requests,
            "head_requests": counts.head_requests,
        }
        return {
            "summary": dg.MetadataValue.text(self.summary),
            "equal": dg.MetadataValue.int(counts.findings[Finding.EQUAL]),
            "different": dg.MetadataValue.int(self.different),
            "missing": dg.MetadataValue.int(counts.findings[Finding.MISSING]),
            "extra": dg.MetadataValue.int(counts.findings[Finding.EXTRA]),
            "duration": dg.MetadataValue.text(duration_text(self.seconds)),
            "differences": dg.MetadataValue.md(self.table),
            **{
                f"top of the {name}": dg.MetadataValue.md(top_text(top))
                for name, top in zip(_STORAGES, counts.tops, strict=True)
            },
            **({"findings": dg.MetadataValue.path(self.location)} if self.location else {}),
            COUNTERS: dg.MetadataValue.json(counters),
            DESTINATION: dg.MetadataValue.text(self.destination_id),
            REMOTE_FILES: dg.MetadataValue.text(counts.policy),
        }

    @property
    def _remedy(self) -> str:
        undecided = self.counts.findings[Finding.UNDECIDED]
        puts_right = "A sync of the same range puts them right"
        if not undecided:
            return f"{puts_right}."
        return (
            f"{puts_right}, except {undecided:,} of which nothing tells which bytes are right: compare both storages,"
            " and sync them with overwrite: true in the plan's config to take the source's."
        )

    def failure(self) -> PlainFailure | None:
        """Return the failure of a run whose source proves nothing, or that found differences."""
        if self.wrong_source is not None:
            text = f"{self.wrong_source}. What was found proves nothing, and is not kept: {self.summary}"
        elif self.different:
            different = f"{self.different:,} objects are not at the destination as they must be"
            text = f"{different}: {self.summary}. {self._remedy}"
        else:
            return None
        return PlainFailure(text, self.metadata())
