"""``mastosync init``: what it writes, for whom, and that nothing which is there changes."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result

from mastosync_dagster.cli.main import main
from mastosync_dagster.environment import Environment
from mastosync_dagster.installation.home_files import InitError
from mastosync_dagster.installation.settings_file import read_settings, write_settings
from mastosync_dagster.installation.systemd import UnitSettings, calendar_of, night_units, units
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.mounts import little_room

PRODUCTION = """LOCAL_DOMAIN=social.example
SECRET_KEY_BASE=not-for-us
SMTP_PASSWORD=not-for-us
export DB_HOST=127.0.0.1
DB_PASS='it$ a "pass" #1'
S3_ENABLED=true
S3_BUCKET=media
S3_ENDPOINT=https://s3.old.example
AWS_ACCESS_KEY_ID=AK
AWS_SECRET_ACCESS_KEY=se/cr+et
"""
DESTINATION = "DESTINATION_S3_BUCKET=copy\nDESTINATION_S3_PERMISSION=\nNEWS=1\n"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new user's home folder; Mastodon's file lies beside it."""
    for name in [*os.environ]:
        if name.startswith(("DAGSTER_HOME", "MASTOSYNC_", "XDG_DATA_HOME", "S3_", "DESTINATION_", "DB_", "AWS_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "user"
    folder.mkdir()
    (tmp_path / ".env.production").write_text(PRODUCTION)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def home_of(user: Path) -> Path:
    return user / ".local" / "share" / "mastosync"


def init(*arguments: str, stdin: str = "") -> Result:
    outcome = CliRunner().invoke(main, ["init", *arguments], input=stdin)
    # `use_default_home` sets it for the rest of the process.
    os.environ.pop("DAGSTER_HOME", None)
    return outcome


def with_mastodons_file(user: Path) -> Result:
    destination = user.parent / "destination.env"
    destination.write_text(DESTINATION)
    return init("--from", str(user.parent / ".env.production"), "--from", str(destination))


def test_a_new_user_gets_a_private_home_with_the_known_settings_alone(user: Path) -> None:
    before = os.umask(0)
    outcome = with_mastodons_file(user)
    os.umask(before)
    assert outcome.exit_code == 0, outcome.output
    home = home_of(user)
    assert (home / "dagster.yaml").read_text() == (PROJECT / "dagster.yaml").read_text()
    assert yaml.safe_load((home / "workspace.yaml").read_text()) == {
        "load_from": [{"python_module": "mastosync_dagster"}]
    }
    text = (home / "mastosync.env").read_text()
    assert "not-for-us" not in text
    assert read_settings(home / "mastosync.env") == {
        "DB_HOST": "127.0.0.1",
        "DB_PASS": 'it$ a "pass" #1',
        "S3_BUCKET": "media",
        "S3_ENDPOINT": "https://s3.old.example",
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "se/cr+et",
        "DESTINATION_S3_BUCKET": "copy",
        "DESTINATION_S3_PERMISSION": "",
    }
    # No value of the example is taken for a setting, and every secret is out of the output.
    assert "s3.new.example" not in re.sub(r"^#.*", "", text, flags=re.MULTILINE)
    assert "se/cr+et" not in outcome.output
    for path in [home, *home.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & (0o022 if path.parent.name == "systemd" else 0o077) == 0, (path, oct(mode))
    assert stat.S_IMODE((home / "mastosync.env").stat().st_mode) == 0o600


def test_commands_find_the_default_home_and_its_settings(user: Path) -> None:
    with_mastodons_file(user)
    words = [str(Path(sys.executable).with_name("mastosync")), "ranges"]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False, env={"HOME": str(user)}, timeout=100)
    # It has come as far as the database, which refuses.
    assert outcome.returncode == 1
    assert "DAGSTER_HOME" not in outcome.stderr
    assert "127.0.0.1" in outcome.stderr
    process = {"DAGSTER_HOME": str(home_of(user)), "S3_BUCKET": "of-the-process"}
    assert Environment.read(process).text("S3_BUCKET") == "of-the-process"
    assert Environment.read(process).text("DESTINATION_S3_BUCKET") == "copy"


def test_the_history_is_ready_and_dagster_offers_no_newsletter(user: Path) -> None:
    with_mastodons_file(user)
    home = home_of(user)
    assert {"runs.db", "index.db", "schedules.db"} <= {path.name for path in home.rglob("*.db")}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert not instance.telemetry_enabled if hasattr(instance, "telemetry_enabled") else True
    assert (home / ".nux" / "nux.yaml").exists()


def test_a_second_init_changes_nothing_and_adds_what_is_not_set(user: Path) -> None:
    home = home_of(user)
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "mastosync.env").write_text("# mine\nS3_BUCKET=mine")
    (home / "mastosync.env").chmod(0o644)
    outcome = with_mastodons_file(user)
    assert outcome.exit_code == 0, outcome.output
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"
    assert (home / "mastosync.env").read_text().startswith("# mine\nS3_BUCKET=mine\n")
    assert stat.S_IMODE((home / "mastosync.env").stat().st_mode) == 0o600
    settings = read_settings(home / "mastosync.env")
    assert (settings["S3_BUCKET"], settings["DESTINATION_S3_BUCKET"]) == ("mine", "copy")
    assert "S3_BUCKET: another value was there, and stays" in outcome.output

    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.suffix != ".db"}
    assert with_mastodons_file(user).exit_code == 0
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("way", ["named", "link", "hard link"])
def test_the_mode_of_mastodons_own_file_stays(user: Path, way: str) -> None:
    file, home = user.parent / ".env.production", home_of(user)
    file.chmod(0o644)
    options = []
    if way == "named":
        options = ["--env-file", str(file)]
    else:
        home.mkdir(parents=True)
        own = home / "mastosync.env"
        own.symlink_to(file) if way == "link" else own.hardlink_to(file)
    outcome = init(*options)
    assert outcome.exit_code == 0, outcome.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.read_text() == PRODUCTION
    assert "others can read it, and its mode stays" in outcome.output
    assert "now its owner alone can" not in outcome.output


