"""Tests of `mastosync_dagster.expected`."""
