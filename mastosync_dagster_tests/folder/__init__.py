"""Tests of folders as storages."""
