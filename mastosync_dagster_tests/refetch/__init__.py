"""Tests of `mastosync_dagster.refetch`."""
