"""The one place that reads mastosync's settings: environment variables, and below them the file of MASTOSYNC_ENV_FILE.

Nothing is read at import.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster import env_file
from mastosync_dagster.errors import AdminError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

ENV_FILE = "MASTOSYNC_ENV_FILE"
DAGSTER_HOME = "DAGSTER_HOME"
HOME_ENV_FILE = "mastosync.env"
"""The file of settings in the Dagster home, where `ENV_FILE` names none."""
ROWS_PER_PARTITION = "MASTOSYNC_ROWS_PER_PARTITION"
MANIFESTS = "MASTOSYNC_MANIFESTS"
NIGHTLY_CRON = "MASTOSYNC_NIGHTLY_CRON"
NIGHTLY_TIMEZONE = "MASTOSYNC_NIGHTLY_TIMEZONE"
ALERT_WEBHOOK = "MASTOSYNC_ALERT_WEBHOOK"
ALERT_URLS = "MASTOSYNC_ALERT_URLS"
ALERT_GOOD_NIGHTS = "MASTOSYNC_ALERT_GOOD_NIGHTS"
PING_URL = "MASTOSYNC_PING_URL"
BROKER = "CELERY_BROKER"
"""Not one of `VARIABLES`: dagster.yaml names it, and Dagster reads that without the file of settings."""
MEMORY_MB = "MASTOSYNC_MEMORY_MB"
COPY_PRIVATE = "MASTOSYNC_COPY_PRIVATE"
RETRY_NIGHTS = "MASTOSYNC_RETRY_NIGHTS"
CACHE_LOST = "MASTOSYNC_CACHE_LOST"
SOURCE_URL = "MASTOSYNC_SOURCE_URL"
DESTINATION_URL = "MASTOSYNC_DESTINATION_URL"
LOCAL_ONLY = "MASTOSYNC_LOCAL_ONLY"
REMOTE_DAYS = "MASTOSYNC_REMOTE_DAYS"
REMOTE = "MASTOSYNC_REMOTE"
SOURCE_FOLDER = "MASTOSYNC_SOURCE_FOLDER"
DESTINATION_FOLDER = "MASTOSYNC_DESTINATION_FOLDER"
RUN: Mapping[str, str] = {
    "local_only": LOCAL_ONLY,
    "remote_days": REMOTE_DAYS,
    "remote": REMOTE,
    "copy_private": COPY_PRIVATE,
    "days": "MASTOSYNC_KEEP_RUNS_DAYS",
    "memory_mb": "MASTOSYNC_BODIES_MB",  # MASTOSYNC_MEMORY_MB is that of all runs
    **{
        name: f"MASTOSYNC_{name.upper()}"
        for name in (
            *("privacy", "page_rows", "listers", "wait_seconds"),
            *("concurrency", "adaptive", "large_in_flight", "single_put_mb", "max_attempts"),
            *("silence_seconds", "source_requests_per_second", "source_megabytes_per_second"),
            *("destination_requests_per_second", "destination_megabytes_per_second"),
            *("max_gigabytes", "max_dollars", "prices_from", "prices_to", "prices", "refetch"),
        )
    },
    **{name: f"MASTOSYNC_VERIFY_{name.upper()}" for name in ("full", "headers", "acls", "readers")},
}
"""Which variable each field of run config falls back to.

