"""What became of an object: one outcome each, and for failures one reason from a fixed list."""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """The one thing that is said of every planned object at the end of a run."""

    COPIED = "copied"
    """Streamed to the destination and verified there."""
    PRESENT = "present"
    """Already at the destination, and equal as far as both sides' listings tell."""
    MISSING = "missing"
    """The source does not have it, under no candidate either."""
    FAILED = "failed"
    """Not copied; the reason says why."""


class Reason(str, Enum):
    """Why an object failed. Scripts depend on the values: add, never rename."""

    ACCESS_DENIED = "access_denied"
    """A side refused this request (403)."""
    ACL_REFUSED = "acl_refused"
    """The destination takes no ACL headers."""
    BAD_CREDENTIALS = "bad_credentials"
    """Unknown access key, wrong secret, expired token."""
    NO_SUCH_BUCKET = "no_such_bucket"
    """The bucket does not exist."""
    WRONG_REGION = "wrong_region"
    """The bucket lives in another region than the one signed for."""
    CHANGED_DURING_COPY = "changed_during_copy"
    """The source object was replaced or deleted between plan and copy."""
    SIZE_MISMATCH = "size_mismatch"
    """The body's length is not what the source or the destination says."""
    CHECKSUM_MISMATCH = "checksum_mismatch"
    """The body's MD5 is not what the source or the destination says."""
    INVALID_KEY = "invalid_key"
    """No client can address this key, or a side refuses its form."""
    PRIVATE_NOT_COPIED = "private_not_copied"
    """Private in the database, and the destination has no ACLs to keep it so."""
    SIDES_DIFFER = "sides_differ"
    """Both sides have it with different bytes, and nothing tells which are right; nothing was overwritten."""
    OBJECT_ARCHIVED = "object_archived"
    """In a storage class (Glacier) that must be restored before it can be read."""
    THROTTLED = "throttled"
    """503, 429 or SlowDown until the retries ran out."""
    TIMEOUT = "timeout"
    """No answer in time until the retries ran out."""
    CONNECTION = "connection"
    """Refused, reset or unresolvable until the retries ran out."""
    SERVER_ERROR = "server_error"
    """Another 5xx until the retries ran out."""
    NOT_ATTEMPTED = "not_attempted"
    """The run was stopped before this object's turn."""
    UNEXPECTED = "unexpected"
    """An answer nobody expected; the detail quotes it."""
