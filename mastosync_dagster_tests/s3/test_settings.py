"""Which settings describe one place, and which another: watermarks, manifests and copies go by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mastosync_dagster.s3.settings import StorageSettings, amazon_endpoint, one_spelling

BASE = StorageSettings(name="destination", bucket="media", endpoint_url="https://s3.example.com", prefix="foo/")
AMAZON = replace(BASE, endpoint_url=None)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.example.com:443",
        "https://S3.Example.com",
        "HTTPS://s3.example.com/",
        "https://s3.example.com./",
        "https://s3.example.com.:443//",
        "http://s3.example.com",
        "http://s3.example.com:80",
    ],
)
def test_a_server_is_the_same_however_its_endpoint_is_spelled(endpoint: str) -> None:
    assert replace(BASE, endpoint_url=endpoint).identity == BASE.identity


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.amazonaws.com",
        "https://s3.eu-west-1.amazonaws.com",
        "https://s3-eu-west-1.amazonaws.com",
        "https://s3.dualstack.eu-west-1.amazonaws.com",
        "https://S3.AMAZONAWS.COM:443/",
        "https://s3-fips.us-east-2.amazonaws.com",
        "https://s3-accelerate.amazonaws.com",
        "https://vpce-0a1b-2c3d.s3.us-east-1.vpce.amazonaws.com",
        "https://s3-external-1.amazonaws.com",
        "https://cn-media.s3.us-east-1.amazonaws.com",
        "https://media.s3.us-east-1.amazonaws.com",
    ],
)
def test_all_of_amazons_endpoints_are_one(endpoint: str) -> None:
    found = replace(AMAZON, endpoint_url=endpoint, region="eu-west-1")
    assert (found.identity, found.is_amazon) == (AMAZON.identity, True)


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("cn-north-1", "https://s3.amazonaws.com.cn"),
        ("cn-north-1", "https://s3.dualstack.cn-north-1.amazonaws.com.cn"),
        ("cn-north-1", "https://vpce-0a1b-2c3d.s3.cn-north-1.vpce.amazonaws.com.cn"),
        ("us-gov-west-1", "https://s3.us-gov-west-1.amazonaws.com"),
        ("us-gov-east-1", "https://s3-us-gov-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://s3-fips-us-gov-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://s3-fips.dualstack.us-gov-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://media.s3.us-gov-west-1.amazonaws.com"),
        ("eusc-de-east-1", "https://s3.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_a_region_with_names_of_its_own_is_the_same_with_and_without_its_endpoint(region: str, endpoint: str) -> None:
    unset = replace(AMAZON, region=region)
    for written_out in (replace(unset, endpoint_url=endpoint), replace(AMAZON, endpoint_url=endpoint)):
        assert (written_out.identity, written_out.is_amazon) == (unset.identity, True)
    assert amazon_endpoint(region).rpartition(region)[2] in endpoint
    assert one_spelling(f"{endpoint}/{unset.bucket}/{unset.prefix}") == unset.identity
    assert one_spelling(unset.identity) == unset.identity != AMAZON.identity


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://ec2-192-0-2-1.eu-west-1.compute.amazonaws.com:9000",
        "https://s3-0123456789.eu-west-1.elb.amazonaws.com",
        "https://s3.amazonaws.com.example.com",
        "https://nots3.amazonaws.com",
    ],
)
def test_a_server_of_ones_own_at_amazon_is_not_amazon_s3(endpoint: str) -> None:
    found = replace(AMAZON, endpoint_url=endpoint)
    assert not found.is_amazon
    assert found.identity != AMAZON.identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"bucket": "other"}),
        ({}, {"prefix": "other/"}),
        ({}, {"prefix": ""}),
        ({}, {"endpoint_url": "https://s3.example.com:80"}),
        ({}, {"endpoint_url": "https://s3.example.com:9000"}),
        ({}, {"endpoint_url": None}),
        ({"endpoint_url": "https://proxy.example/one"}, {"endpoint_url": "https://proxy.example/two"}),
        ({"endpoint_url": "https://proxy.example/one"}, {"endpoint_url": "https://proxy.example/One"}),
        ({"endpoint_url": "https://[2001:db8::1]:9000"}, {"endpoint_url": "https://[2001:db8::1:9000]"}),
        # Buckets of the same name belong to different people there.
        ({"endpoint_url": None}, {"endpoint_url": "https://s3.cn-north-1.amazonaws.com.cn"}),
        ({"endpoint_url": None}, {"endpoint_url": None, "region": "cn-north-1"}),
        ({"endpoint_url": None}, {"endpoint_url": "https://s3.us-gov-west-1.amazonaws.com"}),
        ({"endpoint_url": None}, {"endpoint_url": None, "region": "eusc-de-east-1"}),
        # The bucket's name is no region.
        (
            {"endpoint_url": None, "region": "cn-north-1"},
            {"endpoint_url": "https://cn-media.s3.eu-west-1.amazonaws.com"},
        ),
    ],
)
def test_different_places_stay_different(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert replace(BASE, **one).identity != replace(BASE, **other).identity


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "https://s3.example.com",
        "https://S3.Example.com:443",
        "https://proxy.example:8443/Tenant",
        "http://[2001:DB8::1]:9000",
        "https://s3.eu-west-1.amazonaws.com",
    ],
)
def test_what_earlier_versions_wrote_down_is_the_same_place(endpoint: str | None) -> None:
    settings = replace(BASE, endpoint_url=endpoint, prefix="Foo://x?y#z/")
    written = f"{endpoint or 'Amazon S3'}/{settings.bucket}/{settings.prefix}"
    assert one_spelling(written) == settings.identity
    assert one_spelling(settings.identity) == settings.identity