What a run is about has none: its rows (``file_types``, ``changed_since``, ``limit``, ``offset``). Nor has what lets it
write over objects or delete them (``overwrite``, ``delete``, ``max_delete``, ``max_share``): an admin says that for one
run, and a variable that is left set would say it for every night.
"""
VARIABLES = (
    *(ENV_FILE, ROWS_PER_PARTITION, MANIFESTS, NIGHTLY_CRON, NIGHTLY_TIMEZONE, ALERT_WEBHOOK, MEMORY_MB),
    *(RETRY_NIGHTS, CACHE_LOST, SOURCE_URL, DESTINATION_URL, SOURCE_FOLDER, DESTINATION_FOLDER),
    *(ALERT_URLS, ALERT_GOOD_NIGHTS, PING_URL),
    *RUN.values(),
)
"""Our own variables."""

DATABASE: Mapping[str, str] = {
    "database_url": "DATABASE_URL",
    "host": "DB_HOST",
    "port": "DB_PORT",
    "dbname": "DB_NAME",
    "user": "DB_USER",
    "password": "DB_PASS",
    "sslmode": "DB_SSLMODE",
    "connect_timeout": "DB_CONNECT_TIMEOUT",
    "ssh_tunnel_host": "SSH_TUNNEL_HOST",
    "ssh_tunnel_port": "SSH_TUNNEL_PORT",
    "ssh_tunnel_user": "SSH_TUNNEL_USER",
    "ssh_tunnel_password": "SSH_TUNNEL_PASSWORD",
    "ssh_tunnel_key_file": "SSH_TUNNEL_KEY_FILE",
    "ssh_tunnel_key_passphrase": "SSH_TUNNEL_KEY_PASSPHRASE",
    "ssh_tunnel_known_hosts": "SSH_TUNNEL_KNOWN_HOSTS",
}
"""Which variable each field of the database falls back to."""

BUCKET: Mapping[str, str] = {
    "bucket": "S3_BUCKET",
    "key_prefix": "S3_KEY_PREFIX",
    "permission": "S3_PERMISSION",
    "storage_class": "S3_STORAGE_CLASS",
    "path_style": "S3_OVERRIDE_PATH_STYLE",
    "endpoint_url": "S3_ENDPOINT",
    "region_name": "S3_REGION",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "profile_name": "AWS_PROFILE",
    "ca_file": "S3_CA_FILE",
    "verify": "S3_VERIFY",
    "connect_timeout": "S3_CONNECT_TIMEOUT",
    "read_timeout": "S3_ANSWER_TIMEOUT",
    "upload_timeout": "S3_UPLOAD_TIMEOUT",
}
"""Which variable each field of the source falls back to; the destination's have `DESTINATION_PREFIX` before them."""

MASTODON_STORAGE = ("S3_ALIAS_HOST", "S3_CLOUDFRONT_HOST", "S3_FORCE_SINGLE_REQUEST", "S3_MULTIPART_THRESHOLD")
"""Mastodon's other variables of its storage: a copy does not need them, the switch does."""

DESTINATION_PREFIX = "DESTINATION_"
SECRET_PREFIX = "MASTOSYNC_SECRET_"  # noqa: S105  (the beginning of names)
"""Variables with this prefix may be named in run config, as ``{env: MASTOSYNC_SECRET_…}``."""

_KNOWN = frozenset(
    {
        *(*VARIABLES, *DATABASE.values(), *BUCKET.values(), *MASTODON_STORAGE),
        *(DESTINATION_PREFIX + name for name in BUCKET.values()),
    }
)
_OWN_PREFIXES = ("MASTOSYNC_", DESTINATION_PREFIX, "SSH_TUNNEL_")
_OWN = sorted(name for name in _KNOWN if name.startswith(_OWN_PREFIXES))
"""Variables that nobody but mastosync has."""
_ALIKE = 0.75
"""From this share of common characters on, one name is taken for a misspelling of another."""
_MEANT = {"ACL": "PERMISSION", "READ": "ANSWER", "SCHEDULE": "CRON", "TZ": "TIMEZONE"}
"""Words of other programs for what is meant, in the names of variables."""
_LARGEST_FILE = 2**20
_SECRET_NAME = re.compile(SECRET_PREFIX + r"[A-Za-z0-9_]+", re.ASCII)
_OF_A_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class SettingsError(AdminError):
    """A setting is wrong: the message names the variable and the resource field to change, and holds no secret."""


class MissingSettingError(SettingsError):
    """A setting that is needed is not set."""


def whole_number(text: str, *, name: str, lowest: int, highest: int) -> int:
    """Return a setting's text as a whole number within bounds, both included. ``name`` is for the error's message."""
    stripped = text.strip()
    if not _WHOLE_NUMBER.fullmatch(stripped) or not lowest <= int(stripped) <= highest:
        raise SettingsError(f"{name} must be a whole number from {lowest} to {highest}.")
    return int(stripped)


def decimal_number(text: str, *, name: str, le: float, ge: float = 0, gt: float = -1) -> float:
    """Return a setting's text as a number within bounds, named as in pydantic. ``name`` is for the error's message."""
    stripped = text.strip()
    if not _DECIMAL.fullmatch(stripped) or not ge <= float(stripped) <= le or float(stripped) <= gt:
        bounds = f"above {gt:g}, {le:.0f} at the most" if gt >= 0 else f"from {ge:g} to {le:.0f}"
        raise SettingsError(f"{name} must be a number {bounds}, such as 20 or 0.5.")
    return float(stripped)


