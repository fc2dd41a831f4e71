"""An engine that had given up capabilities for good has no more of them after a restore, or the log says which."""

import pytest
from containers import CREATE, RESTORE
from launcher import COMMAND, published, restored

from dynamo_entry.linux import capabilities

ENGINE = ("setpriv", "--bounding-set", "-kill,-sys_chroot", *COMMAND)
SETPCAP, NO_SETPCAP = ("--cap-add", "SETPCAP"), ("--cap-drop", "SETPCAP")
NO_NEW_PRIVILEGES = (*NO_SETPCAP, "--security-opt", "no-new-privileges")


def bounding(container):
    status = container.run_inside("grep", "CapBnd:", "/proc/1000/status")
    return capabilities.parse(status.split()[1])


@pytest.mark.parametrize("options", [SETPCAP, NO_SETPCAP, NO_NEW_PRIVILEGES], ids=["setpcap", "none", "nnp"])
def test_what_was_given_up_for_good(containers, options):
    """Created with SETPCAP, which it takes to give anything up."""
    published(containers, command=ENGINE, options=(*CREATE, *SETPCAP))
    container = restored(containers, command=ENGINE, options=(*RESTORE, *options))
    warning = container.event("capability bounding set wider than at creation") or {}
    assert warning.get("names") == (["KILL", "SYS_CHROOT"] if options == NO_SETPCAP else None)
    assert bool(bounding(container) & {5, 18}) == (options != SETPCAP)
