"""Run config of a verification: what is checked."""

from mastosync_dagster.expected.privacy import Privacy
from mastosync_dagster.runs.config import PolicyConfig, setting
from mastosync_dagster.verify.settings import AuditSettings, Depth


class VerifyConfig(PolicyConfig):
    """What to check."""

    full: bool = setting("full", False, "Read every object at both storages, and compare the bodies.")
    headers: Depth = setting(
        "headers",
        Depth.sample,
        "Compare Content-Type, Cache-Control, metadata (a request per storage): of none, a sample, or all.",
    )
    acls: Depth = setting(
        "acls",
        Depth.sample,
        "Ask who may read an object (a request): of none, a sample, or all. Without ACLs, of private objects alone.",
    )
    privacy: Privacy = setting("privacy", Privacy.mastodon, "As for the sync: mastodon, source or none.")
    copy_private: bool | None = setting(
        "copy_private", None, "As for the sync: private objects are wanted at a destination without ACLs too.", "false"
    )
    page_rows: int = setting("page_rows", 5_000, "Rows a query reads.", ge=1, le=50_000)
    listers: int = setting("listers", 8, "Listing requests in flight, both storages together.", ge=1, le=64)
    readers: int = setting("readers", 16, "Objects checked at a time.", ge=1, le=256)

    def audit_settings(self) -> AuditSettings:
        """Return the settings of the audit."""
        return AuditSettings(
            full=self.full,
            headers=self.headers,
            acls=self.acls,
            acl_from_source=self.privacy is Privacy.source,
            copy_private=bool(self.copy_private),
            listers=self.listers,
            readers=self.readers,
        )
