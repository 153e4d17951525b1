"""Deletes objects of the destination, with a record of each."""

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
class Seen:
    """What the destination has in the ranges of one batch.

    Attributes:
        wanted: How many of the batch's objects are there, under any of their keys.
        others: What else is there.
        list_requests: ListObjectsV2 requests.
    """

    wanted: int
    others: tuple[ListedObject, ...]
    list_requests: int


def see(storage: Storage, batch: Batch) -> Seen:
    """List the ranges of a batch to their ends.

    Raises:
        StorageError: A listing failed, or ended before the end.
    """
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
    return Seen(len(there), tuple(others), requests)


class Deletion:
    """Deletes objects, and knows of each what became of it, also when it is interrupted.

    A request for each: DeleteObjects wants checksums that stores disagree about.

    Args:
        storage: The side.

    Attributes:
        deleted: Keys of objects that are gone.
        failed: Keys of objects that are not, with the reason.
        unanswered: Keys of objects whose deletion was asked for and never answered.
    """

    def __init__(self, storage: Storage) -> None:
        self.deleted: set[str] = set()
        self.failed: dict[str, StorageError] = {}
        self.unanswered: set[str] = set()
        self._storage = storage
        self._lock = threading.Lock()

    def delete(self, keys: Sequence[str], stop: threading.Event) -> None:
        """Delete objects, given their keys relative to the key prefix.

        Raises:
            StorageError: The side refuses, and will go on refusing.
            Stopped: ``stop`` was set.
            BaseException: Whatever interrupts the calling thread.
        """
        with Pool(_THREADS, stop=stop) as pool:
            try:
                pool.map(lambda key: self._delete(key, pool.halt), keys)
            except BaseException:
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
