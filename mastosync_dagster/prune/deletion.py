"""Lists the destination's objects, and deletes some, with a record of each."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.pool import Pool
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mastosync_dagster.plan.items import Batch
    from mastosync_dagster.s3.storage import ListedObject, Storage

_THREADS = 8
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BatchListing:
    """What a storage has in the ranges of one batch.

    Attributes:
        expected: How many of the batch's objects are there, under any of their keys.
        others: All other objects there.
    """

    expected: int
    others: tuple[ListedObject, ...]
    list_requests: int


def list_batch(storage: Storage, batch: Batch) -> BatchListing:
    """List the ranges of a batch completely. `StorageError` if a listing fails or is cut."""
    owner = {key: number for number, item in enumerate(batch.items) for key in (item.key, *item.candidates)}
    there: set[int] = set()
    others: list[ListedObject] = []
    requests = 0
    for keys in batch.ranges:
        for page in storage.list_pages(keys):
            requests += 1
            for entry in page:
                number = owner.get(entry.key)
                if number is None:
                    others.append(entry)
                else:
                    there.add(number)
    return BatchListing(len(there), tuple(others), requests)


class Deletion:
    """Deletes objects, and records the result of each, also when it is interrupted.

    One request for each object: DeleteObjects needs checksums on which storages disagree.

    Attributes:
        deleted: Keys of objects that do not exist any more.
        failed: Keys of objects that were not deleted, with the reason.
        unanswered: Keys of objects whose deletion was requested, and not answered.
    """

    def __init__(self, storage: Storage) -> None:
        self.deleted: set[str] = set()
        self.failed: dict[str, StorageError] = {}
        self.unanswered: set[str] = set()
        self._storage = storage
        self._lock = threading.Lock()

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, given their keys relative to the key prefix.

        Raises:
            StorageError: A permanent error.
            BaseException: Whatever interrupts the calling thread.
        """
        with Pool(_THREADS) as pool:
            try:
                pool.map(lambda key: self._delete(key, pool.halt), keys)
            except BaseException:
                # Requests under way may still delete: their answers belong on record.
                pool.halt.set()
                self._await_answers()
                raise

    def _await_answers(self) -> None:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self.unanswered and time.monotonic() < deadline:
            time.sleep(0.05)

    def _delete(self, key: str, halt: threading.Event) -> None:
        with self._lock:
            self.unanswered.add(key)
        try:
            self._ask(key, halt)
        except StorageError as error:
            # An object that is not found needs no deletion.
            if not is_not_found(error):
                self.failed[key] = error
                if error.permanent:
                    raise
                return
        finally:
            with self._lock:
                self.unanswered.discard(key)
        self.deleted.add(key)

    def _ask(self, key: str, halt: threading.Event) -> None:
        storage = self._storage
        try:
            storage.ask(lambda client: client.delete(storage.full_key(key)), key, halt)
        except StorageError as error:
            if error.reason is not Reason.ACCESS_DENIED:
                raise
            raise StorageError(
                f"the {storage.settings.name} refuses to delete: give its access key the right to (s3:DeleteObject)",
                reason=error.reason,
                permanent=True,
                key=key,
            ) from error
