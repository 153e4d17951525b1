"""The requests of `s3.client`, answered by a folder: files are objects, and the mode of a file is its ACL."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import formatdate
from functools import partial
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar
from xml.sax.saxutils import escape

import pycurl

from mastosync_dagster.folder.content import HEAD_BYTES, etag_of, headers_of
from mastosync_dagster.folder.tree import (
    UNFINISHED,
    Empty,
    UnreachableError,
    as_text,
    ensure_reachable,
    files_after,
    path_of,
)
from mastosync_dagster.s3.client import Acl, Client, S3Error
from mastosync_dagster.s3.http import ANSWER_BYTES, Failure, Reply, TransportError
from mastosync_dagster.s3.listing import Entry, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from mastosync_dagster.s3.http import Sink, Source
    from mastosync_dagster.s3.loop import Loop, Task

_T = TypeVar("_T")

_THREADS = 16
_CHUNK = 256 * 1024
_EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
_OTHERS_READ = 0o004
_PUBLIC_MODE, _PRIVATE_MODE = 0o644, 0o600
"""What Mastodon gives the files of everybody, and those of suspended accounts."""
_TOKEN_BYTES = 8
_UNFINISHED_NAME = re.compile(re.escape(UNFINISHED.encode()) + rb"[0-9a-f]{%d}" % (2 * _TOKEN_BYTES))
_LONGEST_WRITE = 86_400.0
"""Seconds without a write after which nobody writes a file any more."""
_ATTEMPTS = 8
"""To create a file in a folder that others may remove as long as it is empty."""
_REFUSALS = {
    UnreachableError: (503, "NotMounted"),
    FileNotFoundError: (404, "NoSuchKey"),
    NotADirectoryError: (404, "NoSuchKey"),
    IsADirectoryError: (404, "NoSuchKey"),
    PermissionError: (403, "AccessDenied"),
}
_NO_ROOM = {errno.ENOSPC: (507, "InsufficientStorage"), errno.EDQUOT: (507, "InsufficientStorage")}
_STILL_SECONDS = 2.0
"""Of a source: a file that was written to within this time may not be complete ..."""
_STILL_ATTEMPTS = 30
"""... and is waited for, so many times."""


class _Transfer:
    """Stands for the transfer of libcurl's that a sink or a source holds up, and lets go on."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._parked: tuple[Task[Any], int] | None = None
        self._may_go_on = False

    def pause(self, _: int) -> None:
        """Go on (libcurl's ``PAUSE_CONT``)."""
        self._may_go_on = True
        parked, self._parked = self._parked, None
        if parked is not None:
            self._loop.wake(parked)

    async def wait(self) -> None:
        """Wait until it may go on."""
        if not self._may_go_on:
            await self._loop.park(self._keep)
        self._may_go_on = False

    def _keep(self, parked: tuple[Task[Any], int]) -> None:
        self._parked = parked


