"""An engine that says which numbers it draws after its restore; with RESEED in the new pod, after context.reseed()."""

import json
import os
import queue
import random
import ssl
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, "/opt/engine")
import context


def in_a_thread(asked, answers):
    while asked.get():
        answers.put(ssl.RAND_bytes(8).hex())


def draw(asked, answers):
    asked.put(True)
    return {
        "random": random.random(),
        "uuid1": str(uuid.uuid1())[19:],
        "tempfile": next(tempfile._get_candidate_names()),
        "ssl": ssl.RAND_bytes(8).hex(),
        "ssl in a thread": answers.get(),
        "numpy": np.random.rand(),  # noqa: NPY002 - the global generator
        "torch": torch.rand(1).item(),
    }


def main():
    asked, answers = queue.Queue(), queue.Queue()
    threading.Thread(target=in_a_thread, args=(asked, answers), daemon=True).start()
    draw(asked, answers)
    Path(os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"]).touch()
    found = context.wait_for_restore()
    if "RESEED" in found.environment:
        print("seeded", json.dumps(context.reseed()), flush=True)
    print("drawn", json.dumps(draw(asked, answers)), flush=True)
    time.sleep(300)


if __name__ == "__main__":
    main()
