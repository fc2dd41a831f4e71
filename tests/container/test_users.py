"""Users other than root, with the capabilities that engines and kubelets give them."""

import pytest
from containers import CREATE, RESTORE, WORKER
from launcher import SETTINGS, create, restore

from engines import Engine

USER = ("--user", "1000:0")
DROPPED = ("--cap-drop", "ALL")

#: Writes into directories of root's, as engines do, and keeps a file of its own.
TEXT = """
pathlib.Path("/tmp/made").write_text("made")
pathlib.Path("/var/tmp/made").write_text("made")
pathlib.Path("/dev/shm/made").write_text("made")
wait()
done(*(pathlib.Path(d, "made").read_text() for d in ("/tmp", "/var/tmp", "/dev/shm")))
"""


@pytest.mark.parametrize(
    "options", [(), DROPPED, ("--tmpfs", "/tmp"), ("--tmpfs", "/run:mode=1777", *DROPPED)], ids=str
)
def test_an_engine_of_any_user_is_restored(containers, options):
    """What differs in its times alone is somebody else's directory, and stays so."""
    engine = Engine(containers, TEXT)
    engine.created(options=(*DROPPED[: len(options) and 2], *USER, *CREATE, *options))
    container = engine.restored(options=(*options, *USER, *RESTORE))
    assert "after made made made" in container.stdout, container.output()


def test_a_scratch_directory_has_the_mode_that_the_place_gives_it(containers):
    """An emptyDir's is not a tmpfs', nor that of a pod with another fsGroup."""
    engine = Engine(
        containers, 'p = pathlib.Path("/cache/made")\np.write_text("made")\nwait()\ndone(p.read_text())'
    )
    how = {"settings": {"CAPTURE_PATHS": "/cache"}}
    engine.created(options=(*DROPPED, *USER, *CREATE, "--tmpfs", "/cache:mode=1777"), **how)
    container = engine.restored(options=(*DROPPED, *USER, *RESTORE, "--tmpfs", "/cache:mode=0777"), **how)
    assert "after made" in container.stdout, container.output()
    assert container.run_inside("stat", "-c", "%a", "/cache").split() == ["777"]


@pytest.mark.parametrize("directory", ["/srv/app", "/tmp"])
def test_a_file_of_roots_that_others_may_write_to(containers, directory):
    """As /etc/passwd of an OpenShift image, and what a script makes before it becomes another user."""
    engine = Engine(
        containers,
        f'p = pathlib.Path("{directory}/log")\np.write_text("engine")\nwait()\ndone(p.read_text())',
    )
    script = f"mkdir -p {directory}; echo image >{directory}/log; chmod 666 {directory}/log; {AS_USER}"
    engine.command = ("-c", script, "sh", *LAUNCHER, *engine.command)
    options = ("--entrypoint", "sh", *DROPPED, "--cap-add", "SETUID", "--cap-add", "SETGID")
    engine.created(options=(*options, *CREATE))
    container = engine.restored(options=(*options, *RESTORE))
    assert "after engine" in container.stdout, container.output()


def test_an_unlinked_file_that_its_owner_may_only_read(containers):
    """Root without DAC_OVERRIDE is an owner like any other."""
    engine = Engine(
        containers,
        """
        descriptor = os.open("/tmp/data", os.O_WRONLY | os.O_CREAT, 0o444)
        os.write(descriptor, b"x" * (1 << 20))
        held = os.open("/tmp/data", os.O_RDONLY)
        os.close(descriptor)
        os.unlink("/tmp/data")
        wait()
        done(len(os.read(held, 2 << 20).strip(bytes(1))))
        """,
    )
    engine.created(options=(*DROPPED, *CREATE))
    container = engine.restored(options=(*DROPPED, *RESTORE))
    assert f"after {1 << 20}" in container.stdout, container.output()


def test_a_file_of_the_users_own_in_a_directory_of_roots(containers):
    """It can be written to, and neither removed nor replaced there."""
    engine = Engine(
        containers, 'p = pathlib.Path("/srv/app/state")\np.write_text("engine")\nwait()\ndone(p.read_text())'
    )
    prepared = (
        "sh",
        "-c",
        "mkdir -p /srv/app; echo image >/srv/app/state; chown 1000 /srv/app/state; " + AS_USER,
    )
    options = (
        "--entrypoint",
        "sh",
        *DROPPED,
        "--cap-add",
        "SETUID",
        "--cap-add",
        "SETGID",
        "--cap-add",
        "CHOWN",
    )
    engine.command = (*prepared[1:], "sh", *LAUNCHER, *engine.command)
    engine.created(options=(*options, *CREATE))
    container = engine.restored(options=(*options, *RESTORE))
    assert "after engine" in container.stdout, container.output()


def test_secure_bits_are_no_obstacle(containers):
    """PR_SET_KEEPCAPS takes no capability, to set all of them again takes one: CRIU failed at that."""
    engine = Engine(
        containers,
        """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        wait()
        done(libc.prctl(7, 0, 0, 0, 0))
        """,
    )
    engine.created(options=(*DROPPED, *USER, *CREATE))
    container = engine.restored(options=(*DROPPED, *USER, *RESTORE))
    assert "after 0" in container.stdout, container.output()


def test_another_group_is_refused_by_name(containers):
    """Before files are put in place; who may have any group is restored."""
    engine = Engine(containers, "wait()\ndone(os.getgid())")
    engine.created(options=(*DROPPED, "--user", "1000:100", *CREATE))
    event = engine.refused(options=(*DROPPED, "--user", "1000:200", *RESTORE))
    assert (event["reason"], event["phase"]) == ("UserDiffers", "check")
    assert "group: 100 at creation, 200 here" in event["message"]


