"""The messages for admins when a storage refuses, and what the engine makes of it."""

from __future__ import annotations

import pickle
import socket
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from mastosync_dagster.demo.servers.start import LOOPBACK, boto3_client, free_port
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError, classify
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.http import Reply
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.answers import serving
from mastosync_dagster_tests.support.proxy import Answer, Cut, Kind, Reset, Rule, Stall, When, s3_proxy
from mastosync_dagster_tests.support.tls import tls_server
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.s3.storage import Storage
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.proxy import Fault, Proxy

KEY = "accounts/avatars/000/000/001/original/a.png"


@pytest.fixture
def proxy(destination_bucket: Bucket) -> Iterator[Proxy]:
    with s3_proxy(destination_bucket.server.endpoint) as running:
        yield running


@pytest.fixture
def destination(proxy: Proxy, destination_bucket: Bucket) -> Storage:
    """The destination, behind a proxy."""
    return storage(
        destination_bucket, "destination", endpoint=proxy.endpoint, permission="public-read", read_timeout=1.0
    )


def read(destination: Storage) -> object:
    return destination.run(lambda client: client.get(KEY, limit=1024), KEY)


def write(destination: Storage) -> object:
    headers = destination.write_headers(Attributes({"Content-Type": "text/plain"}, {}), private=False)
    return destination.run(lambda client: client.put(KEY, b"body", headers, None), KEY)


def head(destination: Storage) -> object:
    return destination.run(lambda client: client.head(KEY), KEY)


def list_objects(destination: Storage) -> object:
    return destination.run(lambda client: client.list_page("accounts", keys=10), KEY)


def failure(destination: Storage, request: Callable[[Storage], object]) -> StorageError:
    """Send a request that must fail, and say how it failed."""
    with pytest.raises(StorageError) as raised:
        request(destination)
    return raised.value


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Case:
    """An answer of a server, and what it means."""

    status: int
    code: str
    request: Callable[[Storage], object]
    reason: Reason
    words: str
    permanent: bool = False
    retryable: bool = False
    message: str = "as the server puts it"


