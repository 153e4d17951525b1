"""What admins are told when a storage refuses, and what the engine makes of it."""

from __future__ import annotations

import contextlib
import pickle
import socket
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore.exceptions import BaseError

from mastosync_dagster.demo.servers import LOOPBACK, boto3_client, free_port
from mastosync_dagster.transfer.errors import StorageError, classify, is_failure
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster_tests.support.proxy import Answer, Cut, Kind, Reset, Rule, Stall, When, s3_proxy
from mastosync_dagster_tests.support.transfers import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from mastosync_dagster.transfer.storage import Storage
    from mastosync_dagster_tests.conftest import Bucket
    from mastosync_dagster_tests.support.proxy import Fault, Proxy

KEY = "accounts/avatars/000/000/001/original/a.png"


@pytest.fixture
def proxy(destination_bucket: Bucket) -> Iterator[Proxy]:
    with s3_proxy(destination_bucket.server.endpoint) as running:
        yield running


@pytest.fixture
def side(proxy: Proxy, destination_bucket: Bucket) -> Storage:
    """The destination, behind a proxy."""
    return storage(
        destination_bucket, "destination", endpoint=proxy.endpoint, permission="public-read", read_timeout=1.0
    )


def obstore_get(side: Storage) -> object:
    return side.reader(retries=False).get(KEY).bytes()


def obstore_put(side: Storage) -> object:
    return side.store(retries=False).put(KEY, b"body", use_multipart=False)


def obstore_head(side: Storage) -> object:
    return side.reader(retries=False).head(KEY)


def obstore_list(side: Storage) -> object:
    return side.reader(retries=False).list("accounts").collect()


def boto3_get(side: Storage) -> object:
    return impatient(side).get_object(Bucket=side.settings.bucket, Key=KEY)


def boto3_put(side: Storage) -> object:
    return impatient(side).put_object(Bucket=side.settings.bucket, Key=KEY, Body=b"body")


def boto3_list(side: Storage) -> object:
    return impatient(side).list_objects_v2(Bucket=side.settings.bucket)


def impatient(side: Storage) -> S3Client:
    """Return a boto3 client that asks once."""
    settings = side.settings
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=1, s3={"addressing_style": "path"}),
    )


def failure(side: Storage, request: Callable[[Storage], object]) -> StorageError:
    """Send a request that must fail, and say how it failed."""
    try:
        request(side)
    except BaseException as error:
        if not is_failure(error):
            raise
        return classify(error, side.settings, KEY)
    pytest.fail("the request succeeded")


READ, WRITE, LIST = (obstore_get, boto3_get), (obstore_put, boto3_put), (obstore_list, boto3_list)


@dataclass(frozen=True)
class Case:
    """An answer of a server, and what it means."""

    status: int
    code: str
    requests: tuple[Callable[[Storage], object], ...]
    reason: Reason
    words: str
    permanent: bool = False
    retryable: bool = False
    message: str = "as the server puts it"


