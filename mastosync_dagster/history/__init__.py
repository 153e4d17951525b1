"""Dagster's history: how this project's processes wait for it, and how often it is written to the disk."""
