"""The fault matrix, for buckets: every phase in which one is spoken to, and an answer that refuses or ends early.

Asserted each time, as in tests/faults/test_matrix_errors.py: the engine serves, or the pod exits with the code of what
happened; nothing is visible that was not there; no upload stays open.
"""

import pytest
from buckets import (  # noqa: F401 - fixtures among them
    WHEN_TOLD,
    by_way_of,
    containers,
    published,
    start,
    uploads,
    worker_image,
)
from containers import CREATE, RESTORE
from launcher import FALLBACK, HASH
from servers.between import Between

from conftest import RETRY
from dynamo_entry.errors import NotFound
from dynamo_entry.storage.s3 import S3Store


def refusal(code):
    return 403, f"<Error><Code>{code}</Code><Message>refused by a test</Message></Error>".encode()


#: Phase → which request is refused, with what, and the exit code. Parts leave as they fill: a small engine's at the end.
CREATE_FAULTS = {
    "prepare, a part": (lambda line: line.startswith("PUT") and "partNumber" in line, "AccessDenied", 176),
    "prepare": (lambda line: line.startswith("POST") and "uploads" in line, "AccessDenied", 176),
    "dump": (lambda line: line.startswith("PUT") and "partNumber" in line, "AccessDenied", 176),
    "dump, no room": (lambda line: line.startswith("PUT") and "partNumber" in line, "QuotaExceeded", 176),
    "publish": (lambda line: line.startswith("POST") and "uploadId" in line, "AccessDenied", 176),
}

#: Answers hold nothing of what they should from the moment that this event is logged, or from the start → where that may be noticed.
RESTORE_FAULTS = {
    "": {"open"},
    "open": {"plan", "delta", "restore", "fill"},  # what "check" looks at came with the end of the archive
}


@pytest.fixture
def between(rgw):
    made = []

    def stand_between():
        made.append(Between(rgw.port))
        return made[-1]

    yield stand_between
    for each in made:
        each.stop()


@pytest.mark.parametrize("fault", CREATE_FAULTS)
def test_a_creation_that_a_bucket_refuses_something(start, bucket, between, containers, fault):
    matches, answer, code = CREATE_FAULTS[fault]
    phase = fault.partition(",")[0]
    proxy = between()

    def refuse():
        proxy.fault = lambda method, path: refusal(answer) if matches(f"{method} {path}") else None

    if phase == "prepare":
        refuse()
    started = {
        after_dump: (
            f"s3+http://{bucket}/{after_dump}/{HASH}.tar",
            start(
                by_way_of(proxy, f"s3+http://{bucket}/{after_dump}/{HASH}.tar"), CREATE, SIGNAL_FILE="/tmp/ready",
                COMPRESSION="none", AFTER_DUMP=after_dump, command=WHEN_TOLD,
            ),
        )
        for after_dump in ("continue", "exit")
    }  # fmt: skip
    if phase != "prepare":
        for _, container in started.values():
            container.wait_for_event("engine started")
        refuse()
    (containers.checkpoints / "go").touch()
    for location, container in started.values():
        event = container.wait_for_event("Checkpoint not created")
        assert event["phase"] in {"dump": ("dump", "delta", "publish")}.get(phase, phase), container.output()
        assert event["reason"] == answer, container.output()
        assert "Traceback" not in container.stderr
        with S3Store(location, RETRY) as store, pytest.raises(NotFound):
            store.stat()
    serving, ending = (container for _, container in started.values())
    assert serving.json("/health", port=serving.port) == {"status": "ok"}
    assert ending.exit_code(20) == code, ending.output()
    for location, _ in started.values():
        assert uploads(location) == []


@pytest.mark.parametrize("after", RESTORE_FAULTS)
def test_a_restore_whose_answers_end_early(start, published, between, after):
    started = {}
    for on_failure in ("cold", "fail"):
        proxy = between()

        def fault(method, _path, on_failure=on_failure):
            is_time = not after or (on_failure in started and started[on_failure].event(after))
            return "empty" if method == "GET" and is_time else None

        proxy.fault = fault
        started[on_failure] = start(
            by_way_of(proxy, published), RESTORE, STALL_TIMEOUT="6", ON_FAILURE=on_failure
        )
    cold, fail = started["cold"], started["fail"]
    event = cold.wait_for_event(FALLBACK)
    assert event["reason"] == "ConnectionLost", cold.output()
    assert event["phase"] in RESTORE_FAULTS[after], cold.output()
    cold.wait_for_text(cold.json("/state", port=cold.port)["nonce"])
    assert fail.exit_code(20) == 175, fail.output()
    assert fail.event("Restore failed")["phase"] in RESTORE_FAULTS[after]
    assert "tiny: listening" not in fail.stdout
