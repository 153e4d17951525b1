"""What Celery runs on each machine: ``celery -A mastosync_dagster.machines.worker worker``."""

from mastosync_dagster.environment import broker_url
from mastosync_dagster.machines.application import make_app

app = make_app(broker_url())
