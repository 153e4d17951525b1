"""Tests of `mastosync_dagster.plan`."""