class FolderClient(Client):
    """Answers requests from a folder. Lives in its loop's thread; the files are read in threads of its own.

    Errors are those that a server would have answered with: `S3Error`, for an absent file or one that may not be read.

    Args:
        anchor: What is there as long as the folder is: the root, or a file in it that an empty mount point lacks.
    """

    def __init__(self, loop: Loop, root: Path, *, writable: bool, anchor: Path) -> None:
        # Without `Client.__init__`: there is no server to reach.
        self.loop = loop
        self.bucket = str(root)
        self._folder = root
        self._anchor = os.fsencode(anchor)
        self._writable = writable
        # A destination without its marker was never used.
        self._refused = (Empty.NONE if anchor == root else Empty.LINKS) if writable else Empty.FOLDERS
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="folder")
        self._uploads: dict[str, tuple[bytes, list[bytes], Mapping[str, str]]] = {}

    @property
    def transfers(self) -> Collection[pycurl.Curl]:
        """None: a folder has no connection that could fall silent."""
        return ()

    @property
    def answers(self) -> int:
        """None that came over a network."""
        return 0

    async def _in_thread(self, work: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Do something in a thread; ``undo`` gets what comes of it when nobody waits for it any more."""
        future = self._pool.submit(work)

        def drop(done: Future[_T]) -> None:
            if undo is not None and not done.cancelled() and done.exception() is None:
                undo(done.result())

        def keep(parked: tuple[Task[Any], int]) -> None:
            future.add_done_callback(lambda _: self.loop.call(lambda: self.loop.wake(parked)))

        try:
            await self.loop.park(keep)
        except BaseException:
            future.add_done_callback(drop)
            raise
        return future.result()

    async def _answer(
        self, method: str, key: str | None, work: Callable[[], _T], *, undo: Callable[[_T], object] | None = None
    ) -> _T:
        """Do something as `_in_thread`; what the file system refuses is what a server would refuse."""

        def ask() -> _T:
            try:
                return work()
            except FileNotFoundError:
                # Missing is what the folder lacks, and not what lies at a disk that is not mounted.
                self._ensure_reachable(path_of(self._folder, key or ""))
                raise

        try:
            return await self._in_thread(ask, undo=undo)
        except OSError as error:
            refusals = _NO_ROOM.get(error.errno or 0), _REFUSALS.get(type(error)), (500, "InternalError")
            status, code = next(filter(None, refusals))
            raise self._refusal(method, key, status, code, error.strerror or "") from error

    def _ensure_reachable(self, path: bytes | None = None) -> None:
        ensure_reachable(self._folder, self._anchor, path or self._anchor, self._refused)

    @staticmethod
    def _refusal(method: str, key: str | None, status: int, code: str, text: str = "") -> S3Error:
        body = f"<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>".encode()
        return S3Error(method, Reply(status, {}, body), on_bucket=key is None)

    def _path(self, method: str, key: str) -> bytes:
        path = path_of(self._folder, key)
        if path is None:
            reading = method in {"GET", "HEAD"}
            raise self._refusal(method, key, 404 if reading else 400, "NoSuchKey" if reading else "InvalidArgument")
        return path

    def _may_write(self, method: str, key: str) -> bytes:
        if not self._writable:
            raise self._refusal(method, key, 403, "AccessDenied", "the source is only read")
        return self._path(method, key)

    # ---- reading ----

    async def head_bucket(self) -> Reply:
        """As `Client.head_bucket`; the clock is this machine's."""
        await self._answer("HEAD", None, lambda: os.scandir(self._folder).close())
        return Reply(200, {"date": formatdate(usegmt=True)}, b"")

    async def head(self, key: str, *, query: Iterable[tuple[str, str]] = ()) -> Reply:
        """As `Client.head`."""
        path = self._path("HEAD", key)

        def work() -> Reply:
            with open(path, "rb") as file:
                return Reply(200, headers_of(os.fstat(file.fileno()), file.read(HEAD_BYTES), key), b"")

        return await self._answer("HEAD", key, work)

    async def get(
        self,
        key: str,
        *,
        limit: int,
        headers: Iterable[tuple[str, str]] = (),
        sink: Sink | None = None,
        signed: bool = True,
    ) -> Reply:
        """As `Client.get`. Without a signature it is what everybody gets: no file that only its owner may read."""
        path, wanted = self._path("GET", key), dict(headers)
        file = await self._open(key, path)
        with file:
            stat, head = await self._answer("GET", key, lambda: (os.fstat(file.fileno()), file.read(HEAD_BYTES)))
            if not signed and not stat.st_mode & _OTHERS_READ:
                raise self._refusal("GET", key, 403, "AccessDenied")
            found = headers_of(stat, head, key)
            if wanted.get("if-match", found["etag"]) != found["etag"]:
                raise self._refusal("GET", key, 412, "PreconditionFailed")
            offset = _offset(wanted.get("range", ""))
            if offset and offset >= stat.st_size:
                raise self._refusal("GET", key, 416, "InvalidRange")
            size = stat.st_size - offset
            reply = Reply(206 if offset else 200, {**found, "content-length": str(size)}, b"")
            if size > limit:
                raise TransportError(Failure.TOO_LARGE, "the file is larger", reached=True, status=reply.status)
            await self._in_thread(lambda: file.seek(offset))
            if sink is None:
                return reply._replace(body=await self._answer("GET", key, lambda: file.read(size)))
            await self._send_to(sink, reply, lambda: file.read(_CHUNK))
            return reply

    async def _open(self, key: str, path: bytes) -> BinaryIO:
        """Open a file, once it is complete: other than an object, it is there while Mastodon still writes it."""
        for _ in range(_STILL_ATTEMPTS):
            file = await self._answer("GET", key, lambda: open(path, "rb"), undo=_close)  # noqa: SIM115  (the caller closes it)
            left = os.fstat(file.fileno()).st_mtime + _STILL_SECONDS - time.time()
            # (What we write ourselves appears when it is complete. A time in the future tells nothing.)
            if self._writable or not 0 < left <= _STILL_SECONDS:
                return file
            file.close()
            await self.loop.sleep(left)
        raise self._refusal("GET", key, 503, "ServiceUnavailable", "the file is still being written")

    async def _send_to(self, sink: Sink, reply: Reply, read: Callable[[], bytes]) -> None:
        transfer = _Transfer(self.loop)
        curl: Any = transfer
        if not sink.begin(curl, reply):
            raise TransportError(Failure.BROKEN, "the body is not wanted", reached=True, status=reply.status)
        while data := await self._in_thread(read):
            while (taken := sink.write(data)) == pycurl.WRITEFUNC_PAUSE:
                await transfer.wait()
            if taken is not None and taken != len(data):
                raise TransportError(Failure.BROKEN, "the body is not wanted", reached=True, status=reply.status)

    async def list_page(
        self, prefix: str, *, after: str | None = None, token: str | None = None, keys: int, delimiter: str = ""
    ) -> Page:
        """As `Client.list_page`."""
        return await self._answer("GET", None, lambda: self._list(prefix, token or after, keys, delimiter))

    def _list(self, prefix: str, after: str | None, keys: int, delimiter: str) -> Page:
        self._ensure_reachable()  # a folder that is not mounted is not an empty one
        entries: list[Entry] = []
        folders: list[str] = []
        on_unfinished = self._remove_if_old if self._writable else None
        for found in files_after(
            self._folder,
            prefix,
            after,
            deep=not delimiter,
            refused=self._refused,
            on_unfinished=on_unfinished,
        ):
            key = as_text(found.key)
            if len(entries) + len(folders) == keys:
                last = max([*folders, *(entry.key for entry in entries)], default="")
                return Page(entries, folders, last, truncated=True, version=2)
            if found.is_folder:
                folders.append(key)
                continue
            try:
                stat = os.stat(found.path)
            except FileNotFoundError:
                self._ensure_reachable(found.path)
                continue  # it was deleted meanwhile
            modified = datetime.fromtimestamp(stat.st_mtime, timezone.utc).isoformat()
            entries.append(Entry(key, stat.st_size, etag_of(stat), modified))
        return Page(entries, folders, None, truncated=False, version=2)

    async def get_acl(self, key: str) -> Acl:
        """As `Client.get_acl`: whether everybody may read the file."""
        path = self._path("GET", key)
        stat = await self._answer("GET", key, lambda: os.stat(path))
        grants = [("", "FULL_CONTROL"), *([(_EVERYBODY, "READ")] if stat.st_mode & _OTHERS_READ else [])]
        return Acl(grants, is_acl=True)

    # ---- writing ----

    async def put(
        self, key: str, body: bytes | bytearray | Source, headers: Mapping[str, str], md5: bytes | None
    ) -> Reply:
        """As `Client.put`. The file appears when it is complete; of its headers, the folder keeps the ACL alone."""
        path = self._may_write("PUT", key)
        unfinished = await self._answer("PUT", key, lambda: self._begin(path))
        try:
            digest = await self._write(unfinished, body, md5)
            await self._answer("PUT", key, lambda: _publish(unfinished, path, headers))
        except BaseException:
            self._discard(unfinished)
            raise
        return Reply(200, {"etag": f'"{digest.hex()}"'}, b"")

    def _begin(self, path: bytes) -> bytes:
        """Create the file that becomes another one when it is complete."""
        self._ensure_reachable(path)
        folder = path[: path.rindex(b"/")]
        unfinished = folder + f"/{UNFINISHED}{secrets.token_hex(_TOKEN_BYTES)}".encode()
        for _ in range(_ATTEMPTS):
            # Another request may remove the folders again, while they are empty.
            with contextlib.suppress(FileNotFoundError):
                _make_folders(folder)
                os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_MODE))
                return unfinished
        raise UnreachableError(f"the folder {as_text(folder)} cannot be created")

    async def _write(self, path: bytes, body: bytes | bytearray | memoryview | Source, md5: bytes | None) -> bytes:
        """Add a body to a file. Returns its MD5, which is the given one."""
        digest = hashlib.md5(usedforsecurity=False)
        # Without a buffer: closing the file could fail to write it.
        file = await self._answer("PUT", "", lambda: open(path, "ab", buffering=0), undo=_close)  # noqa: SIM115  (closed below)

        def take(data: bytes | bytearray | memoryview) -> None:
            digest.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]

        with file:
            if isinstance(body, (bytes, bytearray, memoryview)):
                await self._answer("PUT", "", lambda: take(body))
            else:
                await self._receive(body, take)
            await self._answer("PUT", "", lambda: os.fsync(file.fileno()))
        if md5 is not None and digest.digest() != md5:
            raise self._refusal("PUT", "", 400, "BadDigest")
        return digest.digest()

    async def _receive(self, body: Source, take: Callable[[bytes], object]) -> None:
        transfer, left = _Transfer(self.loop), body.size
        curl: Any = transfer
        body.begin(curl)
        while left > 0:
            data = body.read(min(_CHUNK, left))
            if data == pycurl.READFUNC_PAUSE:
                await transfer.wait()
                continue
            if not isinstance(data, bytes) or not data:
                raise TransportError(Failure.BROKEN, "the body has ended early", reached=True)
            left -= len(data)
            await self._answer("PUT", "", partial(take, data))

    async def put_acl(self, key: str, acl: str) -> None:
        """As `Client.put_acl`."""
        path = self._may_write("PUT", key)
        await self._answer("PUT", key, lambda: os.chmod(path, _mode(acl)))

    async def delete(self, key: str) -> None:
        """As `Client.delete`; folders that it leaves empty go too, as Mastodon does it."""
        path = self._may_write("DELETE", key)

        def work() -> None:
            self._ensure_reachable(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
            self._remove_empty_folders(path)

        await self._answer("DELETE", key, work)

    def _remove_empty_folders(self, path: bytes) -> None:
        """Remove the folders of a file that is gone, up to the first that is not empty."""
        parent = os.path.dirname(path)
        with contextlib.suppress(OSError):
            while parent != os.fsencode(self._folder):
                os.rmdir(parent)
                parent = os.path.dirname(parent)

    def _remove_if_old(self, entry: os.DirEntry[bytes]) -> None:
        """Remove what a killed run has left behind. What others still write is younger."""
        with contextlib.suppress(OSError):
            if not _UNFINISHED_NAME.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                return
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LONGEST_WRITE:
                self._discard(entry.path)

    def _discard(self, unfinished: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        self._remove_empty_folders(unfinished)

    async def create_upload(self, key: str, headers: Mapping[str, str]) -> tuple[str, Reply]:
        """As `Client.create_upload`."""
        path = self._may_write("POST", key)
        unfinished = await self._answer("POST", key, lambda: self._begin(path))
        upload_id = secrets.token_hex(16)
        self._uploads[upload_id] = (unfinished, [], headers)
        return upload_id, Reply(200, {}, b"")

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview | Source, md5: bytes | None
    ) -> Reply:
        """As `Client.put_part`; parts come in order, and one that is sent again replaces the last one."""
        unfinished, digests, _ = self._upload(key, upload_id)
        size = sum(int.from_bytes(digest[16:], "big") for digest in digests[: number - 1])
        await self._answer("PUT", key, lambda: os.truncate(unfinished, size))
        digest = await self._write(unfinished, body, md5)
        length = await self._answer("PUT", key, lambda: os.stat(unfinished).st_size) - size
        digests[number - 1 :] = [digest + length.to_bytes(8, "big")]
        return Reply(200, {"etag": f'"{digest.hex()}"'}, b"")

    async def complete_upload(self, key: str, upload_id: str, etags: Sequence[str]) -> str | None:
        """As `Client.complete_upload`."""
        path = self._may_write("POST", key)
        unfinished, digests, headers = self._upload(key, upload_id)
        md5s = [digest[:16] for digest in digests]
        if [md5.hex() for md5 in md5s] != list(etags):
            raise self._refusal("POST", key, 400, "InvalidPart")
        await self._answer("POST", key, lambda: _publish(unfinished, path, headers))
        del self._uploads[upload_id]
        return f'"{hashlib.md5(b"".join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"'

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """As `Client.abort_upload`."""
        unfinished, _, _ = self._upload(key, upload_id)
        del self._uploads[upload_id]
        await self._answer("DELETE", key, lambda: self._discard(unfinished))

    async def list_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """As `Client.list_uploads`: no other process sees this one's."""
        return []

    def _upload(self, key: str, upload_id: str) -> tuple[bytes, list[bytes], Mapping[str, str]]:
        if upload_id not in self._uploads:
            raise self._refusal("PUT", key, 404, "NoSuchUpload")
        return self._uploads[upload_id]

    async def copy(self, bucket: str, source_key: str, key: str, headers: Mapping[str, str]) -> Reply:
        """As `Client.copy`: a folder does not."""
        raise self._refusal("PUT", key, 501, "NotImplemented")

    async def _send(
        self,
        method: str,
        key: str | None,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Source | None = None,
        sink: Sink | None = None,
        limit: int = ANSWER_BYTES,
        signed: bool = True,
    ) -> Reply:
        raise self._refusal(method, key, 501, "NotImplemented")


def _close(file: IO[bytes]) -> None:
    file.close()


def _offset(range_: str) -> int:
    """Return where a range begins; 0: at the beginning."""
    first = range_.removeprefix("bytes=").partition("-")[0]
    return int(first) if first.isdecimal() else 0


def _mode(acl: str) -> int:
    return _PUBLIC_MODE if acl.startswith("public-read") else _PRIVATE_MODE


def _make_folders(path: bytes) -> None:
    """Create a folder and those above it. The web server reads them, whatever this process's umask is."""
    if os.path.isdir(path):
        return
    _make_folders(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103  (its files have modes of their own)


def _publish(unfinished: bytes, path: bytes, headers: Mapping[str, str]) -> None:
    os.chmod(unfinished, _mode({name.lower(): value for name, value in headers.items()}.get("x-amz-acl", "private")))
    os.replace(unfinished, path)
