"""Two real S3 servers: Ceph's RADOS Gateway for semantics, rclone for a second opinion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.request import urlopen

from servers import process, tls

ACCESS_KEY, SECRET_KEY = "testaccess", "testsecretkey"

_CEPH = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {root}
admin socket = {root}/$name.asok
log file = {root}/$name.log
keyring = {root}/keyring
auth allow insecure global id reclaim = false
mon warn on insecure global id reclaim allowed = false
mon warn on pool no redundancy = false
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 1
[mon.a]
mon data = {root}/mon
[osd.0]
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = {bytes}
osd class load list = *
osd class default list = *
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={certificate} ssl_private_key={key}
rgw data = {root}/rgw
"""


class Rgw:
    """One monitor, one storage daemon in memory, one gateway with http and https."""

    name = "rgw"

    def __init__(self, root: Path, *, memory_bytes: int = 8 << 30) -> None:
        self.root = root
        self.certificate = tls.issue(root)
        self._started: list[subprocess.Popen] = []
        self._fsid = str(uuid.uuid4())
        for name in ("mon", "osd", "rgw"):
            (root / name).mkdir()
        ports = {name: process.free_port() for name in ("mon_v1", "mon_v2", "http", "https")}
        self.port, self.tls_port, self._mon = ports["http"], ports["https"], ports["mon_v2"]
        self._monitor = f"[v2:127.0.0.1:{ports['mon_v2']},v1:127.0.0.1:{ports['mon_v1']}]"
        (root / "ceph.conf").write_text(
            _CEPH.format(
                root=root,
                fsid=self._fsid,
                bytes=memory_bytes,
                **ports,
                certificate=self.certificate.certificate,
                key=self.certificate.key,
            )
        )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for running in reversed(self._started):
            process.stop(running)

    def _start(self) -> None:
        keyring, monmap = self.root / "keyring", self.root / "monmap"
        osd = str(uuid.uuid4())
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._monitor, monmap)
        self._run(
            "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"
        )
        for name, *caps in (
            ("client.admin", "mon", "allow *", "osd", "allow *", "mgr", "allow *"),
            ("osd.0", "mon", "allow profile osd", "osd", "allow *"),
            ("client.rgw.a", "mon", "allow rw", "osd", "allow rwx"),
        ):
            pairs = [part for at in range(0, len(caps), 2) for part in ("--cap", *caps[at : at + 2])]
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *pairs)
        self._run("ceph-mon", *self._conf, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        process.wait_for(lambda: process.listens(self._mon), "monitor")
        self._run("ceph", *self._conf, "osd", "new", osd)
        self._run("ceph", *self._conf, "auth", "import", "-i", keyring)
        self._run("ceph-osd", *self._conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        process.wait_for(lambda: b" 1 up" in self._run("ceph", *self._conf, "osd", "stat"), "storage daemon")
        self._daemon("radosgw", "-n", "client.rgw.a")
        self.add_user("test", ACCESS_KEY, SECRET_KEY)
        process.wait_for(lambda: process.listens(self.port), "gateway")
        with urlopen(f"http://127.0.0.1:{self.port}/", timeout=60):
            pass

    def collect_garbage(self) -> None:
        """Free what was deleted; by itself the gateway does so hours later."""
        self._run("radosgw-admin", *self._conf, "gc", "process", "--include-all")

    def sent_bytes(self) -> int:
        """Of objects, since its start."""
        socket = self.root / "client.rgw.a.asok"
        return json.loads(self._run("ceph", "--admin-daemon", socket, "perf", "dump"))["rgw"]["get_b"]

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """A user who may do nothing until a bucket's policy says so."""
        self._run(
            "radosgw-admin", *self._conf, "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={access_key}", f"--secret-key={secret_key}",
        )  # fmt: skip

    @property
    def _conf(self) -> tuple[str, ...]:
        return ("-c", str(self.root / "ceph.conf"))

    def _run(self, *argv: object) -> bytes:
        done = subprocess.run([str(part) for part in argv], capture_output=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _daemon(self, *argv: str) -> None:
        self._started.append(
            process.start(argv[0], *self._conf, "-f", *argv[1:], log=self.root / "daemons.log")
        )


class Rclone:
    """``rclone serve s3``: no conditions, another multipart implementation, files in a directory."""

    name = "rclone"

    def __init__(self, root: Path) -> None:
        self.port = process.free_port()
        self.root = root
        binary = Path(sys.executable).with_name("rclone")
        self._process = process.start(
            str(binary), "serve", "s3", "--addr", f"127.0.0.1:{self.port}",
            "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(root),
            log=root.parent / "rclone.log", env={**os.environ, "RCLONE_CONFIG": ""},
        )  # fmt: skip
        process.wait_for(lambda: process.listens(self.port), "rclone")

    def stop(self) -> None:
        process.stop(self._process)
