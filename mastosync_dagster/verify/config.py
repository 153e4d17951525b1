"""Run config of a verification: what is checked."""

from pydantic import Field

from mastosync_dagster.environment import copy_private
from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.runs.policy_config import PolicyConfig
from mastosync_dagster.verify.object_checks import AuditSettings, Depth


class VerifyConfig(PolicyConfig):
    """What to check."""

    full: bool = Field(default=False, description="Read every object at both storages, and compare the bodies.")
    headers: Depth = Field(
        default=Depth.sample,
        description="Compare Content-Type, Cache-Control, metadata (a request per storage): of none, a sample, or all.",
    )
    acls: Depth = Field(
        default=Depth.sample,
        description="Ask who may read an object (a request): of none, a sample, or all, where there are ACLs.",
    )
    privacy: Privacy = Field(default=Privacy.mastodon, description="As for the sync: mastodon, source or none.")
    copy_private: bool | None = Field(
        default=None, description="As for the sync: private objects are wanted at a destination without ACLs too."
    )
    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")
    listers: int = Field(default=8, ge=1, le=64, description="Listing requests in flight, both storages together.")
    readers: int = Field(default=16, ge=1, le=256, description="Objects checked at a time.")

    def audit_settings(self) -> AuditSettings:
        """Return the settings of the audit."""
        return AuditSettings(
            full=self.full,
            headers=self.headers,
            acls=self.acls,
            acl_from_source=self.privacy is Privacy.source,
            copy_private=bool(copy_private() if self.copy_private is None else self.copy_private),
            listers=self.listers,
            readers=self.readers,
        )
