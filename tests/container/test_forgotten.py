"""What the kernel does not give away of a process: restored all the same, or refused by name."""

import json

import pytest
import shims
from containers import CREATE, RESTORE, ROOT, network
from launcher import (
    FALLBACK,
    create,
    doctor,
    published,
    restore,
    skip_what_this_machine_lacks,
)

ENGINE = ROOT / "tests" / "container" / "forgotten.py"
VOLUMES = (f"{ENGINE}:/forgotten.py:ro",)


def said(container, word):
    """What the engine says of what it holds."""
    container.wait(lambda: f"{word} " in container.stdout, word)
    line = next(line for line in container.stdout.splitlines() if line.startswith(f"{word} "))
    return json.loads(line.partition(" ")[2])


def command(*arguments):
    return ("python3", "/forgotten.py", *arguments)


def both(containers, *arguments, options=RESTORE):
    """What it said before, and after its restore."""
    creator = published(containers, command=command(*arguments), volumes=VOLUMES)
    container = restore(containers, command=command(*arguments), options=options, volumes=VOLUMES)
    container.wait(lambda: container.event("Restored") or container.event(FALLBACK), "end")
    assert container.event("Restored"), container.output()
    return said(creator, "before"), said(container, "after")


@pytest.mark.parametrize(
    "arguments",
    [
        ("reservation",),
        ("reservation_to_be_read",),
        ("memory_reserved_up_to_eight_tib",),
        ("timer_of_a_threads_time",),
        ("timer_of_an_ended_thread",),
        ("armed_timer_of_an_ended_thread",),
        ("many_zombies",),
        ("signals_of_a_thread",),
        ("many_descriptors", "1000"),
        ("many_descriptors", "9000"),
        ("socket_options",),
        ("options_of_other_sockets",),
        ("multicast",),
        ("names_of_any_bytes",),
        ("sockets_that_were_renamed",),
        ("files_of_processes",),
        ("files_of_the_pod",),
        ("pipes_in_flight",),
        ("pipes_in_flight_as_messages",),
    ],
    ids=" ".join,
)
def test_what_the_kernel_does_not_tell_is_restored(containers, arguments):
    before, after = both(containers, *arguments)
    assert after == before


