"""Where settings come from: the process over the file, and nothing at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mastosync_dagster import environment
from mastosync_dagster.environment import Environment, MissingSettingError, SettingsError
from mastosync_dagster.resources import MastodonDatabase, S3Bucket

ROOT = Path(__file__).parent.parent


def read(tmp_path: Path, content: str, **process: str) -> Environment:
    file = tmp_path / ".env.production"
    file.write_text(content, encoding="utf-8")
    return Environment.read({"MASTOSYNC_ENV_FILE": str(file), **process})


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("DB_PASS=value", "value"),
        ("export DB_PASS=value", "value"),
        ("  DB_PASS = value  ", "value"),
        ("DB_PASS='with space'", "with space"),
        ('DB_PASS="with space"', "with space"),
        ("DB_PASS=value # a comment", "value"),
        ("DB_PASS=va#lue", "va"),
        ("DB_PASS='va # lue'", "va # lue"),
        ("# DB_PASS=value", None),
        ("DB_PASS=", None),
        ("DB_PASS=''", None),
        ("DB_PASS", None),
        ("DB_PASS=a$OTHER-${OTHER}", "ax-x"),
        ('DB_PASS="a$OTHER-${OTHER}"', "ax-x"),
        ("DB_PASS='a$OTHER-${OTHER}'", "a$OTHER-${OTHER}"),
        ("DB_PASS='end\\'\nDB_HOST='x'", "end\\"),
        ("\ufeffDB_PASS=value", "value"),
        ("DB_PASS=value\r\nDB_HOST=1\r", "value"),
        ("DB_PASS=first\nDB_PASS=second", "second"),
        ("DB_PASS=pässword", "pässword"),
    ],
)
def test_a_line_of_the_file_is_understood_as_mastodon_understands_it(
    tmp_path: Path, line: str, value: str | None
) -> None:
    assert read(tmp_path, line, OTHER="x").text("DB_PASS") == value


def test_the_process_wins_over_the_file_unless_its_value_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path, "DB_PASS=file", DB_PASS="process").text("DB_PASS") == "process"
    assert read(tmp_path, "DB_PASS=file", DB_PASS="").text("DB_PASS") == "file"
    assert read(tmp_path, "", DB_PASS="").text("DB_PASS") is None


def test_an_empty_value_is_distinguished_from_none_where_it_means_something(tmp_path: Path) -> None:
    assert read(tmp_path, "DB_PASS=").text_or_empty("DB_PASS") == ""
    assert read(tmp_path, "DB_PASS=file", DB_PASS="").text_or_empty("DB_PASS") == ""
    assert read(tmp_path, "").text_or_empty("DB_PASS") is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(SettingsError, match=f"MASTOSYNC_ENV_FILE names {missing}.*: No such file"):
        Environment.read({"MASTOSYNC_ENV_FILE": str(missing)})
    with pytest.raises(SettingsError, match=r"MASTOSYNC_ENV_FILE names .*: Is a directory"):
        Environment.read({"MASTOSYNC_ENV_FILE": str(tmp_path)})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("export DB_PASS", "whose line 4 exports a variable without a value"),
        ("DB_PASS=$(cat s3cret)", "whose line 4 takes DB_PASS from a command"),
        ("X=$(cat s3cret)\nDB_PASS=$X", "whose line 5 takes DB_PASS from a command"),
    ],
)
def test_a_line_that_cannot_be_read_is_numbered_and_not_repeated(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, f"FIRST=1\n\n# a comment\n{line}\nLAST=1\n")
    assert says in str(caught.value)
    assert "s3" not in repr(caught.value).replace(str(tmp_path), "")


def test_a_command_of_a_variable_that_the_process_has_or_nobody_reads_is_no_matter(tmp_path: Path) -> None:
    content = "DB_PASS=$(cat s3cret)\nSMTP_PASSWORD=$(cat s3cret)\n"
    assert read(tmp_path, content, DB_PASS="1").text("DB_PASS") == "1"


def test_a_file_too_large_for_settings_is_refused() -> None:
    with pytest.raises(SettingsError, match="larger than a file of settings"):
        Environment.read({"MASTOSYNC_ENV_FILE": "/dev/zero"})


def test_odd_lines_are_named_by_number_alone(tmp_path: Path) -> None:
    content = "-----BEGIN s3cret-----\nDB_PASS='s3cret\n\nSMTP_PASSWORD='s3cret\nDB_USER=a$s3cret\n"
    remarks = read(tmp_path, content).remarks()
    path = tmp_path / ".env.production"
    unclosed, unset, ignored = remarks
    assert unclosed.startswith(f"line 2 of {path}: the value of DB_PASS begins with a quotation mark")
    assert unset.startswith(f"line 5 of {path}: the value of DB_USER has a $ before a name that nothing sets")
    assert ignored == f"line 1 of {path} is not NAME=value, and is not read"
    assert "s3" not in str(remarks).replace(str(tmp_path), "")


CUT, TAKEN_OFF, KEPT = "ends at a #", "loses a backslash", "keeps a backslash"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("s3c#ret", CUT),
        ("#s3cret", CUT),
        ("'s3c#ret", CUT),
        (r"s3c\ret", TAKEN_OFF),
        (r"s3c\$ret", TAKEN_OFF),
        (r'"s3c\tret"', TAKEN_OFF),
        (r'"s3c\$ret"', TAKEN_OFF),
        (r'"s3c\\$ret"', TAKEN_OFF),
        (r'"s3c\wret"', TAKEN_OFF),
        (r'"s3c\nret"', KEPT),
        (r"'s3c\'ret'", KEPT),
        (r"'s3c\\ret'", KEPT),
        # All of these have always meant the same.
        ("s3cret # a comment", ""),
        ("s3cret\n# a comment", ""),
        ("# a comment", ""),
        (" # a comment", ""),
        ("'s3c#ret'#a comment", ""),
        ('"s3c#ret" # a comment', ""),
        (r"'s3c\ret'", ""),
        (r"'s3c\$ret'", ""),
        (r'"s3c\"\\ret"', ""),
        ("s3cret\\", ""),
    ],
)
def test_a_value_that_earlier_versions_read_otherwise_is_named(tmp_path: Path, value: str, says: str) -> None:
    space = " " if value.startswith("# ") else ""
    remarks = read(tmp_path, f"DB_USER=u\nDB_PASS={space}{value}\n").remarks()
    remarked = [each for each in remarks if CUT in each or TAKEN_OFF in each or KEPT in each]
    assert len(remarked) == bool(says)
    assert all(
        each.startswith(f"line 2 of {tmp_path}/.env.production: the value of DB_PASS {says}") for each in remarked
    )
    assert "s3c" not in str(remarks).replace(str(tmp_path), "")
    assert not read(tmp_path, f"DB_PASS={space}{value}\n", DB_PASS="1").remarks()


def test_a_line_of_mastosync_that_does_not_count_is_remarked_on(tmp_path: Path) -> None:
    content = "S3_BUCKET=of-the-file\nMASTOSYNC_MANIFESTS=/of/the/file\n"
    (remark,) = read(tmp_path, content, S3_BUCKET="other", MASTOSYNC_MANIFESTS="/other").remarks()
    assert remark.startswith(f"line 2 of {tmp_path / '.env.production'} sets MASTOSYNC_MANIFESTS, whose other value")
    assert not read(tmp_path, content, MASTOSYNC_MANIFESTS="/of/the/file").remarks()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DESTINATION_S3_BUKET", "DESTINATION_S3_BUCKET"),
        ("DESTINATION_BUCKET", "DESTINATION_S3_BUCKET"),
        ("DESTINATON_S3_ENDPOINT", "DESTINATION_S3_ENDPOINT"),
        ("DEST_S3_BUCKET", "DESTINATION_S3_BUCKET"),
        ("DESTINATION_ACCESS_KEY_ID", "DESTINATION_AWS_ACCESS_KEY_ID"),
        ("destination_s3_bucket", "DESTINATION_S3_BUCKET"),
        ("MASTOSYNC_COPY_PRIVAT", "MASTOSYNC_COPY_PRIVATE"),
        ("MASTOSNYC_CONCURRENCY", "MASTOSYNC_CONCURRENCY"),
        ("SSH_TUNNEL_PASS", "SSH_TUNNEL_PASSWORD"),
        ("SSH_TUNEL_HOST", "SSH_TUNNEL_HOST"),
        ("SSH_TUNNEL_KNOWN_HOST", "SSH_TUNNEL_KNOWN_HOSTS"),
        ("DESTINATION_S3_ACL", "DESTINATION_S3_PERMISSION"),
        ("DESTINATION_S3_READ_TIMEOUT", "DESTINATION_S3_ANSWER_TIMEOUT"),
        ("MASTOSYNC_CRON", "MASTOSYNC_NIGHTLY_CRON"),
        ("MASTOSYNC_DESTINATION_S3_BUCKET", "DESTINATION_S3_BUCKET"),
        ("MASTOSYNC_DESTINATION_FOLDR", "MASTOSYNC_DESTINATION_FOLDER"),
        ("MASTOSYNC_DELETE", ""),
        ("MASTOSYNC_TOKEN", ""),
        ("MASTOSYNC_BANANA", ""),
    ],
)
def test_a_misspelt_name_is_reported_with_what_it_probably_means(tmp_path: Path, name: str, meant: str) -> None:
    path = tmp_path / ".env.production"
    tail = f", which mastosync does not know{f': {meant} is probably meant' if meant else ''}"
    assert read(tmp_path, f"\n{name}=s3cret").remarks() == [f"line 2 of {path} sets {name}{tail}"]
    assert read(tmp_path, "", **{name: "s3cret"}).remarks() == [f"{name} is set{tail}"]


def test_names_of_other_programs_are_no_misspellings(tmp_path: Path) -> None:
    others = "SSH_CONNECTION SSH_AUTH_SOCK DESTINATION_DIR S3_ALIAS_HOST S3_HOSTNAME AWS_REGION SMTP_SERVER DB_POOL"
    others += " LOCAL_DOMAIN REDIS_HOST ES_HOST MASTODON_VERSION_METADATA HOME PATH SINGLE_USER_MODE"
    assert read(tmp_path, "MASTOSYNC_SECRET_X=1", **dict.fromkeys(others.split(), "x")).remarks() == []
    mastodon = [name for name in others.split() if not name.startswith("DESTINATION_")]
    assert read(tmp_path, "\n".join(f"{name}=x" for name in mastodon)).remarks() == []


def test_what_kubernetes_sets_for_a_service_is_no_misspelling(tmp_path: Path) -> None:
    services = {"MASTOSYNC": 4000, "MASTOSYNC_DAGSTER_WEBSERVER": 3030}
    ends = "SERVICE_HOST SERVICE_PORT SERVICE_PORT_GRPC PORT PORT_{0}_TCP PORT_{0}_TCP_PROTO PORT_{0}_TCP_ADDR"
    variables = [f"{name}_{end.format(port)}" for name, port in services.items() for end in ends.split()]
    assert read(tmp_path, "", **dict.fromkeys(variables, "x")).remarks() == []
    (alone,) = read(tmp_path, "", MASTOSYNC_PORT="x").remarks()
    (beside,) = read(tmp_path, "", MASTOSYNC_SERVICE_HOST="x", MASTOSYNC_COPY_PRIVAT="x").remarks()
    (in_file,) = read(tmp_path, "MASTOSYNC_PORT=x", MASTOSYNC_SERVICE_HOST="x").remarks()
    assert alone.startswith("MASTOSYNC_PORT is set")
    assert beside.startswith("MASTOSYNC_COPY_PRIVAT is set")
    assert in_file.startswith("line 1 of")


def test_a_missing_variable_is_named_with_why_it_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / ".env.production"
    cases: list[tuple[str, dict[str, str], str]] = [
        ("", {}, "MASTOSYNC_ENV_FILE, which names the file with such settings, is not set."),
        ("X=1", {"MASTOSYNC_ENV_FILE": str(file)}, f"The file {file}, which MASTOSYNC_ENV_FILE names, does not set"),
        ("S3_BUKET=1", {"MASTOSYNC_ENV_FILE": str(file)}, "S3_BUKET is set: S3_BUCKET is probably meant."),
        ("", {"USER": "root", "S3_BUCKET_NAME": "1"}, "S3_BUCKET_NAME is set: S3_BUCKET is probably meant."),
        ("", {"MASTOSYNC_ENVFILE": str(file)}, "MASTOSYNC_ENVFILE is set: MASTOSYNC_ENV_FILE is probably meant."),
    ]
    for content, process, says in cases:
        file.write_text(content)
        with pytest.raises(MissingSettingError) as caught:
            S3Bucket.source().settings(Environment.read(process))
        assert "S3_BUCKET is not set" in str(caught.value)
        assert says in str(caught.value)


def test_a_file_in_another_encoding_is_refused_without_repeating_it(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes("NAME=s3crät".encode("latin-1"))
    with pytest.raises(SettingsError, match="is not UTF-8 text") as caught:
        Environment.read({"MASTOSYNC_ENV_FILE": str(file)})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_secret_is_read_through_the_variable_that_a_field_names(tmp_path: Path) -> None:
    settings = read(tmp_path, "MASTOSYNC_SECRET_FILE=1\nDB_PASS=3", MASTOSYNC_SECRET_PROCESS="2")
    assert settings.secret("MASTOSYNC_SECRET_FILE", wanted_by="f") == "1"
    assert settings.secret("MASTOSYNC_SECRET_PROCESS", wanted_by="f") == "2"
    assert settings.secret("DB_PASS", wanted_by="f", own=["DB_PASS"]) == "3"
    with pytest.raises(MissingSettingError, match=r"MASTOSYNC_SECRET_X is not set; resources\.x reads it"):
        settings.secret("MASTOSYNC_SECRET_X", wanted_by="resources.x")


@pytest.mark.parametrize(
    "name",
    ["SECRET_KEY_BASE", "AWS_SECRET_ACCESS_KEY", "PATH", "s3cret value", "", "MASTOSYNC_SECRET_", "MASTOSYNC_SECRET_\n"]
    + ["XMASTOSYNC_SECRET_A", "mastosync_secret_a", "MASTOSYNC_ALERT_WEBHOOK"],
)
def test_a_field_may_name_only_its_own_variable_and_those_that_are_made_for_it(tmp_path: Path, name: str) -> None:
    settings = read(tmp_path, "", **{name or "X": "value"})
    with pytest.raises(SettingsError) as caught:
        settings.secret(name, wanted_by="resources.x", own=["DB_PASS"])
    assert str(caught.value) == (
        "resources.x must name an environment variable, as {env: NAME}, and never hold the secret: "
        "NAME is DB_PASS or a name that begins with MASTOSYNC_SECRET_."
    )


def test_lines_that_nobody_here_needs_never_enter_the_process(tmp_path: Path) -> None:
    content = (
        "SECRET_KEY_BASE=a\nOTP_SECRET=b\nexport SMTP_PASSWORD=c\nVAPID_PRIVATE_KEY=d\nREDIS_URL=e\nPATH=f\n"
        "S3_BUCKET=1\nDESTINATION_S3_BUCKET=2\nexport DATABASE_URL=3\nMASTOSYNC_CONCURRENCY=4\nMASTOSYNC_SECRET_X=5\n"
    )
    known = {"S3_BUCKET", "DESTINATION_S3_BUCKET", "DATABASE_URL", "MASTOSYNC_CONCURRENCY", "MASTOSYNC_SECRET_X"}
    assert read(tmp_path, content).file.keys() == known


def test_our_own_numbers_have_defaults_and_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert environment.rows_per_partition() == 50_000
    assert environment.manifests_location() is None
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", " 1000 ")
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", "s3://bucket/manifests")
    assert environment.rows_per_partition() == 1000
    assert environment.manifests_location() == "s3://bucket/manifests"


@pytest.mark.parametrize("value", ["many", "1.5", "-1", "0", "1_000", "1e3", "٣", "99999999999999999999"])
def test_a_number_that_is_none_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", value)
    with pytest.raises(SettingsError, match="MASTOSYNC_ROWS_PER_PARTITION must be a whole number from 1 to "):
        environment.rows_per_partition()


def test_what_was_read_shows_no_value() -> None:
    assert "s3cret" not in repr(Environment.read({"NAME": "s3cret"}))


def test_nothing_is_read_at_import(tmp_path: Path) -> None:
    # A file that cannot be read would end the import.
    code = "import mastosync_dagster.environment, mastosync_dagster.resources as r; r.S3Bucket.source()"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"MASTOSYNC_ENV_FILE": "/nowhere", "MASTOSYNC_CONCURRENCY": "x", "HOME": str(tmp_path), "PATH": ""},
        cwd=ROOT,
        check=True,
    )


def test_the_example_file_explains_every_variable_and_no_other() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    known = {
        *environment.VARIABLES,
        *environment.MASTODON_STORAGE,
        *MastodonDatabase.VARIABLES.values(),
        *S3Bucket.source().variables.values(),
        *S3Bucket.destination().variables.values(),
    }
    # Those that most people leave alone stand there commented out.
    lines = [line.removeprefix("#") for line in text.splitlines() if "=" in line and not line.startswith("# ")]
    names = [line.partition("=")[0] for line in lines]
    assert sorted(names) == sorted(known)
    for name in names:
        before = text.partition(f"{name}=")[0].splitlines()
        explained = [line for line in before[-4:] if line.startswith("# ")]
        assert explained, f"{name} is not explained"


def test_the_example_file_can_be_read_and_is_complete_enough_to_start_from() -> None:
    settings = Environment.read({"MASTOSYNC_ENV_FILE": str(ROOT / ".env.example")})
    assert settings.remarks() == []
    assert S3Bucket.source().settings(settings).bucket
    assert S3Bucket.destination().settings(settings).bucket


def test_a_home_may_be_named_with_a_tilde_as_cron_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "~/home")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mastosync.env").write_text("S3_BUCKET=media\n")
    assert Environment.read().text("S3_BUCKET") == "media"
    assert environment.dagster_home() == tmp_path / "home"
    environment.use_default_home()
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", "~nobody-has-this-name/home")
    assert Environment.read().text("S3_BUCKET") is None
    assert environment.dagster_home() == Path("~nobody-has-this-name/home")
