"""pyzmq as vLLM uses it: a request that is under way while the engine is frozen."""

from containers import CREATE, RESTORE, TAG

from engines import Engine

IMAGE = {"image": f"localhost/dynamo-entry/vllm:{TAG}"}
NET_ADMIN = ("--cap-add", "NET_ADMIN")

ROUTER_AND_DEALER = """
import zmq
if not os.fork():
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:29513")
    while True:
        who, text = router.recv_multipart()
        if text == b"slow":
            time.sleep(4)
        router.send_multipart([who, b"answer to " + text])
dealer = zmq.Context().socket(zmq.DEALER)
dealer.connect("tcp://127.0.0.1:29513")

def answer(limit_s):
    return dealer.recv().decode() if dealer.poll(limit_s * 1000) else "nothing"

dealer.send(b"first")
answer(20)
dealer.send(b"slow")
wait()
late = answer(10)
dealer.send(b"next")
done(late, "|", answer(10))
"""


def ran(containers, create_with, restore_with):
    engine = Engine(containers, ROUTER_AND_DEALER)
    engine.command = ("/opt/engine/bin/python", *engine.command[1:])
    creator = engine.created(options=create_with, **IMAGE)
    container = engine.restored(options=restore_with, **IMAGE)
    container.wait_for_text("DONE")
    return creator, container


def test_with_net_admin_the_answer_arrives(containers):
    _, container = ran(containers, (*CREATE, *NET_ADMIN), (*RESTORE, *NET_ADMIN))
    assert "after answer to slow | answer to next" in container.stdout


def test_without_it_the_request_under_way_is_lost_and_the_log_says_so(containers):
    creator, container = ran(containers, CREATE, RESTORE)
    assert "zmq" in creator.event("connections inside the engine will be closed")["hint"]
    assert "answer to slow" not in container.stdout