CASES = [
    Case(
        403, "SignatureDoesNotMatch", read, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_SECRET_ACCESS_KEY", permanent=True
    ),
    Case(403, "InvalidAccessKeyId", read, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_ACCESS_KEY_ID", permanent=True),
    Case(400, "ExpiredToken", read, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_SESSION_TOKEN", permanent=True),
    Case(403, "RequestTimeTooSkewed", read, Reason.BAD_CREDENTIALS, "clock", permanent=True),
    Case(401, "", read, Reason.BAD_CREDENTIALS, "HTTP 401", permanent=True),
    Case(404, "NoSuchBucket", read, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET", permanent=True),
    Case(404, "", list_objects, Reason.NO_SUCH_BUCKET, "resources.destination.config.bucket", permanent=True),
    Case(404, "", write, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET", permanent=True),
    Case(404, "NoSuchKey", read, Reason.CHANGED_DURING_COPY, "NoSuchKey"),
    Case(404, "NoSuchKey", list_objects, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET", permanent=True),
    Case(301, "PermanentRedirect", read, Reason.WRONG_REGION, "DESTINATION_S3_REGION", permanent=True),
    Case(
        400,
        "AuthorizationHeaderMalformed",
        read,
        Reason.BAD_CREDENTIALS,
        "DESTINATION_AWS_ACCESS_KEY_ID",
        permanent=True,
        message="the Credential is mal-formed; expecting 'YOUR-AKID/YYYYMMDD/REGION/SERVICE/aws4_request'",
    ),
    Case(
        400,
        "AuthorizationHeaderMalformed",
        read,
        Reason.WRONG_REGION,
        "another region, eu-west-1 ",
        permanent=True,
        message="the region 'us-east-1' is wrong; expecting 'eu-west-1'",
    ),
    Case(403, "AccessDenied", read, Reason.ACCESS_DENIED, "the right to list and read"),
    Case(403, "AccessDenied", list_objects, Reason.ACCESS_DENIED, "the right to list and read"),
    Case(403, "AccessDenied", write, Reason.ACCESS_DENIED, "the right to write objects", permanent=True),
    Case(
        400,
        "AccessControlListNotSupported",
        write,
        Reason.ACL_REFUSED,
        "leave DESTINATION_S3_PERMISSION",
        permanent=True,
    ),
    Case(
        501,
        "NotImplemented",
        write,
        Reason.ACL_REFUSED,
        "resources.destination.config.permission",
        permanent=True,
        message="Header 'x-amz-acl' with value 'public-read' not implemented",
    ),
    Case(
        400,
        "InvalidArgument",
        write,
        Reason.ACL_REFUSED,
        "ACL headers",
        permanent=True,
        message="Unsupported value for canned acl 'public-read'",
    ),
    Case(501, "NotImplemented", read, Reason.UNEXPECTED, "as the server puts it"),
    Case(
        501,
        "NotImplemented",
        write,
        Reason.UNEXPECTED,
        "DESTINATION_S3_STORAGE_CLASS",
        permanent=True,
        message="Header 'x-amz-storage-class' with value 'GLACIER_IR' not implemented",
    ),
    Case(
        501,
        "NotImplemented",
        write,
        Reason.UNEXPECTED,
        "'x-amz-tagging' with",
        message="Header 'x-amz-tagging' with value 'a=b' not implemented",
    ),
    Case(501, "", write, Reason.ACL_REFUSED, "DESTINATION_S3_PERMISSION", permanent=True),
    Case(403, "InvalidObjectState", read, Reason.OBJECT_ARCHIVED, "restore it"),
    Case(400, "KeyTooLongError", write, Reason.INVALID_KEY, "KeyTooLongError"),
    Case(412, "PreconditionFailed", read, Reason.CHANGED_DURING_COPY, "replaced", retryable=True),
    Case(503, "SlowDown", read, Reason.THROTTLED, "fewer requests", retryable=True),
    Case(503, "", write, Reason.THROTTLED, "HTTP 503", retryable=True),
    Case(429, "TooManyRequests", write, Reason.THROTTLED, "fewer requests", retryable=True),
    Case(400, "RequestTimeout", write, Reason.TIMEOUT, "in time", retryable=True),
    Case(504, "", read, Reason.TIMEOUT, "HTTP 504", retryable=True),
    Case(500, "InternalError", read, Reason.SERVER_ERROR, "InternalError", retryable=True),
    Case(502, "", read, Reason.SERVER_ERROR, "HTTP 502", retryable=True),
    Case(409, "OperationAborted", write, Reason.SERVER_ERROR, "OperationAborted", retryable=True),
    Case(400, "BadDigest", write, Reason.CHECKSUM_MISMATCH, "another body", retryable=True),
    Case(403, "QuotaExceeded", write, Reason.UNEXPECTED, "is full", permanent=True),
    Case(400, "InvalidStorageClass", write, Reason.UNEXPECTED, "DESTINATION_S3_STORAGE_CLASS", permanent=True),
    Case(418, "Teapot", read, Reason.UNEXPECTED, "(Teapot): as the server puts it"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.code}-{case.request.__name__}")
def test_an_answer_becomes_a_message_that_names_what_to_change(proxy: Proxy, destination: Storage, case: Case) -> None:
    proxy.set_rules(Rule(Answer(case.status, case.code, message=case.message)))
    error = failure(destination, case.request)
    assert (error.reason, error.permanent, error.retryable) == (case.reason, case.permanent, case.retryable)
    assert case.words in str(error)
    assert str(error).startswith("the destination")
    assert "\n" not in str(error)
    assert error.key == KEY


@pytest.mark.parametrize(
    ("endpoint", "begins"),
    [
        ("https://media.fra1.example.com", True),
        ("https://MEDIA.fra1.example.com:8443/", True),
        ("https://fra1.example.com", False),
        ("https://media-fra1.example.com", False),
        (None, False),
    ],
)
def test_an_endpoint_with_the_bucket_before_it_is_named_where_there_is_no_such_bucket(
    destination: Storage, endpoint: str | None, *, begins: bool
) -> None:
    settings = replace(destination.settings, endpoint_url=endpoint, bucket="media")
    for code in ("NoSuchBucket", "NoSuchKey"):
        answer = Reply(404, {}, f"<Error><Code>{code}</Code></Error>".encode())
        error = classify(S3Error("GET", answer, on_bucket=True), settings)
        assert error.reason is Reason.NO_SUCH_BUCKET
        assert ("begins with the name of the bucket: try it without" in str(error)) is begins


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_refused_head_has_its_status_alone(proxy: Proxy, destination: Storage, status: int) -> None:
    proxy.set_rules(Rule(Answer(status, "NotShown")))
    reasons = {403: Reason.ACCESS_DENIED, 404: Reason.CHANGED_DURING_COPY}
    error = failure(destination, head)
    assert error.reason is reasons.get(status, Reason.THROTTLED)
    assert f"HTTP {status}" in str(error)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "requests", "reason"),
    [
        (Stall(), (read, list_objects, head), Reason.TIMEOUT),
        (Reset(When.BEFORE), (read, write), Reason.CONNECTION),
        (Reset(When.AFTER), (write,), Reason.CONNECTION),
    ],
    ids=["no answer", "reset before", "reset after"],
)
def test_a_network_failure_is_retried(
    proxy: Proxy, destination: Storage, fault: Fault, requests: tuple[Callable[[Storage], object], ...], reason: Reason
) -> None:
    proxy.set_rules(Rule(fault))
    for request in requests:
        error = failure(destination, request)
        assert (error.reason, error.permanent, error.retryable) == (reason, False, True)


def test_a_body_that_breaks_off_is_a_network_failure(
    proxy: Proxy, destination: Storage, destination_bucket: Bucket
) -> None:
    destination_bucket.client.put_object(Bucket=destination_bucket.name, Key=KEY, Body=b"x" * 1000)
    proxy.set_rules(Rule(Cut(after=10)))
    error = failure(destination, read)
    assert (error.reason, error.retryable) == (Reason.CONNECTION, True)


def test_nobody_there_is_said_with_the_endpoint_to_check(destination_bucket: Bucket) -> None:
    nobody = storage(destination_bucket, "destination", endpoint=f"http://{LOOPBACK}:{free_port()}")
    error = failure(nobody, list_objects)
    assert error.reason is Reason.CONNECTION
    assert error.retryable
    assert not error.reached
    assert "cannot be reached" in str(error)
    assert "DESTINATION_S3_ENDPOINT" in str(error)


def test_a_name_that_does_not_resolve_is_said(destination_bucket: Bucket) -> None:
    error = failure(storage(destination_bucket, "source", endpoint="http://no-such-host.invalid"), list_objects)
    assert error.reason is Reason.CONNECTION
    assert "cannot be resolved" in str(error)
    assert "no-such-host.invalid" in str(error)
    assert " S3_ENDPOINT" in str(error)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        *(
            (proxy, "(Unsupported proxy syntax): check HTTPS_PROXY, in which")
            for proxy in (
                "http://user:hun#ter2hunter2@proxy.invalid:3128",
                "http://user:hun/ter2hunter2@proxy.invalid:3128",
                "http://user:hun?ter2hunter2@proxy.invalid:3128",
                "http://user:hunter2%@proxy.invalid :3128",
                "http://user:hunter2@proxy.invalid:port",
                "user:hunter2@[::1:3128",
            )
        ),
        ("htps://user:hunter2@proxy.invalid:3128", "(Unsupported proxy scheme): check HTTPS_PROXY, in which"),
        # Its host is what libcurl takes for it: a part of the password.
        ("http://user:pa@hunter2.invalid/word@proxy:3128", "(Could not resolve proxy): check HTTPS_PROXY, in which"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_and_its_password_is_not_repeated(
    destination_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    error = failure(storage(destination_bucket, "source", endpoint="https://s3.invalid"), list_objects)
    assert (error.reason, error.reached) == (Reason.CONNECTION, False)
    assert words in str(error)
    assert "hunter2" not in repr(error.__cause__) + error.in_full()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_another_password_is_named_by_its_variable(
    destination_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    class Front(_Silent):
        def do_GET(self) -> None:
            self.send_response(407)
            self.send_header("Proxy-Authenticate", "Basic realm=x")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_CONNECT(self) -> None:
            self.do_GET()

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Front) as address:
        monkeypatch.setenv(f"{scheme}_proxy", address.replace("//", "//user:hunter2@"))
        error = failure(storage(destination_bucket, "source", endpoint=f"{scheme}://s3.invalid"), list_objects)
    assert error.permanent
    assert f"check the user and the password in {scheme}_proxy" in str(error)
    assert "hunter2" not in error.in_full()


def test_https_where_http_is_spoken_is_a_connection_that_fails(destination_bucket: Bucket) -> None:
    endpoint = destination_bucket.server.endpoint.replace("http:", "https:")
    error = failure(storage(destination_bucket, "source", endpoint=endpoint), list_objects)
    assert error.reason is Reason.CONNECTION


@pytest.mark.parametrize("ca", [False, True])
def test_a_certificate_that_is_not_trusted_says_where_to_name_its_ca(
    destination_bucket: Bucket, tmp_path: Path, *, ca: bool
) -> None:
    with tls_server(tmp_path, _Silent, ca=ca) as (endpoint, _):
        error = failure(storage(destination_bucket, "destination", endpoint=endpoint), list_objects)
    assert (error.reason, error.permanent) == (Reason.CONNECTION, True)
    assert "resources.destination.config.ca_file" in str(error)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "DESTINATION_S3_CA_FILE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_named_with_its_variable(
    destination_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: str | None
) -> None:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    named = tmp_path / "named.pem"
    if content is not None:
        named.write_text(content)
    monkeypatch.setenv(variable, str(named))
    ca_file = str(named) if variable.endswith("CA_FILE") else None
    with tls_server(tmp_path, _Silent) as (endpoint, _):
        error = failure(storage(destination_bucket, "destination", endpoint=endpoint, ca_file=ca_file), list_objects)
    assert (error.reason, error.permanent) == (Reason.CONNECTION, True)
    assert f"check {variable}" in str(error)
    assert str(named) in str(error)
    assert "is not trusted" not in str(error)


@pytest.mark.parametrize(("name", "variable"), [("source", "S3_ENDPOINT"), ("destination", "DESTINATION_S3_ENDPOINT")])
def test_a_server_without_tls_says_to_name_it_with_http(destination_bucket: Bucket, name: str, variable: str) -> None:
    endpoint = destination_bucket.server.endpoint.replace("http://", "https://")
    error = failure(storage(destination_bucket, name, endpoint=endpoint), list_objects)
    assert (error.reason, error.permanent, error.may_pass) == (Reason.CONNECTION, True, True)
    assert f"probably speaks plain HTTP, then {variable} or resources.{name}" in str(error)


def test_a_real_server_refuses_a_wrong_secret_an_unknown_key_and_an_absent_bucket(source_bucket: Bucket) -> None:
    for settings, words in (
        ({"secret_access_key": "0123456789abcdef"}, "refuses the secret access key (SignatureDoesNotMatch)"),
        ({"access_key_id": "nobody-at-all"}, "does not know the access key (InvalidAccessKeyId)"),
        ({"bucket": "not-there"}, "has no such bucket (NoSuchBucket)"),
    ):
        destination = storage(source_bucket, "source", **settings)
        for request in (list_objects, read, write):
            error = failure(destination, request)
            assert error.permanent
            assert f"the source {words}" in str(error)


def test_no_message_holds_a_secret_though_the_server_quotes_it(proxy: Proxy, destination: Storage) -> None:
    settings = destination.settings
    assert settings.secret_access_key
    quoted = (
        f"key {settings.access_key_id}, secret {settings.secret_access_key},"
        " over http://user:hun?t/e@r2@proxy:3128, see http://x/?X-Amz-Signature=abcdef"
    )
    proxy.set_rules(Rule(Answer(418, "Teapot", message=quoted)))
    message = str(failure(destination, read))
    assert "key ***, secret ***, over http://***@proxy:3128, see http://x/" in message
    assert settings.secret_access_key not in message
    assert "Signature" not in message


def test_a_long_answer_is_cut(proxy: Proxy, destination: Storage) -> None:
    proxy.set_rules(Rule(Answer(418, "Teapot", message="word " * 1000)))
    assert len(str(failure(destination, read))) < 400


def test_a_code_and_a_region_of_any_characters_are_cut_and_printable(destination: Storage) -> None:
    body = b"<Error><Code>" + b"Z" * 50_000 + b"</Code></Error>"
    assert len(str(classify(S3Error("GET", Reply(400, {}, body), on_bucket=True), destination.settings))) < 600
    for region in ("\udcff", "\x1b[31mred", "\x1b]0;title\x07", "r" * 50_000):
        moved = S3Error("GET", Reply(301, {"x-amz-bucket-region": region}, b""), on_bucket=True)
        message = str(classify(moved, destination.settings))
        assert message.encode()
        assert message.isprintable()
        assert len(message) < 600


def test_a_refusal_says_how_long_to_wait(proxy: Proxy, destination: Storage) -> None:
    proxy.set_rules(Rule(Answer(503, "SlowDown", retry_after=7)))
    assert failure(destination, read).retry_after == 7


def test_a_page_that_is_no_s3_answer_is_not_taken_for_one(destination: Storage, proxy: Proxy) -> None:
    proxy.set_rules(Rule(Cut(after=0, announced=False), kinds=frozenset({Kind.LIST})))
    error = failure(destination, list_objects)
    assert "does not answer like an S3 storage" in str(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (302, "sends us elsewhere (HTTP 302, to https://elsewhere.example/)"),
        (413, "client_max_body_size"),
    ],
)
def test_what_stands_before_a_storage_is_named(destination_bucket: Bucket, status: int, words: str) -> None:
    class Front(_Silent):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "https://elsewhere.example/")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Front) as endpoint:
        error = failure(storage(destination_bucket, "destination", endpoint=endpoint), write)
    assert words in str(error)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            403,
            (
                b"<!DOCTYPE html><html><head><title>Access denied</title><style>p{}</style></head><body><p>You are"
                b" unable to access <b>media.example</b><script>alert(1)</script></p>"
            ),
            'It says: "Access denied You are unable to access media.example"',
        ),
        (403, b"<html><body>Blocked by the firewall</body></html>", 'It says: "Blocked by the firewall"'),
        (403, b"blocked", 'It says: "blocked"'),
        (403, b"<Error><Code>AccessDenied</Code><Message>Cap exceeded</Message></Error>", 'It says: "Cap exceeded"'),
        (
            301,
            (b"<Error><Code>PermanentRedirect</Code><Endpoint>media.s3-eu-west-1.amazonaws.com</Endpoint></Error>"),
            "in another region, at media.s3-eu-west-1.amazonaws.com (PermanentRedirect)",
        ),
    ],
)
def test_what_a_storage_says_is_quoted_in_full_alone(
    destination: Storage, status: int, body: bytes, words: str
) -> None:
    error = classify(S3Error("GET", Reply(status, {}, body), on_bucket=True), destination.settings)
    assert words in error.in_full()
    if status == 403:
        assert "It says" not in str(error)


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b"<!DOCTYPE html><HTML><body>Blocked</body></HTML>", Reason.UNEXPECTED, "a firewall or proxy before the dest"),
        (b"<Error><Code>AccessDenied</Code></Error>", Reason.ACCESS_DENIED, "give its access key the right to list"),
        (b"", Reason.ACCESS_DENIED, "give its access key the right to list"),
    ],
)
def test_a_page_of_a_firewall_does_not_say_that_an_object_may_be_absent(
    destination: Storage, body: bytes, reason: Reason, words: str
) -> None:
    error = classify(S3Error("GET", Reply(403, {}, body), on_bucket=False), destination.settings)
    assert error.reason is reason
    assert words in str(error)
    writing = classify(S3Error("PUT", Reply(403, {}, body), on_bucket=False), destination.settings)
    assert writing.reason is reason
    assert ("a firewall or proxy" in str(writing)) is (reason is Reason.UNEXPECTED)
    # A run ends after many of them, and does without a listing.
    assert error.may_pass
    assert writing.may_pass
    listing = classify(S3Error("GET", Reply(403, {}, body), on_bucket=True), destination.settings)
    assert listing.reason is Reason.ACCESS_DENIED
    assert words in str(listing)


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html><body><center>The plain HTTP request was sent to HTTPS port</center><hr></body></html>",
    ],
    ids=["Go", "nginx"],
)
def test_plain_http_to_a_server_with_tls_is_named_with_the_cure(destination: Storage, body: bytes) -> None:
    plain = replace(destination.settings, endpoint_url="http://s3.example.com:443")
    error = classify(S3Error("GET", Reply(400, {}, body), on_bucket=True), plain)
    assert error.permanent
    assert "DESTINATION_S3_ENDPOINT or resources.destination.config.endpoint_url begins with https:// then" in str(
        error
    )
    encrypted = replace(plain, endpoint_url="https://s3.example.com")
    assert classify(S3Error("GET", Reply(400, {}, body), on_bucket=True), encrypted).reason is Reason.UNEXPECTED
    of_an_object = b"<Error><Code>InvalidArgument</Code><Message>a/HTTPS.png is no key</Message></Error>"
    assert not classify(S3Error("GET", Reply(400, {}, of_an_object), on_bucket=False), plain).permanent


