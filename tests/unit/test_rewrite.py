"""What images are rewritten to, as far as it can be told without CRIU's message classes."""

from ipaddress import ip_address

import pytest

from dynamo_entry.criu.rewrite import sockets, stdio
from dynamo_entry.criu.rewrite.sockets import Address


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([("eth0", "10.0.0.5")], [("eth0", "10.0.0.9")], {"10.0.0.5": "10.0.0.9"}),
        ([("eth0", "10.0.0.5")], [("eth0", "10.0.0.9"), ("eth1", "10.0.0.5")], {"10.0.0.5": "10.0.0.5"}),
        (
            [("eth0", "10.0.0.5"), ("net1", "172.16.0.5")],
            [("net1", "172.16.0.9"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.9", "172.16.0.5": "172.16.0.9"},
        ),
        ([("ens5", "10.0.0.5")], [("eth0", "10.0.0.9")], {"10.0.0.5": "10.0.0.9"}),
        (
            [("eth0", "10.0.0.5"), ("eth0", "10.0.0.6")],
            [("eth0", "10.0.0.8"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.8", "10.0.0.6": "10.0.0.9"},
        ),
        (
            [("eth0", "10.0.0.5"), ("eth0", "fd00::5"), ("eth0", "fe80::5")],
            [("eth0", "fe80::9"), ("eth0", "fd00::9"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.9", "fd00::5": "fd00::9", "fe80::5": "fe80::9"},
        ),
        ([("eth0", "fd00::5")], [("eth0", "10.0.0.9")], {}),
        ([], [("eth0", "10.0.0.9")], {}),
    ],
)
def test_an_address_moves_to_the_same_interface_and_family(old, new, expected):
    found = sockets.mapping([Address(*row) for row in old], [Address(*row) for row in new])
    assert {str(key): str(value) for key, value in found.items()} == expected


@pytest.mark.parametrize("address", ["10.88.0.5", "fd00::5"])
def test_addresses_survive_crius_words(address):
    for words in (1, 4) if ip_address(address).version == 4 else (4,):
        assert sockets._decoded(sockets._encoded(ip_address(address), words)) == ip_address(address)


def test_pipes_are_recognized_by_their_inode():
    assert stdio.pipe_ids(["pipe:[77]", "/dev/null", "pipe:[4294967297]"]) == frozenset((77, 1))
