"""Names of unix sockets, which others of the same namespace may have."""

import socket
import subprocess
import uuid

from containers import CREATE, ENGINE, LIFE_S, MACHINE, RESTORE, WORKER

from engines import Engine

ABSTRACT = r"""
import socket
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind("\0tmp/engine-dgram")
l = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); l.bind("\0tmp/nccl-socket-0-1"); l.listen()
c = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); c.connect("\0tmp/nccl-socket-0-1"); s, _ = l.accept()
wait()
c.send(b"hi")
done(s.recv(9))
"""


def test_an_abstract_name_that_is_taken_is_refused_by_name(containers):
    """As a port is; and it is not the archive's fault: once the other one has ended, the same archive is restored."""
    engine = Engine(containers, ABSTRACT)
    engine.created(options=CREATE)
    (containers.checkpoints / "state").mkdir(mode=0o777)
    name = f"dynamo-entry-test-{uuid.uuid4().hex[:12]}"
    subprocess.run(
        ["timeout", "-s", "KILL", str(LIFE_S), ENGINE, "run", "-d", "--rm", "--name", name, "--network", "none",
         *MACHINE, "--timeout", str(LIFE_S), "--entrypoint", "sleep", WORKER, str(LIFE_S)],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        how = {
            "network": f"container:{name}",
            "settings": {"STATE_DIR": "/checkpoints/state"},
        }
        first = engine.restored(**how)
        event = engine.refused(**how)
        assert event["reason"] == "NameTaken" and "@tmp/" in event["message"]
        first.kill()
        engine.restored(**how)
    finally:
        subprocess.run([ENGINE, "rm", "-f", "-t", "0", name], capture_output=True, check=False)


PATH = """
import socket
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(4)
wait()
done(socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1]), oct(os.stat(sys.argv[1]).st_mode), os.stat(sys.argv[1]).st_gid)
"""


def test_a_socket_on_a_volume_that_somebody_serves_is_refused_by_name(containers, tmp_path):
    """The file that an ended process left there is none: it is replaced."""
    engine = Engine(containers, PATH, "/volume/rpc.sock")
    engine.created(options=(*CREATE, "-v", f"{tmp_path}:/volume"))
    assert (tmp_path / "rpc.sock").is_socket()
    first = engine.restored(options=(*RESTORE, "-v", f"{tmp_path}:/volume"))
    event = engine.refused(options=(*RESTORE, "-v", f"{tmp_path}:/volume"))
    assert event["reason"] == "NameTaken" and "/volume/rpc.sock" in event["message"]
    assert first.process.poll() is None


DELETED = """
import socket
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(4); os.unlink(sys.argv[1])
wait()
done(s.getsockname())
"""


def test_the_socket_of_another_is_not_replaced_by_one_that_had_no_file_any_more(containers, tmp_path):
    """CRIU binds those, too, and removes the file afterwards."""
    engine = Engine(containers, DELETED, "/volume/rpc.sock")
    engine.created(options=(*CREATE, "-v", f"{tmp_path}:/volume"))
    engine.restored(options=(*RESTORE, "-v", f"{tmp_path}:/volume"))
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(tmp_path / "rpc.sock"))
        (tmp_path / "rpc.sock").chmod(0o666)
        another.listen()
        event = engine.refused(options=(*RESTORE, "-v", f"{tmp_path}:/volume"))
    assert event["reason"] == "NameTaken" and "/volume/rpc.sock" in event["message"]
    assert (tmp_path / "rpc.sock").is_socket()


def test_a_socket_gets_an_owner_that_can_be_given(containers, tmp_path):
    """A volume of another group, as fsGroup makes it, and a container that may give no file away."""
    engine = Engine(containers, PATH, "/volume/rpc.sock")
    places = []
    for group in (2000, 3000):
        place = tmp_path / str(group)
        place.mkdir()
        place.chmod(0o2777)
        subprocess.run(["chown", f"0:{group}", str(place)], check=True)
        place.chmod(0o2777)
        places.append(("--cap-drop", "ALL", "--group-add", str(group), "-v", f"{place}:/volume"))
    engine.created(options=(*places[0], *CREATE))
    container = engine.restored(options=(*places[1], *RESTORE))
    assert "after 0" in container.stdout and " 3000 DONE" in container.stdout, container.output()


def test_owners_of_pipes_and_sockets_are_no_obstacle(containers):
    """CRIU records and restores them since 4.3, where the container may give files away: 4.2 cannot fail here."""
    engine = Engine(
        containers,
        """
        import socket
        kept = [*os.pipe(), socket.create_server(("127.0.0.1", 0))]
        os.fchown(kept[0], 1000, 1000)
        os.fchown(kept[2].fileno(), 1000, 1000)
        wait()
        done({os.fstat(one if isinstance(one, int) else one.fileno()).st_uid for one in kept})
        """,
    )
    engine.created(options=CREATE)
    container = engine.restored(options=("--cap-drop", "CHOWN", *RESTORE))
    assert "after {0} DONE" in container.stdout, container.output()
