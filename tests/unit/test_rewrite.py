"""What images are rewritten to, as far as it can be told without CRIU's message classes."""

import fcntl
import os
import resource
import struct
import threading
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from dynamo_entry.criu import images
from dynamo_entry.criu.rewrite import Rewriter, files, owners, sockets, stdio, tasks, unix
from dynamo_entry.criu.rewrite.pipes import Place, Refill
from dynamo_entry.criu.rewrite.sockets import Address
from dynamo_entry.errors import Incompatible


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([("eth0", "10.0.0.5")], [("eth0", "10.0.0.9")], {"10.0.0.5": "10.0.0.9"}),
        ([("eth0", "10.0.0.5")], [("eth0", "10.0.0.9"), ("eth1", "10.0.0.5")], {"10.0.0.5": "10.0.0.5"}),
        (
            [("eth0", "10.0.0.5"), ("net1", "172.16.0.5")],
            [("net1", "172.16.0.9"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.9", "172.16.0.5": "172.16.0.9"},
        ),
        ([("ens5", "10.0.0.5")], [("eth0", "10.0.0.9")], {"10.0.0.5": "10.0.0.9"}),
        (
            [("eth0", "10.0.0.5"), ("eth0", "10.0.0.6")],
            [("eth0", "10.0.0.8"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.8", "10.0.0.6": "10.0.0.9"},
        ),
        (
            [("eth0", "10.0.0.5"), ("eth0", "fd00::5"), ("eth0", "fe80::5")],
            [("eth0", "fe80::9"), ("eth0", "fd00::9"), ("eth0", "10.0.0.9")],
            {"10.0.0.5": "10.0.0.9", "fd00::5": "fd00::9", "fe80::5": "fe80::9"},
        ),
        ([("eth0", "fd00::5")], [("eth0", "10.0.0.9")], {}),
        ([], [("eth0", "10.0.0.9")], {}),
    ],
)
def test_an_address_moves_to_the_same_interface_and_family(old, new, expected):
    found = sockets.mapping([Address(*row) for row in old], [Address(*row) for row in new])
    assert {str(key): str(value) for key, value in found.items()} == expected


@pytest.mark.parametrize("address", ["10.88.0.5", "fd00::5"])
def test_addresses_survive_crius_words(address):
    for words in (1, 4) if ip_address(address).version == 4 else (4,):
        assert sockets._decoded(sockets._encoded(ip_address(address), words)) == ip_address(address)


LOST = ip_address("fd00::5")


@pytest.mark.parametrize(
    ("ports", "keeps", "is_refused"),
    [
        ((5000, 6000), False, False),
        ((0, 0), True, False),  # close_what_leads_out was there before
        ((5000, 6000), True, True),
        ((5000, 0), False, True),
        ((5000, 0), True, True),
    ],
    ids=["closed", "leads out", "kept", "listening", "listening beside kept ones"],
)
@pytest.mark.parametrize("by", ["address", "link"])
def test_a_connection_that_is_closed_needs_neither_address_nor_link(ports, keeps, is_refused, by):
    """Of a pod with two families or networks, in one with one of them."""
    isk = Socket(LOST, ports, ifname="net1" if by == "link" else "")
    lost = frozenset({LOST} if by == "address" else ())
    network = sockets.Network({}, lost, frozenset({"lo"}), lambda *_: False, keeps)
    if is_refused:
        with pytest.raises(Incompatible):
            sockets.move([isk], network)
    else:
        assert sockets.move([isk], network) == 0


class Socket(SimpleNamespace):
    """An entry of files.img for a TCP socket with these two ports."""

    def __init__(self, address, ports, ifname):
        words = sockets._encoded(address, 4)
        isk = SimpleNamespace(
            proto=6, state=1, src_addr=words, dst_addr=words[:], src_port=ports[0], dst_port=ports[1], ifname=ifname,
            opts=SimpleNamespace(so_bound_dev=""),
        )  # fmt: skip
        super().__init__(isk=isk, HasField="isk".__eq__, SerializeToString=lambda: repr(isk))


def test_pipes_are_recognized_by_their_inode():
    assert stdio.pipe_ids(["pipe:[77]", "/dev/null", "pipe:[4294967297]"]) == frozenset((77, 1))


class Creds(SimpleNamespace):
    """As in a ``core-*.img``."""

    def __init__(self, bounding):
        words = [sum(1 << number % 32 for number in bounding if number // 32 == word) for word in (0, 1)]
        super().__init__(cap_bnd=words, **{f"cap_{name}": [0, 0] for name in ("inh", "prm", "eff", "amb")})

    def ClearField(self, _name):  # noqa: N802 - protobuf's name
        pass


class Core(SimpleNamespace):
    def __init__(self, bounding):
        super().__init__(thread_core=Part(creds=Creds(bounding)))

    def HasField(self, _name):  # noqa: N802 - protobuf's name
        return False


class Part(SimpleNamespace):
    def HasField(self, name):  # noqa: N802 - protobuf's name
        return name in vars(self)


ALL, HERE = frozenset(range(41)), frozenset({1, 7, 21, 40})


@pytest.mark.parametrize(
    ("then", "may_drop", "attainable", "kept", "wider"),
    [
        (HERE, False, HERE, ALL, set()),
        ({21, 40}, False, HERE, ALL, {1, 7}),
        ({21, 40}, False, frozenset(), ALL, set()),  # no_new_privs
        ({21, 40}, True, HERE, {21, 40}, set()),
        ({0, 21, 40}, True, HERE, {0, 21, 40}, set()),
    ],
)
def test_a_bounding_set_is_as_it_was_or_it_is_known_what_it_has_more(then, may_drop, attainable, kept, wider):
    core = Core(then)
    grants = tasks.Grants(frozenset(), ALL, {}, None, may_drop=may_drop, attainable=attainable)
    assert tasks.widened([core], grants) == wider
    tasks.grant([core], grants, is_root=False, our_filters=frozenset())
    assert tasks._numbers(core.thread_core.creds.cap_bnd) == kept


def test_a_zombie_has_no_bounding_set():
    core = Core(HERE)
    del core.thread_core.creds
    assert not tasks.widened([core], tasks.Grants(frozenset(), ALL, {}, attainable=HERE))


@pytest.mark.parametrize("name", ["cap_inh", "cap_prm", "cap_eff", "cap_amb"])
def test_a_task_gets_no_capability_that_this_container_does_not_have(name):
    core = Core(HERE)
    wanted = Core({1, 7, 40}).thread_core.creds.cap_bnd
    setattr(core.thread_core.creds, name, wanted)
    tasks.grant(
        [core], tasks.Grants(frozenset({7, 21}), ALL, {}, None), is_root=False, our_filters=frozenset()
    )
    assert tasks._numbers(getattr(core.thread_core.creds, name)) == {7}


class Message(SimpleNamespace):
    """A message of pycriu's with the fields that it was made with; any other is empty."""

    def __getattr__(self, _name):
        return Message()

    def HasField(self, name):  # noqa: N802 - protobuf's name
        return name in vars(self)

    def ListFields(self):  # noqa: N802 - protobuf's name
        return [*vars(self).items()]


class Image:
    """A decoded image: (message, the bytes that follow it)."""

    def __init__(self, *entries):
        self.entries = list(entries)

    messages = property(lambda self: [message for message, _ in self.entries])

    def encode(self):
        return repr(self.entries).encode()


def test_what_criu_asks_for_twice_is_the_same_and_what_was_in_a_pipe_is_still_put_back():
    pipe = Message(id=7, pipe=Message(pipe_id=70))
    found = {
        "files.img": Image((pipe, b"")),
        "pstree.img": Image(),
        "ids-100.img": Image((Message(files_id=1), b"")),
        "fdinfo-1.img": Image((Message(id=7, fd=5), b"")),
        "pipes-data.img": Image((Message(pipe_id=70, bytes=5), b"hello")),
    }
    decoded = SimpleNamespace(
        names=frozenset(found),
        image=found.__getitem__,
        messages=lambda name: found[name].messages if name in found else [],
    )
    rewriter = Rewriter(decoded, 100, {}, tasks.Grants(frozenset(), frozenset(), {}))
    assert rewriter.image("pipes-data.img") == rewriter.image("pipes-data.img")
    assert rewriter.refills() == [Refill(Place(100, 5), b"hello")]


def test_the_first_thread_of_a_process_is_the_process():
    """CRIU writes anything there for a zombie: the same for two, or the pid of somebody else."""
    processes = [
        Message(pid=pid, threads=[first, *more]) for pid, first, *more in ((5, 72), (6, 72), (7, 7, 8))
    ]
    decoded = SimpleNamespace(image={"pstree.img": Image(*((one, b"") for one in processes))}.__getitem__)
    assert [task.threads for task in images.tasks(decoded)] == [[5], [6], [7, 8]]


def test_a_task_is_this_containers_by_label_group_and_limit():
    core = Core(HERE)
    cleared = []
    core.thread_core.creds.ClearField = cleared.append
    core.thread_core.creds.groups = [0, 1000]
    limit = SimpleNamespace(cur=900, max=1000)
    core.tc = Message(rlimits=SimpleNamespace(rlimits=[limit]))
    core.tc.ClearField = cleared.append
    core.HasField = lambda name: name == "tc"
    tasks.grant([core], tasks.Grants(frozenset(), ALL, {0: 500}, (7,)), is_root=True, our_filters=frozenset())
    assert {"lsm_profile", "apparmor_data", "loginuid", "oom_score_adj", "child_subreaper"} <= {*cleared}
    assert core.thread_core.creds.groups == [7]
    assert (limit.cur, limit.max) == (500, 500)


@pytest.mark.parametrize(
    ("withheld", "limit", "after"),
    [
        (None, (0, 1000), 0),
        (800, (0, 1000), 800),
        (800, (0, 700), 700),
        (resource.RLIM_INFINITY, (0, 1000), 1000),
        (800, (9, 1000), 9),
    ],
    ids=[
        "by the engine itself",
        "at creation",
        "more than it may have",
        "without a limit",
        "a limit of its own",
    ],
)
def test_a_limit_of_locked_memory_is_given_back_where_it_was_withheld(withheld, limit, after):
    core = Core(HERE)
    cur, most = limit
    limits = [SimpleNamespace(cur=0, max=0) for _ in range(resource.RLIMIT_MEMLOCK)]
    limits.append(SimpleNamespace(cur=cur, max=most))
    core.tc = Message(rlimits=SimpleNamespace(rlimits=limits))
    core.thread_core.creds.ClearField = core.tc.ClearField = lambda _: None
    core.HasField = lambda name: name == "tc"
    grants = tasks.Grants(frozenset(), ALL, {}, None, withheld_bytes=withheld)
    tasks.grant([core], grants, is_root=False, our_filters=frozenset())
    assert (limits[-1].cur, limits[0].cur) == (after, 0)


@pytest.mark.parametrize(
    ("clock", "thread", "after"),
    [
        (0xFFFFFFFE, 1003, ~1003 << 3 & 0xFFFFFFFF | 6),
        (0xFFFFFFFE, None, 0xFFFFFFFE),
        (0xFFFFFFFA, 1003, 0xFFFFFFFA),
        (1, 1003, 1),
    ],
    ids=["of a thread's time", "that signals the process", "of the process's time", "monotonic"],
)
def test_a_timer_of_a_threads_time_measures_the_thread_that_it_signals(clock, thread, after):
    timer = SimpleNamespace(clock_id=clock, notify_thread_id=thread, HasField=lambda _: thread is not None)
    tasks.measure_threads(SimpleNamespace(timers=SimpleNamespace(posix=[timer])))
    assert timer.clock_id == after


def test_huge_pages_are_counted_by_their_size_where_the_kernel_sets_them_aside():
    private, mega, giga, unreserved = 0x40022, 21 << 26, 30 << 26, 0x4000

    def area(flags, pages, size):
        return SimpleNamespace(flags=flags, start=1 << 40, end=(1 << 40) + pages * size)

    areas = [
        area(private | mega, 3, 2 << 20), area(private | giga, 1, 1 << 30), area(private | mega | unreserved, 9, 2 << 20),
        area(0x22, 5, 4096), area(0x40021 | mega, 7, 2 << 20),
    ]  # fmt: skip
    memfds = [
        SimpleNamespace(hugetlb_flag=4 | mega, size=4 << 20),
        SimpleNamespace(hugetlb_flag=0, size=4096),
    ]
    found = tasks.huge_pages([SimpleNamespace(vmas=areas)], memfds)
    assert found == {2 << 20: 5 * (2 << 20), 1 << 30: 1 << 30}


class Owned(SimpleNamespace):
    """A message of pycriu's that knows ``fields``, of which some are set: an unset number reads as 0."""

    def __init__(self, fields, values):
        super().__init__(DESCRIPTOR=SimpleNamespace(fields_by_name=dict.fromkeys(fields)), values=values)

    def __getattr__(self, name):
        if name not in self.DESCRIPTOR.fields_by_name:
            raise AttributeError(name)
        return self.values.get(name, 0)

    def ClearField(self, name):  # noqa: N802 - protobuf's name
        if name not in self.DESCRIPTOR.fields_by_name:
            raise ValueError(name)
        self.values.pop(name, None)


@pytest.mark.parametrize(
    ("field", "knows", "given", "left"),
    [
        ("pipe", ("uid", "gid"), {"uid": 7, "gid": 7}, {"uid": 7, "gid": 7}),
        ("pipe", ("uid", "gid"), {"uid": 7, "gid": 5}, {"uid": 7, "gid": 5}),
        ("pipe", ("uid", "gid"), {"uid": 7, "gid": 9}, {}),
        ("pipe", ("uid", "gid"), {"uid": 0, "gid": 7}, {}),
        ("pipe", ("uid", "gid"), {}, {}),  # from CRIU 4.2
        ("isk", ("uid",), {"uid": 7}, {"uid": 7}),
        ("isk", ("uid",), {"uid": 9}, {}),
        ("isk", ("uid",), {}, {}),
        ("pipe", (), {}, {}),  # read by CRIU 4.2
        ("isk", (), {}, {}),
        ("usk", ("uid",), {"uid": 9}, {"uid": 9}),
    ],
)
def test_owners_that_cannot_be_given_are_left_out(field, knows, given, left):
    """By a launcher that is user 7, of groups 7 and 5."""
    owned = Owned(knows, given)
    files.give_up_owners([SimpleNamespace(HasField=field.__eq__, **{field: owned})], 7, {7, 5})
    assert owned.values == left


def test_a_socket_whose_file_was_renamed_gets_the_names_that_it_has_now():
    """CRIU takes the file for deleted, and knows nothing of its mode and owner."""
    cleared = []
    found = [
        SimpleNamespace(ino=ino, name=b"/run/new\0", file_perms=SimpleNamespace(mode=1, uid=2, gid=3))
        for ino in (11, 12)
    ]
    for usk in found:
        usk.ClearField = cleared.append
    entries = [SimpleNamespace(HasField="usk".__eq__, usk=usk) for usk in found]
    unix.rename(entries, {"12": ["/run/a", 0o140720, 7, 8]})
    assert [usk.name for usk in found] == [b"/run/new\0", b"/run/a\0"]
    assert [vars(usk.file_perms) for usk in found] == [
        {"mode": 1, "uid": 2, "gid": 3},
        {"mode": 0o140720, "uid": 7, "gid": 8},
    ]
    assert cleared == ["deleted"]


@pytest.mark.parametrize(
    ("name", "directory", "path"),
    [
        (b"/run/a\0", "", "/run/a"), (b"/run/a\0b\0", "", "/run/a"), (b"a\0", "/run", "/run/a"), (b"a", "", ""),
        (b"\0a", "/run", ""), (b"", "/run", ""),
    ],
)  # fmt: skip
def test_the_path_of_a_socket_ends_where_the_kernel_ends_it(name, directory, path):
    assert unix.path_of(SimpleNamespace(name=name, name_dir=directory)) == path


def test_an_owner_that_is_a_thread_waits_until_there_is_one():
    """CRIU sets owners before it makes threads; a main thread is there in time."""
    owned = {1: (1005, 0), 2: (1000, 0), 3: (1005, 1), 4: (0, 0)}
    entries = [
        Message(id=number, pipe=Message(fown=Message(pid=pid, pid_type=kind)))
        for number, (pid, kind) in owned.items()
    ]
    assert owners.without_threads(entries, {1000}) == {1: 1005}
    assert [entry.pipe.fown.pid for entry in entries] == [0, 1000, 1005, 0]


def test_an_owner_that_is_a_thread_is_set_again():
    reader, writer = os.pipe()
    owner = threading.get_native_id()
    try:
        tables = {os.getpid(): [Message(id=7, fd=reader), Message(id=8, fd=writer)]}
        assert owners.set_again({7: owner}, tables) == []
        assert struct.unpack("ii", fcntl.fcntl(reader, 16, bytes(8))) == (0, owner)  # F_GETOWN_EX
    finally:
        os.close(reader)
        os.close(writer)
    missed = owners.set_again({7: owner}, {os.getpid(): [Message(id=7, fd=99999)]})
    assert missed == [f"descriptor 99999 of {os.getpid()}: Bad file descriptor"]
    assert owners.set_again({7: owner}, {}) == [f"one on its way between processes, for thread {owner}"]


@pytest.mark.parametrize(
    ("states", "keeps", "closed"),
    [
        ((1, 1), False, set()),
        ((5, 8), False, {1, 2}),  # TCP_FIN_WAIT2, TCP_CLOSE_WAIT
        ((5, 8), True, set()),
        ((1,), True, {1}),  # its other end is elsewhere
    ],
)
def test_connections_inside_are_kept_and_half_closed_ones_where_that_is_allowed(states, keeps, closed):
    host = [0x0100007F]
    ends = [(1, 5000, 6000), (2, 6000, 5000)]
    entries = [
        Message(
            id=number,
            isk=Message(proto=6, state=state, src_addr=host, src_port=here, dst_addr=host, dst_port=there),
        )
        for (number, here, there), state in zip(ends, states, strict=False)
    ]
    inside = sockets.close_what_leads_out(entries, keeps_half_closed=keeps)
    assert inside == (closed if len(states) > 1 else set())
    assert {entry.id for entry in entries if (entry.isk.state, entry.isk.dst_port) == (7, 0)} == closed
