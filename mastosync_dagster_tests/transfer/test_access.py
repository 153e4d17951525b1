"""ACLs are set where there are some, and no object is touched where there are none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.transfer.access import is_public, set_access
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.conftest import Bucket

HALT = threading.Event()


@pytest.mark.parametrize("body", [b"", b"a picture", b"<svg/>"])
def test_an_object_on_a_server_that_takes_an_acl_for_a_body_stays_as_it_is(
    destination_bucket: Bucket, body: bytes
) -> None:
    client, bucket = destination_bucket.client, destination_bucket.name
    client.put_object(Bucket=bucket, Key="a.png", Body=body, ContentType="image/png")
    side = storage(destination_bucket, "destination", permission="public-read")
    asks: tuple[Callable[[], object], ...] = (
        lambda: set_access(side, "a.png", private=True, halt=HALT),
        lambda: set_access(side, "a.png", private=False, halt=HALT),
        lambda: is_public(side, "a.png", HALT),
    )
    for ask in asks:
        with pytest.raises(StorageError, match="Leave DESTINATION_S3_PERMISSION empty") as told:
            ask()
        assert told.value.permanent
    found = client.get_object(Bucket=bucket, Key="a.png")
    assert (found["Body"].read(), found["ContentType"]) == (body, "image/png")


def test_an_acl_is_set_and_seen(moto_bucket: Bucket) -> None:
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="a.png", Body=b"a picture")
    side = storage(moto_bucket, "destination", permission="public-read")
    for private in (False, True, False):
        set_access(side, "a.png", private=private, halt=HALT)
        assert is_public(side, "a.png", HALT) is not private


def test_an_object_that_is_gone_is_told(moto_bucket: Bucket) -> None:
    side = storage(moto_bucket, "destination", permission="public-read")
    with pytest.raises(StorageError) as told:
        set_access(side, "gone.png", private=True, halt=HALT)
    assert not told.value.permanent
