"""Stores on loopback for benches inside a container, and what the container needs to reach them."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/support"))

from servers.registry import PASSWORD, USER, Registry  # noqa: E402 - found by the line above
from servers.s3 import ACCESS_KEY, SECRET_KEY, Rgw  # noqa: E402

from dynamo_entry.storage.s3 import S3Store  # noqa: E402


class _Store:
    def __init__(self):
        environment.provide_servers()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm"))

    def arguments(self):
        """Of the container engine."""
        words = ["--network=host"]
        for name, value in self.variables.items():
            words += ["-e", f"{name}={value}"]
        for place in self.places:
            words += ["-v", f"{place}:{place}:ro"]
        return words

    def close(self):
        self.server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class S3(_Store):
    """A bucket, over plain http."""

    def __init__(self, size_mib):
        super().__init__()
        (self.directory / "rgw").mkdir()
        self.server = Rgw(self.directory / "rgw", memory_bytes=(2 * size_mib + 4096) << 20)
        rclone = Path(sys.executable).with_name("rclone").resolve()
        endpoint = f"127.0.0.1:{self.server.port}"
        login = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
        }  # fmt: skip
        os.environ.update(login)
        S3Store(f"s3+http://{endpoint}/bench/x")._client.call("CreateBucket")  # noqa: SLF001
        self.places = [rclone]
        self.variables = {
            **login, "ARCHIVE_URL": f"s3+http://{endpoint}/bench/engine.tar",
            "IMAGES_URL": f"s3+http://{endpoint}/bench/images.tar", "RCLONE": rclone,
            "RCLONE_SOURCE": f":s3,provider=Ceph,env_auth=true,endpoint='http://{endpoint}':bench/images.tar",
        }  # fmt: skip


class Oci(_Store):
    """A repository, over TLS."""

    def __init__(self, _size_mib):
        super().__init__()
        self.server = Registry(self.directory / "registry")
        login = self.server.docker_config(self.directory / "docker")
        certificate = self.server.certificate.ca
        self.places = [login, certificate]
        self.variables = {
            "ARCHIVE_URL": f"oci://{self.server.name}/bench:engine", "ORAS_SOURCE": f"{self.server.name}/bench:images",
            "IMAGES_URL": f"oci://{self.server.name}/bench:images", "DOCKER_CONFIG": login,
            "SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate,
            "REGISTRY_USER": USER, "REGISTRY_PASSWORD": PASSWORD,
        }  # fmt: skip


STORES = {"s3": S3, "oci": Oci}