CASES = [
    Case(
        403, "SignatureDoesNotMatch", READ, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_SECRET_ACCESS_KEY", permanent=True
    ),
    Case(403, "InvalidAccessKeyId", READ, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_ACCESS_KEY_ID", permanent=True),
    Case(400, "ExpiredToken", READ, Reason.BAD_CREDENTIALS, "DESTINATION_AWS_SESSION_TOKEN", permanent=True),
    Case(403, "RequestTimeTooSkewed", READ, Reason.BAD_CREDENTIALS, "clock", permanent=True),
    Case(401, "", READ, Reason.BAD_CREDENTIALS, "HTTP 401", permanent=True),
    Case(404, "NoSuchBucket", READ, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET", permanent=True),
    Case(404, "", LIST, Reason.NO_SUCH_BUCKET, "resources.destination.config.bucket", permanent=True),
    Case(404, "", WRITE, Reason.NO_SUCH_BUCKET, "DESTINATION_S3_BUCKET", permanent=True),
    Case(404, "NoSuchKey", READ, Reason.CHANGED_DURING_COPY, "NoSuchKey"),
    # (boto3 goes looking for the right region by itself.)
    Case(301, "PermanentRedirect", (obstore_get,), Reason.WRONG_REGION, "DESTINATION_S3_REGION", permanent=True),
    Case(
        400,
        "AuthorizationHeaderMalformed",
        (obstore_get,),
        Reason.WRONG_REGION,
        "another region, eu-west-1 ",
        permanent=True,
        message="the region 'us-east-1' is wrong; expecting 'eu-west-1'",
    ),
    Case(403, "AccessDenied", READ, Reason.ACCESS_DENIED, "the right to list and read"),
    Case(403, "AccessDenied", LIST, Reason.ACCESS_DENIED, "the right to list and read"),
    Case(403, "AccessDenied", WRITE, Reason.ACCESS_DENIED, "the right to write objects", permanent=True),
    Case(
        400,
        "AccessControlListNotSupported",
        WRITE,
        Reason.ACL_REFUSED,
        "leave DESTINATION_S3_PERMISSION",
        permanent=True,
    ),
    Case(
        501,
        "NotImplemented",
        WRITE,
        Reason.ACL_REFUSED,
        "resources.destination.config.permission",
        permanent=True,
        message="Header 'x-amz-acl' with value 'public-read' not implemented",
    ),
    Case(
        400,
        "InvalidArgument",
        WRITE,
        Reason.ACL_REFUSED,
        "ACL headers",
        permanent=True,
        message="Unsupported value for canned acl 'public-read'",
    ),
    Case(501, "NotImplemented", READ, Reason.UNEXPECTED, "as the server puts it"),
    Case(403, "InvalidObjectState", READ, Reason.OBJECT_ARCHIVED, "restore it"),
    Case(400, "KeyTooLongError", WRITE, Reason.INVALID_KEY, "KeyTooLongError"),
    Case(412, "PreconditionFailed", READ, Reason.CHANGED_DURING_COPY, "replaced", retryable=True),
    Case(503, "SlowDown", READ, Reason.THROTTLED, "fewer requests", retryable=True),
    Case(503, "", WRITE, Reason.THROTTLED, "HTTP 503", retryable=True),
    Case(429, "TooManyRequests", WRITE, Reason.THROTTLED, "fewer requests", retryable=True),
    Case(400, "RequestTimeout", WRITE, Reason.TIMEOUT, "in time", retryable=True),
    Case(504, "", READ, Reason.TIMEOUT, "HTTP 504", retryable=True),
    Case(500, "InternalError", READ, Reason.SERVER_ERROR, "InternalError", retryable=True),
    Case(502, "", READ, Reason.SERVER_ERROR, "HTTP 502", retryable=True),
    Case(409, "OperationAborted", WRITE, Reason.SERVER_ERROR, "OperationAborted", retryable=True),
    Case(400, "BadDigest", WRITE, Reason.CHECKSUM_MISMATCH, "another body", retryable=True),
    Case(403, "QuotaExceeded", WRITE, Reason.UNEXPECTED, "is full", permanent=True),
    Case(400, "InvalidStorageClass", WRITE, Reason.UNEXPECTED, "DESTINATION_S3_STORAGE_CLASS", permanent=True),
    Case(418, "Teapot", READ, Reason.UNEXPECTED, "(Teapot): as the server puts it"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.code}-{case.requests[0].__name__}")
def test_an_answer_means_the_same_from_both_clients(proxy: Proxy, side: Storage, case: Case) -> None:
    proxy.set_rules(Rule(Answer(case.status, case.code, message=case.message)))
    for request in case.requests:
        error = failure(side, request)
        assert (error.reason, error.permanent, error.retryable) == (case.reason, case.permanent, case.retryable)
        assert case.words in str(error)
        assert str(error).startswith("the destination")
        assert "\n" not in str(error)
        assert error.key == KEY


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_head_tells_its_status_alone(proxy: Proxy, side: Storage, status: int) -> None:
    proxy.set_rules(Rule(Answer(status, "NotShown")))
    reasons = {403: Reason.ACCESS_DENIED, 404: Reason.CHANGED_DURING_COPY}
    error = failure(side, obstore_head)
    assert error.reason is reasons.get(status, Reason.THROTTLED)
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize(
    ("fault", "requests", "reason"),
    [
        (Stall(), (obstore_get, boto3_get, obstore_list, boto3_list, obstore_head), Reason.TIMEOUT),
        (Reset(When.BEFORE), (obstore_get, boto3_get, obstore_put, boto3_put), Reason.CONNECTION),
        (Reset(When.AFTER), (obstore_put, boto3_put), Reason.CONNECTION),
    ],
    ids=["no answer", "reset before", "reset after"],
)
def test_trouble_on_the_way_is_worth_another_try(
    proxy: Proxy, side: Storage, fault: Fault, requests: tuple[Callable[[Storage], object], ...], reason: Reason
) -> None:
    proxy.set_rules(Rule(fault))
    for request in requests:
        error = failure(side, request)
        assert (error.reason, error.permanent, error.retryable) == (reason, False, True)


def test_a_body_that_breaks_off_is_trouble_on_the_way(proxy: Proxy, side: Storage, destination_bucket: Bucket) -> None:
    destination_bucket.client.put_object(Bucket=destination_bucket.name, Key=KEY, Body=b"x" * 1000)
    proxy.set_rules(Rule(Cut(after=10)))
    error = failure(side, obstore_get)
    assert (error.reason, error.retryable) == (Reason.CONNECTION, True)


def test_nobody_there_is_said_with_the_endpoint_to_check(destination_bucket: Bucket) -> None:
    nobody = storage(destination_bucket, "destination", endpoint=f"http://{LOOPBACK}:{free_port()}")
    for request in (obstore_list, boto3_list):
        error = failure(nobody, request)
        assert error.reason is Reason.CONNECTION
        assert error.retryable
        assert "cannot be reached" in str(error)
        assert "DESTINATION_S3_ENDPOINT" in str(error)


def test_a_name_that_does_not_resolve_is_said(destination_bucket: Bucket) -> None:
    error = failure(storage(destination_bucket, "source", endpoint="http://no-such-host.invalid"), obstore_list)
    assert error.reason is Reason.CONNECTION
    assert "lookup" in str(error)
    assert " S3_ENDPOINT" in str(error)


def test_https_where_http_is_spoken_is_a_connection_that_fails(destination_bucket: Bucket) -> None:
    endpoint = destination_bucket.server.endpoint.replace("http:", "https:")
    error = failure(storage(destination_bucket, "source", endpoint=endpoint), obstore_list)
    assert error.reason is Reason.CONNECTION


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def tls_server(folder: Path, *, ca: bool) -> Iterator[str]:
    """Run a server with a certificate that it has signed itself, and yield its endpoint."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LOOPBACK)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    file = folder / f"certificate-{ca}.pem"
    file.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with ThreadingHTTPServer((LOOPBACK, 0), _Silent) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://{LOOPBACK}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("ca", "words"), [(False, "resources.destination.config.ca_file"), (True, "a CA's own certificate")]
)
def test_a_certificate_that_is_not_trusted_says_where_to_name_its_ca(
    destination_bucket: Bucket, tmp_path: Path, *, ca: bool, words: str
) -> None:
    with tls_server(tmp_path, ca=ca) as endpoint:
        error = failure(storage(destination_bucket, "destination", endpoint=endpoint), obstore_list)
    assert (error.reason, error.permanent) == (Reason.CONNECTION, True)
    assert words in str(error)


def test_a_real_server_refuses_a_wrong_secret_an_unknown_key_and_an_absent_bucket(source_bucket: Bucket) -> None:
    for settings, words in (
        ({"secret_access_key": "0123456789abcdef"}, "refuses the secret access key (SignatureDoesNotMatch)"),
        ({"access_key_id": "nobody-at-all"}, "does not know the access key (InvalidAccessKeyId)"),
        ({"bucket": "not-there"}, "has no such bucket (NoSuchBucket)"),
    ):
        side = storage(source_bucket, "source", **settings)
        for request in (obstore_list, boto3_list, obstore_get, boto3_get, obstore_put):
            error = failure(side, request)
            assert error.permanent
            assert f"the source {words}" in str(error)


@pytest.mark.parametrize("request_", [obstore_get, boto3_get])
def test_no_message_holds_a_secret_though_the_server_quotes_it(
    proxy: Proxy, side: Storage, request_: Callable[[Storage], object]
) -> None:
    settings = side.settings
    assert settings.secret_access_key
    quoted = f"key {settings.access_key_id}, secret {settings.secret_access_key}, see http://x/?X-Amz-Signature=abcdef"
    proxy.set_rules(Rule(Answer(418, "Teapot", message=quoted)))
    message = str(failure(side, request_))
    assert "key ***, secret ***, see http://x/" in message
    assert settings.secret_access_key not in message
    assert "Signature" not in message


def test_a_long_answer_is_cut(proxy: Proxy, side: Storage) -> None:
    proxy.set_rules(Rule(Answer(418, "Teapot", message="word " * 1000)))
    assert len(str(failure(side, obstore_get))) < 400


def test_boto3_tells_how_long_to_wait(proxy: Proxy, side: Storage) -> None:
    proxy.set_rules(Rule(Answer(503, "SlowDown", retry_after=7)))
    assert failure(side, boto3_get).retry_after == 7


def test_a_page_that_is_no_s3_answer_is_not_taken_for_one(side: Storage, proxy: Proxy) -> None:
    proxy.set_rules(Rule(Cut(after=0, announced=False), kinds=frozenset({Kind.LIST})))
    error = failure(side, obstore_list)
    assert "does not answer like an S3 storage" in str(error)


def test_keys_that_the_client_cannot_address_are_invalid_keys(source_bucket: Bucket) -> None:
    side = storage(source_bucket, "source")
    error = failure(side, lambda side: side.reader().get("a//b"))
    assert (error.reason, error.permanent, error.retryable) == (Reason.INVALID_KEY, False, False)


def test_a_panic_in_obstore_is_a_failure_and_an_interrupt_is_not(source_bucket: Bucket) -> None:
    side = storage(source_bucket, "source")
    source_bucket.client.put_object(Bucket=source_bucket.name, Key=KEY, Body=b"x" * 100)

    def panic(side: Storage) -> object:
        body = side.reader().get(KEY).stream()
        return side.store().put("other", (bytes(chunk) for chunk in body))

    error = failure(side, panic)
    assert error.reason is Reason.UNEXPECTED
    assert not error.retryable
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(SystemExit())


def test_errors_pass_unchanged_and_survive_a_pickle(side: Storage) -> None:
    error = StorageError("plain", reason=Reason.THROTTLED, retryable=True, retry_after=3.0, key="k")
    assert classify(error, side.settings) is error
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    assert isinstance(copied, StorageError)
    assert str(copied) == "plain"
    assert (copied.reason, copied.retryable, copied.retry_after, copied.key) == (Reason.THROTTLED, True, 3.0, "k")


def test_anything_else_is_unexpected_and_named(side: Storage) -> None:
    for error in (RuntimeError("odd"), socket.gaierror("odd"), BaseError("odd"), BotoCoreError()):
        said = classify(error, side.settings)
        assert said.reason is Reason.UNEXPECTED
        assert not said.permanent
    odd = ClientError({}, "GetObject")
    assert classify(odd, side.settings).reason is Reason.UNEXPECTED


def test_clients_of_tests_reach_the_real_server(side: Storage, destination_bucket: Bucket) -> None:
    for request in (obstore_put, boto3_put, obstore_get, boto3_get, obstore_head, obstore_list, boto3_list):
        request(side)
    assert boto3_client(destination_bucket.server).head_object(Bucket=destination_bucket.name, Key=KEY)
