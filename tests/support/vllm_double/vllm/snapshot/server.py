"""The control flow of vLLM's snapshot server: ready file, release file, then it serves; its output ends before that."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from vllm.serving import serve

#: The launcher's file; the real one counts sleeps, too.
POLL_S, LIMIT_S = 0.05, 60


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--release-file", type=Path, required=True)
    control, rest = parser.parse_known_args()
    assert rest[1 if rest[0] == "--" else 0], "a model"
    print("vllm: paused", flush=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    new = control.ready_file.with_suffix(".tmp")
    new.write_text('{"token_ids": [1], "text": "x", "sampled_token_logprob": -1.0}')
    new.rename(control.ready_file)
    for _ in range(int(LIMIT_S / POLL_S)):
        if control.release_file.exists():
            marker = json.loads(control.release_file.read_text())
            assert marker["release"] is True
            serve(marker["host"], marker["port"], was_paused=True)
        time.sleep(POLL_S)
    sys.exit("no release")


if __name__ == "__main__":
    main()
