"""ai-dynamo's own worker, frontend and etcd, unmodified: frozen paused, restored twice, found and asked by the frontend.

vLLM is the CPU build, with a model of random weights; what it lacks is patched (images/engines/vllm/patch.py).
"""

import json
import signal

import pytest
from containers import CREATE, RESTORE, Containers, network
from launcher import FALLBACK, NAME, SETTINGS
from real import COMPLETION, DYNAMO_ENV, IMAGE, MEMORY, PLANE, WORKER

#: A metric of a worker's, and the label of those that the frontend sends.
REQUESTS, GENERATE = "dynamo_component_requests_total{", 'dynamo_endpoint="generate"'


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    made = Containers(tmp_path_factory.mktemp("real"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def archive(places):
    """Nothing is configured but location, hash and mode; no control plane can be reached while it is made."""
    creator = places.start(
        *WORKER,
        image=IMAGE,
        options=(*CREATE, *MEMORY),
        settings={**SETTINGS, "MODE": "create"},
        env=DYNAMO_ENV,
    )
    assert creator.exit_code(200) == 0, creator.output()
    published = creator.event("Checkpoint published")
    assert published, creator.output()
    return creator


@pytest.fixture(scope="module")
def bridge():
    with network() as name:
        yield name


@pytest.fixture(scope="module")
def plane(places, archive, bridge):
    """etcd and Dynamo's frontend, in a pod's network."""
    frontend = places.start(
        "-c", PLANE, image=IMAGE, options=("--entrypoint", "sh"), network=bridge, env=DYNAMO_ENV
    )
    frontend.wait_for_text("Starting HTTP(S) service", limit_s=100)
    return frontend


@pytest.fixture
def worker(places, plane, bridge):
    """Starts a worker in another pod's network: every replica has the ports that the frozen one had."""
    started = []
    address = plane.run_inside("hostname", "-I").split()[0]

    def worker(number, **settings):
        container = places.start(
            *WORKER, image=IMAGE, options=(*RESTORE, *MEMORY), network=bridge,
            settings={**SETTINGS, **settings},
            env={
                **DYNAMO_ENV, "ETCD_ENDPOINTS": f"http://{address}:2379", "DYN_SYSTEM_PORT": str(9090 + number),
                "POD_UID": f"pod-{number}",
            },
        )  # fmt: skip
        started.append(container)
        return container

    yield worker
    for container in started:
        if container.process.poll() is None:
            container.kill()


def instances(plane):
    """Workers that the frontend knows."""
    found = json.loads(plane.get("/health"))["instances"]
    return {one["instance_id"] for one in found if one["endpoint"] == "generate"}


def ask(plane):
    return json.loads(plane.get("/v1/completions", body=json.dumps(COMPLETION).encode(), limit_s=60))


def asked(plane):
    """Whether the frontend has an answer: workers that were killed are forgotten after a while."""
    try:
        return ask(plane)["choices"]
    except AssertionError:
        return None


def answered(container, port):
    """How many requests a worker has had of the frontend."""
    lines = container.get("/metrics", port=port).decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(REQUESTS) and GENERATE in line)


def is_registered(container, port):
    try:
        return container.get("/health", port=port, limit_s=1)
    except AssertionError:
        return None


def test_byte_code_is_not_in_the_archive(archive):
    """Thousands of files of it were most of the delta."""
    assert archive.event("delta")["paths"] < 100


def test_two_replicas_register_by_themselves_and_answer(plane, worker):
    """Each with an instance id, address and port of its own; a TERM ends one, and the other serves on."""
    first, second = worker(1), worker(2)
    for container in (first, second):
        container.wait_for_event("Restored", limit_s=120)
    plane.wait(lambda: len(instances(plane)) == 2, "two instances", 30)
    answers = {ask(plane)["choices"][0]["text"] for _ in range(6)}
    assert len(answers) == 1
    assert [answered(first, 9091), answered(second, 9092)] == [3, 3]
    first.signal(signal.SIGTERM)
    assert first.exit_code(60) == 0, first.output()
    plane.wait(lambda: len(instances(plane)) == 1, "one instance left", 30)
    assert ask(plane)["choices"][0]["text"] in answers


def test_a_damaged_archive_is_a_cold_start_that_serves(plane, places, worker):
    """It does not wait for a restore that is not going to come."""
    path = places.checkpoints / NAME
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-100_000])
        container = worker(3)
        container.wait_for_event(FALLBACK, limit_s=60)
        container.wait(lambda: is_registered(container, 9093), "registered worker", 150)
        plane.wait(lambda: asked(plane), "an answer", 60)
    finally:
        path.write_bytes(whole)