def test_a_sentence_that_says_no_more_than_the_code_is_not_quoted(destination: Storage) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
    error = classify(S3Error("GET", Reply(403, {}, body), on_bucket=True), destination.settings)
    assert error.in_full() == str(error)


def test_one_signature_that_a_server_computes_otherwise_may_concern_its_object_alone(
    proxy: Proxy, destination: Storage
) -> None:
    proxy.set_rules(Rule(Answer(403, "SignatureDoesNotMatch")))
    assert failure(destination, read).may_pass
    proxy.set_rules(Rule(Answer(403, "InvalidAccessKeyId")))
    assert not failure(destination, read).may_pass


def test_errors_pass_unchanged_and_survive_a_pickle(destination: Storage) -> None:
    error = StorageError("plain", reason=Reason.THROTTLED, retryable=True, retry_after=3.0, key="k")
    assert classify(error, destination.settings) is error
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    assert isinstance(copied, StorageError)
    assert str(copied) == "plain"
    assert (copied.reason, copied.retryable, copied.retry_after, copied.key) == (Reason.THROTTLED, True, 3.0, "k")


def test_anything_else_is_unexpected_and_named(destination: Storage) -> None:
    for error in (RuntimeError("odd"), socket.gaierror("odd")):
        found = classify(error, destination.settings)
        assert found.reason is Reason.UNEXPECTED
        assert not found.permanent
        assert type(error).__name__ in str(found)


def test_credentials_that_cannot_be_had_are_named(destination: Storage) -> None:
    for error in (BotoCoreError(), ClientError({}, "AssumeRole")):
        assert classify(error, destination.settings).reason is Reason.BAD_CREDENTIALS


def test_clients_of_tests_reach_the_real_server(destination: Storage, destination_bucket: Bucket) -> None:
    for request in (write, read, head, list_objects):
        request(destination)
    assert boto3_client(destination_bucket.server).head_object(Bucket=destination_bucket.name, Key=KEY)
