"""Alerts about runs: to a webhook, to the addresses of Apprise, and to a monitor of nights that is pinged."""

from mastosync_dagster.alerts.delivery import AlertError, deliver, post_alert
from mastosync_dagster.alerts.message import failure_message
from mastosync_dagster.alerts.sensors import alert_on_failed_tick, alert_on_failure

__all__ = ["AlertError", "alert_on_failed_tick", "alert_on_failure", "deliver", "failure_message", "post_alert"]
