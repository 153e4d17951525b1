"""The worker of Celery, with leases that end sooner: for ``celery -A``."""

from mastosync_dagster.environment import broker_url
from mastosync_dagster.machines.application import make_app

LEASE_SECONDS = 18.0

app = make_app(broker_url(), LEASE_SECONDS)
