"""Which way out a worker takes: comparable between workers, and nothing secret in it."""

import pytest

from trade_worker.egress import label_of


def test_without_a_proxy_it_is_the_host() -> None:
    assert label_of("here", None) == "host here"


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://u:secret@proxy:8080", True),
        ("http://u:other@PROXY:8080/", True),
        ("http://v:secret@proxy:8080", False),
        ("http://u:secret@proxy:8081", False),
        ("http://u:secret@elsewhere:8080", False),
    ],
)
def test_a_proxy_is_the_same_for_all_hosts_whatever_the_password(url: str, same: bool) -> None:
    label = label_of("here", "http://u:secret@proxy:8080")
    assert (label == label_of("there", url)) is same


def test_nothing_of_a_proxy_can_be_read_from_it() -> None:
    label = label_of("here", "http://user:secret@proxy.example:8080")
    assert not any(part in label for part in ("user", "secret", "example", "8080"))
