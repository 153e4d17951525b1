"""What went wrong at a storage, in words that name what to change: a wrong bucket, secret, region, or right.

That a bucket is there, and is another instance's, `expected.source_check` finds out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.http import Failure, TransportError, ca_variable, proxy_variable
from mastosync_dagster.s3.listing import NotXmlError
from mastosync_dagster.s3.loop import ResourcesError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.s3.settings import StorageSettings

_QUOTE_CHARACTERS = 200
_SECRET_CHARACTERS = 4
"""Shorter texts are words, not secrets."""


class Aside(Exception):  # noqa: N818  (its subclasses are the errors)
    """Something other than a failed request: retries (`Endpoint.send`) let it pass."""


class CredentialsError(Exception):
    """Credentials could not be had. The message does not repeat what a program or a server gave in their place."""


_MAY_PASS = frozenset({Reason.ACCESS_DENIED, Reason.NO_SUCH_BUCKET, Reason.WRONG_REGION})


class StorageError(AdminError):
    """A request to one storage failed.

    The message is one sentence for an admin; it never holds a secret or a signed URL. It does not hold the key
    either: thousands of objects that fail alike share one text.

    Attributes:
        permanent: No retry helps, and no other object will fare better: stop the run. A 403 on a GET or HEAD is not
            permanent (it may concern one object; without the right to list it can mean "absent"): code that reads many
            objects stops when all of them are refused.
        retryable: The same request may succeed later.
        retry_after: Seconds the server asks to wait; None where it does not.
        reached: False where no connection came about at all.
        may_pass: After other requests have succeeded, such an answer may be temporary, or concern this object alone:
            it is permanent only if many follow upon each other.
        key: The relative key of the object; empty: the bucket.
        sentence: The storage's own sentence; empty where it has none. It may name the object.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason,
        permanent: bool = False,
        retryable: bool = False,
        retry_after: float | None = None,
        reached: bool = True,
        may_pass: bool | None = None,
        key: str = "",
        sentence: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent
        self.retryable = retryable
        self.retry_after = retry_after
        self.reached = reached
        self.may_pass = reason in _MAY_PASS if may_pass is None else may_pass
        self.key = key
        self.sentence = sentence

    def in_full(self) -> str:
        """Return the message with the storage's own sentence."""
        return f'{self}. It says: "{self.sentence}"' if self.sentence and self.sentence not in str(self) else str(self)

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be pickled, as Dagster does with what an op returns: exceptions forget keyword-only arguments."""
        names = ("reason", "permanent", "retryable", "retry_after", "reached", "may_pass", "key", "sentence")
        named = {name: getattr(self, name) for name in names}
        return partial(StorageError, **named), self.args


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a kind of error means. Fields of `classify` and variables may stand in the message, in braces."""

    reason: Reason
    message: str
    permanent: bool = False
    retryable: bool = False
    reached: bool = True


_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
    "S3_BUCKET": "bucket",
    "S3_ENDPOINT": "endpoint_url",
    "S3_REGION": "region_name",
    "S3_CA_FILE": "ca_file",
    "S3_PERMISSION": "permission",
    "S3_STORAGE_CLASS": "storage_class",
}
"""Environment variable (without the storage's prefix) and resource field of what a message can ask to change."""

