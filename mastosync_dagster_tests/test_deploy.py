"""The files that people deploy with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import yaml

if TYPE_CHECKING:
    import pytest

    from mastosync_dagster.demo.servers import PostgresServer

PROJECT = Path(__file__).parents[1]


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
    assert deployed == by_hand


def test_the_image_holds_every_file_that_installing_needs() -> None:
    dockerfile = (PROJECT / "deploy" / "Dockerfile").read_text()
    for name in ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "mastosync_dagster"):
        assert name in dockerfile
        assert (PROJECT / name).exists()
