"""Private SSH keys in every format that OpenSSH writes, for paramiko.

paramiko's own ``PKey.from_path`` reads no PKCS #8, takes the passphrase as text for one format and as bytes for
another, and misreads some ECDSA keys. So cryptography reads the file, and paramiko gets the unencrypted key in the form
that its class reads.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.serialization.ssh import SSHPrivateKeyTypes

_OPENSSH_MARK = b"BEGIN OPENSSH PRIVATE KEY"


class LockedKeyError(Exception):
    """The key is encrypted, and the passphrase is missing or wrong."""


def read_private_key(path: Path, passphrase: str | None) -> paramiko.PKey:
    """Return the key in a file. As in ssh, a passphrase for an unencrypted key is ignored.

    A file without an RSA, ECDSA or Ed25519 key raises ValueError.
    """
    data = path.read_bytes()
    try:
        key = _load(data, None)
    except TypeError:
        # cryptography's error for a missing passphrase.
        if not passphrase:
            raise LockedKeyError from None
        try:
            key = _load(data, passphrase.encode())
        except ValueError:
            raise LockedKeyError from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _reread(paramiko.Ed25519Key, key, PrivateFormat.OpenSSH)
    if isinstance(key, rsa.RSAPrivateKey):
        return _reread(paramiko.RSAKey, key, PrivateFormat.TraditionalOpenSSL)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _reread(paramiko.ECDSAKey, key, PrivateFormat.TraditionalOpenSSL)
    raise ValueError("not a kind of key for SSH")


def _load(data: bytes, passphrase: bytes | None) -> PrivateKeyTypes | SSHPrivateKeyTypes:
    try:
        if _OPENSSH_MARK in data:
            return load_ssh_private_key(data, passphrase)
        return load_pem_private_key(data, passphrase)
    except UnsupportedAlgorithm as error:
        raise ValueError("not a kind of key that cryptography knows") from error


def _reread(
    kind: type[paramiko.PKey],
    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    form: PrivateFormat,
) -> paramiko.PKey:
    text = key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
    try:
        return kind.from_private_key(io.StringIO(text))
    except paramiko.SSHException as error:
        raise ValueError("not a key that paramiko knows") from error