def choice(text: str, *, name: str, allowed: Sequence[str] = ("true", "false")) -> str:
    """Return a setting's text as one of some words. ``name`` is for the error's message."""
    word = text.strip().lower()
    if word not in allowed:
        raise SettingsError(f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return word


def expanded(path: Path | str, says: str) -> Path:
    """Return a path with the home folder that its ``~`` means. ``says`` begins the error: who has named the path."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(f"{says} {path}, whose home folder is not known here: name the absolute path.") from None


def may_be_named(name: str, own: Collection[str]) -> bool:
    """Return whether run config may name a variable in a field that falls back to ``own``.

    Anybody who reaches the UI can launch a run: with any other name they could read any secret of the process.
    """
    return name in own or _SECRET_NAME.fullmatch(name) is not None


def known_names() -> frozenset[str]:
    """Return every variable that mastosync reads of a file of settings."""
    return _KNOWN


def allowed_names(own: Collection[str]) -> str:
    """Return in words which variables `may_be_named` allows."""
    return " or ".join([*own, f"a name that begins with {SECRET_PREFIX}"])


def _of_kubernetes(name: str, process: Mapping[str, str]) -> bool:
    """Return whether Kubernetes has set a variable, as it does in every pod for each service beside it.

    The service of our own code server is called mastosync: its variables are MASTOSYNC_SERVICE_HOST, MASTOSYNC_PORT, …
    """
    service = _OF_A_SERVICE.sub("", name)
    return service != name and f"{service}_SERVICE_HOST" in process


@dataclass(frozen=True, slots=True)
class Environment:
    """The settings at the time they were read: the process's variables, which win over the known ones of the file.

    Attributes:
        path: The file; None: there is none.
        unknown: The line, from 1, of every other variable of the file. Their values are not kept.
        file_remarks: What an admin should know of the file's lines.
    """

    process: Mapping[str, str] = field(repr=False)
    file: Mapping[str, str] = field(repr=False)
    path: Path | None = None
    unknown: Mapping[str, int] = field(default_factory=dict, repr=False)
    file_remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, process: Mapping[str, str] | None = None) -> Environment:
        """Read the variables (None: ``os.environ``) and the file."""
        variables = dict(os.environ if process is None else process)
        path = variables.get(ENV_FILE) or _env_file_of_home(variables)
        if not path:
            return cls(process=variables, file={})
        verb = f"{ENV_FILE} names" if variables.get(ENV_FILE) else f"{DAGSTER_HOME} holds"
        return cls.of_file(expanded(path, verb), verb, process=variables)

    @classmethod
    def of_file(
        cls, path: Path, verb: str, *, content: bytes | None = None, process: Mapping[str, str] | None = None
    ) -> Environment:
        """Read a file.

        Args:
            path: What messages call it.
            verb: What stands before that in an error: who has named the file.
            content: Of a file that is no file, such as standard input.
            process: Variables that win over its lines; None: none.
        """
        return _with_file(dict(process or {}), path, f"{verb} {path}", content)

    def remarks(self) -> list[str]:
        """Return what an admin should know: names that nothing reads, and odd lines of the file; a sentence each."""
        found = []
        for name in sorted({*self.process, *self.unknown}):
            if may_be_named(name, _KNOWN) or (name not in self.unknown and _of_kubernetes(name, self.process)):
                continue
            own = name.upper().startswith(_OWN_PREFIXES)
            meant = _alike(name, _OWN)
            # The process may have variables of other programs that begin with one of the words in common use.
            if meant or (own and (name in self.unknown or name.startswith("MASTOSYNC_"))):
                where = (
                    f"line {self.unknown[name]} of {self.path} sets {name}"
                    if name in self.unknown
                    else f"{name} is set"
                )
                asked = f": {meant} is probably meant" if meant else ""
                found.append(f"{where}, which mastosync does not know{asked}")
        return [*found, *self.file_remarks]

    def missing(self, *names: str) -> str:
        """Return a sentence that says why variables may be missing, to be put after a message that names them."""
        known = [name for name in {*self.process, *self.unknown} if not may_be_named(name, _KNOWN)]
        asked = names if self.path else (*names, ENV_FILE)
        alike = [(found, name) for name in asked if (found := _alike(name, known))]
        if alike:
            return " ".join(f"{found} is set: {name} is probably meant." for found, name in alike)
        if self.path is None:
            return f"{ENV_FILE}, which names the file with such settings, is not set."
        named = f", which {ENV_FILE} names," if self.process.get(ENV_FILE) else ""
        return f"The file {self.path}{named} does not set {' or '.join(names)}."

    def text(self, name: str) -> str | None:
        """Return a variable's value; None where it is unset or empty."""
        return self.process.get(name) or self.file.get(name) or None

    def text_or_empty(self, name: str) -> str | None:
        """Return a variable's value where an empty one means something; None where it is unset."""
        return self.process.get(name, self.file.get(name))

    def secret(self, name: str, *, wanted_by: str, own: Collection[str] = ()) -> str:
        """Return the value of the variable that the resource field ``wanted_by`` names as ``{env: NAME}``.

        ``own`` are the variables that the field falls back to.
        """
        # The message does not repeat the name: it may be the secret itself.
        if not may_be_named(name, own):
            raise SettingsError(
                f"{wanted_by} must name an environment variable, as {{env: NAME}}, and never hold the secret: NAME is "
                f"{allowed_names(own)}."
            )
        value = self.text(name)
        if value is None:
            raise MissingSettingError(f"{name} is not set; {wanted_by} reads it. {self.missing(name)}")
        return value


def default_home() -> Path | None:
    """Return the Dagster home where DAGSTER_HOME names none; None for a user without a home folder."""
    data = os.environ.get("XDG_DATA_HOME")
    try:
        folder = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return folder / "mastosync"


def dagster_home() -> Path | None:
    """Return the Dagster home that DAGSTER_HOME names, or else the default one."""
    return _named_home(os.environ) or default_home()


def use_default_home() -> None:
    """Let this process and its children have the default home, if `mastosync init` has made it and none is named.

    A home that is named with ``~``, as cron and systemd leave it, is written out: Dagster and its services read it too.
    """
    home = default_home()
    if named := _named_home(os.environ):
        os.environ[DAGSTER_HOME] = str(named)
    # A home folder that this user may not look into is another user's: `runuser -u` leaves HOME as it was.
    with contextlib.suppress(PermissionError):
        if not os.environ.get(DAGSTER_HOME) and home is not None and (home / "dagster.yaml").is_file():
            os.environ[DAGSTER_HOME] = str(home)


def _named_home(variables: Mapping[str, str]) -> Path | None:
    named = variables.get(DAGSTER_HOME)
    if not named:
        return None
    try:
        return Path(named).expanduser()
    except RuntimeError:  # nobody knows whose home folder it is
        return Path(named)


def _env_file_of_home(variables: Mapping[str, str]) -> str | None:
    home = _named_home(variables)
    if home is None:
        return None
    path = home / HOME_ENV_FILE
    try:
        # Not is_file(), which in some versions of Python says no of a folder that is closed to this user.
        return str(path) if stat.S_ISREG(path.stat().st_mode) else None
    except PermissionError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}. Run the command as the owner of {DAGSTER_HOME}, or let"
            f" {DAGSTER_HOME} name a folder of your own."
        ) from None
    except (OSError, ValueError):
        return None


