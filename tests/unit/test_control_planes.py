"""Connections to etcd, NATS and a Kubernetes API are told from others by the pod's environment, or by their port."""

import pytest

from dynamo_entry.checks import connections, control_planes
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux.sock_diag import End

POD = {
    "ETCD_ENDPOINTS": "http://10.0.0.9:12379, https://etcd.example:22379,[fd00::9]:32379",
    "NATS_SERVER": "nats://user:secret@nats.example:14222",
    "KUBERNETES_SERVICE_HOST": "fd00:1::1",
    "KUBERNETES_SERVICE_PORT": "8443",
}


@pytest.mark.parametrize(
    ("address", "environ", "plane"),
    [
        (("10.0.0.9", 2379), {}, "etcd"),
        (("10.0.0.9", 2380), {}, "etcd"),
        (("10.0.0.9", 4222), {}, "NATS"),
        (("10.0.0.9", 6443), {}, "the Kubernetes API"),
        (("10.0.0.9", 443), {}, ""),
        (("10.0.0.9", 8000), {}, ""),
        (("10.0.0.9", 12379), POD, "etcd"),
        (("10.0.0.8", 12379), POD, ""),
        (("10.0.0.8", 22379), POD, "etcd"),
        (("fd00::9", 32379), POD, "etcd"),
        (("10.0.0.8", 14222), POD, "NATS"),
        (("fd00:1:0:0::1", 8443), POD, "the Kubernetes API"),
        (("fd00:1::1", 443), POD, "the Kubernetes API"),
        (("fd00:1::2", 8443), POD, ""),
        (("10.96.0.1", 443), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "the Kubernetes API"),
        (("10.0.0.9", 4222), {"ETCD_ENDPOINTS": "http://10.0.0.9:4222"}, "etcd"),
    ],
)
def test_whose_it_is_says_the_environment_or_else_the_port(address, environ, plane):
    assert control_planes.name_of(address, control_planes.known(environ)) == plane


@pytest.mark.parametrize(
    "value", ["", ",", "nonsense", "http://", "http://[::1", "host:port", "h:99999999", "//h:-1"]
)
def test_what_is_no_address_names_nothing(value):
    environ = {"ETCD_ENDPOINTS": value, "NATS_SERVER": value, "KUBERNETES_SERVICE_HOST": value}
    assert control_planes.name_of(("10.0.0.9", 8000), control_planes.known(environ)) == ""


@pytest.mark.parametrize(
    ("endpoint", "port"), [("https://etcd.example", 443), ("http://proxy.example:80", 80)]
)
def test_a_port_that_everybody_has_is_no_sign(endpoint, port):
    """Of a name only the port can be compared: everything on the web would be etcd."""
    assert (
        control_planes.name_of(("10.0.0.9", port), control_planes.known({"ETCD_ENDPOINTS": endpoint})) == ""
    )


HERE, ETCD, OTHER = ("10.0.0.8", 40000), ("10.0.0.9", 2379), ("10.0.0.9", 9000)
OURS = {1: (11, 4), 2: (11, 5), 3: (11, 6)}
PLANES = control_planes.known({})


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, event, **fields):
        self.lines.append((event, fields))


def check(ends, policy="close"):
    log = Log()
    found = connections.told_apart(ends, OURS, PLANES)
    connections.check_tcp(found, policy, may_keep=False, log=log)
    return dict(log.lines)


def test_an_engine_that_has_registered_is_named_with_what_to_do():
    lines = check([End(1, HERE, ETCD), End(2, ("10.0.0.8", 40001), OTHER)])
    fields = lines["engine is connected to a control plane"]
    assert fields["planes"] == ["etcd"]
    assert "10.0.0.9:2379" in fields["connections"]
    assert "9000" not in fields["connections"]
    assert "before it registers" in fields["hint"]
    assert "9000" in lines["connections will be closed"]["connections"]


def test_an_engine_without_such_a_connection_is_not():
    assert "engine is connected to a control plane" not in check([End(1, HERE, OTHER)])
    assert "engine is connected to a control plane" not in check(
        [End(1, HERE, ETCD), End(2, ETCD, HERE)]  # an etcd of its own travels along
    )
    assert "engine is connected to a control plane" not in check([End(1, ETCD, HERE)])


def test_where_none_may_be_lost_the_refusal_says_so():
    with pytest.raises(NotDumpable) as refused:
        check([End(1, HERE, ETCD)], policy="refuse")
    assert "10.0.0.9:2379 (etcd, process 11)" in refused.value.message
    assert "before it registers" in refused.value.hint
    with pytest.raises(NotDumpable) as refused:
        check([End(1, HERE, OTHER)], policy="refuse")
    assert "registers" not in refused.value.hint
