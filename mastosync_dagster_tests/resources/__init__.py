"""Tests of `mastosync_dagster.resources`."""
