"""What a verification says in the UI: the asset check, metadata, the failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.records.findings import DIFFERENCES, Finding
from mastosync_dagster.records.findings_text import counted, foreign_text, top_text
from mastosync_dagster.records.summaries import ONLY_THERE
from mastosync_dagster.verify.audit import AuditCounts, AuditSettings, Depth

if TYPE_CHECKING:
    from mastosync_dagster.s3.errors import StorageError

CHECK_NAME = "verified"

_SIDES = ("source", "destination")
_WARNED = (Finding.SOURCE_DIFFERS, Finding.EXTRA)
"""What does not end a run as a failure, and does not let its check pass."""
_UNWANTED = (Finding.EXTRA, Finding.FOREIGN, Finding.FOREIGN_AT_SOURCE)
_NOTABLE = (Finding.SOURCE_DIFFERS, Finding.DESTINATION_NEWER, Finding.MISSING, *_UNWANTED)
"""What is told beside the differences."""


@dataclass(frozen=True)
class VerificationReport:
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
        """Objects that are not at the destination as they must be."""
        return sum(self.counts.findings[finding] for finding in DIFFERENCES)

    @property
    def _not_compared(self) -> int:
        """Objects of which bodies were to be compared, and the source has none."""
        return self.counts.only_at_destination if self.settings.full else 0

    @property
    def summary(self) -> str:
        """What was found, in a line."""
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
