"""What the Dagster UI asks of its webserver, asked by a test: launch a backfill, look at runs, terminate one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LAUNCH_BACKFILL = """
mutation ($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""

_LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""

_RUNS = """
query ($filter: RunsFilter) {
  runsOrError(filter: $filter) {
    ... on Runs { results { runId status jobName tags { key value } } }
  }
}
"""

_NEWEST_RUNS = """
query ($limit: Int!) {
  runsOrError(limit: $limit) {
    ... on Runs { results { runId status jobName tags { key value } } }
  }
}
"""

_STEPS = """
query ($runId: ID!) {
  runOrError(runId: $runId) {
    ... on Run { stepStats { stepKey status } }
  }
}
"""

_TERMINATE = """
mutation ($runId: String!) {
  terminateRun(runId: $runId) {
    __typename
    ... on TerminateRunFailure { message }
  }
}
"""

_PARTITION_KEYS = """
query ($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode { partitionKeys } } }
"""


@dataclass(frozen=True)
class Run:
    """A run as the UI shows it."""

    run_id: str
    status: str
    partition: str
    job: str


@dataclass(frozen=True)
class Webserver:
    """A Dagster webserver.

    Attributes:
        url: Such as ``http://127.0.0.1:3000``.
    """

    url: str

    def query(self, text: str, variables: Mapping[str, object]) -> dict[str, Any]:
        """Send a GraphQL query and return its data."""
        request = urllib.request.Request(  # noqa: S310  (loopback)
            f"{self.url}/graphql",
            data=json.dumps({"query": text, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise OSError(refusal.read().decode()[:4000]) from refusal
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def answers(self) -> bool:
        """Return whether it is there."""
        try:
            self.query("query { version }", {})
        except OSError:
            return False
        return True

    def launch(self, job: str, run_config: Mapping[str, object], tags: Mapping[str, str] | None = None) -> str:
        """Launch a run of a job, as the launchpad does; return its id."""
        selector = {
            "repositoryLocationName": "mastosync_dagster",
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
        parameters = {"selector": selector, "runConfigData": run_config, "executionMetadata": metadata}
        launched = self.query(_LAUNCH, {"parameters": parameters})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run: str = launched["run"]["runId"]
        return run

    def launch_backfill(
        self, asset: str, partitions: Sequence[str], run_config: Mapping[str, object] | None = None
    ) -> str:
        """Launch a backfill of an asset's partitions, as the UI's button does; return its id."""
        parameters = {
            "assetSelection": [{"path": [asset]}],
            "partitionNames": list(partitions),
            "fromFailure": False,
            **({"runConfigData": run_config} if run_config else {}),
        }
        launched = self.query(_LAUNCH_BACKFILL, {"backfillParams": parameters})["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        backfill: str = launched["backfillId"]
        return backfill

    def runs_of_backfill(self, backfill: str) -> list[Run]:
        """Return the runs of a backfill so far."""
        tags = [{"key": "dagster/backfill", "value": backfill}]
        found = self.query(_RUNS, {"filter": {"tags": tags}})["runsOrError"]["results"]
        return [_run(run) for run in found]

    def partition_keys(self, asset: str) -> list[str]:
        """Return the keys of an asset's partitions."""
        keys: list[str] = self.query(_PARTITION_KEYS, {"asset": {"path": [asset]}})["assetNodeOrError"]["partitionKeys"]
        return keys

    def newest_runs(self, limit: int) -> list[Run]:
        """Return the runs that were launched last, the newest first."""
        return [_run(run) for run in self.query(_NEWEST_RUNS, {"limit": limit})["runsOrError"]["results"]]

    def newest_run(self) -> Run:
        """Return the run that was launched last."""
        (run,) = self.newest_runs(1)
        return run

    def run(self, run_id: str) -> Run:
        """Return a run."""
        (run,) = self.query(_RUNS, {"filter": {"runIds": [run_id]}})["runsOrError"]["results"]
        return _run(run)

    def has_begun(self, run_id: str, step: str) -> bool:
        """Tell whether a step of a run is in progress."""
        found = self.query(_STEPS, {"runId": run_id})["runOrError"]["stepStats"]
        return any(each["stepKey"] == step and each["status"] == "IN_PROGRESS" for each in found)

    def terminate(self, run_id: str) -> None:
        """Terminate a run, as the UI's button does."""
        answer = self.query(_TERMINATE, {"runId": run_id})["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer


def _run(found: Mapping[str, Any]) -> Run:
    partitions = (tag["value"] for tag in found["tags"] if tag["key"] == "dagster/partition")
    return Run(found["runId"], found["status"], next(partitions, ""), found["jobName"])
