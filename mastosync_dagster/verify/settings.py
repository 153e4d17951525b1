"""What a verification checks, and its asset check's name: what the definitions need of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CHECK_NAME = "destination_as_expected"


class Depth(str, Enum):
    """How many objects get a check that takes a request each. Run config takes the members' names."""

    none = "none"
    sample = "sample"
    all = "all"


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What to check.

    Attributes:
        full: Read the bodies of both storages, and compare those.
        headers: Compare headers and metadata: of how many objects.
        acls: Ask who may read an object: of how many objects. Without ACLs, of private ones that are wanted there.
        acl_from_source: An object must be readable by everybody iff it is at the source; else the item says.
        copy_private: Private objects are wanted at a destination without ACLs too.
        sample_one_in: A sample is one object in so many, and one of each batch; None: few enough to cost less than the
            listings.
        listers: Listings in flight at a time.
        readers: Objects checked at a time.
    """

    full: bool = False
    headers: Depth = Depth.sample
    acls: Depth = Depth.sample
    acl_from_source: bool = False
    copy_private: bool = False
    sample_one_in: int | None = None
    listers: int = 8
    readers: int = 16
