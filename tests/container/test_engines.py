"""Real engines, a PyTorch server and llama-server: the same answers before and after, and none of them lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from containers import CREATE, RESTORE, TAG, Containers
from launcher import SETTINGS


@dataclass(frozen=True)
class Engine:
    """How an engine is started and asked, and which fields of its answer depend on the request alone."""

    image: str
    command: tuple[str, ...]
    port: int
    request: tuple[str, dict]
    essence: tuple[str, ...]

    def start(self, containers: Containers, settings: dict[str, str], options: tuple[str, ...]):
        return containers.start(
            *self.command,
            image=f"localhost/dynamo-entry/{self.image}:{TAG}",
            settings={**SETTINGS, **settings},
            options=options,
        )

    def answer(self, container) -> dict:
        path, body = self.request
        answer = json.loads(container.get(path, port=self.port, limit_s=120, body=json.dumps(body).encode()))
        return {name: answer[name] for name in self.essence}


ENGINES = {
    "pytorch": Engine(
        "embed", ("python3", "server.py"), 8000, ("/embed", {"text": "fast pod startup"}), ("model", "vector")
    ),
    "llama": Engine(
        "llama",
        ("llama-server --model /models/random.gguf --port 8080",),
        8080,
        ("/completion", {"prompt": "Once upon", "n_predict": 16, "temperature": 0, "seed": 1}),
        ("content", "tokens_predicted", "tokens_evaluated"),
    ),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_real_engine_answers_as_before(containers, name):
    """An engine that serves on after its dump and one restored elsewhere give byte-identical answers."""
    engine = ENGINES[name]
    ready = f"http://127.0.0.1:{engine.port}/health"
    creator = engine.start(
        containers, {"MODE": "create", "READY_URL": ready, "AFTER_DUMP": "continue"}, CREATE
    )
    creator.wait_for_event("Checkpoint published", 120)
    before = engine.answer(creator)
    creator.kill()

    container = engine.start(containers, {"READY_URL": ready}, RESTORE)
    container.wait_for_event("Restored")
    assert engine.answer(container) == before
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engine.answer(container), range(8)))
    assert answers == [before] * 8
