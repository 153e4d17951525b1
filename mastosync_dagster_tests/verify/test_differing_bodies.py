"""Bodies that differ where no listing shows it: a verification names the damaged one, or says that nothing decides."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.plan.decisions import Known, Record, Row
from mastosync_dagster.plan.items import Batch, ExpectedObject
from mastosync_dagster.records.findings import Finding, read_findings
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.verify.audit import audit
from mastosync_dagster.verify.settings import AuditSettings, Depth
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.living import md5
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

KEY, FOLDER = "accounts/avatars/1/original/a.png", "accounts/avatars/"
WHOLE, ROTTEN = b"the body", b"the bodi"
BEFORE = datetime.now(timezone.utc) - timedelta(days=1)


def put_in_parts(bucket: Bucket, body: bytes) -> None:
    """Put an object whose ETag is no MD5."""
    client, name = bucket.client, bucket.name
    upload = client.create_multipart_upload(Bucket=name, Key=KEY)["UploadId"]
    etag = client.upload_part(Bucket=name, Key=KEY, UploadId=upload, PartNumber=1, Body=body)["ETag"]
    client.complete_multipart_upload(
        Bucket=name, Key=KEY, UploadId=upload, MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]}
    )


@pytest.mark.parametrize(
    ("recorded", "here", "there", "expected"),
    [
        (WHOLE, ROTTEN, WHOLE, Finding.SOURCE_DIFFERS),
        (WHOLE, WHOLE, ROTTEN, Finding.CONTENT_DIFFERS),
        (b"the bode", WHOLE, ROTTEN, Finding.UNDECIDED),
        (None, WHOLE, ROTTEN, Finding.UNDECIDED),
    ],
)
def test_the_recorded_md5_shows_which_body_is_damaged(
    tmp_path: Path, moto_bucket: Bucket, recorded: bytes | None, here: bytes, there: bytes, expected: Finding
) -> None:
    source = create_bucket(moto_bucket.server)
    put_in_parts(source, here)
    put_in_parts(moto_bucket, there)
    record = recorded and Record(len(recorded), md5(recorded), BEFORE, BEFORE, BEFORE)
    audit(
        [Batch((ExpectedObject(KEY),), (KeyRange(FOLDER, FOLDER, "accounts/avatars0"),), rows=1)],
        storage(source, "source"),
        storage(moto_bucket, "destination"),
        tmp_path / "findings.parquet",
        AuditSettings(full=True, headers=Depth.none, acls=Depth.none),
        knowledge=lambda objects: [Known(Row(), record or None)] * len(objects),
        orphans=lambda *_: {},
        folders={},
        origin={},
        on_progress=lambda _: None,
    )
    (line,) = [line for lines in read_findings(tmp_path / "findings.parquet") for line in lines]
    assert (line.key, line.finding) == (KEY, expected)
