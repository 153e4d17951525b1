"""``mastosync report``: what is missing or failed over all ID ranges, and what can be done."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections import Counter
from shlex import quote
from typing import TYPE_CHECKING, Protocol

import click

from mastosync_dagster.cli.latest_outcomes import Inventory
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import csv_cell, one_line, plain
from mastosync_dagster.expected.policy import EVERYTHING, Policy
from mastosync_dagster.mastodon import EVERY_REMOTE_ROW, Database, LeftOutRows, database_now
from mastosync_dagster.plan.decisions import SOURCE_DAMAGED
from mastosync_dagster.process import limit_malloc_arenas
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.doubts import OPEN, Doubt
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.refetch.remedies import ALL_AT_ONCE, FETCHES, RAILS_RUNNER, Remedies
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.doubts import doubt_text, in_doubt, open_objects, open_reasons
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin, manifest_store
from mastosync_dagster.units import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import dagster as dg

    from mastosync_dagster.cli.latest_outcomes import Totals
    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.refetch.remedies import Remedy

_COLUMNS = ("file_type", "id", "part", "key", "outcome", "reason", "detail", "remote", "command", "what_to_do")


class _Format(Protocol):
    """A format of the report. Lines are printed one by one, so that none is kept in memory."""

    def line(self, remedy: Remedy) -> None:
        """Print one object."""

    def end(self, totals: Mapping[str, Totals]) -> None:
        """Print the totals."""


def run_report(
    instance: dg.DagsterInstance,
    file_types: Sequence[str],
    outcome: str | None,
    form: str,
    policy: Policy = EVERYTHING,
) -> None:
    """Print the report as ``table``, ``csv`` or ``json``. Raises an `AdminError`.

    No file type means all. No outcome means missing and failed objects, and those that are damaged at the source and
    good at the destination. What the policy leaves out is neither.
    """
    limit_malloc_arenas()
    outcomes = [Outcome(outcome)] if outcome else [Outcome.FAILED, Outcome.MISSING]
    damaged = [] if outcome else [decision.words for decision in SOURCE_DAMAGED]
    destination = S3Bucket.destination()
    store = manifest_store(instance, destination)
    origin = ManifestOrigin(destination.settings().identity, acls=destination.settings().has_acls)
    totals: dict[str, Totals] = {}
    unreadable = Damaged(lambda text: click.echo(plain(text), err=True))
    with contextlib.ExitStack() as stack:
        forms: dict[str, Callable[[], _Format]] = {"table": _Table, "csv": _Csv, "json": _Json}
        printer = forms[form]()
        database = _database(stack)
        remedies = Remedies(destination.settings().prefix, database)
        for file_type in [FileType(name) for name in dict.fromkeys(file_types)] or list(FileType):
            inventory = Inventory(store, origin, file_type, unreadable)
            wanted = _Wanted(file_type.value, policy, database, stack)
            for lines in inventory.lines(outcomes, damaged):
                for remedy in remedies.of(file_type.value, wanted.of(lines, inventory.totals)):
                    printer.line(remedy)
            totals[file_type.value] = inventory.totals
            doubts = in_doubt(store, origin, file_type.value, unreadable)
            inventory.totals.in_doubt.update(open_objects(doubts, open_reasons(has_acls=origin.acls)))
        printer.end(totals)


def _database(stack: contextlib.ExitStack) -> Database | None:
    """Open the database; if it cannot be reached, the manifests alone must do."""
    try:
        return Database.open(stack.enter_context(MastodonDatabase().session()))
    except AdminError as error:
        click.echo(f"without the database, so without commands for remote objects: {plain(str(error))}", err=True)
        return None


class _Wanted:
    """Takes out the lines of objects that the policy leaves out by now: an earlier run has wanted more."""

    def __init__(self, table: str, policy: Policy, database: Database | None, stack: contextlib.ExitStack) -> None:
        self._rule = policy.rule(table)
        self._rows: LeftOutRows | None = None
        if database is not None and self._rule != EVERY_REMOTE_ROW:
            with contextlib.closing(database.connect()) as connection:
                window = self._rule.window(database_now(connection))
            self._rows = stack.enter_context(LeftOutRows(database, table, window))

    def of(self, lines: list[ManifestLine], totals: Totals) -> list[ManifestLine]:
        """Return the lines of wanted objects; the others are taken from the totals."""
        if self._rule == EVERY_REMOTE_ROW:
            return lines
        if self._rows is not None:
            ids = self._rows.among({line.row_id for line in lines})
        else:
            # Without the database it is not known how old a row is.
            ids = {line.row_id for line in lines if line.remote} if self._rule.days == 0 else set()
        out = [line for line in lines if line.row_id in ids and line.outcome in {Outcome.MISSING, Outcome.FAILED}]
        totals.left_out += len(out)
        totals.outcomes.subtract(Counter(line.outcome for line in out))
        return [line for line in lines if line not in out] if out else lines


def _fields(remedy: Remedy) -> dict[str, object]:
    line = remedy.line
    reason = line.reason.value if line.reason else None
    values = (line.group, line.row_id, line.part, line.key, line.outcome.value, reason, line.detail)
    return dict(zip(_COLUMNS, (*values, remedy.remote, remedy.command, remedy.words), strict=True))


_MOST_COMMANDS = 20
"""Rows of a table with a command each; for more there is one command for all."""


class _Table:
    """For people: objects, what to do below those of each row, and the totals at the end."""

    def __init__(self) -> None:
        self._before: tuple[str, int, str] | None = None
        self._commands: Counter[str] = Counter()

    def line(self, remedy: Remedy) -> None:
        line = remedy.line
        remark = ": ".join(filter(None, [line.reason.value if line.reason else None, line.detail]))
        text = f"{line.outcome.value}  {line.group} {line.row_id}  {line.part}  {line.key}"
        what = remedy.command or remedy.words
        same_row = self._before is not None and self._before[:2] == (line.group, line.row_id)
        if remedy.command and remedy.command.startswith(FETCHES) and line.group in ALL_AT_ONCE:
            self._commands[line.group] += not same_row
            if self._commands[line.group] > _MOST_COMMANDS:
                what = f"{remedy.words}: see below"
        # Objects of a row with the same remedy share its line.
        if self._before is not None and self._before != (line.group, line.row_id, what):
            click.echo(one_line(f"    -> {self._before[2]}"))
        self._before = (line.group, line.row_id, what)
        click.echo(one_line(f"{text}  ({remark})" if remark else text))

    def end(self, totals: Mapping[str, Totals]) -> None:
        if self._before is not None:
            click.echo(one_line(f"    -> {self._before[2]}") + "\n")
        names = [outcome.value for outcome in Outcome]
        click.echo(f"{'file type':<20}{'manifests':>10}" + "".join(f"{name:>14}" for name in [*names, "MB copied"]))
        for name, total in totals.items():
            counts = "".join(f"{total.outcomes[outcome]:>14,}" for outcome in Outcome)
            click.echo(f"{name:<20}{total.manifests:>10,}{counts}{total.bytes / MEGABYTE:>14,.1f}")
        for name, rows in self._commands.items():
            if rows > _MOST_COMMANDS:
                click.echo(
                    f"\n{rows:,} rows of {name} have lost files of other servers. All of them at once, on Mastodon's"
                    f" machine, beside missing.csv:\n"
                    f"    mastosync report {name} --outcome missing --format csv > missing.csv\n"
                    f"    {RAILS_RUNNER} {quote(ALL_AT_ONCE[name])}\n"
                )
        for name, total in totals.items():
            if total.left_out:
                click.echo(f"{name}: {total.left_out:,} that had failed or were missing are left out by the policy now")
            if total.in_doubt:
                click.echo(f"{name}, in doubt: {doubt_text(total.in_doubt)}")


class _Csv:
    """For spreadsheets: a line per object, no totals. Texts are escaped."""

    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._begun = False

    def _begin(self) -> None:
        if not self._begun:
            self._writer.writerow(_COLUMNS)
            self._begun = True

    def line(self, remedy: Remedy) -> None:
        self._begin()
        self._writer.writerow(map(csv_cell, _fields(remedy).values()))

    def end(self, totals: Mapping[str, Totals]) -> None:  # noqa: ARG002  (as every format)
        self._begin()


class _Json:
    """For scripts: one document, ``{"objects": [...], "totals": {...}}``, in ASCII, with unescaped texts."""

    def __init__(self) -> None:
        self._separator = '{"objects": ['

    def line(self, remedy: Remedy) -> None:
        click.echo(f"{self._separator}\n{json.dumps(_fields(remedy))}", nl=False)
        self._separator = ","

    def end(self, totals: Mapping[str, Totals]) -> None:
        by_type = {
            name: {
                "manifests": total.manifests,
                **{outcome.value: total.outcomes[outcome] for outcome in Outcome},
                "bytes": total.bytes,
                **({"left_out": total.left_out} if total.left_out else {}),
                "in_doubt": {why.value: total.in_doubt[why] for why in (*OPEN, Doubt.SKIPPED)},
            }
            for name, total in totals.items()
        }
        opening = self._separator if self._separator != "," else ""
        click.echo(f'{opening}\n], "totals": {json.dumps(by_type)}}}')
