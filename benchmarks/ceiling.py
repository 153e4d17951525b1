"""What servers and delay line can do at the most: a load generator, so that nobody takes their limit for a contender's.

Processes of their own, each with many threads over obstore, which read objects from the one server and write the same
bodies to the other, and do nothing else with them. Run as a program by the benchmark.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from benchmarks.servers import BUCKET, REGION, Kind

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.dataset import Rows
    from benchmarks.network import Place
    from benchmarks.servers import Server

_SECONDS = 5.0
_THREADS = {0: 64}
_THREADS_WITH_DELAY = 512
_PING = 50
_KEYS = 5_000


def ceilings(bench: Bench, delay_ms: int, rows: Rows) -> None:
    """Measure what two servers of each kind take."""
    for kind in (Kind.RCLONE, Kind.MEMORY):
        _ceilings(bench, kind, delay_ms, rows)


def _ceilings(bench: Bench, kind: Kind, delay_ms: int, rows: Rows) -> None:
    """Measure what two servers take when one is read and the other written at the same time."""
    with (
        bench.place(delay_ms) as place,
        bench.server(kind, place, replace(rows, bodies=rows.bodies[:_KEYS])) as source,
        bench.server(kind, place) as destination,
    ):
        name = f"{kind.value}, {delay_ms} ms"
        bench.results.ceilings[f"{name}: median of a HEAD, ms"] = ping(source, rows) * 1000
        reading = _start(bench, "get", source, rows, place)
        writing = _start(bench, "put", destination, rows, place)
        gets, puts = _finish(reading), _finish(writing)
        bench.results.ceilings[f"{name}: GET/s beside PUT/s"] = gets["requests"] / gets["seconds"]
        bench.results.ceilings[f"{name}: PUT/s beside GET/s"] = puts["requests"] / puts["seconds"]
        bench.results.ceilings[f"{name}: MB/s read beside MB/s written"] = gets["bytes"] / gets["seconds"] / 1e6
        bench.results.write(bench.results_file)
        for line, value in bench.results.ceilings.items():
            if line.startswith(name):
                print(f"ceiling  {line}: {value:.1f}", flush=True)


def ping(server: Server, rows: Rows) -> float:
    """Return the median time of a HEAD with nothing else going on, in seconds."""
    store, taken = server.store(), []
    for body in rows.bodies[:_PING]:
        started = time.monotonic()
        obstore.head(store, body.key)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def _start(bench: Bench, action: str, server: Server, rows: Rows, place: Place) -> subprocess.Popen[bytes]:
    bench.programs.mkdir(parents=True, exist_ok=True)
    keys = bench.programs / "keys"
    keys.write_text("".join(f"{body.key} {body.size}\n" for body in rows.bodies[:_KEYS]))
    threads = _THREADS.get(place.delay_ms, _THREADS_WITH_DELAY)
    command = [sys.executable, "-m", "benchmarks.ceiling", action, str(keys), str(threads)]
    storage = [server.endpoint, server.access_key_id, server.secret_access_key]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen([*command, *storage], stdout=subprocess.PIPE, env=environment)


def _finish(process: subprocess.Popen[bytes]) -> dict[str, float]:
    output, _ = process.communicate()
    answer: dict[str, float] = json.loads(output)
    return answer


def generate(action: str, keys_file: str, threads: str, *storage: str) -> None:
    """Send requests for some seconds, as fast as they go, and print how many were answered.

    Args:
        action: ``get`` or ``put``.
        keys_file: A key and a size a line.
        threads: Requests in flight.
        storage: Endpoint, access key and secret.
    """
    endpoint, key, secret = storage
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=key,
        secret_access_key=secret,
        region=REGION,
        unsigned_payload=True,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    lines = [line.split() for line in Path(keys_file).read_text().splitlines()]
    objects = [(name, int(size)) for name, size in lines]
    noise = os.urandom(max(size for _, size in objects))

    def request(name: str, size: int) -> None:
        if action == "get":
            obstore.get(store, name).bytes()
        else:
            obstore.put(store, name, memoryview(noise)[:size], use_multipart=False)

    done = [[0, 0] for _ in range(int(threads))]
    started = time.monotonic()
    deadline = started + _SECONDS

    def work(number: int) -> None:
        for name, size in itertools.islice(itertools.cycle(objects), number * 37 % len(objects), None):
            if time.monotonic() > deadline:
                return
            request(name, size)
            done[number][0] += 1
            done[number][1] += size

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(done))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - started
    print(json.dumps({"requests": sum(n for n, _ in done), "bytes": sum(b for _, b in done), "seconds": seconds}))


if __name__ == "__main__":
    generate(*sys.argv[1:])
