"""``mastosync cutover check`` says yes only when it is true: seeded worlds, half of them with one thing wrong."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.servers.start import LOOPBACK
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import NOBODY_LISTS, let_everybody_read
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mastosync_dagster_tests.cutover.conftest import Copied

    Wrong = Callable[[Copied, Random], AbstractContextManager[None]]

pytestmark = pytest.mark.long

MEDIA = FileType.MEDIA_ATTACHMENTS


def check(*options: str) -> tuple[int, dict[str, str], dict[str, str]]:
    """Run the command; return its status, the answers and the texts by their names."""
    outcome = CliRunner().invoke(main, ["cutover", "check", "--json", *options])
    assert outcome.exit_code in {0, 1}, outcome.output
    report = json.loads(outcome.output)
    assert report["yes"] is (outcome.exit_code == 0)
    lines = report["answers"]
    return (
        outcome.exit_code,
        {line["name"]: line["answer"] for line in lines},
        {line["name"]: line["text"] for line in lines},
    )


def against(*options: str) -> set[str]:
    """Return the names of the answers that are against it; none exactly where the status is 0."""
    status, answers, _ = check(*options)
    found = {name for name, answer in answers.items() if answer in {"no", "stop"}}
    assert status == bool(found)
    return found


def live(copied: Copied, random: Random) -> None:
    """Let people do some things."""
    living = copied.living
    for _ in range(random.randrange(1, 4)):
        random.choice([living.sign_up, living.post_picture, living.add_emoji])()
    account, picture = living.sign_up(), living.post_picture()
    living.update("media_attachments", picture, account_id=account)
    if random.random() < 0.5:
        living.update("accounts", account, suspended_at=living.now.replace(tzinfo=None))
    if random.random() < 0.5:
        living.delete_post(living.post_picture())


def some_key(copied: Copied, random: Random, *, private: bool = False) -> str:
    """Return the key of an object that the first copy has brought."""
    there = list_keys(copied.world.destination.server, copied.world.destination.name)
    objects = [each.key for each in copied.world.instance.objects_of(*FileType) if each.private is private]
    return random.choice(sorted(key for key in objects if key in there))


@contextmanager
def a_range_that_has_not_run(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    copied.living.post_picture()
    assert copied.delta()
    new = copied.world.register(MEDIA)[MEDIA]
    assert new
    yield
    for key in new:
        copied.world.dagster.delete_dynamic_partition(MEDIA.partitions_name, key)


@contextmanager
def a_failed_object(copied: Copied, random: Random) -> Iterator[None]:
    key = copied.living.original(copied.living.post_picture())
    copied.world.source_proxy.set_rules(
        Rule(Answer(random.choice([403, 400]), "InvalidObjectState"), kinds=frozenset({Kind.GET}), key=key)
    )
    assert not copied.delta()
    copied.world.source_proxy.set_rules()
    yield


@contextmanager
def a_missing_object_that_the_source_has_again(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    source, key = copied.world.source, copied.living.original(copied.living.post_picture())
    body = source.client.get_object(Bucket=source.name, Key=key)["Body"].read()
    source.client.delete_object(Bucket=source.name, Key=key)
    assert copied.delta()
    source.client.put_object(Bucket=source.name, Key=key, Body=body)
    yield


@contextmanager
def a_private_object_that_is_readable(copied: Copied, random: Random) -> Iterator[None]:
    bucket, key = copied.world.destination, some_key(copied, random, private=True)
    bucket.client.put_object_acl(Bucket=bucket.name, Key=key, ACL="public-read")
    yield
    bucket.client.put_object_acl(Bucket=bucket.name, Key=key, ACL="private")


@contextmanager
def a_policy_that_shows_what_is_private(copied: Copied, random: Random) -> Iterator[None]:
    bucket = copied.world.destination
    let_everybody_read(bucket, random.choice(["", "media_attachments/", "backups/"]))
    yield
    bucket.client.delete_bucket_policy(Bucket=bucket.name)


@contextmanager
def an_account_that_was_suspended_since(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    account, picture = copied.living.sign_up(), copied.living.post_picture()
    copied.living.update("media_attachments", picture, account_id=account)
    assert copied.delta()
    copied.living.update("accounts", account, suspended_at=copied.living.now.replace(tzinfo=None))
    yield


@contextmanager
def media_in_processing(copied: Copied, random: Random) -> Iterator[None]:
    picture = copied.living.post_picture()
    assert copied.delta()
    copied.living.update("media_attachments", picture, processing=random.choice([0, 1]))
    yield
    copied.living.update("media_attachments", picture, processing=2)


@contextmanager
def an_old_delta(copied: Copied, random: Random) -> Iterator[None]:
    time = timedelta(minutes=random.randrange(70, 5000))
    copied.living.pass_time(time)
    yield
    copied.living.pass_time(-time)


@contextmanager
def an_upload_since_the_delta(copied: Copied, random: Random) -> Iterator[None]:
    random.choice([copied.living.post_picture, copied.living.sign_up, copied.living.add_emoji])()
    yield


@contextmanager
def a_wrong_content_type(copied: Copied, random: Random) -> Iterator[None]:
    with changed(copied, some_key(copied, random), ContentType="application/octet-stream"):
        yield


@contextmanager
def changed(copied: Copied, key: str, **headers: str) -> Iterator[None]:
    """Give an object at the destination other headers, and then its own again."""
    bucket = copied.world.destination
    client: Any = bucket.client
    own = client.get_object(Bucket=bucket.name, Key=key)
    kept = {name: own[name] for name in ("ContentType", "CacheControl", "Metadata") if name in own}
    whole = {"Bucket": bucket.name, "Key": key, "ACL": "public-read", "Body": own["Body"].read(), **kept}
    client.put_object(**{**whole, **headers})
    yield
    client.put_object(**whole)


@contextmanager
def an_object_that_is_cut_short(copied: Copied, random: Random) -> Iterator[None]:
    with changed(copied, some_key(copied, random), Body="cut"):
        yield


@contextmanager
def a_public_object_that_nobody_can_read(copied: Copied, random: Random) -> Iterator[None]:
    with changed(copied, some_key(copied, random), ACL="private"):
        yield


@contextmanager
def an_object_that_is_gone(copied: Copied, random: Random) -> Iterator[None]:
    key = some_key(copied, random)
    with changed(copied, key):
        copied.world.destination.client.delete_object(Bucket=copied.world.destination.name, Key=key)
        yield


@contextmanager
def nothing(copied: Copied, random: Random) -> Iterator[None]:
    assert copied
    assert random
    yield


@contextmanager
def another_source(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_BUCKET", create_bucket(copied.world.source.server).name)
        yield


@contextmanager
def a_bucket_that_everybody_can_list(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    copied.world.destination_proxy.set_rules()
    yield
    copied.world.destination_proxy.set_rules(NOBODY_LISTS)


@contextmanager
def a_table_that_never_arrived(copied: Copied, random: Random) -> Iterator[None]:
    bucket, folder = copied.world.destination, random.choice(["site_uploads/", "cache/preview_cards/"])
    keys = [key for key in list_keys(bucket.server, bucket.name) if key.startswith(folder)]
    assert keys
    with ExitStack() as stack:
        for key in keys:
            stack.enter_context(changed(copied, key))
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
        yield


@contextmanager
def a_delta_by_a_clock_that_was_ahead(copied: Copied, random: Random) -> Iterator[None]:
    time = timedelta(minutes=random.randrange(90, 900))
    copied.living.pass_time(-time)
    yield
    copied.living.pass_time(time)


@contextmanager
def public_address(copied: Copied, status: int, location: str = "") -> Iterator[None]:
    """Let the public address of the new bucket answer to everything in the same way."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "5")
            if location:
                self.send_header("Location", location + self.path)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((LOOPBACK, 0), Answers) as server, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        name = copied.world.destination.name
        patch.setenv("MASTOSYNC_DESTINATION_URL", f"http://{LOOPBACK}:{server.server_address[1]}/{name}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def an_address_that_has_a_page_for_everything(copied: Copied, random: Random) -> Iterator[None]:
    with public_address(copied, random.choice([200, 206])):
        yield


@contextmanager
def an_address_that_leads_to_the_bucket(copied: Copied, random: Random) -> Iterator[None]:
    with public_address(copied, random.choice([301, 302, 307, 308]), copied.world.destination_proxy.endpoint):
        yield


WRONG: list[tuple[Wrong, set[str]]] = [
    (another_source, {"old bucket"}),
    (a_range_that_has_not_run, {"ranges"}),
    (a_failed_object, {"failed objects", "objects"}),
    (a_missing_object_that_the_source_has_again, {"objects"}),
    (a_private_object_that_is_readable, {"private objects", "objects"}),
    (a_policy_that_shows_what_is_private, {"private objects", "objects"}),
    (an_account_that_was_suspended_since, {"private objects", "objects"}),
    (media_in_processing, {"media in processing"}),
    (an_old_delta, {"last delta"}),
    (an_upload_since_the_delta, {"new objects"}),
    (a_wrong_content_type, {"objects"}),
    (an_object_that_is_cut_short, {"objects"}),
    (a_public_object_that_nobody_can_read, {"objects", "public objects"}),
    (an_object_that_is_gone, {"objects"}),
    (a_bucket_that_everybody_can_list, {"listing"}),
    (a_table_that_never_arrived, {"objects"}),
    (a_delta_by_a_clock_that_was_ahead, {"last delta"}),
    (an_address_that_has_a_page_for_everything, {"public objects", "private objects"}),
    (an_address_that_leads_to_the_bucket, {"public objects"}),
]


WORLDS = [
    *((seed, wrong, names) for seed, (wrong, names) in enumerate(WRONG)),
    *((seed, nothing, set[str]()) for seed in range(len(WRONG), len(WRONG) + 9)),
]


@pytest.mark.long(cases=0)
def test_a_media_host_that_is_busy_has_not_said_that_nobody_reads(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It counts the requests of a client, and those for private objects come first.
    bucket = copied.world.destination
    private = {each.key for each in copied.world.instance.objects_of(*FileType) if each.private}
    rules = [Rule(Answer(429, "TooManyRequests"), kinds=frozenset({Kind.GET}), key=key) for key in private]
    with s3_proxy(bucket.server.endpoint, *rules) as host:
        monkeypatch.setenv("MASTOSYNC_DESTINATION_URL", f"{host.endpoint}/{bucket.name}")
        outcome = CliRunner().invoke(main, ["cutover", "check"])
    assert outcome.exit_code == 1
    assert "nobody can read any" not in outcome.output
    assert f"{host.endpoint}/{bucket.name} answers HTTP 429" in outcome.output


@pytest.mark.long(cases=3)
@pytest.mark.parametrize(("seed", "wrong", "names"), WORLDS)
def test_it_says_yes_when_nothing_is_wrong_and_no_when_one_thing_is(
    copied: Copied, seed: int, wrong: Wrong, names: set[str]
) -> None:
    # People have done something, and a delta has run; then one thing is wrong, or none.
    random = Random(seed)
    live(copied, random)
    assert copied.delta()
    with wrong(copied, random):
        found = against()
    assert bool(found) is bool(names)
    assert found <= names, found
