"""The files that people deploy with."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml

from mastosync_dagster.installation.docker import FILES

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


def test_the_values_for_kubernetes_retry_and_limit_as_the_other_settings_do() -> None:
    values = yaml.safe_load((PROJECT / "deploy" / "kubernetes.yaml").read_text())
    settings = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text())
    own = values["additionalInstanceConfig"]
    assert own["run_retries"] == settings["run_retries"]
    assert not values["dagsterDaemon"]["runRetries"]["enabled"]
    queue = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    limits = {limit["key"] for limit in settings["concurrency"]["runs"]["tag_concurrency_limits"]}
    assert {limit["key"] for limit in queue["tagConcurrencyLimits"]} == limits
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    variables = {each["name"]: each["value"] for each in deployment["env"]}
    assert variables["MASTOSYNC_MANIFESTS"].startswith("s3://")
    assert variables["MASTOSYNC_ENV_FILE"].startswith(deployment["volumeMounts"][0]["mountPath"])


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
