"""Libraries that talk to themselves over TCP, as published: what they do with a connection that is kept, or not."""

import pytest
from containers import CREATE, RESTORE, TAG

from engines import Engine

IMAGE = {"image": f"localhost/dynamo-entry/embed:{TAG}"}
NET_ADMIN = ("--cap-add", "NET_ADMIN")

#: Two ranks of torch.distributed: gloo's connections, and the TCPStore's.
GLOO = """
import datetime, torch, torch.distributed as dist
os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "USE_LIBUV": "0"}
rank = 0 if os.fork() else 1
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=20))
store = dist.distributed_c10d._get_default_store()

def together():
    x = torch.full((100,), float(rank + 1))
    dist.all_reduce(x)
    store.set(f"rank {rank}", str(x.sum().item()))
    return store.get(f"rank {1 - rank}").decode()

together()
if rank:
    while not glob.glob("/run/dynamo_entry/context.json"):
        time.sleep(.1)
else:
    wait()
try:
    said = " ".join(together() for _ in range(3))
except Exception as error:
    said = f"{type(error).__name__} {error}"
if rank:
    time.sleep(60)
done(said)
"""

#: A manager that is reached by TCP, and a proxy of it.
MANAGER = """
from multiprocessing.managers import SyncManager
manager = SyncManager(("127.0.0.1", 0), authkey=b"key")
manager.start()
shared = manager.dict(one=1)
shared["two"] = 2
wait()
try:
    shared["three"] = 3
    said = sorted(shared.keys())
except Exception as error:
    said = type(error).__name__
done(said)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [(GLOO, "after 300.0 300.0 300.0"), (MANAGER, "after ['one', 'three', 'two']")],
    ids=["gloo and TCPStore", "manager"],
)
def test_with_net_admin_they_go_on(containers, text, said):
    engine = Engine(containers, text)
    engine.created(options=(*CREATE, *NET_ADMIN), **IMAGE)
    container = engine.restored(options=(*RESTORE, *NET_ADMIN), **IMAGE)
    container.wait_for_text("DONE")
    assert said in container.stdout


@pytest.mark.parametrize("text", [GLOO, MANAGER], ids=["gloo and TCPStore", "manager"])
def test_without_it_they_fail_and_the_log_names_them(containers, text):
    engine = Engine(containers, text)
    creator = engine.created(options=CREATE, **IMAGE)
    hint = creator.event("connections inside the engine will be closed")["hint"]
    assert all(word in hint for word in ("gloo", "TCPStore", "managers"))
    container = engine.restored(**IMAGE)
    assert container.event("connections inside the engine are closed")
    container.wait_for_text("DONE")
    assert "300.0" not in container.stdout
    assert "three" not in container.stdout
