"""A signal that comes while a module is imported is neither lost, nor does it become another error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.shield import load_shielded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGNALLED_IN_A_CALLBACK = """
import os, signal, time, weakref
class Referenced: pass
def callback(reference):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
referenced = Referenced()
reference = weakref.ref(referenced, callback)
del referenced
loaded = True
"""


class TerminatedError(BaseException):
    """What the handler raises, as Dagster's does."""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that a signal comes to while it is imported."""
    (tmp_path / "signalled_module.py").write_text(SIGNALLED_IN_A_CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)

    def end(*_: object) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    yield "signalled_module"
    signal.signal(signal.SIGTERM, before)
    sys.modules.pop("signalled_module", None)


def test_a_signal_ends_a_shielded_import_when_the_module_is_loaded(module: str) -> None:
    with pytest.raises(TerminatedError):
        load_shielded(module)
    assert sys.modules[module].loaded
    # The next one finds it loaded, and there is no signal any more.
    load_shielded(module)


RUN = """
import os, signal, sys, threading
import dagster as dg
from dagster._utils.interrupts import capture_interrupts
import mastosync_dagster
sent = []
def profile(frame, event, argument):
    # The import system's own callback, within which Python drops what a signal handler raises.
    importing = event == "call" and frame.f_code.co_name == "cb" and "importlib" in frame.f_code.co_filename
    if importing and "mastosync_dagster.sync.steps" in sys.modules and not sent:
        sent.append(os.kill(os.getpid(), signal.SIGTERM))
threading.setprofile(profile)
sys.setprofile(profile)
instance = dg.DagsterInstance.get()
with capture_interrupts():
    job = mastosync_dagster.defs.resolve_job_def("sync_changes")
    ended = job.execute_in_process(instance=instance, raise_on_error=False)
assert sent
print(*(entry.user_message for entry in instance.all_logs(ended.run_id)), sep="\\n")
"""


@pytest.mark.long
def test_a_run_that_is_terminated_while_it_loads_its_first_step_stops(tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert "stopped while planning: nothing was copied" in ended.stdout
    assert "Execution was interrupted unexpectedly" in ended.stdout
    # It has not gone on.
    assert "S3_BUCKET" not in ended.stdout
