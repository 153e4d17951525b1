"""An instance that lives, its copy, and the nights between them."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.manifest import read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.watermarks import watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.living import LivingInstance

DAY = timedelta(hours=24)
MINUTE = timedelta(minutes=1)


@dataclass
class Life:
    """An instance, its copy, and the nights between them. All clocks are set: those of runs in this process.

    Attributes:
        machine_ahead: How far this machine's clock is ahead of the instance's own.
        destination_ahead: How far the destination's is.
    """

    world: Installation
    living: LivingInstance
    set_rows_per_partition: Callable[[int], None]
    machine_ahead: timedelta = timedelta()
    destination_ahead: timedelta = timedelta()

    def copy_everything(self) -> None:
        """Register and run the ranges of all file types: the history before the first night."""
        for file_type, keys in self.world.register().items():
            for key in keys:
                assert self.run(f"sync_{file_type.value}", key).success

    def run(
        self,
        job: str,
        partition: str | None = None,
        config: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process, without Dagster's lines on the terminal, and with little patience."""
        config = copy.deepcopy(dict(config or {}))
        if job == "sync_changes":
            ops: dict[str, Any] = config.setdefault("ops", {})  # type: ignore[assignment]  # a tree of dicts
            ops.setdefault("plan_changes", {}).setdefault("config", {}).setdefault("wait_seconds", 1)
        return self.world.definitions.resolve_job_def(job).execute_in_process(
            instance=self.world.dagster,
            partition_key=partition,
            run_config={**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=tags,
            raise_on_error=False,
        )

    def day(self) -> LivingInstance:
        """Let the day after a night come."""
        self.living.pass_time(DAY / 2)
        return self.living

    def night(self, after: timedelta = DAY / 2) -> dg.ExecuteInProcessResult:
        """Let the night come, and do what the daemon does then; return the incremental run."""
        self.living.pass_time(after)
        before = self._ranges()
        tick = self.tick()
        assert tick.run_requests, tick.skip_message
        # The night itself may register ranges too: those of a table that it has read whole, and has finished.
        asked = self._ranges()
        (request,) = tick.run_requests
        result = self.run("sync_changes", config=request.run_config, tags=request.tags)
        self._run_backfills({each: [key for key in keys if key not in before[each]] for each, keys in asked.items()})
        return result

    def tick(self, now: datetime | None = None) -> dg.ScheduleExecutionData:
        """Evaluate the schedule, by default at the instance's own time."""
        with dg.build_schedule_context(
            instance=self.world.dagster,
            repository_def=self.world.definitions.get_repository_def(),
            resources={"mastodon_db": MastodonDatabase()},
            scheduled_execution_time=now or self.living.now,
        ) as context:
            return self.world.definitions.resolve_schedule_def("nightly_incremental").evaluate_tick(context)

    def _run_backfills(self, new: dict[FileType, list[str]]) -> None:
        """Run new ranges, as the daemon does with the backfills that the schedule has asked for."""
        dagster = self.world.dagster
        asked = {
            backfill.asset_selection[0].to_user_string()
            for backfill in dagster.get_backfills(status=BulkActionStatus.REQUESTED)
            if backfill.asset_selection
        }
        for file_type, keys in new.items():
            assert (file_type.value in asked) is bool(keys)
            for key in keys:
                assert self.run(f"sync_{file_type.value}", key).success
        for backfill in dagster.get_backfills(status=BulkActionStatus.REQUESTED):
            done = backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS)  # type: ignore[no-untyped-call]  # Dagster's
            dagster.update_backfill(done)

    def _ranges(self) -> dict[FileType, list[str]]:
        return {
            file_type: list(self.world.dagster.get_dynamic_partitions(file_type.partitions_name))
            for file_type in FileType
        }

    def an_old_account(self) -> int:
        """Return a local account of the generated instance whose avatar is one object."""
        for row in self.world.instance.rows["accounts"]:
            row_id, name = int(str(row["id"])), str(row.get("avatar_file_name"))
            key = self.living.key("accounts", "avatar", row_id, "original", name)
            if not row.get("domain") and key in self.living.expected and row.get("avatar_content_type") == "image/png":
                return row_id
        raise AssertionError

    def watermarks(self) -> dict[str, datetime]:
        """Return how far each file type has come."""
        place = S3Bucket.destination().settings().identity
        found = {file_type.value: watermark(self.world.dagster, file_type, place) for file_type in FileType}
        return {name: mark.timestamp for name, mark in found.items() if mark}

    def mark(self) -> datetime | None:
        """Return how far the accounts have come; None: no incremental run of them has ended well."""
        return self.watermarks().get(FileType.ACCOUNTS.value)

    def has_moved(self, before: datetime | None) -> bool:
        """Return whether the watermark of the accounts is later than one that was there before."""
        after = self.mark()
        return before is not None and after is not None and after > before

    def differences(self) -> list[str]:
        """Compare the destination with what the database says: by a listing, ETags being MD5s here."""
        return self.living.differences(self.world.destination)

    def copied_too_often(self) -> dict[str, int]:
        """Return the objects that runs have copied more often than they were written at the source, and how often.

        By the manifests of all runs: a request that a server has failed and that is repeated is no second copy.
        """
        manifests = Path(self.world.environment["DAGSTER_HOME"], "manifests").glob("[!d]*/*/*.parquet")
        copied = Counter(
            line.key
            for file in manifests
            for lines in read_manifest(file)
            for line in lines
            if line.outcome is Outcome.COPIED
        )
        return {key: count for key, count in copied.items() if count > self.living.written[key]}
