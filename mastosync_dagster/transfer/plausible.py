"""Whether a body of which its ETag proves nothing can be the object's at all, and not an error page with status 200."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.verify import bare

if TYPE_CHECKING:
    from mastosync_dagster.transfer.sides import Side


def check_length(source: Side, key: str, size: int, etag: str | None, planned: int | None) -> None:
    """Hold a body against what its side shows of the object: the listing, or else an answer to HEAD.

    Args:
        source: Where it was read.
        key: The object, relative to the side's prefix.
        size: Bytes of the body.
        etag: Bare ETag of the reply; None where it had none.
        planned: Bytes, as the plan has seen them; None: nobody has seen the object.

    Raises:
        StorageError: The side shows something else, or does not answer.
    """
    if size == planned:
        return
    shown = source.storage.head(key)
    if shown is None or shown.size != size or (etag is not None and bare(shown.etag) not in {None, etag}):
        raise StorageError(
            f"the {source.storage.settings.name} sent a body of which no ETag speaks, and of another length than the "
            "object that it shows",
            reason=Reason.SIZE_MISMATCH,
            retryable=True,
        )
