"""Metrics for Prometheus: `collector.py` what they are, `server.py` who serves them; with rules and a dashboard."""
