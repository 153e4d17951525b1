"""Tests of `mastosync_dagster.runs`."""
