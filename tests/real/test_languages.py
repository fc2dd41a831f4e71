"""Runtimes other than Python's own, as published: Node.js, a static program of Go, Ray."""

import pytest
from containers import CREATE, RESTORE, TAG, network
from launcher import published, restored

from engines import Engine

IMAGE = {"image": f"localhost/dynamo-entry/languages:{TAG}"}
NET_ADMIN = ("--cap-add", "NET_ADMIN")
READY = {"READY_URL": "http://127.0.0.1:8000/health", "SIGNAL_FILE": "", "MODE": "create"}

#: Go opens multipath TCP, which CRIU does not know.
SERVERS = {
    "node": (("node", "/opt/languages/server.js"), {}),
    "node with io_uring asked for": (("node", "/opt/languages/server.js"), {"UV_USE_IO_URING": "1"}),
    "go": (("/opt/languages/server",), {"GODEBUG": "multipathtcp=0"}),
}


@pytest.mark.parametrize(("command", "env"), SERVERS.values(), ids=SERVERS)
def test_a_server_goes_on_with_its_timers_and_children(containers, command, env):
    """Node's thread pool would have an io_uring, which is withheld while it is created; Go's build id lies elsewhere."""
    published(containers, command=command, env=env, settings=READY, **IMAGE)
    container = restored(containers, command=command, env=env, **IMAGE)
    child, ticks = container.get("/health").split()[:2]
    assert container.run_inside("cat", f"/proc/{int(child)}/comm").strip() == "sleep"
    container.wait(lambda: int(container.get("/health").split()[1]) > int(ticks), "ticks")
    assert container.get("/file").strip()


#: An actor on a node of its own: its calls go by TCP between four kinds of processes.
RAY = """
import ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, _temp_dir="/tmp/ray",
         configure_logging=False)
@ray.remote(num_cpus=0)
class Counter:
    count = 0
    def next(self):
        self.count += 1
        return self.count
counter = Counter.remote()
ray.get(counter.next.remote(), timeout=60)
print("ray is at", ray.util.get_node_ip_address(), flush=True)
wait()
try:
    said = [ray.get(counter.next.remote(), timeout=20) for _ in range(3)]
except Exception as error:
    said = type(error).__name__
done(said)
"""


@pytest.fixture(params=["loopback", "address"])
def at(request):
    """Where Ray finds itself: 127.0.0.1, or the pod's own address."""
    if request.param == "loopback":
        yield "none"
        return
    with network() as bridge:
        yield bridge


def test_ray_goes_on_with_net_admin(containers, at):
    engine = Engine(containers, RAY)
    how = {"network": at, "env": {"RAY_USAGE_STATS_ENABLED": "0"}, **IMAGE}
    shm = ("--shm-size", "256m", *NET_ADMIN)
    creator = engine.created(options=(*CREATE, *shm), **how)
    assert ("ray is at 127.0.0.1" in creator.stdout) == (at == "none"), creator.output()
    container = engine.restored(options=(*RESTORE, *shm), **how)
    assert "after [2, 3, 4]" in container.stdout, container.output()
