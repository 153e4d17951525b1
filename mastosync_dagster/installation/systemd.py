"""Units for systemd: the code server, the daemon, and the webserver, which may be left out; or a night and its timer.

Where machines share the runs, each has a worker, and one of them the others.

One code server loads mastosync and starts the runs; daemon and webserver reach it through a socket that only their user
may open. Without it each of them would load the code itself, again every minute.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.environment import ENV_FILE
from mastosync_dagster.installation.services import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CODE, DAEMON, WEBSERVER = "mastosync-code.service", "mastosync-daemon.service", "mastosync-webserver.service"
WORKER = "mastosync-worker.service"
NIGHT, NIGHT_TIMER = "mastosync-night.service", "mastosync-night.timer"
_BACKFILLS_WAIT = "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR=1"
"""Without it a backfill that looks for its asset while the code server is away fails, and cancels its runs."""
SERVICES_FILE = "services.yaml"
"""The workspace of daemon and webserver, in the home."""
MACHINES_FILE = "machines.env"
"""In the home: variables that dagster.yaml names where machines share the runs."""
_SOCKET = "/run/mastosync/code.sock"

SERVICES = f"""# Where the units mastosync-daemon and mastosync-webserver find the code server.
load_from:
  - grpc_server:
      socket: {_SOCKET}
      location_name: mastosync_dagster
"""

_HARDENING = """\
UMask=0077
# Reads and writes nothing but the home; files that settings name (keys, ~/.pgpass, ~/.aws) can be read.
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_CODE_UNIT = """\
[Unit]
Description=mastosync code server: it executes the runs
After=network-online.target
Wants=network-online.target

[Service]
User={user}
Environment={home_variable} {env_variable}
{machines}WorkingDirectory={home}
RuntimeDirectory=mastosync
RuntimeDirectoryMode=0700
ExecStartPre={python} -m {program} migrate
ExecStart={python} -m {program} code --socket {socket} -m mastosync_dagster --location-name mastosync_dagster
# Ready when the code is loaded: what comes after finds it at once.
ExecStartPost=/bin/sh -c 'until test -S {socket}; do sleep 0.2; done'
# A disk that cannot be written is waited for.
TimeoutStartSec=infinity
Restart=always
RestartSec=5
# Runs are its children. A restart lets them go on to their end, and a run that the kernel kills for memory ends alone.
KillMode=process
OOMPolicy=continue
TimeoutStopSec=5
# Mastodon comes first.
Nice=10
IOWeight=20
CPUWeight=50
{hardening}
[Install]
WantedBy=multi-user.target
"""

_CLIENT_UNIT = """\
[Unit]
Description=mastosync {what}
After={code}
Wants={code}

[Service]
User={user}
Environment={home_variable}{variables}
{machines}WorkingDirectory={home}
ExecStart={python} -m {program} {command} -w {services}
Restart=always
RestartSec=5
KillSignal=SIGINT
# Where the history's host does not answer, Dagster's daemon would wait for it for minutes.
TimeoutStopSec=20
Nice=5
{hardening}
[Install]
WantedBy=multi-user.target
"""

_WORKER_UNIT = """\
[Unit]
Description=mastosync worker: executes runs that Celery hands out
After=network-online.target
Wants=network-online.target

[Service]
User={user}
Environment={home_variable} {env_variable}
{machines}WorkingDirectory={home}
ExecStart={python} -m celery -A mastosync_dagster.machines.worker worker --loglevel INFO
Restart=always
RestartSec=5
# Stopped, it takes no other run, and ends when its own has ended, which gets no signal.
KillMode=mixed
TimeoutStopSec=15min
OOMPolicy=continue
# Mastodon comes first.
Nice=10
IOWeight=20
CPUWeight=50
{hardening}
[Install]
WantedBy=multi-user.target
"""