#: What an engine holds → reason, and words of the message.
HELD = {
    "sysv_semaphore": ("SysvSemaphore", "key 0x5151"),
    "sysv_queue": ("SysvQueue", "key 0x5152"),
    "sysv_shm_detached": ("SysvShm", "key 0x5153"),
    "posix_queue": ("PosixQueue", "/queue"),
    "posix_queue_closed": ("PosixQueue", "/queue"),
    "posix_queue_without_a_name": ("PosixQueue", "/queue"),
    "secret_memory": ("SecretMemory", "memfd_secret"),
    "secret_memory_open": ("SecretMemory", "memfd_secret"),
    "thread_with_its_own_directory": ("ThreadUnshared", "working directory"),
    "thread_with_its_own_descriptors": ("ThreadUnshared", "descriptors"),
    "child_in_the_same_memory": ("MemoryShared", "shares the memory"),
    "child_in_the_same_directory": ("DirectoryShared", "shares the working directory"),
    "descriptor_of_a_process_outside": ("PidfdOutside", "pidfd of 1"),
    "descriptor_of_a_thread": ("PidfdOutside", "a thread"),
    "counter_of_single_steps": ("EventfdSemaphore", "EFD_SEMAPHORE"),
    "socket_by_its_path": ("PathHeld", "the socket /tmp/listening by O_PATH"),
    "fifo_by_its_path": ("PathHeld", "the fifo /tmp/fifo by O_PATH"),
    "terminal_of_a_session": ("DeviceOpen", "/dev/tty"),
    "fifo_that_its_owner_may_not_open": ("FileForbidden", "/tmp/fifo"),
    "file_in_memory_by_its_path": ("PathHeld", "memfd:memory"),
    "socket_bound_to_a_group": ("SocketKind", "multicast address"),
    "socket_with_a_name_from_elsewhere": ("SocketNameLost", "listening"),
    "socket_by_way_of_a_descriptor": ("SocketNameLost", "a descriptor of its own"),
    "file_of_a_thread": ("ProcessFile", "threads are made"),
    "directory_of_a_process_outside": ("ProcessFile", "/proc/1, of a process outside"),
    "file_of_a_process_outside": ("ProcessFile", "of a process outside"),
    "working_directory_of_a_process": ("ProcessFile", "works in /proc/1000"),
    "descriptors_in_a_socket_in_flight": ("DescriptorsNested", "on its way to process 1000"),
    "program_in_memory": ("ProgramInMemory", "memfd"),
    "huge_pages_that_are_not_written_to": ("HugePages", "may not write to"),
    "shared_huge_pages_of_which_none_is_left": ("HugePages", "none is left"),
    "file_in_memory_of_huge_pages": ("HugePages", "none is left"),
    "socket_with_a_program": ("SocketKind", "eBPF"),
    "its_own_program": ("ProgramHeld", "O_PATH"),
    "pipe_of_packets": ("PacketPipe", "O_DIRECT"),
    "unread_messages_of_the_kernel": ("QueueNotEmpty", "netlink"),
    "corked_datagrams": ("QueueNotEmpty", "UDP_CORK"),
    "netlink_group_of_a_high_number": ("SocketKind", "32"),
    "netlink_group_without_a_port": ("SocketKind", "not bound"),
    "message_of_known_senders": ("QueueNotEmpty", "SO_PASSCRED"),
    "empty_message": ("QueueNotEmpty", "is empty"),
    "client_that_has_sent_something": ("QueueNotEmpty", "not accepted and has sent"),
    "client_that_is_gone": ("QueueNotEmpty", "gone and was not accepted"),
    "timer_in_flight": ("DescriptorSent", "timerfd is in flight"),
    "watch_in_flight": ("DescriptorSent", "inotify is in flight"),
    "terminal_in_flight": ("DescriptorSent", "/dev/pts/"),
    "datagrams_in_flight": ("DescriptorSent", "datagrams"),
    "counter_of_single_steps_in_flight": ("DescriptorSent", "eventfd"),
    "socket_with_a_name_of_all_bytes": ("SocketNameLost", "108 bytes"),
    "socket_with_two_names": ("SocketNameLost", "another name"),
    "memory_reserved_beyond_eight_tib": ("MappingTooLarge", "8 TiB"),
    "file_that_its_owner_may_not_open": ("FileForbidden", "/tmp/key"),
    "mapped_file_that_its_owner_may_not_open": ("FileForbidden", "/dev/shm/key"),
    "file_in_a_directory_that_was_shut": ("FileForbidden", "/tmp/shut/file"),
    "filter_of_a_thread": ("SeccompFilter", "thread"),
    "device_outside_of_dev": ("DeviceOpen", "/tmp/fuse"),
    "breakpoint_in_a_library": ("Breakpoints", "libc.so"),
    "process_that_hides": ("ProcessHidden", "PR_SET_DUMPABLE"),
    "pid_namespace_for_children": ("OwnNamespace", "pid namespace for its children"),
    "time_namespace_for_children": ("OwnNamespace", "time namespace for its children"),
    "tunnel": ("DeviceOpen", "/dev/net/tun"),
    "bpf_map": ("AnonymousInode", "bpf-map"),
    "fanotify": ("AnonymousInode", "fanotify"),
    "deleted_directory_of_the_image": ("DeletedDirectory", "/srv"),
    "deleted_file_whose_directory_is_a_file_now": ("DeletedDirectory", "/tmp/directory is no directory"),
    "deleted_directory_that_was_made_again": ("DeletedDirectory", "holds /tmp/directory"),
    "deleted_working_directory_that_was_made_again": ("DeletedDirectory", "works in /tmp/directory"),
    "file_by_a_long_path": ("PathTooLong", "descriptor"),
    "mapped_file_by_a_long_path": ("PathTooLong", "mapped"),
    "working_directory_by_a_long_path": ("PathTooLong", "working directory"),
    "ring_of_a_closed_socket": ("SocketKind", "ring"),
    "file_that_is_leased": ("FileLeased", "/tmp/leased"),
    "deleted_file_with_another_name": ("DeletedLinked", "/dev/shm/one"),
}


#: Capabilities that an engine needs to get there.
TAKES = {
    "secret_memory": ("IPC_LOCK",),
    "pid_namespace_for_children": ("SYS_ADMIN",),
    "time_namespace_for_children": ("SYS_ADMIN",),
    "tunnel": ("MKNOD",),
    "device_outside_of_dev": ("MKNOD",),
    "bpf_map": ("SYS_ADMIN",),
    "ring_of_a_closed_socket": ("NET_RAW",),
    "socket_with_a_program": ("SYS_ADMIN",),
}


