"""The S3 protocol through libcurl: one client for every request. Knows neither Dagster nor Mastodon."""
