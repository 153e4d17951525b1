"""Objects between two S3 storages: without Dagster and without Mastodon."""
