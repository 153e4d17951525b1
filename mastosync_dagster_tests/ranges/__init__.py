"""Tests of `mastosync_dagster.ranges`."""
