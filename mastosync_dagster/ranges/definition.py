"""The partitions definition of ID ranges: an unregistered one is refused with a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import dagster as dg
from dagster._core.errors import DagsterUnknownPartitionError

from mastosync_dagster.ranges.partitions import InvalidRangeError, parse_range, unregistered

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.context import PartitionLoadingContext


class UnknownRangeError(InvalidRangeError, click.ClickException):
    """`dg launch` and `dagster job execute` print it without a traceback, as click prints its own errors.

    Not a `DagsterUnknownPartitionError`: with `--assets`, Dagster raises another one in its place, with a traceback.
    """

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


class IdRanges(dg.DynamicPartitionsDefinition):
    """The ID ranges of a table. Dagster asks it before there is a run: nothing of ours is called earlier."""

    def validate_partition_key(self, partition_key: str, context: PartitionLoadingContext) -> None:
        """Raise UnknownRangeError where a key is no registered range."""
        try:
            super().validate_partition_key(partition_key, context)
        except DagsterUnknownPartitionError:
            table = str(self.name).removesuffix("_ids")
            try:
                parse_range(partition_key)
            except InvalidRangeError as error:
                raise UnknownRangeError(str(error)) from None
            raise UnknownRangeError(unregistered(table, partition_key)) from None
