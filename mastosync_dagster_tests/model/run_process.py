"""Forks runs that end, or are held up, at a step: ``python -m mastosync_dagster_tests.model.run_process``.

It reads lines of JSON from its standard input, and executes a run in a child each. It answers with the child's process
id; with ``"stopped"`` as often as the child has stopped itself; and at last with whether the run has succeeded (null:
it was killed). A line is an object: ``variables`` of the environment, ``job``, and where they are wanted ``partition``,
``config``, ``clock`` (a file with the time), and ``stop``: the label of a step, how often it has come, and a signal.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib
import inspect
import ipaddress
import itertools
import json
import logging
import os
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mastosync_dagster.copy import acl_changes
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.sync import doubt_checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.config import Config

_FAILED = 3
_PACKAGE = "mastosync_dagster."
ORIGIN = "127.0.0.2"
"""The address of other servers, which counts as public."""

STEPS: dict[str, tuple[str, str]] = {
    "folder": ("runs.work_folder", "create_work_folder"),
    "fold": ("records.folding", "fold_manifests"),
    "read": ("sync.plan_step", "_begin"),
    "compare": ("sync.plan_step", "make_plan"),
    "list": ("runs.doubts", "RunDoubts.publish"),
    "list file": ("runs.doubt_lists", "DoubtList.publish"),
    "old lists": ("runs.doubt_lists", "DoubtList.remove"),
    "tags": ("sync.plan_step", "_note"),
    "probes": ("sync.copy_step", "prove_private"),
    "ACLs": ("sync.copy_step", "set_acls"),
    "ACL": ("copy.acl_changes", "set_acl"),
    "bodies": ("sync.copy_step", "copy_plan"),
    "GET": ("copy.single", "SingleObjects._fetch"),
    "PUT": ("copy.single", "SingleObjects._store"),
    "privacy": ("sync.privacy_watch", "PrivacyWatch.check"),
    "merge": ("sync.publication", "merge"),
    "left": ("sync.publication", "leave_doubts"),
    "file": ("runs.outbox", "Outbox.publish"),
    "folder's end": ("runs.work_folder", "remove_work_folder"),
    "published": ("sync.publication", "publish"),
    "ranges": ("sync.publication", "log_finished_ranges"),
    "observation": ("sync.events", "RunReport.observation"),
    "metadata": ("sync.events", "RunReport.metadata"),
    "night": ("sync.events", "RunReport.night"),
}
"""Steps of a run: module and function. A run stops before or after one."""
LABELS = [f"{when} {name}" for name in STEPS for when in ("before", "after")]
BEFORE_READING = LABELS[: LABELS.index("after compare")]
"""Those of a run that has read no row yet: the plan reads the rows as it compares."""


def main() -> None:
    """Fork a run for each line of the input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    definitions = build_definitions(web=_web())
    for job in definitions.resolve_all_job_defs():
        assert job.graph  # resolved once, not in each child
    _wait_for_no_disk()
    _know_schemas()
    # One at a time, so that a seed repeats: the order of requests is that of the plan.
    acl_changes._THREADS = doubt_checks._CHECKS_IN_FLIGHT = 1
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(definitions, wanted))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, os.WUNTRACED)
        while os.WIFSTOPPED(status):
            print(json.dumps("stopped"), file=answers, flush=True)
            _, status = os.waitpid(pid, os.WUNTRACED)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({0: True, _FAILED: False}.get(code)), file=answers, flush=True)


def _web() -> FetchSettings:
    return FetchSettings(
        resolve=lambda *_: [ORIGIN],
        allowed=[ipaddress.IPv4Network(f"{ORIGIN}/32")],
        ca_file=os.environ.get("MODEL_CA_FILE"),
    )


def _wait_for_no_disk() -> None:
    @event.listens_for(Engine, "connect")
    def connected(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


def _know_schemas() -> None:
    """Spare each run a third of its time: Dagster reads all of its migrations to see that tables are current."""
    read, known = ScriptDirectory.from_config, dict[str | None, ScriptDirectory]()

    def once(config: Config) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        if location not in known:
            known[location] = read(config)
        return known[location]

    ScriptDirectory.from_config = once  # type: ignore[method-assign]  # it is read for each run else
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.from_config(folder) as instance:
        instance.add_dynamic_partitions("ranges", ["1-2"])


def _run(definitions: dg.Definitions, wanted: dict[str, Any]) -> int:
    os.environ.update(wanted["variables"])
    if "clock" in wanted:
        _set_clocks(Path(wanted["clock"]))
    if (stop := wanted.get("stop")) is not None:
        _stop_at(*stop)
    with dg.DagsterInstance.get() as instance:
        result = definitions.resolve_job_def(wanted["job"]).execute_in_process(
            instance=instance,
            partition_key=wanted.get("partition"),
            run_config={**(wanted.get("config") or {}), "loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            raise_on_error=False,
        )
    logging.shutdown()
    return 0 if result.success else _FAILED


def _set_clocks(file: Path) -> None:
    """Have every module of mastosync go by the clock in a file: seconds since 1970."""
    ticks = itertools.count()

    class AnyDatetime(type(dt.datetime)):  # type: ignore[misc]  # the metaclass of every class
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, dt.datetime)

    class Clock(dt.datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]  # plain ones go on
            # No time comes twice: files are ordered by the times at which they were begun.
            shown = dt.datetime.fromtimestamp(float(file.read_text()), tz)
            return shown + dt.timedelta(microseconds=next(ticks))

        def __reduce_ex__(self, _protocol: object) -> tuple[object, tuple[str]]:
            # What a step hands on is pickled, and this class has no name outside of here.
            return dt.datetime.fromisoformat, (self.isoformat(),)

    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGE) and getattr(module, "datetime", None) is dt.datetime:
            module.datetime = Clock  # type: ignore[attr-defined]  # looked up above


def _stop_at(label: str, number: int, how: int) -> None:
    """Have the process send itself a signal before or after a step, when it comes to it for the n-th time."""
    when, _, name = label.partition(" ")
    module, path = STEPS[name]
    owner: Any = importlib.import_module(f"{_PACKAGE}{module}")
    *classes, attribute = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    count = itertools.count(1)

    def fire(at: str) -> None:
        if at == when and next(count) == number:
            os.kill(os.getpid(), how)

    setattr(owner, attribute, _stopping(getattr(owner, attribute), fire))


def _stopping(inner: Callable[..., Any], fire: Callable[[str], None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def slowly(*arguments: Any, **named: Any) -> Any:
            fire("before")
            result = await inner(*arguments, **named)
            fire("after")
            return result

        return slowly

    @functools.wraps(inner)
    def plainly(*arguments: Any, **named: Any) -> Any:
        fire("before")
        result = inner(*arguments, **named)
        fire("after")
        return result

    return plainly


if __name__ == "__main__":
    assert signal.SIGSTOP
    main()
