"""What a simple script does: five processes, each a loop of get, read, put. Run as a program by the benchmark."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import boto3
from botocore.config import Config

PROCESSES = 5


def copy(keys: list[str], source: dict[str, str], destination: dict[str, str], bucket: str) -> None:
    """Copy objects one after another, with the headers that Mastodon sets."""
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    reader, writer = (
        boto3.client("s3", config=config, **storage)  # type: ignore[call-overload]  # the stubs know no such dictionary
        for storage in (source, destination)
    )
    for key in keys:
        answer = reader.get_object(Bucket=bucket, Key=key)
        writer.put_object(
            Bucket=bucket,
            Key=key,
            Body=answer["Body"].read(),
            ContentType=answer["ContentType"],
            CacheControl=answer["CacheControl"],
            Metadata=answer["Metadata"],
        )


def main(keys_file: str, bucket: str, *storages: str) -> None:
    """Copy the keys of a file, one a line.

    Args:
        keys_file: The file.
        bucket: Name of the bucket on both storages.
        storages: Endpoint, access key and secret of the source, then of the destination.
    """
    names = ("endpoint_url", "aws_access_key_id", "aws_secret_access_key")
    source, destination = (dict(zip(names, storages[at : at + 3], strict=True)) for at in (0, 3))
    keys = Path(keys_file).read_text().split()
    workers = [
        multiprocessing.Process(target=copy, args=(keys[number::PROCESSES], source, destination, bucket))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main(*sys.argv[1:])
