"""``mastosync init --docker``: a folder in which Docker needs no clone of the project."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from mastosync_dagster.cli.main import main
from mastosync_dagster.installation.settings_file import read_settings
from mastosync_dagster_tests.support.installation import PROJECT

PRODUCTION = "SECRET_KEY_BASE=not-for-us\nDB_HOST=db\nS3_BUCKET=media\nDESTINATION_S3_BUCKET=copy\n"
COMPOSE = ("compose.yaml", "compose.mastodon.yaml", "compose.celery.yaml", "compose.celery.mastodon.yaml")


def init(folder: Path, *arguments: str) -> Result:
    given = folder.parent / ".env.production"
    given.write_text(PRODUCTION)
    return CliRunner().invoke(main, ["init", "--docker", str(folder), "--from", str(given), *arguments])


def committed(*patterns: str) -> set[str]:
    """Return the names of the project's files."""
    words = ["git", "ls-files", *patterns]
    return set(subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split())


def test_it_writes_what_a_clone_has_where_a_clone_has_it_and_private_files_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This process's variables are none of the containers': they count for nothing here.
    monkeypatch.setenv("S3_BUCKET", "of-this-process")
    folder = tmp_path / "for docker"
    before = os.umask(0o077)
    outcome = init(folder)
    os.umask(before)
    assert outcome.exit_code == 0, outcome.output
    wanted = committed("deploy", ".dockerignore", "constraints.txt")
    assert {"deploy/compose.yaml", "deploy/Dockerfile", "deploy/dagster.yaml", "deploy/workspace.yaml"} <= wanted
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {*wanted, "instance.env", "deploy/.env"}
    for name in wanted:
        assert (folder / name).read_bytes() == (PROJECT / name).read_bytes(), name
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o644
    instance, variables = folder / "instance.env", folder / "deploy" / ".env"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (instance, variables)} == {0o600}
    # The user of the containers reads it: only root can give it a file.
    assert instance.stat().st_uid == (1000 if os.geteuid() == 0 else os.geteuid())
    assert read_settings(instance) == {"DB_HOST": "db", "S3_BUCKET": "media", "DESTINATION_S3_BUCKET": "copy"}
    name, _, password = variables.read_text().strip().partition("=")
    assert (name, len(password), password in outcome.output) == ("DAGSTER_PG_PASSWORD", 48, False)
    for home_only in ("history", "systemd", "mastosync.env"):
        assert not (folder / home_only).exists()
    assert f"cp mastosync_dagster-*.whl '{folder}'" in outcome.output


def test_what_is_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    assert init(folder).exit_code == 0
    (folder / "deploy" / "compose.yaml").write_text("services: {}\n")
    (folder / "instance.env").write_text("S3_BUCKET=mine\n")
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = init(folder)
    assert outcome.exit_code == 0, outcome.output
    assert read_settings(folder / "instance.env")["S3_BUCKET"] == "mine"
    assert read_settings(folder / "instance.env")["DESTINATION_S3_BUCKET"] == "copy"
    del files[folder / "instance.env"]
    assert {path: path.read_bytes() for path in files} == files


def test_what_the_settings_lack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_BUCKET", "DESTINATION_S3_BUCKET"):
        monkeypatch.setenv(name, "of-this-process")
    folder = tmp_path / "docker"
    outcome = CliRunner().invoke(main, ["init", "--docker", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    assert f"set S3_BUCKET and DESTINATION_S3_BUCKET in {folder}/instance.env" in outcome.output


@pytest.mark.parametrize("options", [["--night"], ["--port", "3030"], ["--units", "units"], ["--worker"]])
def test_options_of_a_home_are_refused_beside_it(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "docker"
    outcome = init(folder, *options)
    assert outcome.exit_code == 2
    assert "--docker needs a folder, and takes --from and --no-input beside it." in outcome.output
    assert not folder.exists()


def test_it_needs_a_folder(tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("mastosync"))
    outcome = subprocess.run(
        [command, "init", "--docker"], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 2
    assert "--docker needs a folder" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose on this machine")
@pytest.mark.parametrize("count", range(1, len(COMPOSE) + 1))
def test_compose_accepts_the_files_and_takes_everything_out_of_the_folder(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "docker"
    assert init(folder).exit_code == 0
    with (folder / "deploy" / ".env").open("a") as file:
        file.write("REDIS_PASSWORD=secret\n")
    words = ["docker-compose", *(word for name in COMPOSE[:count] for word in ("-f", f"deploy/{name}")), "config"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MASTOSYNC_", "DAGSTER_"))}
    outcome = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    services = yaml.safe_load(outcome.stdout)["services"]
    assert set(services) == {"history", "code", "webserver", "daemon", *(["redis", "worker"] if count > 2 else [])}
    build = services["code"]["build"]
    assert Path(build["context"]).resolve() == folder
    assert (folder / build["dockerfile"]).is_file()
    mounted = [volume for service in services.values() for volume in service["volumes"]]
    sources = {text.split(":")[0] for text in map(str, mounted) if text.startswith("/") and ":ro" in text}
    assert f"{folder}/instance.env" in sources
    assert [source for source in sources if not (Path(source).is_relative_to(folder) and Path(source).is_file())] == []
