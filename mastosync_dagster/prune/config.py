"""Run config of the prune."""

from pydantic import Field

from mastosync_dagster.runs.config import PolicyConfig, setting

MAX_SHARE = 0.5
UNCONFIRMED = 100
"""So many objects of an ID range are deleted where the admin has not set a number."""


class PruneConfig(PolicyConfig):
    """What to do with objects that no row expects."""

    delete: bool = Field(default=False, description="Delete them. Without, they are listed.")
    max_delete: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"Objects that are deleted at the most, in each ID range. Unset: {UNCONFIRMED}, none at all where"
        " there are more, and only what runs have copied here: on a large instance, a small one's objects in the same"
        " bucket are a small share.",
    )
    max_share: float = Field(
        default=MAX_SHARE,
        ge=0,
        le=1_000,
        description="Nothing is deleted where more would be than this share of the objects that the rows of the range"
        " expect: the bucket may hold another instance's too.",
    )
    page_rows: int = setting("page_rows", 5_000, "Rows a query reads.", ge=1, le=50_000)
