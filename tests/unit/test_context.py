"""What an engine reads after a restore, and what hooks are told."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dynamo_entry import context, scratch
from dynamo_entry.engine import hooks
from dynamo_entry.errors import CheckpointError
from dynamo_entry.settings import Settings
from dynamo_entry.worker import context_file


def write(path, activation_id="a1", **environment):
    fields = {
        "activation_id": activation_id, "restored_at": "2025-11-25T18:00:00Z", "archive": "d", "hostname": "h",
        "addresses": [["eth0", "10.0.0.7"]], "environment": environment,
    }  # fmt: skip
    new = path.with_suffix(".new")
    new.write_text(json.dumps(fields))
    new.rename(path)


def test_an_engine_that_was_never_restored_has_no_context(tmp_path):
    assert context.read(str(tmp_path / "none")) is None


def test_a_place_that_is_somebody_elses_is_passed_over(tmp_path, monkeypatch):
    """The file is in the first one that could be written to."""
    (tmp_path / "file").touch()
    places = [str(tmp_path / "file" / "context.json"), str(tmp_path / "c")]
    monkeypatch.setattr(context, "PATHS", places)
    assert context.read() is None
    write(tmp_path / "c")
    assert context.read().activation_id == "a1"
    with pytest.raises(NotADirectoryError):
        context.read(places[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other users")
def test_what_another_user_left_in_such_a_place_is_not_believed(tmp_path, monkeypatch):
    write(tmp_path / "theirs", "a0", LD_PRELOAD="/tmp/x.so")
    os.chown(tmp_path / "theirs", 1000, 1000)
    write(tmp_path / "ours", "a1")
    monkeypatch.setattr(context, "PATHS", [str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert context.read().activation_id == "a1"
    assert context.read(str(tmp_path / "theirs")).activation_id == "a0", "it was asked for by its name"


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"addresses": [1]}'])
def test_what_is_no_context_is_a_value_error(tmp_path, text):
    (tmp_path / "c").write_text(text)
    with pytest.raises(ValueError, match=r"context|Expecting"):
        context.read(str(tmp_path / "c"))


def test_it_is_written_where_engines_look_for_it(tmp_path, monkeypatch):
    """Whatever WORK_DIR says, and where the first place cannot be written to."""
    (tmp_path / "run").touch()  # no directory can be made in there
    places = [f"{tmp_path}/{name}/dynamo_entry/context.json" for name in ("run", "tmp")]
    monkeypatch.setattr(context, "PATHS", places)
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    settings = Settings(work_dir=str(tmp_path / "scratch"))
    written = context_file.write(settings, "d")
    assert written.path == places[1]
    assert context.read().activation_id == written.activation_id
    context_file.remove(settings)
    assert context.read() is None


def test_where_no_such_place_can_be_had_it_is_in_the_scratch_directory(tmp_path, monkeypatch):
    (tmp_path / "run").touch()
    monkeypatch.setattr(context, "PATHS", [f"{tmp_path}/run/dynamo_entry/context.json"])
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    settings = Settings(work_dir=str(tmp_path / "scratch"))
    own = f"{tmp_path}/scratch/dynamo_entry-{os.geteuid()}"
    assert context_file.write(settings, "d").path == f"{own}/context.json"


def test_a_restored_engine_is_told_what_a_cold_start_would_get(monkeypatch):
    """DROP_ENV and the store's credentials are the launcher's alone, also where an engine takes a new identity."""
    given = {"POD_UID": "u", "NATS_SERVER": "nats://user:key@n", "AWS_SECRET_ACCESS_KEY": "k", "DYNAMO_CHECKPOINT_HASH": "h",
             "SNAPSHOT_RESTORE_STANDBY": "1", "DYN_NAMESPACE": "n"}  # fmt: skip
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    monkeypatch.setattr(context_file.proc, "environment", lambda pid: encoded)
    found = context_file.environment(Settings(drop_env=("NATS_SERVER",)))
    assert found == {"POD_UID": "u", "DYN_NAMESPACE": "n"}


def test_changed_is_what_is_new_or_other_here(tmp_path):
    write(tmp_path / "c", same="1", other="2", new="3")
    found = context.read(str(tmp_path / "c"))
    assert found.changed({"same": "1", "other": "1", "gone": "1"}) == {"other": "2", "new": "3"}
    assert found.addresses == (("eth0", "10.0.0.7"),)


def test_waiting_ends_with_the_next_restore_and_not_with_the_known_one(tmp_path):
    path = tmp_path / "c"
    write(path, "a1")
    assert context.wait_for_restore(0, since="a1", path=str(path)) is None
    assert context.wait_for_restore(0, path=str(path)).activation_id == "a1"
    later = threading.Timer(0.05, write, (path, "a2"))
    later.start()
    assert context.wait_for_restore(10, since="a1", path=str(path)).activation_id == "a2"
    later.join()


def test_a_hook_gets_the_path_as_a_variable(tmp_path):
    told = {"path": "/run/x", "activation_id": "a"}
    hooks.call("POST_RESTORE", f'test "$DYNAMO_ENTRY_CONTEXT" = /run/x && touch {tmp_path}/yes', 10, told)
    assert (tmp_path / "yes").exists()
    with pytest.raises(CheckpointError, match="exit code 4"):
        hooks.call("POST_RESTORE", "exit 4", 10, told)


def test_a_url_gets_path_and_id_as_json():
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    told = {"path": "/run/x", "activation_id": "a"}
    hooks.call("POST_RESTORE", f"http://127.0.0.1:{server.server_port}/", 10, told)
    thread.join()
    server.server_close()
    assert bodies == [told]
