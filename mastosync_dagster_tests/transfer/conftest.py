"""Fixtures of this folder."""

from mastosync_dagster_tests.support.moto_server import moto, moto_bucket

__all__ = ["moto", "moto_bucket"]
