"""TCP connections with both ends in the engine: named at creation, kept where NET_ADMIN allows it."""

import json

import pytest
from containers import CREATE, RESTORE, ROOT, network
from launcher import FALLBACK, create, published, restore

ENGINE = ROOT / "tests" / "container" / "connected.py"
VOLUMES = (f"{ENGINE}:/connected.py:ro",)
NET_ADMIN = ("--cap-add", "NET_ADMIN")
SERVER = """
import socket, time
server = socket.create_server(("", 6000))
print("address", socket.gethostbyname(socket.gethostname()), flush=True)
accepted = [server.accept() for _ in range(2)]
time.sleep(300)
"""
KEPT = {"late": "answer to late", "next": "answer to next"}


def command(host="127.0.0.1", outside="none"):
    return ("python3", "/connected.py", host, outside)


def after(container):
    container.wait(lambda: "after " in container.stdout, "answer")
    line = next(line for line in container.stdout.splitlines() if line.startswith("after "))
    return json.loads(line.partition(" ")[2])


def test_connections_inside_the_engine_are_kept_with_net_admin(containers):
    """On loopback: the answer that was under way arrives, and the next one."""
    creator = published(containers, command=command(), volumes=VOLUMES, options=(*CREATE, *NET_ADMIN))
    event = creator.event("connections kept")
    assert (event["count"], "127.0.0.1:5000" in event["connections"]) == (1, True)
    container = restore(containers, command=command(), volumes=VOLUMES, options=(*RESTORE, *NET_ADMIN))
    container.wait_for_event("Restored")
    assert after(container) == {**KEPT, "outside": None}


def test_they_move_to_the_new_pods_address(containers):
    with network() as bridge:
        how = {"command": command("own"), "volumes": VOLUMES, "network": bridge}
        published(containers, options=(*CREATE, *NET_ADMIN), **how)
        container = restore(containers, options=(*RESTORE, *NET_ADMIN), **how)
        container.wait_for_event("Restored")
        assert after(container) == {**KEPT, "outside": None}


def test_those_that_lead_out_are_closed_all_the_same(containers):
    with network() as bridge:
        server = containers.start("python3", "-c", SERVER, network=bridge)
        server.wait_for_text("address ")
        outside = server.stdout.split()[1]
        how = {"command": command("127.0.0.1", outside), "volumes": VOLUMES, "network": bridge}
        creator = published(containers, options=(*CREATE, *NET_ADMIN), **how)
        assert f"{outside}:6000" in creator.event("connections will be closed")["connections"]
        container = restore(containers, options=(*RESTORE, *NET_ADMIN), **how)
        container.wait_for_event("Restored")
        assert after(container) == {**KEPT, "outside": "BrokenPipeError"}


def test_a_connection_that_is_closed_needs_no_address_of_its_family(containers):
    """As of a pod with IPv4 and IPv6 in one with one of them; here the new pod has no address at all."""
    with network() as bridge:
        server = containers.start("python3", "-c", SERVER, network=bridge)
        server.wait_for_text("address ")
        outside = server.stdout.split()[1]
        how = {"command": command("127.0.0.1", outside), "volumes": VOLUMES}
        published(containers, network=bridge, **how)
    container = restore(containers, **how)
    container.wait_for_event("Restored")
    assert after(container)["outside"] in ("end of file", "BrokenPipeError")


@pytest.mark.parametrize("options", [CREATE, (*CREATE, *NET_ADMIN)], ids=["at creation", "at the restore"])
def test_without_net_admin_they_are_named_and_closed(containers, options):
    creator = published(containers, command=command(), volumes=VOLUMES, options=options)
    if options == CREATE:
        event = creator.event("connections inside the engine will be closed")
        assert (event["count"], "127.0.0.1:5000" in event["connections"]) == (1, True)
        assert "gloo" in event["hint"]
    container = restore(containers, command=command(), volumes=VOLUMES)
    container.wait_for_event("Restored")
    assert container.event("connections inside the engine are closed")["count"] == 1
    assert after(container)["next"] in ("end of file", "BrokenPipeError", "ConnectionResetError")


HALF_CLOSED = command("half-closed")


def test_a_half_closed_connection_is_kept_with_net_raw_as_well(containers):
    """CRIU tells an end that the other one has been shut down by a raw socket."""
    published(containers, command=HALF_CLOSED, volumes=VOLUMES, options=(*CREATE, *NET_ADMIN))
    options = (*RESTORE, *NET_ADMIN, "--cap-add", "NET_RAW")
    container = restore(containers, command=HALF_CLOSED, volumes=VOLUMES, options=options)
    container.wait_for_event("Restored")
    assert after(container) == {"request": "all of it", "answer": "answer"}


def test_without_net_raw_a_half_closed_connection_is_closed(containers):
    published(containers, command=HALF_CLOSED, volumes=VOLUMES, options=(*CREATE, *NET_ADMIN))
    how = {"command": HALF_CLOSED, "volumes": VOLUMES, "options": (*RESTORE, *NET_ADMIN)}
    container = restore(containers, **how)
    container.wait_for_event("Restored")
    event = container.event("half-closed connections inside the engine are closed")
    assert (event["count"], "NET_RAW" in event["hint"]) == (1, True)
    assert after(container) == {"request": "", "answer": "BrokenPipeError"}
    event = restore(containers, settings={"ENGINE_CONNECTIONS": "refuse"}, **how).wait_for_event(FALLBACK)
    assert (event["reason"], "NET_RAW" in event["message"]) == ("ConnectionsOpen", True)


def test_where_none_may_be_lost_the_creation_and_the_restore_are_refused(containers):
    strict = {"ENGINE_CONNECTIONS": "refuse"}
    refused = create(containers, command=command(), volumes=VOLUMES, settings=strict)
    assert refused.exit_code() == 171
    event = refused.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("ConnectionsOpen", "freeze")
    published(containers, command=command(), volumes=VOLUMES, options=(*CREATE, *NET_ADMIN), settings=strict)
    event = restore(containers, command=command(), volumes=VOLUMES, settings=strict).wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("ConnectionsOpen", "check")


def test_a_registered_engine_is_named_at_its_creation_and_refused_where_none_may_be_lost(containers):
    """The pod's environment says which address is etcd's."""
    with network() as bridge:
        server = containers.start("python3", "-c", SERVER, network=bridge)
        server.wait_for_text("address ")
        outside = server.stdout.split()[1]
        how = {
            "command": command("127.0.0.1", outside), "volumes": VOLUMES, "network": bridge,
            "env": {"ETCD_ENDPOINTS": f"http://{outside}:6000"}, "options": (*CREATE, *NET_ADMIN),
        }  # fmt: skip
        refused = create(containers, settings={"ENGINE_CONNECTIONS": "refuse"}, **how)
        assert refused.exit_code() == 171
        event = refused.event("Checkpoint not created")
        assert (event["reason"], f"{outside}:6000 (etcd" in event["message"]) == ("ConnectionsOpen", True)
        event = published(containers, **how).event("engine is connected to a control plane")
        assert (event["planes"], "before it registers" in event["hint"]) == (["etcd"], True)