def rows_per_partition() -> int:
    """Return how many rows an ID range holds: MASTOSYNC_ROWS_PER_PARTITION, by default 50,000."""
    return _number(ROWS_PER_PARTITION, default=50_000, highest=100_000_000)


def memory_mb() -> int | None:
    """Return the MiB that runs may take together: MASTOSYNC_MEMORY_MB; None: unset."""
    text = Environment.read().text(MEMORY_MB)
    return None if text is None else whole_number(text, name=MEMORY_MB, lowest=64, highest=1_000_000)


def retry_nights() -> int:
    """Return for how many nights failed and missing objects are retried: MASTOSYNC_RETRY_NIGHTS, by default 7."""
    return _number(RETRY_NIGHTS, default=7, lowest=0, highest=366)


def copy_private() -> bool | None:
    """Return whether private objects are copied to a destination without ACLs: MASTOSYNC_COPY_PRIVATE; None: unset."""
    return _choice(COPY_PRIVATE)


def alert_good_nights() -> bool:
    """Return whether alerts are sent after good nights too: MASTOSYNC_ALERT_GOOD_NIGHTS."""
    return bool(_choice(ALERT_GOOD_NIGHTS))


def cache_lost() -> bool:
    """Return whether a source without any remote file may be the right one: MASTOSYNC_CACHE_LOST."""
    return bool(_choice(CACHE_LOST))


