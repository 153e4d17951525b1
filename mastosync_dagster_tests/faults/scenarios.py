"""The matrix: what goes wrong, at which storage, how often."""

from __future__ import annotations

from dataclasses import dataclass

from mastosync_dagster_tests.support.proxy import (
    Answer,
    Cut,
    Delay,
    Fault,
    Flip,
    Kind,
    Reset,
    Rule,
    Stall,
    Trickle,
    When,
    WrongEtag,
)

MIB = 1024 * 1024
SHARE = 0.05
"""Of the requests, where nothing else is said."""
LARGE_KEY = r"/original/video\d+\.mp4$"
"""Keys of large objects, which go in parts."""

SEEDS = 50
"""Moments at which a run's process is killed."""

ANY = frozenset(Kind)
GET = frozenset({Kind.GET})
HEAD = frozenset({Kind.HEAD})
LIST = frozenset({Kind.LIST})
PUT = frozenset({Kind.PUT})
CREATE = frozenset({Kind.CREATE_UPLOAD})
PART = frozenset({Kind.UPLOAD_PART})
COMPLETE = frozenset({Kind.COMPLETE_UPLOAD})
WRITE = PUT | CREATE | PART | COMPLETE


@dataclass(frozen=True, slots=True)
class Outage:
    """A storage that drops every connection for a while.

    Attributes:
        seconds: How long.
        kind: It begins with the first request of this kind.
    """

    seconds: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way in which servers misbehave.

    Attributes:
        name: For the report.
        source: What the source does.
        destination: What the destination does.
        source_outage: When the source is gone.
        destination_outage: When the destination is gone.
        runs: How many runs of the range may be needed until everything is at the destination.
        at_least: So many are made in any case: a destination has nothing to list before the first one.
        small: It happens between fewer objects: its faults are not those of the many requests.
        cured_after: The faults end after so many runs (an admin renews the credentials); None: they go on.
    """

    name: str
    source: tuple[Rule, ...] = ()
    destination: tuple[Rule, ...] = ()
    source_outage: Outage | None = None
    destination_outage: Outage | None = None
    runs: int = 3
    at_least: int = 1
    small: bool = False
    cured_after: int | None = None


def _for_a_while(fault: Fault, kinds: frozenset[Kind]) -> tuple[Rule, ...]:
    """The first two requests about some of the keys, and about every large object that is read."""
    large = (Rule(fault, kinds=GET, key=LARGE_KEY, times=2, per_key=True),) if kinds & GET else ()
    # Each key by one rule alone, or the second would go on where the first has ended.
    return (*large, Rule(fault, kinds=kinds, key=rf"^(?!.*{LARGE_KEY})", probability=SHARE, times=2, per_key=True))


ANSWERS: tuple[Fault, ...] = (
    Answer(500, "InternalError"),
    Answer(502),
    Answer(503, "SlowDown"),
    Answer(429, "TooManyRequests", retry_after=0.2),
)


def name_of(fault: Fault) -> str:  # noqa: PLR0911  (a table of cases)
    """Say in a few words what happens."""
    if isinstance(fault, Answer):
        code = f" {fault.code}" if fault.code else ""
        return f"{fault.status}{code}" if fault.status != 200 else "an error inside a 200"
    if isinstance(fault, Reset):
        return f"reset {fault.when.value} the request"
    if isinstance(fault, Cut):
        return f"body cut short, length {'announced' if fault.announced else 'not announced'}"
    if isinstance(fault, Flip):
        if fault.behind:
            return f"a bit flipped in {fault.behind.decode()}"
        return f"a byte flipped {'on the way in' if fault.request else 'on the way out'}"
    if isinstance(fault, Stall):
        return "stalls before the answer" if fault.after is None else "stalls in the middle"
    if isinstance(fault, Trickle):
        return "a byte a second"
    return "a wrong ETag" if fault.etag else "no ETag"  # type: ignore[union-attr]  # nothing else is left


def _at_source(what: str, kinds: frozenset[Kind], faults: tuple[Fault, ...]) -> list[Scenario]:
    # HEADs are sent for what a listing lacks. Where nothing can be listed, for every object.
    unlisted = (Rule(Answer(403, "AccessDenied"), kinds=LIST),) if kinds == HEAD else ()
    return [
        Scenario(f"source, {what}: {name_of(fault)}", source=(*unlisted, *_rules(fault, kinds)), small=kinds != GET)
        for fault in faults
    ]


def _at_destination(what: str, kinds: frozenset[Kind], faults: tuple[Fault, ...]) -> list[Scenario]:
    return [
        Scenario(
            f"destination, {what}: {name_of(fault)}",
            destination=_rules(fault, kinds),
            at_least=2 if kinds == LIST else 1,
            small=kinds != PUT,
        )
        for fault in faults
    ]


def _rules(fault: Fault, kinds: frozenset[Kind]) -> tuple[Rule, ...]:
    """Which requests are hit."""
    if isinstance(fault, (Stall, Trickle)):
        # Each costs a timeout: so many, spread over the run; the first ones of the rare kinds.
        large = (Rule(fault, kinds=GET, key=LARGE_KEY, times=1),) if kinds == GET else ()
        return (*large, Rule(fault, kinds=kinds, probability=1.0 if kinds <= WRITE - PUT else 0.2, times=3))
    if kinds <= CREATE | COMPLETE:
        return (Rule(fault, kinds=kinds, times=2, per_key=True),)
    if kinds == PART:
        return (Rule(fault, kinds=kinds, probability=0.5, times=2, per_key=True),)
    # There are few listings: more of them are hit, so that any is.
    large = (Rule(fault, kinds=GET, key=LARGE_KEY, times=1, per_key=True),) if kinds == GET else ()
    return (*large, Rule(fault, kinds=kinds, probability=0.25 if kinds == LIST else SHARE))


SLOW: tuple[Fault, ...] = (Stall(), Stall(20), Trickle())
RESETS: tuple[Fault, ...] = tuple(Reset(when) for when in When)
CUTS: tuple[Fault, ...] = (Cut(20), Cut(20, announced=False))
BITS: tuple[Fault, ...] = (
    Flip(bits=1, behind=b"<Size>"),
    Flip(40, bits=1, behind=b"<Key>"),
    Flip(3, bits=1, behind=b"<ETag>"),
)
"""Another size, name or ETag in a listing that is valid all the same."""
ERROR_INSIDE = Answer(200, "InternalError")
WRONG_ETAGS: tuple[Fault, ...] = (WrongEtag("0" * 32), WrongEtag(None))

SINGLE = (
    *_at_source(
        "GET",
        GET,
        (*ANSWERS, ERROR_INSIDE, *RESETS, *CUTS, Flip(7), *WRONG_ETAGS, *SLOW),
    ),
    *_at_source("listing", LIST, (*ANSWERS, ERROR_INSIDE, *RESETS, *CUTS, Flip(700), *BITS, *SLOW)),
    *_at_source("HEAD", HEAD, (*ANSWERS, *RESETS, Stall())),
    Scenario("source, GET: 403 for a while", source=_for_a_while(Answer(403, "AccessDenied"), GET)),
    Scenario("source, GET: 404 for a while", source=_for_a_while(Answer(404, "NoSuchKey"), GET)),
    Scenario("source, GET and HEAD: 404 for a while", source=_for_a_while(Answer(404, "NoSuchKey"), GET | HEAD)),
    Scenario("source, listing: 404 once", source=(Rule(Answer(404, "NoSuchBucket"), kinds=LIST, times=1),), small=True),
    Scenario(
        "source, HEAD: 403 for a while",
        source=(Rule(Answer(403, "AccessDenied"), kinds=LIST), *_for_a_while(Answer(403), HEAD)),
        small=True,
    ),
    Scenario(
        "source, HEAD: 404 once a key",
        source=(
            Rule(Answer(403, "AccessDenied"), kinds=LIST),
            Rule(Answer(404), kinds=HEAD, probability=0.25, times=1, per_key=True),
        ),
        small=True,
    ),
    *_at_destination("PUT", PUT, (*ANSWERS, ERROR_INSIDE, *RESETS, Flip(7, request=True), *WRONG_ETAGS, Stall())),
    *_at_destination("listing", LIST, (*ANSWERS, ERROR_INSIDE, *RESETS, *CUTS, Flip(700), *BITS, *SLOW)),
    Scenario("destination, PUT: 403 for a while", destination=_for_a_while(Answer(403, "AccessDenied"), PUT)),
    Scenario("destination, PUT: 404 for a while", destination=_for_a_while(Answer(404), PUT)),
    *_at_destination("upload, begin", CREATE, (*ANSWERS, ERROR_INSIDE, *RESETS)),
    *_at_destination(
        "upload, part",
        PART,
        (*ANSWERS, ERROR_INSIDE, *RESETS, Flip(MIB, request=True), *WRONG_ETAGS, Stall()),
    ),
    *_at_destination("upload, end", COMPLETE, (*ANSWERS, ERROR_INSIDE, *RESETS, *SLOW)),
    Scenario("source gone for 20 s while it is listed", source_outage=Outage(20, Kind.LIST)),
    Scenario("source gone for 20 s while objects are read", source_outage=Outage(20, Kind.GET)),
    Scenario("destination gone for 20 s while it is listed", destination_outage=Outage(20, Kind.LIST)),
    Scenario("destination gone for 20 s while objects are written", destination_outage=Outage(20, Kind.PUT)),
    Scenario(
        "credentials of the source expire in the middle",
        source=(Rule(Answer(403, "ExpiredToken"), kinds=GET, skip=100),),
        cured_after=1,
    ),
    Scenario(
        "credentials of the destination expire in the middle",
        destination=(Rule(Answer(403, "ExpiredToken"), kinds=WRITE, skip=100),),
        cured_after=1,
    ),
    Scenario(
        "both storages slow",
        source=(Rule(Delay(0.2), kinds=GET, probability=0.3),),
        destination=(Rule(Delay(0.2), kinds=PUT, probability=0.3),),
        runs=1,
    ),
)
"""One fault each."""


def _mix(faults: tuple[tuple[Fault, frozenset[Kind]], ...], share: float) -> tuple[Rule, ...]:
    """Rules that together hit so many of the requests of each kind."""
    rules = []
    for kind in Kind:
        mine = [fault for fault, kinds in faults if kind in kinds]
        rules += [Rule(fault, kinds=frozenset({kind}), probability=share / len(mine)) for fault in mine]
    return tuple(rules)


_EVERYWHERE: tuple[tuple[Fault, frozenset[Kind]], ...] = tuple((fault, ANY) for fault in (*ANSWERS, *RESETS))
_SLOW: tuple[tuple[Fault, frozenset[Kind]], ...] = ((Stall(), ANY), (Stall(20), GET), (Trickle(), GET))


MIXED = Scenario(
    "a mix of all of these, 5 % of all requests to both storages",
    source=(
        *(Rule(fault, kinds=kinds, probability=0.02, times=4) for fault, kinds in _SLOW),
        *_mix(
            (
                *_EVERYWHERE,
                *((fault, GET) for fault in (*CUTS, Flip(7), WrongEtag("0" * 32), Answer(200, "InternalError"))),
                *((fault, GET) for fault in (Answer(403, "AccessDenied"), Answer(404, "NoSuchKey"))),
                *((fault, LIST) for fault in CUTS),
            ),
            SHARE,
        ),
    ),
    destination=(
        Rule(Stall(), kinds=WRITE, probability=0.02, times=4),
        *_mix(
            (
                *_EVERYWHERE,
                *((fault, PUT | PART) for fault in (Flip(7, request=True), WrongEtag("0" * 32), WrongEtag(None))),
                *((fault, PUT | COMPLETE) for fault in (Answer(200, "InternalError"),)),
                *((fault, PUT) for fault in (Answer(403, "AccessDenied"), Answer(404))),
                *((fault, LIST) for fault in CUTS),
            ),
            SHARE,
        ),
    ),
)
"""Everything at once."""