_SECRET = _Rule(
    Reason.BAD_CREDENTIALS,
    "the {name} refuses the secret access key ({code}): check {AWS_SECRET_ACCESS_KEY}, and that no proxy before it"
    " changes the host name or the path",
    permanent=True,
)
_ACCESS_KEY = _Rule(
    Reason.BAD_CREDENTIALS,
    "the {name} does not know the access key ({code}): check {AWS_ACCESS_KEY_ID}",
    permanent=True,
)
_TOKEN = _Rule(
    Reason.BAD_CREDENTIALS,
    "the {name} refuses the session token ({code}): renew the temporary credentials and {AWS_SESSION_TOKEN}",
    permanent=True,
)
_CLOCK = _Rule(
    Reason.BAD_CREDENTIALS, "the {name} finds this machine's clock wrong ({code}): set the clock (NTP)", permanent=True
)
_UNAUTHENTICATED = _Rule(
    Reason.BAD_CREDENTIALS,
    "the {name} refuses the credentials ({code}): check {AWS_ACCESS_KEY_ID} and {AWS_SECRET_ACCESS_KEY}",
    permanent=True,
)
_NO_BUCKET = _Rule(
    Reason.NO_SUCH_BUCKET,
    "the {name} has no such bucket ({code}): check {S3_BUCKET}, and {S3_ENDPOINT}{bucket_in_front}",
    permanent=True,
)
_REGION = _Rule(
    Reason.WRONG_REGION,
    "the {name}'s bucket is in another region{region}{target} ({code}): check {S3_REGION}, and {S3_ENDPOINT}",
    permanent=True,
)
_ACL = _Rule(
    Reason.ACL_REFUSED, "the {name} takes no ACL headers ({code}): leave {S3_PERMISSION} empty", permanent=True
)
_READ_DENIED = _Rule(
    Reason.ACCESS_DENIED,
    "the {name} refuses the request ({code}): give its access key the right to list and read the bucket",
)
_WRITE_DENIED = _Rule(
    Reason.ACCESS_DENIED,
    "the {name} refuses to be written to ({code}): give its access key the right to write objects and their ACLs, "
    "or leave {S3_PERMISSION} empty if the bucket has no ACLs",
    permanent=True,
)
_BLOCKED = _Rule(
    Reason.UNEXPECTED,
    "a firewall or proxy before the {name} refuses the request ({code}): have it let the requests pass, or check"
    " {S3_ENDPOINT}",
)
"""It says nothing about the object: S3's own 403 may mean that there is none."""
_BLOCKED_LISTING = replace(_BLOCKED, reason=Reason.ACCESS_DENIED)
"""Where the bucket may not be listed, for whatever reason, objects are asked for one by one."""
_FOREIGN = _Rule(
    Reason.SERVER_ERROR,
    "a proxy before the {name} says that there is no such object ({code}): only the storage itself knows; check the"
    " proxy, and {S3_ENDPOINT}",
    retryable=True,
)
_ACCOUNT = _Rule(
    Reason.ACCESS_DENIED, "the {name} has closed the account or bucket ({code}): ask the provider", permanent=True
)
_ARCHIVED = _Rule(
    Reason.OBJECT_ARCHIVED,
    "the {name} has the object in an archive ({code}): restore it first",
)
_KEY = _Rule(Reason.INVALID_KEY, "the {name} takes no such key ({code})")
_NO_OBJECT = _Rule(Reason.CHANGED_DURING_COPY, "the {name} does not have the object any more ({code})")
_CHANGED = _Rule(Reason.CHANGED_DURING_COPY, "the {name}'s object was replaced meanwhile ({code})", retryable=True)
_THROTTLED = _Rule(
    Reason.THROTTLED, "the {name} asks for fewer requests ({code}): lower the concurrency", retryable=True
)
_TIMEOUT = _Rule(Reason.TIMEOUT, "the {name} did not answer in time ({code})", retryable=True)
_SERVER = _Rule(Reason.SERVER_ERROR, "the {name} failed ({code})", retryable=True)
_CHECKSUM = _Rule(Reason.CHECKSUM_MISMATCH, "the {name} received another body than was sent ({code})", retryable=True)
_FULL = _Rule(Reason.UNEXPECTED, "the {name} is full ({code}): raise its quota, or free some space", permanent=True)
_STORAGE_CLASS = _Rule(
    Reason.UNEXPECTED, "the {name} has no such storage class ({code}): check {S3_STORAGE_CLASS}", permanent=True
)
_UNREACHABLE = _Rule(
    Reason.CONNECTION,
    "the {name} ({server}) cannot be reached ({text}): check {S3_ENDPOINT} and the network",
    retryable=True,
    reached=False,
)
_NOT_MOUNTED = _Rule(
    Reason.CONNECTION,
    "a part of the {name}'s folder cannot be reached ({text}): is its disk mounted?",
    retryable=True,
    reached=False,
)
"""Of a folder of this machine alone: its client says so."""
_BROKEN = _Rule(Reason.CONNECTION, "the connection to the {name} broke ({text})", retryable=True)
_CERTIFICATE = _Rule(
    Reason.CONNECTION,
    "the {name}'s certificate is not trusted ({text}): name its CA's file in {S3_CA_FILE}, or check {S3_ENDPOINT}",
    permanent=True,
)
_CA_FILE = _Rule(
    Reason.CONNECTION,
    "the certificates that the {name}'s is checked against cannot be read ({text}): check {ca}",
    permanent=True,
)
_PLAIN_HTTP = _Rule(
    Reason.CONNECTION,
    "the {name} ({server}) does not answer in TLS ({text}): it probably speaks plain HTTP, then {S3_ENDPOINT} begins"
    " with http://; or the port there is wrong",
    permanent=True,
)
_ENCRYPTED = _Rule(
    Reason.CONNECTION,
    "the {name} ({server}) answers in TLS alone ({text}): {S3_ENDPOINT} begins with https:// then",
    permanent=True,
)
_NO_CREDENTIALS = _Rule(
    Reason.BAD_CREDENTIALS,
    "the {name}'s credentials cannot be had ({text}): check {AWS_ACCESS_KEY_ID}, the profile or the instance role",
    retryable=True,
)
_NOT_S3 = _Rule(
    Reason.UNEXPECTED, "the {name} does not answer like an S3 storage ({text}): check {S3_ENDPOINT}", retryable=True
)
_UNEXPECTED = _Rule(Reason.UNEXPECTED, "the {name} answered something unexpected ({code}): {text}")
_RESOURCES = _Rule(
    Reason.UNEXPECTED,
    "the {name} cannot be asked: {text}; raise their limits (ulimit -n and -u, LimitNOFILE and TasksMax of a unit)",
    permanent=True,
    reached=False,
)
_REDIRECT = _Rule(
    Reason.WRONG_REGION, "the {name} sends us elsewhere ({code}, to {location}): check {S3_ENDPOINT}", permanent=True
)
_BODY_LIMIT = _Rule(
    Reason.UNEXPECTED,
    "the {name}, or a proxy before it, takes no body of this size ({code}): raise its limit (nginx:"
    " client_max_body_size)",
)
_NO_NAME = _Rule(
    Reason.CONNECTION,
    "the name of the {name} cannot be resolved ({text}): check {S3_ENDPOINT} and the name servers",
    retryable=True,
    reached=False,
)
_PROXY = _Rule(
    Reason.CONNECTION,
    "the proxy before the {name} cannot be used ({text}): check {proxy}, in which special characters of the user and"
    " the password are percent-encoded, such as %23 for #",
    retryable=True,
    reached=False,
)
_PROXY_PASSWORD = _Rule(
    Reason.CONNECTION,
    "the proxy before the {name} refuses the requests ({text}): check the user and the password in {proxy}",
    permanent=True,
)
_TOO_LARGE = _Rule(Reason.SIZE_MISMATCH, "the {name} sent more than was asked for", retryable=True)

