"""Tests of `mastosync_dagster.data`."""
