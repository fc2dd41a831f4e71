"""What may be dumped."""

import os

import psutil

from dynamo_entry.checks import dump
from dynamo_entry.linux import capabilities


def test_a_zombie_is_no_obstacle():
    """It has neither memory, nor descriptors, nor namespaces for children."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        dump.check([psutil.Process(child)], frozenset({capabilities.SYS_ADMIN, capabilities.SYS_RESOURCE}))
    finally:
        os.waitpid(child, 0)