_BY_FAILURE: Mapping[Failure, _Rule] = {
    Failure.NAME: _NO_NAME,
    Failure.PROXY: _PROXY,
    Failure.PROXY_PASSWORD: _PROXY_PASSWORD,
    Failure.CONNECT: _UNREACHABLE,
    Failure.TIMEOUT: _TIMEOUT,
    Failure.CERTIFICATE: _CERTIFICATE,
    Failure.CA_FILE: _CA_FILE,
    Failure.NOT_TLS: _PLAIN_HTTP,
    Failure.BROKEN: _BROKEN,
    Failure.NOT_HTTP: _NOT_S3,
    Failure.TOO_LARGE: _TOO_LARGE,
    Failure.SETTINGS: _NOT_S3,
}

_CODES: Mapping[_Rule, str] = {
    _SECRET: "SignatureDoesNotMatch",
    _ACCESS_KEY: "InvalidAccessKeyId InvalidClientTokenId",
    _TOKEN: "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired",
    _CLOCK: "RequestTimeTooSkewed RequestExpired",
    _UNAUTHENTICATED: "Unauthorized InvalidSecurity",
    _NO_BUCKET: "NoSuchBucket InvalidBucketName",
    _REGION: "PermanentRedirect TemporaryRedirect Redirect"
    " AuthorizationHeaderMalformed IllegalLocationConstraintException IncorrectEndpoint",
    _ACL: "AccessControlListNotSupported",
    _ACCOUNT: "AllAccessDisabled AccountProblem NotSignedUp UserSuspended",
    _ARCHIVED: "InvalidObjectState",
    _KEY: "KeyTooLongError KeyTooLong InvalidURI XMinioInvalidObjectName XMinioInvalidResourceName",
    _NO_OBJECT: "NoSuchKey NoSuchVersion",
    _CHANGED: "PreconditionFailed",
    _THROTTLED: "SlowDown SlowDownRead SlowDownWrite ServiceUnavailable"
    " Throttling ThrottlingException TooManyRequests RequestLimitExceeded BandwidthLimitExceeded",
    _TIMEOUT: "RequestTimeout",
    _SERVER: "InternalError OperationAborted",
    _CHECKSUM: "BadDigest InvalidDigest XAmzContentSHA256Mismatch IncompleteBody",
    _FULL: "QuotaExceeded StorageQuotaExceeded InsufficientStorage XMinioStorageFull",
    _STORAGE_CLASS: "InvalidStorageClass",
    _NOT_MOUNTED: "NotMounted",
}
"""S3's error codes (Amazon's "Error responses", and those of MinIO, Ceph, Wasabi, B2 that differ), by meaning."""

