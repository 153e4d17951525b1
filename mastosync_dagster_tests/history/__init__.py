"""Tests of `mastosync_dagster.history`."""
