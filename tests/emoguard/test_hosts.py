"""Whose requests are answered without a password, and what only this machine can reach."""

import pytest

from emoguard.hosts import in_url, is_loopback, is_own


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_loopback_hosts_are_for_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "localhost.x"])
def test_other_hosts_are_for_others_too(host):
    assert not is_loopback(host)


def test_an_ipv6_address_stands_in_brackets_in_a_url():
    assert in_url("::1") == "[::1]"
    assert in_url("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("10.1.2.3:1", True),
        ("[::1]:8000", True),
        ("Known.example:80", True),
        ("", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
    ],
)
def test_addresses_localhost_and_given_names_are_own(host, own):
    assert is_own(host, None, {"known.example"}) is own


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        (None, True),
        ("http://127.0.0.1:80", True),
        ("http://127.0.0.1:81", False),
        ("http://127.0.0.1", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_pages_of_this_server_are_own(origin, own):
    assert is_own("127.0.0.1:80", origin) is own
