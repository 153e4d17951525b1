"""Run config of the prune."""

import dagster as dg
from pydantic import Field

MAX_SHARE = 0.5


class PruneConfig(dg.Config):
    """What to do with objects that no row expects."""

    delete: bool = Field(default=False, description="Delete them. Without, they are listed.")
    max_delete: int = Field(default=1_000, ge=1, le=1_000_000, description="Objects that a run deletes at the most.")
    max_share: float = Field(
        default=MAX_SHARE,
        ge=0,
        le=1_000,
        description="Nothing is deleted where more would be than this share of the objects that the rows of the range"
        " expect: the bucket may hold another instance's too.",
    )
    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")
