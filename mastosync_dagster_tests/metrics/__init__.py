"""Tests of `mastosync_dagster.metrics`."""
