"""The files that people deploy with."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import jsonschema
import pytest
import yaml
from dagster._serdes import ConfigurableClassData
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import construct_dagster_k8s_job
from jsonschema import Draft202012Validator

from mastosync_dagster.installation.docker import FILES
from mastosync_dagster_tests.support.helm_chart import CHART, dagster_yaml, merged

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer

PROJECT = Path(__file__).parents[1]
LINKED = ("dagster.yaml", "workspace.yaml", ".env.example")
"""Files that the package holds as links."""


MASTODONS_FILE = """LOCAL_DOMAIN=social.example
SECRET_KEY_BASE=s3cret
OTP_SECRET=s3cret
VAPID_PRIVATE_KEY=s3cret
SMTP_PASSWORD=s3cret
REDIS_PASSWORD=s3cret
export DB_PASS=known
DB_HOST=known
DATABASE_URL=known
S3_BUCKET=known
export AWS_SECRET_ACCESS_KEY=known
"""


@pytest.mark.parametrize("document", ["docs/deploy.md", ".env.example"])
def test_of_mastodons_file_only_what_is_needed_is_copied(tmp_path: Path, document: str) -> None:
    (pattern,) = set(re.findall(r"grep -E '([^']+)'", (PROJECT / document).read_text()))
    file = tmp_path / ".env.production"
    file.write_text(MASTODONS_FILE)
    copied = subprocess.run(["grep", "-E", pattern, str(file)], capture_output=True, text=True, check=True).stdout
    assert "s3cret" not in copied
    assert copied.count("known") == MASTODONS_FILE.count("known")


def test_history_lies_in_postgresql_with_the_deployed_settings(
    database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (PROJECT / "deploy" / "dagster.yaml").read_text().replace("port: 5432", f"port: {database.port}")
    (tmp_path / "dagster.yaml").write_text(settings)
    for name, value in {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_PG_HOST": database.host,
        "DAGSTER_PG_USER": database.user,
        "DAGSTER_PG_PASSWORD": database.password,
        "DAGSTER_PG_DB": database.database,
    }.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("accounts_ids", ["1-2"])
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("accounts_ids") == ["1-2"]
    assert not list(tmp_path.glob("history/**/*.db"))


def test_both_dagster_yaml_files_say_the_same_but_for_the_storage() -> None:
    by_hand = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    deployed = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text())
    assert deployed.pop("storage")
    # The queue's container does not see the memory of the one in which runs are.
    assert deployed["concurrency"]["runs"].pop("max_concurrent_runs") == 4
    assert deployed == by_hand


def values_for_kubernetes() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "kubernetes.yaml").read_text())
    return values


def test_the_chart_accepts_the_values_for_kubernetes() -> None:
    Draft202012Validator.check_schema(CHART["schema"])
    jsonschema.validate(values_for_kubernetes(), CHART["schema"], Draft202012Validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("telemtry", {"enabled": False}),
        ("global.dagsterhome", "/var/lib/mastosync"),
        ("dagsterWebserver.service.ports", 3030),
        ("dagsterDaemon.runRetries.maxRetry", 3),
        ("dagsterDaemon.runCoordinator.config.queuedRunCoordinater", {}),
        ("dagster-user-deployments.deployments.0.volumeMount", []),
        ("runLauncher.config.k8sRunLauncher.runK8sConfig.podConfig", {}),
        ("dagsterWebserver.service.port", "3030"),
        ("dagsterWebserver.image.tag", 1.5),
        ("dagsterWebserver.image.pullPolicy", "Sometimes"),
        ("dagster-user-deployments.deployments.0", {"name": "without a port", "image": {}}),
        ("concurrency.runs.tagConcurrencyLimits.0", {"key": "without a limit"}),
        ("retention.schedule.purgeAfterDays", "30"),
        ("telemetry.enabled", "no"),
        ("additionalInstanceConfig.concurrency", {"pools": {"default_limit": 8}}),
        ("additionalInstanceConfig.run_retries", {"enabled": True}),
        ("additionalInstanceConfig.telemetry", {"enabled": False}),
    ],
)
def test_what_the_chart_refuses_or_ignores_or_writes_itself_is_found_in_the_values(path: str, value: object) -> None:
    values = values_for_kubernetes()
    place: Any = values
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, CHART["schema"], Draft202012Validator)


def test_dagster_starts_with_what_the_chart_makes_of_the_values(
    database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = merged(CHART["defaults"], values_for_kubernetes())
    values["postgresql"] |= {
        "postgresqlHost": database.host,
        "postgresqlUsername": database.user,
        "postgresqlDatabase": database.database,
        "service": {"port": database.port},
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(dagster_yaml(values)))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", database.password)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("accounts_ids", ["1-2"])
        assert isinstance(instance.run_coordinator, dg.QueuedRunCoordinator)
        assert instance.scheduler
        queue = instance.get_concurrency_config().run_queue_config
        assert queue
        assert queue.max_concurrent_runs == 8
        assert queue.max_user_code_failure_retries == 240
        assert [limit["key"] for limit in queue.tag_concurrency_limits] == ["dagster/backfill", "mastosync/night"]
        assert instance.run_retries_max_retries == 3
        assert not instance.run_retries_retry_on_asset_or_op_failure
    assert not list(tmp_path.glob("history/**/*.db"))


def test_the_values_for_kubernetes_say_the_same_as_the_other_settings_but_for_what_follows_from_pods() -> None:
    alone = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text())
    pods = dagster_yaml(merged(CHART["defaults"], values_for_kubernetes()))
    history = alone.pop("storage")["postgres"]["postgres_db"]
    for section in ("run_storage", "event_log_storage", "schedule_storage"):
        found = pods.pop(section)["config"]["postgres_db"]
        assert found.keys() == history.keys()
        assert [found[key] for key in ("port", "scheme", "params")] == [
            history[key] for key in ("port", "scheme", "params")
        ]
    # The chart's own, and what a pod per run asks for.
    for section in ("scheduler", "compute_logs", "sensors", "schedules"):
        assert pods.pop(section)
    assert pods["retention"].pop("auto_materialize")
    for settings in (alone, pods):
        assert settings.pop("run_launcher")
        settings["run_monitoring"] = settings["run_monitoring"]["enabled"]
        coordinator = settings["run_coordinator"]
        del coordinator["module"], coordinator["class"], coordinator["config"]["dequeue_interval_seconds"]
        at_once = settings["concurrency"]["runs"].pop("max_concurrent_runs")
        backfill, night = settings["concurrency"]["runs"]["tag_concurrency_limits"]
        assert backfill.pop("limit") == at_once - 1
        assert night["limit"] == 1
    assert pods == alone


def test_the_chart_asks_the_webserver_where_it_listens() -> None:
    webserver = merged(CHART["defaults"], values_for_kubernetes())["dagsterWebserver"]
    assert webserver["readinessProbe"]["httpGet"] == {"path": "/server_info", "port": webserver["service"]["port"]}


def test_code_server_and_runs_have_the_same_settings_in_kubernetes_and_runs_a_memory_limit_of_their_own() -> None:
    values = values_for_kubernetes()
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    container = launcher["runK8sConfig"]["containerConfig"]
    assert container["env"] == deployment["env"]
    assert launcher["volumes"] == deployment["volumes"]
    assert launcher["volumeMounts"] == deployment["volumeMounts"]
    variables = {each["name"]: each["value"] for each in deployment["env"]}
    assert variables["MASTOSYNC_MANIFESTS"].startswith("s3://")
    assert variables["MASTOSYNC_ENV_FILE"].startswith(deployment["volumeMounts"][0]["mountPath"])
    # Dagster would put those of the code server in their place.
    assert container["resources"] != deployment["resources"]
    assert not deployment["includeConfigInLaunchedRuns"]["enabled"]


def test_dagster_makes_a_job_for_kubernetes_of_what_the_chart_makes_of_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    config = dagster_yaml(merged(CHART["defaults"], values_for_kubernetes()))["run_launcher"]["config"]
    launcher = ConfigurableClassData("dagster_k8s", "K8sRunLauncher", yaml.safe_dump(config)).rehydrate()
    assert isinstance(launcher, K8sRunLauncher)
    context = launcher.get_container_context_for_run(dg.DagsterRun(job_name="sync"))
    made = construct_dagster_k8s_job(
        context.get_k8s_job_config(job_image="image", run_launcher=launcher),
        args=["dagster"],
        job_name="sync",
        user_defined_k8s_config=context.run_k8s_config,
    ).to_dict()["spec"]
    pod = made["template"]["spec"]
    (container,) = pod["containers"]
    assert made["ttl_seconds_after_finished"] == 3600
    assert pod["termination_grace_period_seconds"] == 60
    assert pod["security_context"]["run_as_user"] == 1000
    assert [volume["secret"]["secret_name"] for volume in pod["volumes"]] == ["mastosync-env"]
    assert [each["mount_path"] for each in container["volume_mounts"]] == ["/etc/mastosync"]
    assert container["resources"]["limits"] == {"memory": "4Gi"}
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["DAGSTER_HOME"] == "/var/lib/mastosync"
    assert variables.keys() >= {"DAGSTER_PG_PASSWORD", "MASTOSYNC_ENV_FILE", "MASTOSYNC_MANIFESTS"}


def test_dagster_yaml_for_celery_says_the_same_but_for_what_follows_from_other_machines() -> None:
    alone = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text())
    shared = yaml.safe_load((PROJECT / "deploy" / "celery" / "dagster.yaml").read_text())
    assert shared.pop("run_launcher")["class"] == "WatchfulCeleryRunLauncher"
    assert alone.pop("run_launcher")
    for settings in (alone, shared):
        settings["run_monitoring"] = settings["run_monitoring"]["enabled"]
        del settings["run_retries"]["max_retries"]
    assert shared == alone


def test_the_builder_gets_every_file_that_installing_needs_and_no_settings() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    needed = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "mastosync_dagster", *LINKED)
    for name in needed:
        assert name in let_in
        assert (PROJECT / name).exists()
    # The package has links to what Docker needs itself, for a folder without a clone.
    for name in FILES:
        assert any(fnmatchcase(name, pattern) for pattern in let_in), name
    for name in ("instance.env", "deploy/.env", "destination.env", ".env", ".git", ".venv"):
        assert not any(fnmatchcase(name, pattern) for pattern in let_in), name


def test_what_containers_write_to_are_volumes_whose_folders_the_image_owns() -> None:
    dockerfile = (PROJECT / "deploy" / "Dockerfile").read_text()
    owned = dockerfile.partition("install -d ")[2].partition("\nCOPY")[0]
    compose = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())
    images = set()
    for name in ("code", "webserver", "daemon"):
        service = compose["services"][name]
        images.add(service["image"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "env_file" not in service
        targets = [volume.split(":") for volume in service["volumes"] if not volume.startswith("${")]
        assert {target[1] for target in targets} <= set(owned.split())
        assert {target[0] for target in targets} <= compose["volumes"].keys()
        assert ("MASTOSYNC_ENV_FILE" in service["environment"]) is (name == "code")
    assert len(images) == 1
    assert [name for name, service in compose["services"].items() if "build" in service] == ["code"]


def test_a_worker_s_container_is_as_hardened_as_the_code_server_s_and_has_the_same_settings() -> None:
    alone = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())
    shared = yaml.safe_load((PROJECT / "deploy" / "compose.celery.yaml").read_text())
    code, worker = alone["services"]["code"], shared["services"]["worker"]
    for name in (
        "image",
        "init",
        "read_only",
        "tmpfs",
        "security_opt",
        "cap_drop",
        "restart",
        "extra_hosts",
        "mem_limit",
    ):
        assert worker[name] == code[name], name
    own = {"CELERY_BROKER", "TMPDIR"}
    assert {name: value for name, value in worker["environment"].items() if name not in own} == {
        name: value for name, value in code["environment"].items() if name not in own
    }
    settings = "./celery/dagster.yaml:/var/lib/mastosync/dagster.yaml:ro"
    for name in ("code", "webserver", "daemon", "worker"):
        assert settings in shared["services"][name]["volumes"]
        assert shared["services"][name]["environment"]["CELERY_BROKER"] == worker["environment"]["CELERY_BROKER"]
    owned = (PROJECT / "deploy" / "Dockerfile").read_text().partition("install -d ")[2].partition("\nCOPY")[0].split()
    written = [volume.rpartition(":")[2] for volume in worker["volumes"] if not volume.endswith(":ro")]
    assert worker["environment"]["TMPDIR"] in written
    assert set(written) <= set(owned)
    assert "ports" not in shared["services"]["redis"]


def test_webserver_and_daemon_look_for_the_code_server_where_it_listens() -> None:
    workspace = yaml.safe_load((PROJECT / "deploy" / "workspace.yaml").read_text())
    (server,) = [entry["grpc_server"] for entry in workspace["load_from"]]
    compose = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())
    command = compose["services"]["code"]["command"][-1]
    assert f"--socket {server['socket']} " in command
    assert command.endswith(f"--location-name {server['location_name']}")
