"""Tests of `mastosync_dagster.sync`."""
