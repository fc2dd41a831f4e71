"""What the kernel says of addresses and memory, against another reader of it."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from dynamo_entry.linux import netlink

#: In a network namespace of its own: an alias, a tunnel's local end, IPv6, several addresses of one interface.
SCRIPT = """
import subprocess
for line in (
    "link set lo up", "addr add 10.9.0.1/24 dev lo", "addr add 10.9.0.2/24 dev lo label lo:1",
    "addr add fd00::5/64 dev lo", "addr add 10.8.0.1 peer 10.8.0.2 dev lo",
):
    subprocess.run(["ip", *line.split()], check=True)
"""


def by_psutil():
    return {
        (name, entry.address.partition("%")[0], int(entry.family))
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    }


def test_every_address_is_found():
    assert {tuple(entry) for entry in netlink.addresses()} == by_psutil()


def test_aliases_tunnels_and_several_addresses():
    if os.geteuid() or subprocess.run(["ip", "-V"], check=False).returncode:
        pytest.skip("needs root and ip(8)")
    script = f"""{SCRIPT}
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_addresses; test_addresses.test_every_address_is_found()
found = [entry.interface for entry in test_addresses.netlink.addresses()]
assert found == sorted(found, key=found.index), found
assert len(found) == 6, found
"""
    subprocess.run(["unshare", "-n", sys.executable, "-c", script], check=True, timeout=60)
