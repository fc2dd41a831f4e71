"""Archives to and from S3 (Ceph RGW) and an OCI registry on loopback, against the clients that people use.

Every side is a process of its own, one after another in each round, so that they share whatever the machine
does. Time is from the first request to the last byte: a Python's start and imports are not counted, a command's
start is. CPU seconds and peak memory are the client's own; the servers run on the same cores.

Downloads by the launcher are verified and go nowhere; all others go to files in memory (s3fs: into memory),
unverified but for oras and skopeo.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import container
import environment

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/support"))

from servers.registry import PASSWORD, USER, Registry  # noqa: E402 - found by the line above
from servers.s3 import ACCESS_KEY, SECRET_KEY, Rgw  # noqa: E402

#: the product's environment has the launcher, another one the peers, whose pins differ
OURS = [sys.executable, str(ROOT / "scripts/lib/bench/transfer/launcher.py")]
PEERS = [str(environment.PYTHON), str(ROOT / "scripts/lib/bench/transfer/peers.py")]
RCLONE = [str(Path(sys.executable).with_name("rclone")), "--config", "/dev/null"]
BUCKET, HASH = "bench", "d936422b4f953f99"


class S3:
    """A gateway with one archive in it."""

    def __init__(self, directory, options):
        self.options = options
        (directory / "rgw").mkdir()
        self.rgw = Rgw(directory / "rgw", memory_bytes=(4 * options.size + 4096) << 20)
        scheme, port = ("https", self.rgw.tls_port) if options.tls else ("http", self.rgw.port)
        self.endpoint = f"{scheme}://127.0.0.1:{port}"
        self.prefix = f"{'s3' if options.tls else 's3+http'}://127.0.0.1:{port}/{BUCKET}"
        os.environ.update(
            AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_DEFAULT_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true", AWS_CA_BUNDLE=str(self.rgw.certificate.ca),
            SSL_CERT_FILE=str(self.rgw.certificate.ca), ENDPOINT=self.endpoint, BUCKET=BUCKET,
            # RGW 16 answers 411 to the checksums that newer SDKs append to a body.
            AWS_REQUEST_CHECKSUM_CALCULATION="when_required", AWS_RESPONSE_CHECKSUM_VALIDATION="when_required",
        )  # fmt: skip
        self.file, self.target = directory / "archive.tar", directory / "target"

    def fill(self):
        """One archive, as a file and in a bucket."""
        run([*PEERS, "bucket"])
        run([*OURS, "make", self.file, self.options.size, self.options.content])
        run([*OURS, "put", f"{self.prefix}/{HASH}.tar", self.file])

    def stop(self):
        self.rgw.stop()

    def sides(self):
        """What is measured → side → the command, and what is done after it."""
        there, new = f"{HASH}.tar", "new.tar"
        remote = f":s3,provider=Ceph,env_auth=true,endpoint='{self.endpoint}',no_check_bucket=true:{BUCKET}"
        rclone = [*RCLONE, "--ca-cert", os.environ["AWS_CA_BUNDLE"]]
        return {
            "s3-get": {
                **ours(self.options, "get", f"{self.prefix}/{there}"),
                "launcher, in order": [*OURS, "stream", f"{self.prefix}/{there}"],
                "boto3": [*PEERS, "boto3-get", there, self.target],
                "s3fs": [*PEERS, "s3fs-cat", there],
                "obstore": [*PEERS, "obstore-get", there],
                "rclone": [*rclone, "copyto", f"{remote}/{there}", self.target],
            },
            "s3-put": {
                **ours(self.options, "put", f"{self.prefix}/{new}", self.file),
                "launcher, archive": [*OURS, "archive", f"{self.prefix}/{new}", self.file],
                "boto3": [*PEERS, "boto3-put", new, self.file],
                "s3fs": [*PEERS, "s3fs-put", new, self.file],
                "rclone": [*rclone, "copyto", self.file, f"{remote}/{new}"],
            },
        }

    def forget(self):
        """What a run left: memory of the server above all, which collects its garbage hours later by itself."""
        if self.target.exists():
            self.target.unlink()
        run([*PEERS, "delete", "new.tar"])
        self.rgw.collect_garbage()


class Oci:
    """A registry with one archive in it, and another one to push to."""

    def __init__(self, directory, options):
        self.options = options
        self.full, self.empty = Registry(directory / "full"), Registry(directory / "empty")
        authority = directory / "authorities.pem"
        authority.write_bytes(self.full.certificate.ca.read_bytes() + self.empty.certificate.ca.read_bytes())
        (directory / "certs").mkdir()
        shutil.copy(authority, directory / "certs/ca.crt")
        logins = {}
        for registry in (self.full, self.empty):
            config = json.loads((registry.docker_config(directory / "docker") / "config.json").read_text())
            logins.update(config["auths"])
        (directory / "docker/config.json").write_text(json.dumps({"auths": logins}))
        os.environ.update(
            DOCKER_CONFIG=str(directory / "docker"), SSL_CERT_FILE=str(authority),
            REQUESTS_CA_BUNDLE=str(authority), REGISTRY_USER=USER, REGISTRY_PASSWORD=PASSWORD,
        )  # fmt: skip
        self.certificates = directory / "certs"
        self.file, self.target = directory / "archive.tar", directory / "target"
        self.layers, self.image = directory / "layers", directory / "image"

    def fill(self):
        """One archive, as a file, in the registry, and as each peer's own files."""
        there = f"{self.full.name}/bench:{HASH}"
        run([*OURS, "make", self.file, self.options.size, self.options.content])
        run([*OURS, "put", f"oci://{there}", self.file])
        run([*PEERS, "oras-pull", there, self.layers])
        run([*self._skopeo("src"), f"docker://{there}", f"dir:{self.image}"])

    def stop(self):
        self.full.stop()
        self.empty.stop()

    def sides(self):
        there, new = f"{self.full.name}/bench:{HASH}", f"{self.empty.name}/bench:{HASH}"
        return {
            "oci-pull": {
                **ours(self.options, "get", f"oci://{there}"),
                "launcher, in order": [*OURS, "stream", f"oci://{there}"],
                "oras": [*PEERS, "oras-pull", there, self.target],
                "skopeo": [*self._skopeo("src"), f"docker://{there}", f"dir:{self.target}"],
            },
            "oci-push": {
                **ours(self.options, "put", f"oci://{new}", self.file),
                "launcher, archive": [*OURS, "archive", f"oci://{new}", self.file],
                "oras": [*PEERS, "oras-push", new, self.layers],
                "skopeo": [*self._skopeo("dest"), f"dir:{self.image}", f"docker://{new}"],
            },
        }

    def _skopeo(self, end):
        return [
            "skopeo", "copy", "--quiet", "--insecure-policy", f"--{end}-cert-dir={self.certificates}",
            f"--{end}-creds={USER}:{PASSWORD}",
        ]  # fmt: skip

    def forget(self):
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.rmtree(self.empty.root / "data", ignore_errors=True)


