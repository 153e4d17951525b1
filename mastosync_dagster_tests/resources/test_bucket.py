"""The two buckets as resources: settings, credentials from everywhere, and clients against real S3 servers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from botocore.exceptions import ClientError, NoCredentialsError, SSLError
from moto.server import ThreadedMotoServer

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port, rclone_binary
from mastosync_dagster.environment import Environment, MissingSettingError, SettingsError
from mastosync_dagster.resources import DestinationBucket, S3Bucket, Secret, ensure_different
from mastosync_dagster.s3.client import Client
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster_tests.support.proxy import s3_proxy
from mastosync_dagster_tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

ENDPOINT = {"S3_BUCKET": "media", "S3_ENDPOINT": "https://s3.example"}
DESTINATION = {"DESTINATION_S3_BUCKET": "media"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("S3_", "AWS_", "DESTINATION_", "MASTOSYNC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def point_at(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, prefix: str = "") -> None:
    monkeypatch.setenv(f"{prefix}S3_BUCKET", bucket.name)
    monkeypatch.setenv(f"{prefix}S3_ENDPOINT", bucket.server.endpoint)


def log_in(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, prefix: str = "") -> None:
    point_at(bucket, monkeypatch, prefix)
    monkeypatch.setenv(f"{prefix}AWS_ACCESS_KEY_ID", bucket.server.access_key_id)
    monkeypatch.setenv(f"{prefix}AWS_SECRET_ACCESS_KEY", bucket.server.secret_access_key)


def test_each_storage_reads_its_own_variables() -> None:
    names = ["S3_BUCKET", "S3_REGION", "S3_STORAGE_CLASS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    names.append("AWS_SESSION_TOKEN")
    values = {name: name.lower() for name in names} | {f"DESTINATION_{name}": f"d-{name.lower()}" for name in names}
    values |= {"S3_ENDPOINT": "https://s3.example/", "DESTINATION_S3_ENDPOINT": "http://d.example:9000"}
    environment = Environment.read(values)
    for resource, mark, endpoint in (
        (S3Bucket.source(), "", "https://s3.example"),
        (S3Bucket.destination(), "d-", "http://d.example:9000"),
    ):
        settings = resource.settings(environment)
        assert settings.bucket == f"{mark}s3_bucket"
        assert settings.region == f"{mark}s3_region"
        assert settings.storage_class == f"{mark}s3_storage_class"
        assert settings.access_key_id == f"{mark}aws_access_key_id"
        assert settings.secret_access_key == f"{mark}aws_secret_access_key"
        assert settings.session_token == f"{mark}aws_session_token"
        assert settings.endpoint_url == endpoint
    assert S3Bucket.source().settings(environment).name == "source"
    assert S3Bucket.destination().settings(environment).name == "destination"


def test_everything_but_the_bucket_may_be_unset() -> None:
    settings = S3Bucket.destination().settings(Environment.read({"DESTINATION_S3_BUCKET": "media"}))
    assert settings.endpoint_url is None
    assert settings.region is None
    assert settings.prefix == ""
    assert settings.access_key_id is None
    assert settings.storage_class is None
    assert settings.permission == "public-read"
    assert settings.verify


@pytest.mark.parametrize(
    ("variables", "path_style"),
    [
        ({"S3_BUCKET": "media"}, False),
        ({"S3_BUCKET": "media", "S3_OVERRIDE_PATH_STYLE": "true"}, False),
        # Amazon's wildcard certificate covers no name with dots.
        ({"S3_BUCKET": "media.example"}, True),
        (ENDPOINT, True),
        ({**ENDPOINT, "S3_ENDPOINT": ""}, False),
        ({**ENDPOINT, "S3_OVERRIDE_PATH_STYLE": ""}, True),
        ({**ENDPOINT, "S3_OVERRIDE_PATH_STYLE": "false"}, True),
        ({**ENDPOINT, "S3_OVERRIDE_PATH_STYLE": "true"}, False),
    ],
)
def test_path_style_is_chosen_as_mastodon_chooses_it(variables: dict[str, str], path_style: bool) -> None:  # noqa: FBT001  (pytest's)
    environment = Environment.read(variables)
    assert S3Bucket.source().settings(environment).path_style is path_style
    assert S3Bucket(path_style=not path_style).settings(environment).path_style is not path_style


@pytest.mark.parametrize(
    ("key_prefix", "text"), [(None, ""), ("", ""), ("media", "media/"), ("/media", "media/"), ("media/", "media//")]
)
def test_the_key_prefix_is_what_mastodon_makes_of_it(key_prefix: str | None, text: str) -> None:
    variables = {"S3_BUCKET": "media"} | ({} if key_prefix is None else {"S3_KEY_PREFIX": key_prefix})
    assert S3Bucket.source().settings(Environment.read(variables)).prefix == text


@pytest.mark.parametrize(
    ("variables", "field", "permission"),
    [
        ({}, None, "public-read"),
        ({"DESTINATION_S3_PERMISSION": "private"}, None, "private"),
        ({"DESTINATION_S3_PERMISSION": "public_read"}, None, "public-read"),
        ({"DESTINATION_S3_PERMISSION": ""}, None, ""),
        ({"DESTINATION_S3_PERMISSION": "private"}, "", ""),
        ({"DESTINATION_S3_PERMISSION": ""}, "public-read", "public-read"),
    ],
)
def test_an_empty_permission_means_no_acl_and_an_unset_one_public_read(
    variables: dict[str, str], field: str | None, permission: str
) -> None:
    resource = DestinationBucket(permission=field)
    assert resource.settings(Environment.read(DESTINATION | variables)).permission == permission


def test_fields_win_over_variables_and_an_empty_field_means_none() -> None:
    environment = Environment.read(
        {**ENDPOINT, "S3_KEY_PREFIX": "x", "S3_REGION": "r", "MASTOSYNC_SECRET_1": "from-variable"}
    )
    resource = S3Bucket(
        bucket="other",
        key_prefix="",
        endpoint_url="",
        region_name="eu",
        aws_access_key_id="id",
        aws_secret_access_key=Secret(env="MASTOSYNC_SECRET_1"),
    )
    settings = resource.settings(environment)
    assert (settings.bucket, settings.prefix, settings.endpoint_url, settings.region) == ("other", "", None, "eu")
    assert settings.secret_access_key == "from-variable"


@pytest.mark.parametrize(
    ("fields", "variables", "message"),
    [
        ({}, {}, "S3_BUCKET is not set: set it, or resources.source.config.bucket."),
        ({"bucket": ""}, {"S3_BUCKET": "media"}, "S3_BUCKET is not set"),
        ({}, {"S3_BUCKET": "s3://media/files"}, "must be the name of a bucket only"),
        (
            {},
            {"S3_BUCKET": "media", "S3_ENDPOINT": "s3.example"},
            "S3_ENDPOINT (or resources.source.config.endpoint_url)",
        ),
        (
            {},
            {"S3_BUCKET": "media", "S3_ENDPOINT": "https://ACCOUNT_ID.r2.cloudflarestorage.com"},
            "S3_ENDPOINT (or resources.source.config.endpoint_url) still has a placeholder",
        ),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://<account>.r2.cloudflarestorage.com"}, "a placeholder"),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://s3.${REGION}.example"}, "a placeholder"),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://s3 .example"}, "no host name has"),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://s3.example/media"}, "ends with the name of the bucket"),
        (
            {"path_style": False},
            {"S3_BUCKET": "media", "S3_ENDPOINT": "http://192.0.2.1:9000"},
            "The bucket media cannot be put before an IP address: leave S3_OVERRIDE_PATH_STYLE unset",
        ),
        (
            {"path_style": False},
            {"S3_BUCKET": "tenant:media", "S3_ENDPOINT": "https://s3.example"},
            "The bucket tenant:media cannot be put before a host name",
        ),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "ftp://s3.example"}, "must be a URL such as https://"),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://id:hunter2@s3.example"}, "without user, password"),
        ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": "https://s3.example:port"}, "must be a URL such as https://"),
        *(
            ({}, {"S3_BUCKET": "media", "S3_ENDPOINT": f"https://s3.{text}"}, "S3_ENDPOINT (or resources.source")
            for text in ("exam\nple", "example\n", "example\t/", "example/a b", "example/a\rb", "example/\x01")
        ),
        ({"endpoint_url": "https://s3.ex\nample"}, {"S3_BUCKET": "media"}, "resources.source.config.endpoint_url has"),
        *(
            ({}, {"S3_BUCKET": "media", "S3_STORAGE_CLASS": text}, "S3_STORAGE_CLASS (or resources.source")
            for text in ("STANDARD\nX-Amz-Acl: public-read", "STANDARD IA", "STANDARD\n", "\x7f")
        ),
        ({"storage_class": "A\r\nB"}, {"S3_BUCKET": "media"}, "resources.source.config.storage_class must be"),
        ({}, {"S3_BUCKET": "media", "S3_KEY_PREFIX": "media\n"}, "S3_KEY_PREFIX (or resources.source"),
        ({}, {"S3_BUCKET": "media", "S3_KEY_PREFIX": " "}, "S3_KEY_PREFIX (or resources.source"),
        ({}, {"S3_BUCKET": "media", "S3_KEY_PREFIX": "https://k:s@h/p"}, "S3_KEY_PREFIX (or resources.source"),
        ({"key_prefix": "media "}, {"S3_BUCKET": "media"}, "resources.source.config.key_prefix begins or ends"),
        ({}, {"S3_BUCKET": "media\n"}, "S3_BUCKET (or resources.source"),
        ({}, {"S3_BUCKET": "media", "S3_REGION": "eu\n"}, "S3_REGION (or resources.source"),
        ({}, {"S3_BUCKET": "media", "AWS_ACCESS_KEY_ID": "a\nb", "AWS_SECRET_ACCESS_KEY": "c"}, "AWS_ACCESS_KEY_ID"),
        *(
            (
                {},
                {
                    "S3_BUCKET": "media",
                    "AWS_ACCESS_KEY_ID": "id",
                    "AWS_SECRET_ACCESS_KEY": "hunter2",
                    name: value,
                },
                f"{name} (or resources.source.config.{name.lower()}) begins or ends with a blank",
            )
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            for value in ("hunter2 ", " hunter2")
        ),
        ({"endpoint_url": "x"}, {"S3_BUCKET": "media"}, "resources.source.config.endpoint_url must be a URL"),
        (
            {},
            {"S3_BUCKET": "media", "S3_PERMISSION": "public"},
            "S3_PERMISSION (or resources.source.config.permission)",
        ),
        (
            {},
            {"S3_BUCKET": "media", "AWS_ACCESS_KEY_ID": "id"},
            "but AWS_SECRET_ACCESS_KEY (or resources.source.config.aws_secret_access_key) is not.",
        ),
        (
            {},
            {"S3_BUCKET": "media", "AWS_SECRET_ACCESS_KEY": "hunter2"},
            "but AWS_ACCESS_KEY_ID (or resources.source.config.aws_access_key_id) is not.",
        ),
        (
            {"aws_secret_access_key": Secret(env="MASTOSYNC_SECRET_1"), "aws_access_key_id": "id"},
            {"S3_BUCKET": "media"},
            "MASTOSYNC_SECRET_1 is not set; resources.source.config.aws_secret_access_key reads it.",
        ),
        ({"use_ssl": False}, {"S3_BUCKET": "media"}, "S3_ENDPOINT"),
    ],
)
def test_what_is_missing_or_wrong_is_named(fields: dict[str, object], variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        S3Bucket.model_validate(fields).settings(Environment.read(variables))
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "DESTINATION_"])
def test_what_can_be_set_for_a_run_can_be_set_by_a_variable(prefix: str) -> None:
    bucket = S3Bucket.destination() if prefix else S3Bucket.source()
    given = {
        "S3_BUCKET": "media",
        "AWS_PROFILE": "other",
        "S3_CA_FILE": "/ca.pem",
        "S3_VERIFY": "false",
        "S3_CONNECT_TIMEOUT": "3",
        "S3_ANSWER_TIMEOUT": "70",
        "S3_UPLOAD_TIMEOUT": "900",
    }
    settings = bucket.settings(Environment.read({prefix + name: value for name, value in given.items()}))
    assert (settings.profile, settings.ca_file, settings.verify) == ("other", "/ca.pem", False)
    assert (settings.connect_timeout, settings.read_timeout, settings.upload_timeout) == (3, 70, 900)
    own = type(bucket)(profile_name="", ca_file="", verify=True, connect_timeout=1, read_timeout=2, upload_timeout=3)
    settings = own.settings(Environment.read({prefix + name: value for name, value in given.items()}))
    assert (settings.profile, settings.ca_file, settings.verify) == (None, None, True)
    assert (settings.connect_timeout, settings.read_timeout, settings.upload_timeout) == (1, 2, 3)
    for name, value in {"S3_VERIFY": "no", "S3_ANSWER_TIMEOUT": "0", "S3_CONNECT_TIMEOUT": "1s"}.items():
        with pytest.raises(SettingsError, match=prefix + name):
            bucket.settings(Environment.read({prefix + "S3_BUCKET": "media", prefix + name: value}))


def test_at_the_destination_the_names_are_the_destinations() -> None:
    with pytest.raises(MissingSettingError) as caught:
        S3Bucket.destination().storage()
    message = "DESTINATION_S3_BUCKET is not set: set it, or resources.destination.config.bucket."
    assert str(caught.value).startswith(message)


def test_both_clients_reach_the_bucket_that_the_variables_describe(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(source_bucket, monkeypatch)
    monkeypatch.setenv("S3_KEY_PREFIX", "media")
    source = S3Bucket.source()
    source.get_client().put_object(Bucket=source_bucket.name, Key="media/accounts/1", Body=b"four")
    storage = source.storage()
    assert storage.check() is None
    found = storage.head("accounts/1")
    assert found is not None
    assert found.size == 4


def test_run_config_fields_are_enough_without_any_variable(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_SECRET_1", source_bucket.server.secret_access_key)
    source = S3Bucket(
        bucket=source_bucket.name,
        endpoint_url=source_bucket.server.endpoint,
        aws_access_key_id=source_bucket.server.access_key_id,
        aws_secret_access_key=Secret(env="MASTOSYNC_SECRET_1"),
    )
    source.get_client().head_bucket(Bucket=source_bucket.name)
    assert source.storage().check() is None


@pytest.mark.parametrize("resource", [S3Bucket, DestinationBucket])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"aws_access_key_id": "id"},
        {"aws_access_key_id": "id", "aws_secret_access_key": Secret(env="AWS_SECRET_ACCESS_KEY")},
        {"aws_access_key_id": "id", "aws_secret_access_key": Secret(env="DESTINATION_AWS_SECRET_ACCESS_KEY")},
        {"profile_name": "new"},
    ],
)
def test_an_endpoint_in_run_config_gets_no_credentials_of_the_environment(
    resource: type[S3Bucket],
    fields: dict[str, object],
    source_bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "credentials").write_text("[new]\naws_access_key_id = id\naws_secret_access_key = hunter2\n")
    for prefix in ("", "DESTINATION_"):
        log_in(source_bucket, monkeypatch, prefix)
        monkeypatch.setenv(f"{prefix}AWS_SESSION_TOKEN", "hunter2")
    with s3_proxy(source_bucket.server.endpoint) as elsewhere:
        bucket = resource.model_validate({**fields, "endpoint_url": elsewhere.endpoint})
        for use in (bucket.storage, bucket.get_client):
            with pytest.raises(SettingsError) as caught:
                use()
            assert f"resources.{bucket.storage_name}.config.aws_secret_access_key" in str(caught.value)
            assert "MASTOSYNC_SECRET_" in str(caught.value) or "is not." in str(caught.value)
        assert not elsewhere.requests


def test_an_endpoint_in_run_config_with_its_credentials_there_is_reached_with_nothing_else(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("MASTOSYNC_SECRET_1", source_bucket.server.secret_access_key)
    with s3_proxy(source_bucket.server.endpoint) as elsewhere:
        source = S3Bucket(
            bucket=source_bucket.name,
            endpoint_url=elsewhere.endpoint,
            aws_access_key_id=source_bucket.server.access_key_id,
            aws_secret_access_key=Secret(env="MASTOSYNC_SECRET_1"),
        )
        assert source.storage().check() is None
        source.get_client().head_bucket(Bucket=source_bucket.name)
        assert elsewhere.requests
        assert not [request for request in elsewhere.requests if "hunter2" in str(request.headers)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bucket", name)
        for name in ("evil.example#", "evil.example?", "a@evil.example", "evil.example/", "a\\b", "a b", "a\n")
    ]
    + [("region_name", name) for name in ("x.evil.example/", "x@evil.example#", "eu west", "x?")],
)
def test_a_name_that_would_lead_to_another_host_is_refused(field: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"resources\.source\.config\.{field} must be the"):
        S3Bucket.model_validate({field: value}).settings(Environment.read({"S3_BUCKET": "media"}))


@pytest.mark.parametrize("prefix", ["", "DESTINATION_"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        for value in ("hunter2\nb", "hunter2\r", "\x1bhunter2", "hunter2\x85", "hunter2…")
        # The secret key signs, and is not sent: it may have characters that no header can hold.
        if (name, value) != ("AWS_SECRET_ACCESS_KEY", "hunter2…")
    ],
)
def test_a_secret_that_no_header_can_hold_is_refused_by_name_and_not_repeated(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, prefix: str, name: str, value: str
) -> None:
    log_in(source_bucket, monkeypatch, prefix)
    monkeypatch.setenv(prefix + name, value)
    bucket = DestinationBucket() if prefix else S3Bucket()
    for use in (bucket.storage, bucket.get_client):
        with pytest.raises(SettingsError, match=f"^{prefix}{name} .or resources") as caught:
            use()
        assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"])
def test_a_profile_whose_secrets_no_header_can_hold_is_named_and_not_repeated(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    point_at(source_bucket, monkeypatch)
    values = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"), "fine")
    values[name] = "hunter2\n  again"
    (tmp_path / "credentials").write_text("[new]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    bucket = S3Bucket(profile_name="new", max_attempts=1)
    uses: list[Callable[[], object]] = [
        lambda: bucket.storage().check(),
        lambda: bucket.storage().run(lambda client: client.head_bucket()),
        lambda: bucket.storage().head("key"),
        lambda: bucket.get_client().head_bucket(Bucket=source_bucket.name),
    ]
    for use in uses:
        with pytest.raises((SettingsError, StorageError), match=r"resources\.source\.config\.profile_name") as caught:
            use()
        assert "hunter2" not in repr(caught.value)
        assert "again" not in repr(caught.value)


def test_a_wrong_secret_is_refused_without_showing_it(source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(source_bucket, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-s3cret-6c1e")
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
        S3Bucket.source().storage().check()
    assert caught.value.permanent
    assert "wrong-s3cret-6c1e" not in str(caught.value)
    with pytest.raises(ClientError):
        S3Bucket.source().get_client().head_bucket(Bucket=source_bucket.name)


def test_credentials_may_come_from_a_profile(
    destination_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_at(destination_bucket, monkeypatch, "DESTINATION_")
    server = destination_bucket.server
    (tmp_path / "credentials").write_text(
        f"[new]\naws_access_key_id = {server.access_key_id}\naws_secret_access_key = {server.secret_access_key}\n"
    )
    destination = DestinationBucket(profile_name="new")
    destination.get_client().head_bucket(Bucket=destination_bucket.name)
    assert destination.storage().check() is None


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "media")
    with pytest.raises(SettingsError, match=r"absent.*resources\.source\.config\.profile_name"):
        S3Bucket(profile_name="absent").get_client()
    with pytest.raises(StorageError, match=r"absent.*resources\.source\.config\.profile_name"):
        S3Bucket(profile_name="absent").storage().check()


@contextlib.contextmanager
def container_credentials(bucket: Bucket) -> Iterator[str]:
    """Serve a container's role credentials, as ECS and EKS do; yields the URL."""
    answer = {
        "AccessKeyId": bucket.server.access_key_id,
        "SecretAccessKey": bucket.server.secret_access_key,
        "Token": "",
        "Expiration": (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_address[1]}/role"
        finally:
            server.shutdown()
            thread.join()


def test_credentials_may_come_from_the_role_of_the_machine(
    destination_bucket: Bucket, source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The source's keys in the bare variables do not come before the role.
    log_in(source_bucket, monkeypatch)
    point_at(destination_bucket, monkeypatch, "DESTINATION_")
    destination = S3Bucket.destination()
    with container_credentials(destination_bucket) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        destination.get_client().head_bucket(Bucket=destination_bucket.name)
        assert destination.storage().check() is None


def test_the_destination_never_uses_the_sources_credentials(
    source_bucket: Bucket, destination_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(source_bucket, monkeypatch)
    point_at(destination_bucket, monkeypatch, "DESTINATION_")
    with pytest.raises(NoCredentialsError):
        S3Bucket.destination().get_client().head_bucket(Bucket=destination_bucket.name)
    with pytest.raises(StorageError, match="DESTINATION_AWS_ACCESS_KEY_ID"):
        S3Bucket.destination().storage().check()


def test_a_session_token_of_the_other_storage_is_not_sent(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(source_bucket, monkeypatch, "DESTINATION_")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-source")
    sent: list[str] = []
    client = S3Bucket.destination().get_client()
    client.meta.events.register("before-send.s3", lambda request, **_: sent.append(str(dict(request.headers))))
    client.head_bucket(Bucket=source_bucket.name)
    assert len(sent) == 1
    assert "of-the-source" not in sent[0]


def test_an_endpoint_that_other_programs_use_is_not_used(
    source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", source_bucket.server.endpoint)
    monkeypatch.setenv("S3_BUCKET", "media")
    assert "amazonaws.com" in S3Bucket.source().get_client().meta.endpoint_url


def test_uploads_carry_no_checksum_trailers(source_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(source_bucket, monkeypatch)
    sent: list[str] = []
    client = S3Bucket.source().get_client()
    client.meta.events.register("before-send.s3", lambda request, **_: sent.extend(request.headers))
    client.put_object(Bucket=source_bucket.name, Key="a", Body=b"x")
    assert not [name for name in sent if "trailer" in name.lower() or "crc" in name.lower()]


def test_the_permission_becomes_the_acl_of_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("DESTINATION_S3_ENDPOINT", f"http://{host}:{port}")
        monkeypatch.setenv("DESTINATION_S3_BUCKET", "media")
        monkeypatch.setenv("DESTINATION_AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("DESTINATION_AWS_SECRET_ACCESS_KEY", "secret")
        client = S3Bucket.destination().get_client()
        client.create_bucket(Bucket="media")
        for permission, private, readable in ((None, False, True), ("", False, False), (None, True, False)):
            storage = DestinationBucket(permission=permission).storage()
            headers = storage.write_headers(Attributes({}, {}), private=private)
            storage.run(partial(Client.put, key="a", body=b"x", headers=headers, md5=None))
            grants = client.get_object_acl(Bucket="media", Key="a")["Grants"]
            assert any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants) is readable
    finally:
        server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for loopback, with its key in the file beside it."""
    made, key = self_signed(tmp_path_factory.mktemp("tls"))
    key.rename(made.with_name("key.pem"))
    return made


@pytest.fixture
def tls_server(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 server with TLS, and the variables of the source pointing at it."""
    port = free_port()
    process = subprocess.Popen(
        [
            str(rclone_binary()),
            "serve",
            "s3",
            "--auth-key",
            "accesskey,0123456789abcdef",
            "--addr",
            f"{LOOPBACK}:{port}",
            "-q",
        ]
        + ["--cert", str(certificate), "--key", str(certificate.with_name("key.pem")), "--config", "", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    )
    (tmp_path / "media").mkdir()
    monkeypatch.setenv("S3_BUCKET", "media")
    monkeypatch.setenv("S3_ENDPOINT", f"https://localhost:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "accesskey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef")
    try:
        S3Bucket(verify=False, max_attempts=8).get_client().head_bucket(Bucket="media")
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.usefixtures("tls_server")
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_servers_certificate_is_checked_unless_a_setting_says_otherwise(certificate: Path) -> None:
    with pytest.raises(SSLError):
        S3Bucket(max_attempts=1).get_client().head_bucket(Bucket="media")
    with pytest.raises(StorageError):
        S3Bucket.source().storage().check()
    for trusting in (S3Bucket(ca_file=str(certificate)), S3Bucket(verify=False)):
        trusting.get_client().head_bucket(Bucket="media")
        assert trusting.storage().check() is None


@pytest.mark.parametrize(
    "destination",
    [
        {"DESTINATION_S3_ENDPOINT": "https://s3.example/"},
        {"DESTINATION_S3_ENDPOINT": "https://S3.EXAMPLE:443"},
    ],
)
def test_one_bucket_as_source_and_destination_is_refused(
    destination: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ENDPOINT | DESTINATION | destination | {"S3_KEY_PREFIX": "x", "DESTINATION_S3_KEY_PREFIX": "/x"}
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        ensure_different(S3Bucket.source(), S3Bucket.destination())
    assert "same place: the bucket media under x/ at https://" in str(caught.value)
    assert "DESTINATION_S3_BUCKET" in str(caught.value)


@pytest.mark.parametrize("prefixes", [("", "./"), ("", "/"), ("x", "x/"), ("x", "./x")])
def test_prefixes_that_a_server_may_take_for_one_are_one(
    prefixes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_prefixes(prefixes, monkeypatch)
    with pytest.raises(SettingsError, match="the same place"):
        ensure_different(S3Bucket.source(), S3Bucket.destination())


@pytest.mark.parametrize("folder", ["cache", "accounts", "media_attachments", "site_uploads"])
@pytest.mark.parametrize("prefixes", [("", "{}"), ("x", "x/{}"), ("x", "x/{}/deeper"), ("{}", ""), ("x/{}", "x")])
def test_neither_lies_in_a_folder_of_mastodons_at_the_other(
    folder: str, prefixes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_prefixes([each.format(folder) for each in prefixes], monkeypatch)
    with pytest.raises(SettingsError, match=f"folder {folder}/.*DESTINATION_S3_KEY_PREFIX"):
        ensure_different(S3Bucket.source(), S3Bucket.destination())


@pytest.mark.parametrize(
    "prefixes", [("", "copy"), ("", "accounts-copy"), ("x", "accounts"), ("a/b", "a"), ("x", "xx")]
)
def test_two_places_of_one_bucket_are_different(prefixes: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_prefixes(prefixes, monkeypatch)
    ensure_different(S3Bucket.source(), S3Bucket.destination())


def test_a_copy_lies_in_no_folder_of_mastodons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "system" / "cache" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.setenv("MASTOSYNC_SOURCE_FOLDER", str(tmp_path / "system"))
    monkeypatch.setenv("MASTOSYNC_DESTINATION_FOLDER", str(copy))
    with pytest.raises(SettingsError, match=r"folder cache/.*Change MASTOSYNC_DESTINATION_FOLDER"):
        ensure_different(S3Bucket.source(), S3Bucket.destination())
    for name in ("copy#1", "copy#2", "copy?3"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MASTOSYNC_SOURCE_FOLDER", str(tmp_path / "copy#1"))
    for name in ("copy#2", "copy?3"):
        monkeypatch.setenv("MASTOSYNC_DESTINATION_FOLDER", str(tmp_path / name))
        ensure_different(S3Bucket.source(), S3Bucket.destination())


def set_prefixes(prefixes: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    same = ENDPOINT | DESTINATION | {"DESTINATION_S3_ENDPOINT": ENDPOINT["S3_ENDPOINT"]}
    keys = {"S3_KEY_PREFIX": prefixes[0], "DESTINATION_S3_KEY_PREFIX": prefixes[1]}
    for name, value in (same | keys).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "changed",
    [
        {"DESTINATION_S3_BUCKET": "other"},
        {"DESTINATION_S3_ENDPOINT": "https://other.example"},
        {"DESTINATION_S3_KEY_PREFIX": "moved"},
        {"DESTINATION_S3_ENDPOINT": ""},
    ],
)
def test_any_difference_of_place_is_enough(changed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    same = ENDPOINT | DESTINATION | {"DESTINATION_S3_ENDPOINT": ENDPOINT["S3_ENDPOINT"]}
    for name, value in (same | changed).items():
        monkeypatch.setenv(name, value)
    ensure_different(S3Bucket.source(), S3Bucket.destination())


def test_nothing_that_can_be_shown_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"{name}-value")
    resource = S3Bucket(aws_secret_access_key=Secret(env="AWS_SECRET_ACCESS_KEY"))
    for shown in (
        repr(resource),
        str(resource),
        resource.model_dump_json(),
        repr(resource.settings()),
        repr(resource.storage()),
    ):
        assert "AWS_SECRET_ACCESS_KEY-value" not in shown
        assert "AWS_SESSION_TOKEN-value" not in shown


def test_overriding_one_field_in_run_config_leaves_a_storage_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENDPOINT, **DESTINATION, "DESTINATION_S3_ENDPOINT": "https://new.example"}.items():
        monkeypatch.setenv(name, value)
    seen = []

    @dg.op(required_resource_keys={"source", "destination"})
    def look(context) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (Dagster takes no text for it)
        for bucket in (context.resources.source, context.resources.destination):
            settings = bucket.settings()
            seen.append((settings.name, settings.bucket, settings.endpoint_url, settings.variable_prefix))

    @dg.job(resource_defs={"source": S3Bucket.source(), "destination": S3Bucket.destination()})
    def looking() -> None:
        look()

    override = {"resources": {"destination": {"config": {"bucket": "another"}}}}
    assert looking.execute_in_process(run_config=override).success
    assert seen == [
        ("source", "media", "https://s3.example", ""),
        ("destination", "another", "https://new.example", "DESTINATION_"),
    ]
