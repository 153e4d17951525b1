"""What Mastodon stores for each row: facts of Mastodon and PostgreSQL, without Dagster and without S3."""
