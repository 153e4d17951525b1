"""The values that the ops of a run hand on, in the run's own folder: no run needs a file of another machine."""

import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

import dagster as dg
from psycopg2.extensions import connection as Connection

from mastosync_dagster.copy.acl_changes import AclCounts
from mastosync_dagster.copy.engine import CopyCounts
from mastosync_dagster.expected.policy import EVERYTHING, Policy
from mastosync_dagster.mastodon import IdRange, NewestRow, Selection, created_at
from mastosync_dagster.plan.planner import PlanCounts
from mastosync_dagster.refetch.refetch import RefetchCounts
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.manifests import Passed, RunTimes
from mastosync_dagster.runs.work_folder import work_folder
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.sync.clocks import LONG_TRANSACTION, Reading
from mastosync_dagster.sync.config import PlanConfig
from mastosync_dagster.sync.finished_ranges import PlannedRange
from mastosync_dagster.sync.incremental import WatermarkClaim

_Value = TypeVar("_Value")
_Config = TypeVar("_Config", bound=dg.Config)


@dataclass(frozen=True)
class Scope:
    """What a run is about.

    Attributes:
        name: The asset, or the job where it is about several.
        partition: The ID range's key, or `CHANGES`.
        selections: The rows, a selection per table.
        claims: What the run's success claims for the tables, at the destination of `destination_id`.
        policy: Which part of the instance is wanted; the selections go by it.
    """

    name: str
    partition: str
    selections: tuple[Selection, ...]
    claims: tuple[WatermarkClaim, ...] = ()
    destination_id: str = ""
    policy: Policy = EVERYTHING

    @property
    def tables(self) -> Passed:
        """The tables that the run goes through, if it comes to its end and is no trial."""
        whole = frozenset(each.table for each in self.selections if each.changed_since is None)
        return Passed(whole, frozenset(each.table for each in self.selections) - whole)

    def with_every_row(self, tables: Collection[str]) -> "Scope":
        """Return the scope of a run that takes all rows of those of some tables whose watermark it would move."""
        widened = {claim.table for claim in self.claims} & {*tables}
        selections = (
            replace(each, changed_since=None, all_above=None) if each.table in widened else each
            for each in self.selections
        )
        claims = (
            WatermarkClaim(claim.table, every_row=True) if claim.table in widened else claim for claim in self.claims
        )
        return replace(self, selections=tuple(selections), claims=tuple(claims))

    @property
    def created(self) -> str | None:
        """When the rows of an ID range were created, by their ids; None where these are serial numbers."""
        ids = self.selections[0].ids if len(self.selections) == 1 else None
        return None if ids is None else created_text(ids)

    @property
    def is_cut(self) -> bool:
        """Whether it takes some of the rows alone, as a trial does."""
        return any(each.is_cut for each in self.selections)


def created_text(ids: IdRange) -> str | None:
    """Return when the rows with some ids were created; None where these are serial numbers."""
    first, last = created_at(ids.lo), created_at(ids.hi)
    if last is None:
        return None
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}" if first else f"until {last:%Y-%m-%d}"


def settles(selection: Selection) -> bool:
    """Return whether a run over these rows also checks what is in doubt: a night's does, a trial does not."""
    return selection.changed_since is not None and not selection.is_cut


def takes_every_row(selection: Selection) -> bool:
    """Return whether a run goes through a whole table, but for what its policy leaves out."""
    return selection.changed_since is None and selection.ids is None and not selection.is_cut


ScopeAt = Callable[[Connection, Reading], Scope]
"""Returns what a run is about, given a connection to the database and the time at which it is read."""


@dataclass(frozen=True)
class Planned:
    """A plan in the folder of a run, with the config by which it can be made again.

    Attributes:
        read_at: As `Reading.read_at`; the run's success may claim it, if `claimable`.
        seconds: How long planning took.
        database_bytes: Size of the objects' originals, as the database has it.
        begun: When planning began, by this machine's clock.
        remark: A warning about the objects that were at the destination before; None: there is none.
        newest: The newest row of each table before the first one was read.
        ranges: The registered ranges of each table that the run goes through as a whole.
        left_out: How many objects of the rows the policy leaves out, by table.
    """

    scope: Scope
    config: PlanConfig
    run_id: str
    counts: PlanCounts
    read_at: datetime
    seconds: float
    database_bytes: int
    begun: datetime
    remark: str | None = None
    claimable: bool = True
    newest: tuple[NewestRow, ...] = ()
    ranges: Mapping[str, tuple[PlannedRange, ...]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def range_read_at(self) -> datetime:
        """What each ID range may claim of a run over whole tables: `Reading.read_at` of a run of the range alone."""
        return self.read_at if self.claimable else self.read_at - LONG_TRANSACTION

    @property
    def times(self) -> RunTimes:
        """When the run began and read its rows."""
        return RunTimes(self.begun, self.read_at, self.read_at + timedelta(seconds=self.seconds))


@dataclass(frozen=True)
class Copied:
    """A plan that has been carried out: the counts of the copy, of ACL changes and of objects fetched elsewhere.

    `wrong_source`, if any, ends the run: the source is not the
    one that the rows are about.
    """

    planned: Planned
    counts: CopyCounts
    acls: AclCounts
    refetched: RefetchCounts
    wrong_source: StorageError | None = None

    @property
    def stopped(self) -> StorageError | None:
        """The permanent error that ended the run early, or makes its result unusable; None: it went through."""
        return self.acls.stopped or self.counts.stopped or self.wrong_source or self.refetched.stopped


def hand_on(run: RunContext, value: object) -> None:
    """Keep a value of the run for the next op; there is one of each class."""
    _file(run, type(value)).write_bytes(pickle.dumps(value))


def handed_on(run: RunContext, kind: type[_Value]) -> _Value | None:
    """Return the run's value of a class. None: an earlier run had it, and this one is re-executed from its failure."""
    try:
        value = pickle.loads(_file(run, kind).read_bytes())  # noqa: S301  (the run itself has written it)
    except FileNotFoundError:
        return None
    assert isinstance(value, kind)  # noqa: S101  (the file has the name of the class)
    return value


def config_of(context: dg.OpExecutionContext, op: str, kind: type[_Config]) -> _Config | None:
    """Return the config that the run has for another op of the same graph; None: the graph has no such op."""
    names = str(context.op_handle).split(".")
    resolved = context.get_step_execution_context().resolved_run_config.ops.get(".".join([*names[:-1], op]))
    if resolved is None:
        return None
    # As Dagster makes the config of an op's own: what is left out falls back to variables.
    values = kind._get_non_default_public_field_values_cls(cast("dict[str, object]", resolved.config))  # noqa: SLF001  (Dagster's own way)
    return kind(**values)


def _file(run: RunContext, kind: type) -> Path:
    return work_folder(run.instance, run.run_id) / f"{kind.__name__}.pickle"
