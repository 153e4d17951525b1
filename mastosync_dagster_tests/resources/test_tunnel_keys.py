"""Private key files, in every format that ssh-keygen writes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncssh
import pytest

from mastosync_dagster.resources.ssh.private_key import LockedKeyError, read_private_key
from mastosync_dagster_tests.support.ssh import write_key

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = "pässphrase"

FORMATS = [
    ("ssh-ed25519", "openssh"),
    ("ssh-ed25519", "pkcs8-pem"),
    ("ecdsa-sha2-nistp256", "openssh"),
    ("ecdsa-sha2-nistp384", "pkcs1-pem"),
    ("ecdsa-sha2-nistp521", "pkcs8-pem"),
    ("ssh-rsa", "openssh"),
    ("ssh-rsa", "pkcs1-pem"),
    ("ssh-rsa", "pkcs8-pem"),
]


@pytest.mark.parametrize(("kind", "form"), FORMATS)
def test_keys_are_read_with_and_without_a_passphrase(tmp_path: Path, kind: str, form: str) -> None:
    key = asyncssh.generate_private_key(kind)
    plain = write_key(key, tmp_path / "plain", form=form)
    locked = write_key(key, tmp_path / "locked", form=form, passphrase=PASSPHRASE)
    assert read_private_key(plain, None).asbytes() == key.public_data
    assert read_private_key(locked, PASSPHRASE).asbytes() == key.public_data
    # ssh does not mind a passphrase too many either.
    assert read_private_key(plain, PASSPHRASE).asbytes() == key.public_data
    for wrong in (None, "", "wrong"):
        with pytest.raises(LockedKeyError):
            read_private_key(locked, wrong)


def test_every_ecdsa_key_is_read(tmp_path: Path) -> None:
    # paramiko 5.1 by itself misreads about half of those that asyncssh writes.
    for _ in range(12):
        key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
        assert read_private_key(write_key(key, tmp_path / "key"), None).asbytes() == key.public_data


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.compile(".")):
        read_private_key(file, PASSPHRASE)


def test_a_kind_of_key_that_ssh_does_not_use_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    # An X25519 key, as `openssl genpkey -algorithm X25519` writes it.
    file.write_text(
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VuBCIEIGBU8nVXRuaWmJeAbNOLWBSgN8T8mcsDlFIAMhqzK7lA\n"
        "-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(ValueError, match="not a kind of key for SSH"):
        read_private_key(file, None)
