"""A real HTTP server that notes what it is sent, and a real mail server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller

from mastosync_dagster.demo.servers.start import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

SECRET = "s3cr3t"


@dataclass
class Listener:
    """An HTTP server.

    Attributes:
        url: Its address, with a secret in the path.
        requests: Path after that address, method and body of each request.
        taken: Bodies of the POSTs that were answered by 200.
        answers: Statuses of the next answers; 200 after them.
        delay: Seconds before each answer.
    """

    url: str
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    delay: float = 0

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]

    @property
    def messages(self) -> list[str]:
        """Texts, as an incoming webhook is sent them."""
        return [json.loads(body)["text"] for body in self.taken]


@contextlib.contextmanager
def http_listener() -> Iterator[Listener]:
    listener = Listener("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            listener.requests.append((self.path.removeprefix(f"/ping/{SECRET}"), self.command, body))
            time.sleep(listener.delay)
            status = listener.answers.pop(0) if listener.answers else 200
            if status == 200 and self.command == "POST":
                listener.taken.append(body)
            with contextlib.suppress(OSError):  # the client did not wait
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST  # noqa: N815  (the standard library's name; a redirect that is followed becomes one)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listener.url = f"http://127.0.0.1:{server.server_port}/ping/{SECRET}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield listener
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mailbox:
    """A mail server's mail, and its address for Apprise."""

    url: str
    mails: list[EmailMessage] = field(default_factory=list)


@contextlib.contextmanager
def mail_server() -> Iterator[Mailbox]:
    mailbox = Mailbox("")

    class Keep:
        async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
            self, _server: object, _session: object, envelope: Any
        ) -> str:
            mailbox.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            return "250 OK"

    port = free_port()
    mailbox.url = f"mailto://127.0.0.1:{port}?mode=insecure&from=a@example.com&to=admin@example.com"
    controller = Controller(Keep(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()