_NIGHT_UNIT = """\
[Unit]
Description=mastosync night: copies what has changed, and ends
After=network-online.target
Wants=network-online.target
# Three more attempts a day, as dagster.yaml has it for runs that die.
StartLimitIntervalSec=1d
StartLimitBurst=4

[Service]
Type=oneshot
User={user}
Environment={home_variable} {env_variable}
WorkingDirectory={home}
ExecStart={python} -m mastosync_dagster.cli.main night
# Killed, mostly for memory: a further night goes on from there. One that has failed has said why.
Restart=on-abnormal
RestartSec=1min
TimeoutStartSec=infinity
# Requests in flight are ended, the manifest is written.
TimeoutStopSec=60
# Mastodon comes first.
Nice=10
IOWeight=20
CPUWeight=50
{hardening}"""

_NIGHT_TIMER = """\
[Unit]
Description=mastosync night, once a day

[Timer]
OnCalendar={calendar}
# A night that the machine was off for is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class UnitSettings:
    """Where an installation lies, for its units.

    Attributes:
        env_file: Its settings.
        user: Who runs it.
        port: Of the UI, on loopback.
        written: Folders outside the home that runs write to: manifests, a destination that is no bucket.
        machines: Whether machines share the runs.
    """

    home: Path
    env_file: Path
    user: str
    port: int
    written: tuple[Path, ...] = ()
    machines: bool = False


def units(settings: UnitSettings) -> Mapping[str, str]:
    """Return the units by the names of their files."""
    common = _common(settings)
    webserver = f"webserver -h 127.0.0.1 -p {settings.port}"
    return {
        CODE: _CODE_UNIT.format(**common, socket=_SOCKET),
        DAEMON: _CLIENT_UNIT.format(
            **common,
            what="daemon: nights, backfills and alerts",
            command="daemon run",
            variables=f" {_BACKFILLS_WAIT}",
        ),
        WEBSERVER: _CLIENT_UNIT.format(
            **common, what=f"UI on 127.0.0.1:{settings.port}", command=webserver, variables=""
        ),
        **({WORKER: _WORKER_UNIT.format(**common)} if settings.machines else {}),
    }


def night_units(settings: UnitSettings, calendar: str) -> Mapping[str, str]:
    """Return the units of `mastosync night`, which needs no others. ``calendar`` is the time as systemd writes it."""
    return {
        NIGHT: _NIGHT_UNIT.format(**_common(settings)),
        NIGHT_TIMER: _NIGHT_TIMER.format(calendar=_escaped(calendar)),
    }


def calendar_of(cron: str, timezone: str) -> str | None:
    """Return five cron fields as a time of systemd's; None: they are no time of every day."""
    minute, hour, *days = [*cron.split(), ""]
    if days != ["*", "*", "*", ""] or not (minute.isdecimal() and hour.isdecimal()):
        return None
    if int(minute) > 59 or int(hour) > 23:  # noqa: PLR2004  (of a clock)
        return None
    return f"*-*-* {int(hour):02}:{int(minute):02}:00 {timezone}"


def _common(settings: UnitSettings) -> dict[str, str]:
    # A folder that is not there yet must not keep a unit from its start.
    writable = " ".join([_word(str(settings.home)), *(_optional(str(folder)) for folder in settings.written)])
    machines = f"EnvironmentFile={_escaped(str(settings.home / MACHINES_FILE))}\n" if settings.machines else ""
    return {
        "machines": machines,
        "user": settings.user,
        "home": _escaped(str(settings.home)),
        "home_variable": _word(f"DAGSTER_HOME={settings.home}"),
        "python": _exec_word(sys.executable),
        "program": PROGRAM,
        "hardening": _HARDENING.format(writable=writable),
        "code": CODE,
        "services": _exec_word(str(settings.home / SERVICES_FILE)),
        "env_variable": _word(f"{ENV_FILE}={settings.env_file}"),
    }


def _optional(path: str) -> str:
    word = _word(path)
    return f'"-{word[1:]}' if word.startswith('"') else f"-{word}"


def _escaped(text: str) -> str:
    """Return text in which systemd sees no specifier."""
    return text.replace("%", "%%")


def _exec_word(text: str) -> str:
    """Return a word of an Exec line, where systemd puts variables, and in no other line."""
    return _word(text.replace("$", "$$"))


def _word(text: str) -> str:
    """Return one word of a line that systemd splits, quoted where it must be."""
    escaped = _escaped(text)
    plain = not any(character in escaped for character in " \t\"'\\;")
    inner = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return escaped if plain else f'"{inner}"'
