"""Runs that workers of Celery share, with real workers, a real Redis and a history in PostgreSQL."""
