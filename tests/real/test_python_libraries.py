"""Libraries of Python, as published, that a restore could trip: gunicorn's heartbeats, onnxruntime's database."""

import time

import pytest
from containers import CREATE, RESTORE, TAG

from engines import Engine

IMAGE = {"image": f"localhost/dynamo-entry/languages:{TAG}"}

#: Two workers, of which the master hears by the time of a file.
GUNICORN = """
import subprocess, urllib.request
pathlib.Path("/tmp/app.py").write_text(
    "import os\\ndef app(environ, start):\\n    start('200 OK', [])\\n    return [str(os.getpid()).encode()]\\n"
)
subprocess.Popen([sys.executable, "-m", "gunicorn", "-w", "2", "-b", "127.0.0.1:9000", "--chdir", "/tmp",
                  "--timeout", sys.argv[1], "app:app"])
def workers():
    found, deadline = set(), time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < deadline:
        try:
            found.add(urllib.request.urlopen("http://127.0.0.1:9000/", timeout=5).read())
        except OSError:
            time.sleep(.1)
    return found
before = workers()
wait()
time.sleep(2)
after = workers()
done(len(before), len(after), "the same" if after == before else "others")
"""


@pytest.mark.parametrize(("limit_s", "workers"), [("3", "others"), ("0", "the same")])
def test_gunicorn_takes_the_pause_for_a_hang_unless_its_limit_is_off(containers, limit_s, workers):
    """The monotonic clock goes on while the engine is an archive; it serves either way."""
    engine = Engine(containers, GUNICORN, limit_s)
    engine.created(**IMAGE)
    time.sleep(5)
    container = engine.restored(**IMAGE)
    assert f"after 2 2 {workers}" in container.stdout, container.output()


#: An inference, by a model of one operation.
ONNXRUNTIME = """
import numpy, onnxruntime
def field(number, value):
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value
put = field(2, field(1, field(1, 1) + field(2, field(1, field(1, 1)))))
graph = (field(1, field(1, b"x") + field(2, b"y") + field(4, b"Identity")) + field(2, b"graph")
         + field(11, field(1, b"x") + put) + field(12, field(1, b"y") + put))
model = field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 13))
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
time.sleep(1)
wait()
done(session.run(None, {"x": numpy.array([3], numpy.float32)})[0])
"""


def test_onnxruntime_binds_no_restore_by_a_database_in_a_shared_cache(containers, tmp_path):
    """Its telemetry keeps one open, which every other process of the same cache changes."""
    engine = Engine(containers, ONNXRUNTIME)
    cache = ("-v", f"{tmp_path}:/cache", "-e", "XDG_CACHE_HOME=/cache")
    creator = engine.created(options=(*CREATE, *cache), **IMAGE)
    assert not creator.event("restores will need these files unchanged"), creator.output()
    assert "after [3.]" in engine.restored(options=(*RESTORE, *cache), **IMAGE).stdout
