"""Runs that are shared by machines: Celery hands each to a worker that is idle, and Redis knows which worker has it."""
