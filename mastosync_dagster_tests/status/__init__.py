"""Tests of `mastosync_dagster.status`."""
