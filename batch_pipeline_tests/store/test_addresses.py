"""Two spellings of an address are one address; two addresses are not."""

import pytest

from batch_pipeline import ClaudeBatches
from batch_pipeline.store.addresses import normal_address, same_address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://api.anthropic.com", "HTTPS://API.Anthropic.COM/"),
        ("https://api.anthropic.com", "https://api.anthropic.com:443"),
        ("https://api.anthropic.com", "https://api.anthropic.com."),
        ("http://localhost", "http://LOCALHOST:80/"),
        ("http://localhost:8100", "http://127.0.0.1:8100"),
        ("http://localhost:8100", "http://[::1]:8100/"),
        ("http://[0:0:0:0:0:0:0:1]:8100", "http://[::1]:8100"),
        ("https://gateway/claude/", "https://Gateway/claude"),
    ],
)
def test_these_are_one_address(one: str, other: str) -> None:
    assert normal_address(one) == normal_address(other)
    assert same_address(one, ["https://somewhere.else", other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://localhost", "https://localhost"),
        ("http://localhost:80", "http://localhost:8080"),
        ("https://gateway/claude", "https://gateway/Claude"),
        ("https://gateway/a", "https://gateway/b"),
        ("http://127.0.0.1", "http://10.0.0.1"),
        ("https://api.anthropic.com", "https://api.anthropic.com.evil.example"),
    ],
)
def test_these_are_two(one: str, other: str) -> None:
    assert not same_address(one, [other])


@pytest.mark.parametrize("odd", ["", "no address", "http://[bad", "http://host:port"])
def test_what_is_no_address_is_compared_as_it_is(odd: str) -> None:
    assert same_address(odd, [odd])


def test_white_space_around_an_address_is_none_of_it() -> None:
    assert (
        ClaudeBatches(api_key="any", base_url=" http://127.0.0.1:9/ \n").url == "http://127.0.0.1:9"
    )
