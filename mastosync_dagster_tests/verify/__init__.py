"""Tests of `mastosync_dagster.verify`."""