#: What else it takes.
OTHERWISE = {
    "device_outside_of_dev": ("--device", "/dev/fuse"),
    "process_that_hides": ("--user", "1000:1000"),
    "file_that_its_owner_may_not_open": ("--user", "1000:1000"),
    "fifo_that_its_owner_may_not_open": ("--user", "1000:1000"),
    "mapped_file_that_its_owner_may_not_open": ("--user", "1000:1000"),
    "file_in_a_directory_that_was_shut": ("--user", "1000:1000"),
}


@pytest.mark.parametrize("thing", HELD)
def test_what_would_be_lost_unseen_is_refused_by_name(containers, thing):
    """Before the freeze; nothing is published."""
    reason, words = HELD[thing]
    containers.checkpoints.chmod(0o777)
    options = (
        *CREATE,
        *(part for name in TAKES.get(thing, ()) for part in ("--cap-add", name)),
        *OTHERWISE.get(thing, ()),
    )
    container = create(containers, command=command(thing), volumes=VOLUMES, options=options)
    code = container.exit_code()
    skip_what_this_machine_lacks(container)
    event = container.event("Checkpoint not created")
    assert (code, event["reason"], event["phase"]) == (171, reason, "freeze"), container.output()
    assert words in event["message"]
    assert list(containers.checkpoints.iterdir()) == []


def test_what_others_left_in_the_ipc_namespace_is_no_harm(containers):
    """Made before the engine was started."""
    make = "import ctypes; ctypes.CDLL(None).semget(0x5151, 1, 0o1600)"
    holder = containers.start("sh", "-c", f"python3 -c '{make}'; echo made; sleep 200")
    holder.wait_for_text("made")
    published(
        containers, command=("python3", "/tiny.py"), options=(*CREATE, f"--ipc=container:{holder.name}")
    )


@pytest.mark.parametrize(("family", "module"), [(1, "unix_diag"), (2, "tcp_diag"), (16, "netlink_diag")])
def test_a_node_that_lacks_a_module_is_refused_by_its_name(containers, tmp_path, family, module):
    preload = shims.preloaded(tmp_path, ENGINE.with_name("sock_diag.c"), f"-DFAMILY={family}")
    container = create(containers, command=command("sockets"), volumes=VOLUMES, options=(*CREATE, *preload))
    assert container.exit_code() == 171, container.output()
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("KernelLacks", "freeze")
    assert module in event["message"]
    code, report, rows = doctor("--for", "create", options=(*CREATE, *preload))
    assert module in rows["sock_diag"]["value"]
    assert (code, report["create"]) == ((1, False) if family != 16 else (0, True))


@pytest.mark.parametrize("thing", ["library_in_tmp", "deleted_library_in_tmp", "program_in_tmp"])
def test_what_runs_from_a_mount_that_is_noexec_here_is_refused_by_name(containers, thing):
    options = ("--tmpfs", "/tmp:exec")
    published(containers, command=command(thing), volumes=VOLUMES, options=(*CREATE, *options))
    event = restore(
        containers, command=command(thing), volumes=VOLUMES, options=(*RESTORE, "--tmpfs", "/tmp:noexec")
    ).wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("MountNoexec", "check")
    assert "/tmp" in event["message"]


def test_start_times_and_cpu_times_are_those_of_the_new_processes(containers):
    """Lost: psutil's objects and pid files with a start time take a restored process for another one."""
    before, after = both(containers, "times")
    assert before == {"start time": True, "CPU time": True}
    assert after == {"start time": False, "CPU time": False}


def test_attributes_that_the_kernel_keeps_to_itself_are_lost(containers):
    before, after = both(containers, "attributes")
    kept = {name for name in before if before[name] == after[name]}
    nothing_here = {"KSM", "MDWE", "memory policy", "time slice"}  # where the kernel has none of these
    assert kept <= nothing_here | {"timer slack"}  # which CRIU restores since 4.3


def test_files_and_children_are_others_by_number_flags_and_signal(containers):
    before, after = both(containers, "identities")
    assert all(before.values()), before
    assert not any(after.values()), after