def test_settings_can_come_through_a_pipe_and_what_is_missing_is_named(user: Path) -> None:
    words = [str(Path(sys.executable).with_name("mastosync")), "init", "--from", "-", str(user / "elsewhere")]
    outcome = subprocess.run(
        words, input="S3_BUCKET=media\n", capture_output=True, text=True, check=False, env={"HOME": str(user)}
    )
    assert outcome.returncode == 0, outcome.stderr
    assert read_settings(user / "elsewhere" / "mastosync.env") == {"S3_BUCKET": "media"}
    assert "set DESTINATION_S3_BUCKET in" in outcome.stdout
    assert f"export DAGSTER_HOME={user / 'elsewhere'}" in outcome.stdout


def test_what_another_home_has_set_is_not_set_in_a_new_one(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = user / "first", user / "second"
    settings = user / "settings"
    settings.write_text("S3_BUCKET=media\nDESTINATION_S3_BUCKET=copy\n")
    for home, sources in ((first, ["--from", str(settings)]), (second, [])):
        outcome = CliRunner().invoke(main, ["init", str(home), *sources])
        assert outcome.exit_code == 0, outcome.output
        monkeypatch.setenv("DAGSTER_HOME", str(first))
    assert f"set S3_BUCKET and DESTINATION_S3_BUCKET in {second / 'mastosync.env'}" in outcome.output


@pytest.mark.parametrize(
    "value",
    ["plain", "a b", "it's", '"', "a\\b", "end\\", "pa$word", "${HOME}", "a#b", "a #b", "`x`", "é", "'\"$", "=x="],
)
def test_every_password_is_read_back_as_it_was(tmp_path: Path, value: str) -> None:
    for path in (tmp_path / "new", tmp_path / "old"):
        if path.name == "old":
            path.write_text("S3_BUCKET=x\n")
        write_settings(path, {"DB_PASS": value, "MASTOSYNC_SECRET_X": value}, of_home=True)
        assert read_settings(path)["DB_PASS"] == read_settings(path)["MASTOSYNC_SECRET_X"] == value


@pytest.mark.parametrize("room", [0, 20, 600, 2_500, 4_500, 10_000])
def test_what_a_full_disk_has_cut_short_the_next_init_writes_whole(user: Path, room: int) -> None:
    good = user / "good"
    given = ("--from", str(user.parent / ".env.production"), "--night")
    assert init(str(good), *given).exit_code == 0
    home = user / "home"
    with little_room(room):
        outcome = init(str(home), *given)
    assert outcome.exit_code == 1
    assert "cannot be written: File too large" in outcome.output or "history" in outcome.output
    names = {path.relative_to(good) for path in good.rglob("*") if path.is_file() and path.suffix != ".db"}
    # What there is by then is whole, and nothing else lies there.
    for path in (path for path in home.rglob("*") if path.is_file() and path.suffix != ".db"):
        assert path.relative_to(home) in names
        assert path.read_text().replace(str(home), str(good)) == (good / path.relative_to(home)).read_text()
    assert init(str(home), *given).exit_code == 0
    for name in names:
        assert (home / name).read_text().replace(str(home), str(good)) == (good / name).read_text(), name
        assert stat.S_IMODE((home / name).stat().st_mode) == stat.S_IMODE((good / name).stat().st_mode)


def test_settings_that_a_full_disk_has_no_room_for_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("# mine\nS3_BUCKET=x")
    with little_room(40), pytest.raises(InitError, match="File too large"):
        write_settings(path, {"DB_PASS": "a" * 60}, of_home=True)
    assert path.read_text() == "# mine\nS3_BUCKET=x"


def test_an_empty_file_that_an_earlier_init_has_left_is_written(user: Path) -> None:
    home = home_of(user)
    (home / "systemd").mkdir(parents=True)
    for name in ("dagster.yaml", "workspace.yaml", "systemd/mastosync-code.service"):
        (home / name).touch()
    outcome = with_mastodons_file(user)
    assert outcome.exit_code == 0, outcome.output
    assert (home / "dagster.yaml").read_text() == (PROJECT / "dagster.yaml").read_text()
    assert (home / "workspace.yaml").read_text() == (PROJECT / "workspace.yaml").read_text()
    assert "[Service]" in (home / "systemd" / "mastosync-code.service").read_text()
    assert f"{home / 'dagster.yaml'}: new" in outcome.output


def test_an_empty_unit_in_a_folder_of_systemd_is_masked_and_stays(user: Path) -> None:
    folder = user / "units"
    folder.mkdir()
    masked = folder / "mastosync-webserver.service"
    masked.touch()
    outcome = init("--no-input", "--units", str(folder))
    assert outcome.exit_code == 0, outcome.output
    assert masked.read_text() == ""
    assert "[Service]" in (folder / "mastosync-code.service").read_text()


def test_a_folder_that_cannot_be_written_is_a_sentence(user: Path) -> None:
    (user / "file").write_text("")
    outcome = init(str(user / "file" / "home"))
    assert outcome.exit_code == 1
    assert "cannot be written" in outcome.output
    assert "mastosync init FOLDER" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        (["--user", "no such user"], "", "There is no user 'no such user' on this machine"),
        (["--user", "daemon"], "", "runuser -u daemon -- mastosync init {home}"),
        (["--user", "a\nUser=root"], "", "has a control character"),
        (["--env-file", "{home}/a\nb"], "", "has a control character"),
        (["--night"], "MASTOSYNC_NIGHTLY_CRON='99 77 * * *'\n", "MASTOSYNC_NIGHTLY_CRON is '99 77 * * *'"),
        (["--night"], "MASTOSYNC_NIGHTLY_TIMEZONE=Europe/Berln\n", "MASTOSYNC_NIGHTLY_TIMEZONE is 'Europe/Berln'"),
        (["--night"], "MASTOSYNC_NIGHTLY_TIMEZONE=Europe\n", "MASTOSYNC_NIGHTLY_TIMEZONE is 'Europe'"),
        ([], "MASTOSYNC_MANIFESTS='{home}/a\nb'\n", "has a control character"),
    ],
)
def test_what_no_unit_can_work_with_is_refused_before_anything_is_written(
    user: Path, options: list[str], settings: str, says: str
) -> None:
    if options == ["--user", "daemon"] and os.geteuid() != 0:
        says = "sudo -H -u daemon mastosync init {home}"
    home = user / "home"
    options = [option.format(home=home) for option in options]
    outcome = init(str(home), *options, "--from", "-", "--no-input", stdin=settings.format(home=home))
    assert outcome.exit_code == 1, outcome.output
    (line,) = outcome.stderr.splitlines()
    assert says.format(home=home) in line
    assert list(user.iterdir()) == []


