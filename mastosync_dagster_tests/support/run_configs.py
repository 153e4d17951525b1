"""The run configs of all jobs."""

from __future__ import annotations

import inspect

import dagster as dg
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction

from mastosync_dagster.definitions import build_definitions


def every_config() -> set[type[dg.Config]]:
    """Return the config class of every op of every job."""
    functions = {
        node.compute_fn.decorated_fn
        for job in build_definitions().get_repository_def().get_all_jobs()
        for node in job.all_node_defs
        if isinstance(node, dg.OpDefinition) and isinstance(node.compute_fn, DecoratedOpFunction)
    }
    annotations = [inspect.signature(function).parameters.get("config") for function in functions]
    return {each.annotation for each in annotations if each is not None}