def test_what_is_asked_for_later_is_lost(containers):
    arguments, right = command("what_is_asked_for_later"), ("--cap-add", "IPC_LOCK")
    creator = published(containers, command=arguments, volumes=VOLUMES, options=(*CREATE, *right))
    container = restore(containers, command=arguments, volumes=VOLUMES, options=(*RESTORE, *right))
    before, after = said(creator, "before"), said(container, "after")
    assert all(before.values()), before
    assert not any(after.values()), after


def test_keys_and_seals_are_lost(containers):
    before, after = both(containers, "key_and_seal")
    assert (before, after) == ({"key": True, "seal": True}, {"key": False, "seal": False})


def test_what_nobody_has_read_yet_is_lost(containers):
    before, after = both(containers, "what_nobody_has_read_yet")
    assert all(before.values()), before
    assert not any(after.values()), after


def test_what_was_asked_of_the_kernel_is_lost(containers):
    before, after = both(containers, "what_was_asked_of_the_kernel")
    assert all(before.values()), before
    assert not any(after.values()), after


def test_what_does_not_travel_is_lost(containers):
    before, after = both(containers, "what_does_not_travel")
    assert all(before.values()), before
    assert not any(after.values()), after


def test_a_sandbox_of_landlock_is_lost(containers):
    before, after = both(containers, "landlock_against_directories")
    assert (before, after) == (True, False)