def test_a_user_may_be_named_who_runs_the_command(user: Path) -> None:
    me = pwd.getpwuid(os.geteuid())
    for name in (me.pw_name, str(me.pw_uid)):
        assert init(str(user / name), "--user", name, "--no-input").exit_code == 0
        assert f"User={name}\n" in (user / name / "systemd" / "mastosync-code.service").read_text()


def test_a_home_that_others_may_write_to_is_warned_of(user: Path) -> None:
    home = user / "a home"
    home.mkdir()
    for mode, warned in ((0o777, True), (0o755, False)):
        home.chmod(mode)
        outcome = init(str(home), "--no-input")
        assert outcome.exit_code == 0
        assert (f"Warning: {home} may be written by others: chmod o-w '{home}'" in outcome.stderr) is warned
        assert stat.S_IMODE(home.stat().st_mode) == mode


def test_units_write_a_dollar_as_each_of_their_lines_reads_it() -> None:
    settings = UnitSettings(Path("/srv/a$1"), Path("/srv/a$1/mastosync.env"), "root", 3030, (Path("/srv/b$2"),))
    made = units(settings)
    for text in made.values():
        assert "ReadWritePaths=/srv/a$1 -/srv/b$2\n" in text
        assert "WorkingDirectory=/srv/a$1\n" in text
    # These lines alone are where systemd puts variables.
    assert "-w /srv/a$$1/services.yaml\n" in made["mastosync-daemon.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("home", ["/var/lib/mastosync", "/srv/my media/100% mine"])
def test_systemd_accepts_the_units_and_finds_them_hardened(tmp_path: Path, home: str) -> None:
    settings = UnitSettings(
        Path(home), Path(home, "mastosync.env"), "root", 3030, (Path("/srv/manifests"), Path("/srv/a b")), machines=True
    )
    calendar = calendar_of("5 3 * * *", "Europe/Berlin")
    assert calendar == "*-*-* 03:05:00 Europe/Berlin"
    assert [calendar_of(cron, "UTC") for cron in ("@daily", "*/5 3 * * *", "0 3 * * 1")] == [None] * 3
    for name, text in {**units(settings), **night_units(settings, calendar)}.items():
        (tmp_path / name).write_text(text)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    outcome = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    about_ours = [line for line in outcome.stderr.splitlines() if "mastosync" in line]
    assert about_ours == []
    assert outcome.returncode == 0, outcome.stderr
    for service in (path for path in files if path.endswith(".service")):
        words = ["systemd-analyze", "security", "--offline=true", "--no-pager", service]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
        assert level is not None
        assert float(level[1]) <= 4.0, output


def test_where_machines_share_the_runs_there_is_a_worker_and_each_unit_has_their_variables(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER", "redis://localhost/0")
    for name in ("HOST", "USER", "PASSWORD", "DB"):
        monkeypatch.delenv(f"DAGSTER_PG_{name}", raising=False)
    outcome = init("--worker", "--no-input")
    # The history is on another machine, which nobody has named yet.
    assert outcome.exit_code == 1
    assert "not set in this command's environment: DAGSTER_PG_" in outcome.output
    home = home_of(user)
    assert (home / "dagster.yaml").read_text() == (PROJECT / "deploy" / "celery" / "dagster.yaml").read_text()
    made = {path.name: path.read_text() for path in (home / "systemd").iterdir()}
    assert "-m celery -A mastosync_dagster.machines.worker worker" in made["mastosync-worker.service"]
    for name, text in made.items():
        assert f"EnvironmentFile={home}/machines.env\n" in text, name


def test_where_one_machine_executes_the_runs_no_unit_wants_another_file(user: Path) -> None:
    assert init("--no-input").exit_code == 0
    made = {path.name: path.read_text() for path in (home_of(user) / "systemd").iterdir()}
    assert "mastosync-worker.service" not in made
    assert not any("EnvironmentFile" in text for text in made.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_the_shell_accepts(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(CliRunner().invoke(main, ["completion", shell]).output)
    assert "_MASTOSYNC_COMPLETE" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)


def test_bash_completes_commands_and_file_types(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(CliRunner().invoke(main, ["completion", "bash"]).output)
    lines = [
        f"source {script}",
        "COMP_WORDS=(mastosync sync cust) COMP_CWORD=2; _mastosync_completion mastosync; echo ${COMPREPLY[@]}",
        "COMP_WORDS=(mastosync ini) COMP_CWORD=1; COMPREPLY=(); _mastosync_completion mastosync; echo ${COMPREPLY[@]}",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert output.stdout.split() == ["custom_emojis", "init"]


@pytest.mark.parametrize("place", ["-", "file"])
def test_a_misspelt_name_is_told_with_what_is_probably_meant(user: Path, place: str) -> None:
    lines = "DESTINATION_S3_BUKET=x\nMASTOSYNC_CONCURENCY=3\nSECRET_KEY_BASE=not-for-us\n"
    file = user / "given.env"
    file.write_text(lines)
    given = "-" if place == "-" else str(file)
    outcome = init(str(user / "home"), "--from", given, "--no-input", stdin=lines)
    assert outcome.exit_code == 0, outcome.output
    where = "standard input" if place == "-" else str(file)
    meant = "which mastosync does not know: {} is probably meant"
    assert f"line 1 of {where} sets DESTINATION_S3_BUKET, {meant.format('DESTINATION_S3_BUCKET')}" in outcome.stderr
    assert f"line 2 of {where} sets MASTOSYNC_CONCURENCY, {meant.format('MASTOSYNC_CONCURRENCY')}" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 2


@pytest.mark.parametrize("place", ["-", "file", "home"])
def test_an_error_names_what_was_given(user: Path, place: str) -> None:
    lines = "DB_PASS=$(x)\n"
    home = user / "home"
    home.mkdir()
    file = {"file": user / "given.env", "home": home / "mastosync.env"}.get(place)
    if file is not None:
        file.write_text(lines)
    options = {"-": ("--from", "-"), "file": ("--from", str(file)), "home": ()}[place]
    outcome = init(str(home), *options, "--no-input", stdin=lines)
    assert outcome.exit_code == 1
    begin = {
        "-": "--from - reads standard input",
        "file": f"--from names {file}",
        "home": f"The file of settings is {file}",
    }
    assert outcome.stderr.startswith(f"Error: {begin[place]}, whose line 1 takes DB_PASS from a command")
    assert "MASTOSYNC_ENV_FILE" not in outcome.stderr
