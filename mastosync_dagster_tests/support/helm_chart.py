"""What Dagster's Helm chart makes of values, by data/helm_chart.yaml: there is neither the chart nor Helm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CHART: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "data" / "helm_chart.yaml").read_text())
FULL_NAME = "mastosync-dagster"
"""The chart's, behind the name of the release in docs/deploy.md."""


def merged(default: Any, value: Any) -> Any:
    """Return a value over its default, as Helm does: map by map, and anything else as a whole."""
    if not (isinstance(default, dict) and isinstance(value, dict)):
        return value
    return default | {key: merged(default.get(key), own) for key, own in value.items()}


def snake_case(values: dict[str, Any]) -> dict[str, Any]:
    """Return a section with the names that Dagster gives its keys; those within lists and maps stay as they are."""
    return {"".join(f"_{each.lower()}" if each.isupper() else each for each in key): values[key] for key in values}


def dagster_yaml(values: dict[str, Any], *, namespace: str = "media") -> dict[str, Any]:
    """Return the dagster.yaml that the chart writes of values that its schema, as we have written it down, accepts.

    The names of modules are without the underscore, as the chart has them: Dagster puts it there.
    """
    daemon = values["dagsterDaemon"]
    assert all(daemon[each]["enabled"] for each in ("runMonitoring", "runRetries"))
    assert values["retention"]["enabled"]
    assert values["concurrency"]["enabled"]
    written = {
        "scheduler": {"module": "dagster.core.scheduler", "class": "DagsterDaemonScheduler"},
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        **{
            section: {"module": f"dagster_postgres.{module}", "class": name, "config": _history(values["postgresql"])}
            for section, module, name in (
                ("run_storage", "run_storage", "PostgresRunStorage"),
                ("event_log_storage", "event_log", "PostgresEventLogStorage"),
                ("schedule_storage", "schedule_storage", "PostgresScheduleStorage"),
            )
        },
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": _launcher(values, namespace)},
        "run_coordinator": daemon["runCoordinator"]["config"]["customRunCoordinator"],
        "run_monitoring": snake_case(daemon["runMonitoring"]),
        "run_retries": snake_case(daemon["runRetries"]),
        **{section: snake_case(daemon[section]) for section in ("sensors", "schedules", "backfills")},
        "concurrency": {"runs": snake_case(values["concurrency"]["runs"])},
        "telemetry": values["telemetry"],
        "retention": snake_case(
            {key: snake_case(kept) for key, kept in values["retention"].items() if key != "enabled"}
        ),
    }
    own: dict[str, Any] = values["additionalInstanceConfig"]
    assert not written.keys() & own.keys()
    return written | own


def _history(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "postgres_db": {
            "username": values["postgresqlUsername"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": values["postgresqlHost"],
            "db_name": values["postgresqlDatabase"],
            "port": values["service"]["port"],
            "params": values["postgresqlParams"],
            "scheme": values["postgresqlScheme"],
        }
    }


def _launcher(values: dict[str, Any], namespace: str) -> dict[str, Any]:
    own = values["runLauncher"]["config"]["k8sRunLauncher"]
    return {
        **snake_case(own),
        "run_k8s_config": snake_case(own["runK8sConfig"]),
        "job_namespace": namespace,
        "service_account_name": values["serviceAccount"]["name"] or FULL_NAME,
        "dagster_home": values["global"]["dagsterHome"],
        "instance_config_map": f"{FULL_NAME}-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
    }
