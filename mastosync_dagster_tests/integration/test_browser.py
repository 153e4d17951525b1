"""What an admin does in the UI, done in Chromium: launch what is missing, read, verify, terminate.

``make screenshots`` has it write what it sees into docs/, for the README.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.demo.dagster_processes import dagster_ui
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.installation.ui import COPIES
from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster_tests.support.browser import browser_binary, chromium
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.installation import Installation, Original, make_world
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server
    from mastosync_dagster_tests.support.browser import Page
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.graphql import Run

SCREENSHOTS = "SCREENSHOTS"
"""Variable: the folder that ``make screenshots`` writes into."""

ROWS = 900
ROWS_PER_PARTITION = 120
MEDIA, EMOJI, SITE = FileType.MEDIA_ATTACHMENTS, FileType.CUSTOM_EMOJIS, FileType.SITE_UPLOADS
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}
LIMIT = 900
"""Seconds for a test, and below for runs: minutes beside other work on a small machine, half of one without."""

pytestmark = pytest.mark.skipif(browser_binary() is None, reason="needs a browser: Debian's package chromium")


@pytest.fixture
def demo(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Installation]:
    """The demo's instance, without the rare cases of the tests'."""
    original = Original.generated(postgres_server, source_server, cases=CASES, rows=ROWS)
    with make_world(original, destination_bucket, tmp_path / "home", monkeypatch) as made:
        monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", str(ROWS_PER_PARTITION))
        # So that there is time to terminate a run with a slow source.
        monkeypatch.setenv("MASTOSYNC_CONCURRENCY", "2")
        # Pictures show no path of this machine.
        monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{create_bucket(destination_bucket.server).name}/manifests")
        yield made


@pytest.fixture
def webserver(demo: Installation) -> Iterator[Webserver]:
    with served(demo) as web:
        yield web


@contextlib.contextmanager
def served(world: Installation) -> Iterator[Webserver]:
    """Serve the UI of an installation until the block ends."""
    # Dagster offers its newsletter unless this file exists.
    nux = Path(world.dagster.root_directory) / ".nux"
    nux.mkdir()
    (nux / "nux.yaml").touch()
    home = Path(world.dagster.root_directory)
    with dagster_ui(home, {**os.environ, **world.environment}, home / "ui.log") as ui:
        yield Webserver(ui.url)


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


def shoot(page: Page, tmp_path: Path, name: str, height: int) -> None:
    """Take a screenshot, for the docs if they are made."""
    page.screenshot(Path(os.environ.get(SCREENSHOTS) or tmp_path) / name, height=height)


# Not marked as long, though it is: `make test` opens the UI once.
@pytest.mark.timeout(LIMIT)
def test_an_admin_reads_on_the_page_of_an_asset_what_is_done(world: Installation, page: Page) -> None:
    (key,) = world.register(SITE)[SITE]
    assert world.run("sync_site_uploads", key).success
    with served(world) as web:
        page.open(f"{web.url}/assets/site_uploads")
        text = page.wait_for("all ID ranges", "A partition is an ID range", "Launch 1 run")
    assert "1 of 1 ID ranges have run" in text
    objects, lost = (len(of("site_uploads")) for of in (world.instance.objects_of, world.instance.missing_of))
    assert f"{objects} objects (" in text
    assert f"{lost} missing, 0 failed" in text


@pytest.mark.long
@pytest.mark.timeout(LIMIT)
def test_an_admin_copies_what_is_missing_reads_the_result_verifies_and_terminates(
    demo: Installation, webserver: Webserver, page: Page, tmp_path: Path
) -> None:
    ranges = demo.register(MEDIA, EMOJI, SITE)
    *before, _, _ = ranges[MEDIA]
    for key in before:
        assert demo.run("sync_media_attachments", key).success

    # Launch the missing ranges, and see them finish.
    asset = f"{webserver.url}/assets/media_attachments"
    page.open(f"{asset}?view=partitions")
    page.wait_for("Missing (2)", f"Materialized ({len(before)})")
    page.click("Materialize…")
    page.click("Missing", "*")
    page.wait_for("2 partitions")
    shoot(page, tmp_path, "ui-launch.png", 700)
    page.click("Launch backfill")
    page.open(f"{asset}?view=partitions")
    page.wait_for("Missing (0)", "Failed (0)", f"Materialized ({len(ranges[MEDIA])})", seconds=500)

    # Read counts and list of a range in which something is missing.
    lost = demo.instance.missing_of("media_attachments")[0]
    (key,) = [key for key in ranges[MEDIA] if parse_range(key).lo <= lost.row_id <= parse_range(key).hi]
    page.open(f"{asset}?view=partitions&partition={key}")
    text = page.wait_for("all ID ranges", "size copied", "lost: it was uploaded here")
    assert lost.key.rpartition("/")[2] in text
    shoot(page, tmp_path, "ui-range.png", 1000)

    # The asset's page has the totals of all ranges, also of two that have ended together, and says what to do.
    page.open(asset)
    text = page.wait_for("all ID ranges", "A partition is an ID range")
    assert f"{len(ranges[MEDIA])} of {len(ranges[MEDIA])} ID ranges have run" in text
    shoot(page, tmp_path, "ui.png", 1000)

    # Its check has a result for each range.
    page.open(f"{asset}?view=checks&checkDetail=partitions")
    page.click("nothing_missing_or_failed", "*")
    page.click("Partitions", "[role=tab], a, button, div")
    page.wait_for("Failed (1)", f"Passed ({len(ranges[MEDIA]) - 1})")
    shoot(page, tmp_path, "ui-check.png", 700)

    # The page that `mastosync ui` names has the copies without the verifications.
    page.open(f"{webserver.url}{COPIES}")
    text = page.wait_for("accounts", "backups", "custom_emojis", "media_attachments", "preview_cards", "site_uploads")
    assert "_verification" not in text

    # The runs show the tags alone that an admin can use.
    page.open(f"{webserver.url}/runs")
    assert "mastosync" not in page.wait_for("Status", "sync_media_attachments")


@pytest.mark.long(cases=0)
@pytest.mark.timeout(LIMIT)
def test_an_admin_verifies_and_terminates_a_run(
    demo: Installation, webserver: Webserver, page: Page, tmp_path: Path
) -> None:
    ranges = demo.register(EMOJI, SITE)
    assert (len(ranges[EMOJI]), len(ranges[SITE])) == (1, 1)
    assert demo.run("sync_site_uploads", ranges[SITE][0]).success

    # What is copied is verified without a question whether that is meant.
    page.open(f"{webserver.url}/assets/site_uploads_verification")
    assert launch_all(page, webserver, FINISHED).status == "SUCCESS"
    page.open(f"{webserver.url}/assets/site_uploads_verification")
    page.wait_for("summary", "different", "findings")

    # A run that is terminated says in its last line what it has done.
    demo.source_proxy.set_rules(Rule(Delay(1), kinds=frozenset({Kind.GET})))
    page.open(f"{webserver.url}/assets/custom_emojis")
    run = launch_all(page, webserver, {"STARTED"})
    page.open(f"{webserver.url}/runs/{run.run_id}")
    page.wait_for("to copy (")
    page.click("Terminate")
    page.click("Terminate 1 run")
    page.wait_for("objects were copied and stay", "Canceled")
    shoot(page, tmp_path, "ui-terminated.png", 1000)


@pytest.mark.long(cases=0)
@pytest.mark.timeout(LIMIT)
def test_the_launchpad_shows_the_settings_that_an_admin_looks_for(
    demo: Installation, webserver: Webserver, page: Page, tmp_path: Path
) -> None:
    assert demo.run("sync_changes", config={"ops": {"plan_changes": {"config": {"limit": 1}}}}).success
    page.open(f"{webserver.url}/locations/mastosync_dagster/jobs/sync_changes/playground")
    page.wait_for(
        "concurrency:", "limit:", "changed_since:", "copy_private:", "source_megabytes_per_second:", "No errors"
    )
    shoot(page, tmp_path, "ui-launchpad.png", 900)


def launch_all(page: Page, webserver: Webserver, statuses: AbstractSet[str], seconds: float = 400) -> Run:
    """Launch the one ID range of an asset whose page is open; return the run when it has one of these statuses."""
    before = webserver.newest_run()
    page.click("Materialize…")
    text = page.wait_for("Partition selection")
    assert "Are you sure" not in text
    page.click("All", "*")
    page.wait_for("1 partition")
    page.click("Launch 1 run")
    deadline = time.monotonic() + seconds
    while (run := webserver.newest_run()).run_id == before.run_id or run.status not in statuses:
        assert time.monotonic() < deadline, run
        time.sleep(0.2)
    return run
