"""Run config of a verification: what is checked."""

import dagster as dg
from pydantic import Field, field_validator

from mastosync_dagster.environment import copy_private
from mastosync_dagster.expected.privacy import Privacy, known_privacy
from mastosync_dagster.verify.object_checks import AuditSettings, Depth


class VerifyConfig(dg.Config):
    """What to check."""

    full: bool = Field(default=False, description="Read every object at both storages, and compare the bodies.")
    headers: str = Field(
        default=Depth.SAMPLE.value,
        description="Compare Content-Type, Cache-Control, metadata (a request per storage): of none, a sample, or all.",
    )
    acls: str = Field(
        default=Depth.SAMPLE.value,
        description="Ask who may read an object (a request): of none, a sample, or all, where there are ACLs.",
    )
    privacy: str = Field(default=Privacy.MASTODON.value, description="As for the sync: mastodon, source or none.")
    copy_private: bool | None = Field(
        default=None, description="As for the sync: private objects are wanted at a destination without ACLs too."
    )
    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")
    listers: int = Field(default=8, ge=1, le=64, description="Listing requests in flight, both storages together.")
    readers: int = Field(default=16, ge=1, le=256, description="Objects checked at a time.")

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
            acl_from_source=Privacy(self.privacy) is Privacy.SOURCE,
            copy_private=bool(copy_private() if self.copy_private is None else self.copy_private),
            listers=self.listers,
            readers=self.readers,
        )
