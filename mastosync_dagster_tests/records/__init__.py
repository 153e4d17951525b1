"""Tests of `mastosync_dagster.records`."""
