"""PostgreSQL and S3 servers from wheels."""
