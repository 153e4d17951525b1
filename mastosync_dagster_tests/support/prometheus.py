"""A real Prometheus on loopback."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    None in {PROMETHEUS, PROMTOOL}, reason="no prometheus on this machine (Debian: apt-get install prometheus)"
)

_CONFIG = """\
global: {{scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: mastosync
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def shortened_rules(folder: Path, *, night_seconds: int) -> Path:
    """Write the rules that the command prints: a night may be so old, and alerts fire at once."""
    text = CliRunner().invoke(main, ["metrics", "--rules"]).output
    shortened, replaced = re.subn(r"for: \w+", "for: 0s", text.replace("26 * 3600", str(night_seconds)))
    assert (shortened.count(f"> {night_seconds}"), replaced) == (1, text.count("alert:"))
    rules = folder / "rules.yaml"
    rules.write_text(shortened)
    return rules


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        return [float(each["value"][1]) for each in self.ask("query", query=expression)["result"]]

    def wait_for_alerts(self, *names: str, seconds: float = 100) -> None:
        """Wait until these alerts fire, and no others."""
        deadline = time.monotonic() + seconds
        while (firing := self.firing()) != set(names):
            assert time.monotonic() < deadline, f"{sorted(firing)} fire, and not {sorted(names)}"
            time.sleep(0.2)

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"}


@contextlib.contextmanager
def prometheus(folder: Path, rules: Path, port: int) -> Iterator[Prometheus]:
    """Run one that scrapes a port every five seconds: on a busy machine, mastosync takes one to answer."""
    assert PROMETHEUS is not None
    assert PROMTOOL is not None
    config, own = folder / "prometheus.yaml", free_port()
    config.write_text(_CONFIG.format(rules=rules, port=port))
    subprocess.run([PROMTOOL, "check", "config", str(config)], check=True, capture_output=True)
    address = f"127.0.0.1:{own}"
    command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            asked = Prometheus(f"http://{address}")

            def answers() -> bool:
                with contextlib.suppress(OSError, IndexError):  # not up, or without targets yet
                    return bool(asked.ask("targets")["activeTargets"][0]["health"] == "up")
                return False

            wait_until(answers, 60)
            yield asked
        finally:
            process.terminate()
            process.wait(30)
