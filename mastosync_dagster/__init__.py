"""Moves a Mastodon instance's media between S3 storages with Dagster."""
