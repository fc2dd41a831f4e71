"""DynamoCheckpoints whose engine plays the launcher.

The launcher is a stand-in, `exec "$@"`: the engine's command is a script that writes the launcher's result.
Everything else is real.
"""

import json
import time
from contextlib import contextmanager

import yaml

import images

#: The chart's `checkpoint.launcher`.
LAUNCHER = {"command": ["/bin/sh", "-c", 'exec "$@"', "--"], "guard": False}


def claim(name="checkpoint-storage", mode="ReadWriteMany"):
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip


def says(**result):
    """A command that ends like the launcher, with this result."""
    code = result.pop("code", 0)
    return f"echo '{json.dumps(result)}' >/dev/termination-log; exit {code}"


PUBLISHES = says(result="published", location="x", digest="blake3:1", size_bytes=5)


def checkpoint(name, script=PUBLISHES, *, model=None, job=None, container=None, **spec):
    main = {"name": "main", "image": images.BASE, "command": ["/bin/sh", "-c", script]} | (container or {})
    template = {"spec": {"containers": [main]}}
    return {
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": name},
        "spec": {
            "identity": {"model": model or name, "framework": "vllm"},
            "job": {"podTemplateSpec": template, "backoffLimit": 0} | (job or {}),
        } | spec,
    }  # fmt: skip


@contextmanager
def installed(cluster, helm_install, namespace, values):
    """The operator, with these values and a claim, in a namespace of its own: a World."""
    cluster.kubectl("create", "namespace", namespace)
    cluster.apply(claim(), namespace=namespace)
    helm_install(cluster, namespace, yaml.safe_dump(values))
    yield World(cluster, namespace)
    logs = cluster.run("kubectl", "logs", "deployment/dynamo-entry-operator", "-n", namespace, check=False)
    print(logs.stdout)  # shown on failure
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")  # and the engines, which take memory


class World:
    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *argv, **options):
        return self.cluster.kubectl("-n", self.namespace, *argv, **options)

    def apply(self, *documents):
        self.cluster.apply(*documents, namespace=self.namespace)

    def get(self, name):
        return self.cluster.get("dynamocheckpoint", name, self.namespace, check=False)

    def jobs(self):
        return {
            one["metadata"]["name"] for one in self.cluster.get("jobs", namespace=self.namespace)["items"]
        }

    def wait(self, condition, limit_s=60):
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < deadline, self.kubectl("get", "dckpt,jobs,pods", "-o", "wide")
            time.sleep(0.1)
        return found

    def until(self, name, phase, reason=None, limit_s=60):
        def there():
            status = self.get(name).get("status", {})
            ready = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})
            return status if status.get("phase") == phase and reason in (None, ready.get("reason")) else None

        return self.wait(there, limit_s)

    def has_ended(self, name):
        """Nothing of the Job runs, or will. Servers before 1.26, without podFailurePolicy, do not call that Failed."""
        job = self.cluster.get("job", f"checkpoint-{name}", self.namespace)
        is_over = any(one["type"] == "Failed" for one in job["status"].get("conditions", ()))
        return not job["status"].get("active") and (is_over or job["spec"]["parallelism"] == 0)

    def delete_claim(self):
        """Although pods have it mounted."""
        name = "checkpoint-storage"
        self.kubectl("delete", "pvc", name, "--wait=false")
        self.cluster.run(
            "kubectl", "-n", self.namespace, "patch", "pvc", name, "--type=merge",
            "-p", '{"metadata":{"finalizers":null}}', check=False,
        )  # fmt: skip
        self.wait(lambda: not self.cluster.get("pvc", name, self.namespace, check=False))

    def annotate(self, name, **marks):
        pairs = [f"dynamo-entry/{key}={value}" for key, value in marks.items()]
        self.kubectl("annotate", "--overwrite", "dckpt", name, *pairs)