def media_folder(name: str, environment: Environment | None = None) -> Path | None:
    """Return the folder that is a storage, as `SOURCE_FOLDER` or `DESTINATION_FOLDER` names it; None: it is a bucket.

    Only a variable names it, and no run config: whoever reaches the UI could copy any file of this machine.
    """
    text = (environment or Environment.read()).text(name)
    if text is None:
        return None
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise SettingsError(f"{name} names {text}, which is no folder's absolute path, or cannot be reached.")
    # By its one name: source and destination must not be the same folder.
    return path.resolve()


def local_only() -> bool | None:
    """Return whether only local files are wanted: MASTOSYNC_LOCAL_ONLY; None: unset."""
    return _choice(LOCAL_ONLY)


def remote_days() -> int | None:
    """Return of how many days remote files are wanted: MASTOSYNC_REMOTE_DAYS; None: unset."""
    text = Environment.read().text(REMOTE_DAYS)
    return None if text is None else whole_number(text, name=REMOTE_DAYS, lowest=1, highest=36_500)


def remote_by_file_type() -> dict[str, str]:
    """Return which remote files of single file types are wanted: MASTOSYNC_REMOTE, as ``accounts=never``, ..."""
    pairs = (Environment.read().text(REMOTE) or "").replace(",", " ").split()
    return rules_by_file_type(pairs, name=REMOTE, form="a list such as accounts=never,preview_cards=30")


def rules_by_file_type(pairs: Iterable[str], *, name: str, form: str) -> dict[str, str]:
    """Return the rules of pairs such as ``accounts=never``. ``name`` and ``form`` are for the error's message."""
    rules: dict[str, str] = {}
    for pair in pairs:
        file_type, separator, rule = (part.strip() for part in pair.partition("="))
        if not (file_type and separator and rule):
            raise SettingsError(f"{name} must be {form}.")
        if (before := rules.setdefault(file_type, rule)).lower() != rule.lower():
            raise SettingsError(f"{name} says both {before} and {rule} of {file_type}: leave one of them out.")
    return rules


def manifests_location() -> str | None:
    """Return where manifests go, a folder or an ``s3://`` URL: MASTOSYNC_MANIFESTS; None: under the Dagster home."""
    return Environment.read().text(MANIFESTS)


def broker_url() -> str:
    """Return the URL of Celery's broker: CELERY_BROKER, of the process's environment. Raises `MissingSettingError`."""
    url = os.environ.get(BROKER, "").strip()
    if not url:
        raise MissingSettingError(f"{BROKER} is not set: the URL of the Redis server that hands runs to workers.")
    return url


def _choice(name: str) -> bool | None:
    text = Environment.read().text(name)
    return None if text is None else choice(text, name=name) == "true"


def _number(name: str, *, default: int, lowest: int = 1, highest: int) -> int:
    text = Environment.read().text(name)
    return default if text is None else whole_number(text, name=name, lowest=lowest, highest=highest)


def _alike(name: str, others: Collection[str]) -> str:
    """Return the one of some names that is most like another; empty where none is.

    What many names begin with says nothing about which one is meant: the rest is compared, and that of one word with
    names of the same beginning alone. The only name that has all of its words is meant, too.
    """
    begins, rest = _parts(name)
    if not rest:
        return ""
    words = set(rest.split("_"))
    having = [
        other
        for other in others
        if words <= set(_parts(other)[1].split("_")) and (len(words) > 1 or begins == _parts(other)[0] != "")
    ]
    if len(having) == 1:
        return having[0]
    alike = ((likeness, other) for other in others if (likeness := _likeness(name, other)) >= _ALIKE)
    return max(((likeness, _ratio(name, other), other) for likeness, other in alike), default=(0, 0, ""))[-1]