_BY_CODE = {code: rule for rule, codes in _CODES.items() for code in codes.split()}

_BY_STATUS: Mapping[int, _Rule] = {
    301: _REGION,
    307: _REGION,
    308: _REGION,
    401: _UNAUTHENTICATED,
    407: _PROXY_PASSWORD,
    408: _TIMEOUT,
    409: _SERVER,
    412: _CHANGED,
    413: _BODY_LIMIT,
    429: _THROTTLED,
    503: _THROTTLED,
    504: _TIMEOUT,
    507: _FULL,
}

_HEADER_REFUSED = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
_ACL_HEADER, _STORAGE_CLASS_HEADER = "x-amz-acl", "x-amz-storage-class"
_BAD_REQUEST = 400
_FORBIDDEN = 403
_REDIRECTS = range(300, 400)
_NOT_FOUND = 404
_NOT_IMPLEMENTED = 501
_SERVER_ERRORS = range(500, 600)
_TOO_MANY_REQUESTS = 429


def classify(error: BaseException, settings: StorageSettings, key: str = "") -> StorageError:
    """Turn an exception of `s3`, or of botocore's credentials, into a `StorageError`; without a key, of the bucket."""
    if isinstance(error, StorageError):
        return error
    code, text, location, region, retry_after = "", str(error), "", "", None
    if isinstance(error, S3Error):
        rule, code, text = _rule(error, settings), error.code or f"HTTP {error.status}", error.text
        location, region, retry_after = error.location, error.region, error.retry_after
    elif isinstance(error, TransportError):
        rule, code = _BY_FAILURE[error.failure], error.failure.value
        if not error.reached:
            rule = replace(rule, reached=False)
    elif isinstance(error, (BotoCoreError, ClientError, CredentialsError)):
        rule = _NO_CREDENTIALS
    elif isinstance(error, ResourcesError):
        rule = _RESOURCES
    elif isinstance(error, NotXmlError):
        rule = _NOT_S3
    else:
        rule, code = _UNEXPECTED, type(error).__name__
    code, region = _quote(code, settings) or "no answer", _quote(region, settings)
    sentence = _quote(text, settings) if isinstance(error, S3Error) else ""
    if _letters(sentence) == _letters(code):
        sentence = ""  # "Access Denied" is what AccessDenied has said
    named = {name: f"{settings.variable(name)} or {settings.field(field)}" for name, field in _SETTINGS.items()}
    if settings.bucket_from:
        named["S3_BUCKET"] = settings.bucket_from
    url = urlsplit(settings.endpoint_url or "https:")
    # It may be right: a server of one's own can have the bucket's name.
    in_front = bool(settings.bucket) and (url.hostname or "").startswith(f"{settings.bucket.lower()}.")
    message = rule.message.format(
        name=f"storage of {settings.bucket_from}" if settings.bucket_from else settings.name,
        server=settings.server,
        code=code,
        text=_quote(text, settings) or code,
        region=f", {region}" if region else "",
        location=_quote(location, settings),
        ca=(not settings.ca_file and ca_variable()) or named["S3_CA_FILE"],
        proxy=proxy_variable(url.scheme) or "HTTPS_PROXY",
        bucket_in_front=", which begins with the name of the bucket: try it without" if in_front else "",
        target=f", at {_quote(location, settings)}" if location else "",
        **named,
    )
    return StorageError(
        message,
        reason=rule.reason,
        permanent=rule.permanent,
        retryable=rule.retryable,
        retry_after=retry_after,
        reached=rule.reached,
        may_pass=rule in {_SECRET, _PLAIN_HTTP, _BLOCKED} or None,
        key=key,
        sentence=sentence,
    )


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def _quote(text: str, settings: StorageSettings) -> str:
    """Shorten a foreign text to a line without secrets and without a URL's query."""
    line = one_line(" ".join(text.split()))
    # A password may hold any character, and not all of them end a URL.
    line = re.sub(r"//.*@", "//***@", line)
    line = re.sub(r"\?\S*", "", line)
    for secret in (settings.secret_access_key, settings.session_token, settings.access_key_id):
        if secret and len(secret) >= _SECRET_CHARACTERS:
            line = line.replace(secret, "***")
    return line if len(line) <= _QUOTE_CHARACTERS else f"{line[:_QUOTE_CHARACTERS]}…"