def test_where_a_sandbox_keeps_criu_from_dumping_the_message_says_so(containers):
    """It cannot be seen from outside; the engine goes on."""
    container = create(
        containers, command=command("landlock_against_reading"), volumes=VOLUMES,
        settings={"AFTER_DUMP": "continue"},
    )  # fmt: skip
    event = container.wait_for_event("Checkpoint not created")
    assert event["reason"] == "CriuDumpFailed" and "Landlock" in event["message"], container.output()
    assert event["retry"] is False, "the next one fails alike"


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("asynchronous_io", ("io_submit",)),
        ("attributes", ("memory policy", "KSM")),
        ("landlock_against_directories", ("Landlock",)),
        ("what_was_asked_of_the_kernel", ("IN_ONESHOT",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_seen_of_it_is_named_at_creation(containers, thing, words):
    creator = published(containers, command=command(thing), volumes=VOLUMES)
    named = creator.event("restores will not bring these back")["things"]
    assert all(any(word in line for line in named) for word in words), named


def test_a_changed_directory_that_cannot_be_listed_is_no_archive_without_it(containers):
    containers.checkpoints.chmod(0o777)
    container = create(
        containers,
        command=command("directory_that_cannot_be_listed"),
        volumes=VOLUMES,
        options=(*CREATE, "--user", "1000:1000"),
    )
    assert container.exit_code() == 174, container.output()
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["phase"], event["retry"]) == ("FileNotCaptured", "delta", False)
    assert "/tmp/private" in event["message"]


def test_fewer_open_files_than_the_engine_has_are_refused_by_name(containers):
    arguments = command("many_descriptors", "9000")
    published(containers, command=arguments, volumes=VOLUMES)
    options = (*RESTORE, "--ulimit", "nofile=1024:9020")
    container = restore(containers, command=arguments, options=options, volumes=VOLUMES)
    event = container.wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("DescriptorLimit", "check")
    assert "9020" in event["message"]


def test_a_file_of_an_interface_that_is_not_here_is_refused_by_name(containers):
    arguments = command("file_of_an_interface")
    with network() as bridge:
        published(containers, command=arguments, volumes=VOLUMES, network=bridge)
    event = restore(containers, command=arguments, volumes=VOLUMES).wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == ("KernelFileMissing", "check")
    assert "/mtu" in event["message"]


@pytest.mark.parametrize("thing", ["socket_on_a_link", "connection_on_a_link"])
def test_a_socket_on_a_link_is_bound_to_the_new_pods_address(containers, thing):
    arguments = command(thing)
    with network() as bridge:
        creator = published(containers, command=arguments, volumes=VOLUMES, network=bridge)
        container = restore(containers, command=arguments, volumes=VOLUMES, network=bridge)
        assert said(container, "after") == said(creator, "before")


#: What an engine has by a capability, or by a setting of its pod → what that takes, the reason where it is not, and words.
BY_RIGHT = {
    "locked_memory": (("--cap-add", "IPC_LOCK"), "MemlockLimit", "65536 KiB"),
    "marked_socket": (("--cap-add", "NET_ADMIN"), "SocketForbidden", "SO_MARK"),
    "urgent_socket": (("--cap-add", "NET_ADMIN"), "SocketForbidden", "priority 7"),
    "packet_socket": (("--cap-add", "NET_RAW"), "SocketForbidden", "packet"),
    "audit_socket": (("--cap-add", "AUDIT_WRITE"), "SocketForbidden", "protocol 9"),
    "ping_socket": (("--sysctl", "net.ipv4.ping_group_range=0 2147483647"), "SocketForbidden", "ping"),
}


@pytest.mark.parametrize("thing", BY_RIGHT)
def test_what_took_a_capability_is_refused_by_name_where_it_is_not(containers, thing):
    """And is restored where it is."""
    right, reason, words = BY_RIGHT[thing]
    without = (
        "--cap-drop",
        "NET_RAW",
        "--cap-drop",
        "AUDIT_WRITE",
        "--sysctl",
        "net.ipv4.ping_group_range=1 0",
        "--ulimit",
        "memlock=1048576",
    )
    creator = published(containers, command=command(thing), volumes=VOLUMES, options=(*CREATE, *right))
    event = restore(
        containers, command=command(thing), volumes=VOLUMES, options=(*RESTORE, *without)
    ).wait_for_event(FALLBACK)
    assert (event["reason"], event["phase"]) == (reason, "check"), event
    assert words in event["message"]
    assert thing != "audit_socket" or "seccomp" in event["message"]
    container = restore(containers, command=command(thing), volumes=VOLUMES, options=(*RESTORE, *right))
    assert said(container, "after") == said(creator, "before"), container.output()


def test_waits_end_early(containers):
    """As they do when a process is stopped and goes on (signal(7))."""
    before, after = both(containers, "waits_that_end_early")
    waits = ("nanosleep", "poll", "recv", "epoll_wait", "sigwaitinfo")
    assert (before, after) == ({}, dict.fromkeys(waits, "EINTR"))


@pytest.mark.parametrize(
    ("thing", "capability"),
    [("forced_buffer", "NET_ADMIN"), ("high_priority", "SYS_NICE"), ("real_time", "SYS_NICE")],
)
def test_what_took_a_capability_is_lost_where_it_is_not(containers, thing, capability):
    arguments, right = command(thing), ("--cap-add", capability)
    creator = create(containers, command=arguments, volumes=VOLUMES, options=(*CREATE, *right))
    code = creator.exit_code()
    skip_what_this_machine_lacks(creator)
    assert code == 0, creator.output()
    assert said(creator, "before") is True
    for options, kept in ((RESTORE, False), ((*RESTORE, *right), True)):
        container = restore(containers, command=arguments, volumes=VOLUMES, options=options)
        assert said(container, "after") is kept


def test_a_policy_that_criu_does_not_restore_is_lost(containers):
    arguments, options = command("deadline"), (*CREATE, "--cap-add", "SYS_NICE")
    creator = published(containers, command=arguments, volumes=VOLUMES, options=options)
    container = restore(
        containers, command=arguments, volumes=VOLUMES, options=(*RESTORE, "--cap-add", "SYS_NICE")
    )
    assert (said(creator, "before"), said(container, "after")) == (True, False)


def test_what_the_engine_changed_of_its_pod_is_lost(containers):
    """Mounts and children of the launcher's are named in the log at creation."""
    arguments = command("what_it_changed_of_the_pod")
    creator = published(
        containers, command=arguments, volumes=VOLUMES, options=(*CREATE, "--cap-add", "SYS_ADMIN")
    )
    named = " ".join(creator.event("restores will not bring these back")["things"])
    assert "tmpfs at /mnt/made" in named and "a child of the launcher" in named
    container = restore(containers, command=arguments, volumes=VOLUMES)
    assert set(said(creator, "before").values()) == {True}
    assert set(said(container, "after").values()) == {False}


def test_a_socket_whose_directory_was_renamed_has_no_name(containers):
    arguments = command("socket_whose_directory_was_renamed")
    creator = published(containers, command=arguments, volumes=VOLUMES)
    container = restore(containers, command=arguments, volumes=VOLUMES)
    assert (said(creator, "before"), said(container, "after")) == (True, False)
    assert creator.event("unix sockets have no file any more")["names"] == ["/tmp/new/listening"]