def _likeness(name: str, other: str) -> float:
    (begins, rest), (others, theirs) = _parts(name), _parts(other)
    if begins != others and (not begins or "_" not in rest or "_" not in theirs):
        return _ratio(name, other)
    return max(_ratio(rest, theirs), _ALIKE * theirs.startswith(rest))


def _parts(name: str) -> tuple[str, str]:
    """Return which of `_OWN_PREFIXES` a name begins with, and the rest, in which some words mean others."""
    # MASTOSYNC_DESTINATION_FOLDER, and what somebody calls MASTOSYNC_DESTINATION_S3_BUCKET.
    capitals = re.sub(r"^MASTOSYNC_(?=DESTINATION_|SSH_TUNNEL_)", "", name.upper())
    begins = next((each for each in _OWN_PREFIXES if f"{capitals}_".startswith(each)), "")
    words = capitals.removeprefix(begins.removesuffix("_")).strip("_").split("_")
    return begins, "_".join(_MEANT.get(word, word) for word in words)


def _ratio(name: str, other: str) -> float:
    """Return the share of common characters; 0 where it is below `_ALIKE`."""
    # Every command compares some thousand pairs: the upper bounds cost a tenth of the ratio, and few pairs pass them.
    compared = difflib.SequenceMatcher(None, name.upper(), other.upper())
    passes = compared.real_quick_ratio() >= _ALIKE and compared.quick_ratio() >= _ALIKE
    return compared.ratio() if passes else 0.0


def _with_file(process: Mapping[str, str], path: Path, named: str, content: bytes | None) -> Environment:
    """Return the settings with those of a file such as Mastodon's ``.env.production``.

    The values of other variables are not kept: Mastodon's file holds the secrets of its sessions and its mail. No error
    repeats a line.
    """
    try:
        content = _read(path) if content is None else content
        if len(content) > _LARGEST_FILE:
            raise SettingsError(f"{named}, which is larger than a file of settings can be (1 MiB).")
        found = env_file.parse(content.decode("utf-8-sig"), process)
    except OSError as error:
        raise SettingsError(f"{named}, which cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        # The decoder's own error holds the file's content.
        raise SettingsError(f"{named}, which is not UTF-8 text.") from None
    except env_file.UnsetExportError as error:
        raise SettingsError(
            f"{named}, whose line {error.line} exports a variable without a value, which Mastodon refuses too: write"
            " NAME=value, or remove the line."
        ) from None
    known, unknown, remarks = {}, {}, []
    for name, line in found.assignments.items():
        if not may_be_named(name, _KNOWN):
            unknown[name] = line.line
            continue
        known[name] = line.value
        if process.get(name):
            # Mastodon's own variables, and what a single run needs, are set anew on purpose.
            if name in _OWN and name not in RUN.values() and process[name] != line.value:
                remarks.append(
                    f"line {line.line} of {path} sets {name}, whose other value in the environment counts: remove one"
                )
            continue
        if line.command:
            raise SettingsError(
                f"{named}, whose line {line.line} takes {name} from a command, $(…), which is not run here: write the"
                f" value there, or set {name} in the process's environment."
            )
        remarks += [f"line {line.line} of {path}: the value of {name} {text}" for text in _oddities(line)]
    remarks += [f"line {number} of {path} is not NAME=value, and is not read" for number in found.ignored]
    return Environment(process, known, path, unknown, tuple(remarks))


def _oddities(line: env_file.Assignment) -> list[str]:
    """Return what is odd about a value, which is taken all the same."""
    found = []
    if line.unclosed:
        found.append(
            "begins with a quotation mark that does not enclose it, and is taken with the mark, as Mastodon takes it"
        )
    if line.unset:
        found.append(
            "has a $ before a name that nothing sets, and nothing is put there, as Mastodon does; for the character $,"
            " put the value in single quotation marks"
        )
    if line.cut:
        found.append(
            "ends at a # without a blank before it, as Mastodon reads it, and earlier versions took the # for a part of"
            " it; for the character #, put the value in single quotation marks"
        )
    if line.taken_off:
        found.append(
            "loses a backslash, as Mastodon reads it, and earlier versions read it otherwise; for a backslash, put the"
            " value in single quotation marks"
        )
    if line.kept:
        found.append("keeps a backslash, as Mastodon reads it, and earlier versions read it otherwise")
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_LARGEST_FILE + 1)