def _rule(error: S3Error, settings: StorageSettings) -> _Rule:
    """Find what an answer means: by S3's code, by the words about ACLs that have no code, by the status."""
    code, status, writing = error.code, error.status, error.method in {"PUT", "POST", "DELETE"}
    if writing and settings.permission and code != "AccessDenied" and _speaks_of_acl(error):
        return _ACL
    rule = _rule_of_code(error, writing=writing)
    if not code and status == _BAD_REQUEST and "HTTPS" in error.text and _is_plain(settings):
        rule = _ENCRYPTED  # so say nginx, Go's servers and others
    if rule is None and error.location and status in _REDIRECTS:
        rule = _REDIRECT
    if rule is None and status == _FORBIDDEN:
        blocked = _BLOCKED_LISTING if error.on_bucket else _BLOCKED
        rule = blocked if error.is_page else _WRITE_DENIED if writing else _READ_DENIED
    if rule is None and status == _NOT_FOUND:
        rule = _NO_BUCKET if writing or error.on_bucket else _FOREIGN if error.is_foreign else _NO_OBJECT
    if rule is None:
        rule = _BY_STATUS.get(status)
    if rule is None and status in _SERVER_ERRORS and status != _NOT_IMPLEMENTED:
        rule = _SERVER
    return rule or _UNEXPECTED


def _rule_of_code(error: S3Error, *, writing: bool) -> _Rule | None:
    rule = _BY_CODE.get(error.code)
    if writing and error.code in _HEADER_REFUSED and _STORAGE_CLASS_HEADER in _headers_in(error):
        return _STORAGE_CLASS
    if error.code == "AuthorizationHeaderMalformed" and not error.region and "region" not in error.text:
        return _UNAUTHENTICATED  # an access key that is none
    if rule is _NO_OBJECT and error.on_bucket:
        return _NO_BUCKET  # its path is a key for a storage that takes the bucket from the host
    return rule


def _is_plain(settings: StorageSettings) -> bool:
    return (settings.endpoint_url or "").startswith("http://")


def _speaks_of_acl(error: S3Error) -> bool:
    """Recognise a refused ACL header.

    Cloudflare R2: 501 "Header 'x-amz-acl' … not implemented"; Backblaze B2: 400 "Unsupported value for canned acl";
    Garage: 501 without words. R2 refuses other headers in the same words.
    """
    if error.code == "AccessControlListNotSupported":
        return True
    lacking, named = error.status == _NOT_IMPLEMENTED, _headers_in(error)
    words = re.search(r"\bacls?\b|access control list", error.text, re.IGNORECASE)
    speaks = _ACL_HEADER in named if named else lacking or words is not None
    return speaks and (lacking or error.code in _HEADER_REFUSED)


def _headers_in(error: S3Error) -> list[str]:
    return re.findall(r"x-amz-[a-z-]+", error.text.lower())


def is_busy_or_broken(status: int) -> bool:
    """Return whether an HTTP status says nothing about the object: the server had no time for it, or failed."""
    return status == _TOO_MANY_REQUESTS or status in _SERVER_ERRORS


def is_not_found(error: StorageError) -> bool:
    """Return whether a storage has answered that it has no such object."""
    return error.reason is Reason.CHANGED_DURING_COPY and not error.retryable and not error.permanent
