"""The proxy that the deploy docs show, as a real nginx before a real webserver."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from mastosync_dagster.demo.servers.start import LOOPBACK, free_port
from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
EXAMPLE = Path(__file__).parents[1] / "deploy" / "nginx.conf"
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"admin:secret").decode()}
QUERY, MUTATION = "{ version }", "mutation { setNuxSeen }"
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "graphql-ws",
}

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (Debian: apt-get install nginx-light)")


@dataclass(frozen=True)
class Site:
    """A Dagster webserver, and an nginx before it.

    Attributes:
        ui: The webserver's port.
        port: nginx's.
        home: The Dagster home, where the mutation leaves a file.
    """

    ui: int
    port: int
    home: Path

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: str | None = None, *, port: int = 0
    ) -> int:
        """Send a request, and return the status of the answer."""
        connection = http.client.HTTPConnection(LOOPBACK, port or self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, target, body=body, headers=dict(headers))
            return connection.getresponse().status

    def post(self, text: str, headers: Mapping[str, str]) -> int:
        """Ask as the UI does."""
        body = json.dumps({"query": text})
        return self.ask("POST", "/graphql", {"Content-Type": "application/json", **headers}, body)

    @property
    def seen(self) -> bool:
        """Whether the mutation was carried out since this was asked the last time."""
        file = self.home / ".nux" / "nux.yaml"
        found = file.exists()
        file.unlink(missing_ok=True)
        return found

    @property
    def origin(self) -> str:
        """The address that a browser has in its bar."""
        return f"http://{LOOPBACK}:{self.port}"


def wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/server_info")
            connection.getresponse()
            return
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The example as it stands, but for its ports and the place of its accounts."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-nginx-")))
        made = Site(free_port(), free_port(), folder / "home")
        (made.home / ".nux").mkdir(parents=True)
        (folder / "accounts").write_text("admin:{PLAIN}secret\n")
        example = EXAMPLE.read_text()
        for old, new in (
            ("127.0.0.1:8080", f"{LOOPBACK}:{made.port}"),
            ("127.0.0.1:3030", f"{LOOPBACK}:{made.ui}"),
            ("/etc/nginx/mastosync.passwd", str(folder / "accounts")),
        ):
            assert old in example
            example = example.replace(old, new)
        places = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places}\n{example}}}\n"
        )
        environment = {**os.environ, "DAGSTER_HOME": str(made.home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
        webserver = [str(Path(sys.executable).with_name("dagster-webserver")), "--empty-workspace"]
        webserver += ["-h", LOOPBACK, "-p", str(made.ui)]
        log = folder / "log"
        stack.enter_context(running(webserver, log=log, cwd=made.home, env=environment))
        nginx = [str(NGINX), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        stack.enter_context(running(nginx, log=log, cwd=folder))
        wait_for(made.ui, log)
        wait_for(made.port, log)
        yield made


def test_dagster_alone_does_what_any_page_asks_it_to(site: Site) -> None:
    # What the docs say of it. Should this fail one day, Dagster has mended it.
    target = f"/graphql?query={quote(MUTATION)}"
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Host": "evil.example"}
    assert site.ask("GET", target, headers, port=site.ui) == 200
    assert site.seen


def test_the_ui_works_behind_the_proxy_for_those_who_log_in(site: Site) -> None:
    ours = {"Origin": site.origin, "Sec-Fetch-Site": "same-origin"}
    assert site.ask("GET", "/", {**LOGIN, "Sec-Fetch-Site": "none"}) == 200
    assert site.post(QUERY, {**LOGIN, **ours}) == 200
    assert site.post(MUTATION, {**LOGIN, **ours}) == 200
    assert site.seen
    assert site.post(QUERY, LOGIN) == 200  # curl, and browsers from before the headers
    assert site.ask("GET", "/graphql", {**LOGIN, **HANDSHAKE, **ours}) == 101


@pytest.mark.parametrize("login", [{}, {"Authorization": "Basic " + base64.b64encode(b"admin:wrong").decode()}])
def test_without_the_login_there_is_nothing(site: Site, login: dict[str, str]) -> None:
    assert site.ask("GET", "/", login) == 401
    assert site.post(MUTATION, login) == 401
    assert site.ask("GET", "/graphql", {**login, **HANDSHAKE}) == 401
    assert not site.seen


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/graphql", "//graphql", "/%67raphql", "/x/../graphql", "/./graphql", "/graphql/"])
def test_no_address_of_an_image_carries_out_a_mutation(site: Site, method: str, path: str) -> None:
    assert site.ask(method, f"{path}?query={quote(MUTATION)}", LOGIN) == 405
    assert not site.seen


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_no_other_page_is_answered_although_the_browser_is_logged_in(site: Site, headers: dict[str, str]) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.post(MUTATION, {**LOGIN, **headers}) == 403
    assert site.ask("POST", "/graphql", {**LOGIN, **headers, **form}, f"query={quote(MUTATION)}") == 403
    assert site.ask("GET", "/graphql", {**LOGIN, **headers, **HANDSHAKE}) == 403
    assert site.ask("GET", f"/graphql?query={quote(MUTATION)}", {**LOGIN, **headers}) == 403
    assert not site.seen


def test_a_name_that_is_not_the_proxys_leads_nowhere(site: Site) -> None:
    rebound = {"Host": f"evil.example:{site.port}", "Origin": f"http://evil.example:{site.port}"}
    assert site.post(MUTATION, {**LOGIN, **rebound, "Sec-Fetch-Site": "same-origin"}) == 421
    assert not site.seen


def test_the_docs_show_this_example() -> None:
    assert "deploy/nginx.conf" in (EXAMPLE.parents[1] / "docs" / "deploy.md").read_text()