#: As podman does with --user.
AS_USER = (
    "exec setpriv --reuid 1000 --regid 0 --clear-groups --inh-caps=-all,+sys_ptrace,+checkpoint_restore "
    '--ambient-caps=-all,+sys_ptrace,+checkpoint_restore "$@"'
)

#: As containerd does with runAsUser.
IN_BOUNDING_SET = (
    'exec setpriv --reuid 1000 --regid 0 --clear-groups --inh-caps=-all --ambient-caps=-all "$@"'
)

LAUNCHER = ("/opt/dynamo_entry/bin/python", "-I", "-m", "dynamo_entry", "--")

#: images/Containerfile, FILE_CAPABILITIES.
WITH_FILE_CAPABILITIES = """
cp --remove-destination "$(readlink -f /opt/dynamo_entry/bin/python3)" /opt/dynamo_entry/bin/python3
python3 -c 'import os, struct; os.setxattr("/opt/dynamo_entry/bin/python3", "security.capability", struct.pack("<5I", 0x02000000, 1 << 19, 0, 1 << 40 - 32, 0))'
"""


@pytest.mark.parametrize("start", [create, restore])
def test_capabilities_that_are_not_in_effect_are_not_asked_for_again(containers, start):
    """They are in the bounding set: another line of the pod's spec would change nothing."""
    containers.checkpoints.chmod(0o777)
    if start is restore:  # whatever it is: it is not looked at
        (containers.checkpoints / "d936422b4f953f99.tar").touch()
    container = start(
        containers, options=("--entrypoint", "sh", *CREATE),
        command=("-c", IN_BOUNDING_SET, "sh", *LAUNCHER, "sleep", "60"),
        settings={**SETTINGS, "ON_FAILURE": "fail"},
    )  # fmt: skip
    event = container.wait_for_event("Checkpoint not created" if start is create else "Restore failed")
    assert event["reason"] == "CapabilityMissing"
    assert "bounding set and not in effect" in event["message"] and "capabilities.add" not in event["message"]
    assert "runAsUser: 0" in event["message"] and "FILE_CAPABILITIES" in event["message"]


def test_capabilities_of_the_launchers_file_take_effect(containers):
    """The engine gets all variables, those that the C library takes from such a program among them, and no capability."""
    engine = Engine(
        containers,
        """
        wait()
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        done(os.environ.get("LD_LIBRARY_PATH"), status["CapEff"].strip())
        """,
    )
    script = WITH_FILE_CAPABILITIES + IN_BOUNDING_SET
    engine.command = ("-c", script, "sh", *LAUNCHER, *engine.command)
    how = {"env": {"LD_LIBRARY_PATH": "/nowhere"}}
    engine.created(options=("--entrypoint", "sh", *CREATE), **how)
    container = engine.restored(options=("--entrypoint", "sh", *RESTORE), **how)
    assert "after /nowhere 0000000000000000" in container.stdout, container.output()


#: In effect at once, on CRIU as well: by hand, as setcap(8) with +ep does.
WITH_CAPABILITIES_IN_EFFECT = """
cp --remove-destination "$(readlink -f /opt/dynamo_entry/bin/python3)" /opt/dynamo_entry/bin/python3
for program in /opt/dynamo_entry/bin/python3 "$(command -v criu)"; do
    python3 -c 'import os, struct, sys; os.setxattr(sys.argv[1], "security.capability", struct.pack("<5I", 0x02000001, 1 << 19, 0, 1 << 40 - 32, 0))' "$program"
done
"""


@pytest.mark.parametrize("more", [(), ("--security-opt", "no-new-privileges")], ids=["", "no_new_privs"])
def test_capabilities_that_the_file_puts_into_effect_reach_criu(containers, more):
    """Through the shell that starts it, which is a program without any."""
    engine = Engine(containers, "wait()\ndone(os.geteuid())")
    engine.command = ("-c", WITH_CAPABILITIES_IN_EFFECT + IN_BOUNDING_SET, "sh", *LAUNCHER, *engine.command)
    engine.created(options=("--entrypoint", "sh", *more, *CREATE))
    container = engine.restored(options=("--entrypoint", "sh", *more, *RESTORE))
    assert "after 1000" in container.stdout, container.output()


def test_a_launcher_with_file_capabilities_starts_where_there_are_none(containers):
    container = containers.start(
        "-c", WITH_FILE_CAPABILITIES + "exec setpriv --bounding-set=-sys_ptrace,-checkpoint_restore "
        '--reuid 1000 --clear-groups "$@"', "sh", *LAUNCHER, "echo", "served", options=("--entrypoint", "sh"),
        image=WORKER,
    )  # fmt: skip
    assert container.exit_code() == 0, container.output()
    assert "served" in container.stdout


def test_a_port_that_this_user_may_not_bind_here_is_refused_by_name(containers):
    engine = Engine(containers, 'import socket\nl = socket.create_server(("0.0.0.0", 80))\nwait()\ndone()')
    engine.created(options=(*USER, *CREATE, "--sysctl", "net.ipv4.ip_unprivileged_port_start=0"))
    event = engine.refused(options=(*USER, *RESTORE, "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024"))
    assert event["reason"] == "PortReserved" and "port 80 " in event["message"]