def ours(options, *words):
    """The launcher's command and, if asked for, that of another commit: side → command."""
    sides = {"launcher": [*OURS, *words]}
    if options.baseline:
        sides["baseline"] = ["env", f"PYTHONPATH={container.source_of(options.baseline)}", *OURS, *words]
    return sides


def run(argv):
    subprocess.run(
        [str(word) for word in argv], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )


def measure(argv):
    """One run: seconds as the process says or, where it does not, of all of it; CPU seconds and peak MiB."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=output,
            env={**os.environ, "PYTHONPATH": str(ROOT) if argv[: len(OURS)] == OURS else ""},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, argv))} ended with {process.returncode}")
        output.seek(0)
        said = output.read().strip()
    return {
        "seconds": float(said) if said else seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def summary(rows):
    seconds = [row["seconds"] for row in rows]
    return {
        "median_s": round(statistics.median(seconds), 3), "min_s": min(seconds), "max_s": max(seconds),
        "cpu_s": round(statistics.median(row["cpu_s"] for row in rows), 2),
        "peak_mib": round(max(row["peak_mib"] for row in rows)),
    }  # fmt: skip


def table(what, found, size):
    """A line a side, fastest peer = 1."""
    peers = {
        name: row["median_s"] for name, row in found.items() if not name.startswith(("launcher", "baseline"))
    }
    fastest = min(peers, key=peers.get) if peers else ""
    print(
        f"\n{what:20}{'median s':>9}{'min':>8}{'max':>8}{'MiB/s':>8}{'cpu s':>8}{'peak MiB':>10}   {fastest} = 1"
    )
    for name, row in found.items():
        ratio = f"{row['median_s'] / peers[fastest]:.2f}" if peers else ""
        print(
            f"{name:20}{row['median_s']:9.3f}{row['min_s']:8.3f}{row['max_s']:8.3f}{size / row['median_s']:8.0f}"
            f"{row['cpu_s']:8.2f}{row['peak_mib']:10}   {ratio}"
        )


def provide():
    """The servers, and the peers in an environment of their own."""
    environment.provide_servers()
    environment.provide()


def options_of():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the archive (1024)")
    parser.add_argument("--content", choices=("random", "half"), default="random", help="how it compresses")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", default="s3-get,s3-put,oci-pull,oci-push", help="comma-separated (all)")
    parser.add_argument("--sides", default="", help="comma-separated beginnings of their names (all)")
    parser.add_argument(
        "--baseline", default="", metavar="REF", help="a side more: the launcher of that commit"
    )
    parser.add_argument("--tls", action="store_true", help="S3 over https, too; the registry always is")
    parser.add_argument("--directory", default="/dev/shm", help="where servers and files live (/dev/shm)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


def rounds(server, options):
    """What → side → its runs."""
    sides = tuple(options.sides.split(",")) if options.sides else ("",)
    found = {}
    for number in range(options.rounds):
        for what, commands in server.sides().items():
            if what not in options.what.split(","):
                continue
            for name, argv in commands.items():
                if name.startswith(sides):
                    row = measure(argv)
                    server.forget()
                    found.setdefault(what, {}).setdefault(name, []).append(row)
                    print(
                        f"# {number + 1}/{options.rounds} {what} {name}: {json.dumps(row)}", file=sys.stderr
                    )
    return found


def main():
    options = options_of()
    provide()
    runs = {}
    for kind, server_of in (("s3", S3), ("oci", Oci)):
        if kind not in options.what:
            continue
        directory = Path(tempfile.mkdtemp(dir=options.directory))
        try:
            server = server_of(directory, options)
            try:
                server.fill()
                runs.update(rounds(server, options))
            finally:
                server.stop()
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    found = {what: {name: summary(rows) for name, rows in sides.items()} for what, sides in runs.items()}
    for what, sides in found.items():
        table(what, sides, options.size)
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name not in ("json", "directory")}
        options.json.write_text(
            json.dumps({"part": "storage", "options": asked, "summary": found, "runs": runs}, indent=1) + "\n"
        )


main()
