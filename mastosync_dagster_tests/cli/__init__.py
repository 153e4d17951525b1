"""Tests of `mastosync_dagster.cli`."""
