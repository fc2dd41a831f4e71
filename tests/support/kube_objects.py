"""Checkpoints, pods and graphs for tests of the Kubernetes side, and what a test asks of them."""

from __future__ import annotations

from types import SimpleNamespace

from dynamo_entry.kube import api, config, podspec
from dynamo_entry.kube.operator import checkpoints as checkpoints_
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.operator.automatic import Graphs
from dynamo_entry.kube.operator.watches import pod_marks
from dynamo_entry.kube.webhook.admission import Known

HASH = "d936422b4f953f99"
IDENTITY = {
    "model": "meta-llama/Llama-3-8B",
    "framework": "vllm",
    "tensorParallelSize": 1,
    "dtype": "bfloat16",
}
PVC = config.parse("")
SLOW = config.parse("{agent: {cache: {pvc: true}}, operator: {namespace: n}}")
S3 = config.parse("storage: {type: s3, s3: {uri: 's3://bucket/prefix/', credentialsSecretRef: keys}}")
SHARED = config.parse("storage: {type: s3, isolateNamespaces: false, s3: {uri: 's3://b'}}")
OCI = config.parse("storage: {type: oci, oci: {uri: 'oci://host/repository', credentialsSecretRef: keys}}")


def checkpoint(container=None, status=None, **job):
    main = {
        "name": "main",
        "image": "i",
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": ["--model", "m"],
    }
    template = {"spec": {"containers": [main | (container or {})]}}
    return {
        "metadata": {
            "name": "model",
            "namespace": "n",
            "uid": "u",
            "creationTimestamp": "2024-01-01T00:00:00Z",
        },
        "spec": {"identity": IDENTITY, "job": {"podTemplateSpec": template} | job},
        "status": status or {},
    }


def created(made, **options):
    job = jobs.creation(options.pop("config", PVC), made, HASH, force=options.pop("force", False))
    pod = job["spec"]["template"]
    return job, pod, podspec.target(pod["spec"]["containers"])


def environ(container):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


DIGEST = "blake3:" + "0" * 64


def graph(**fields):
    service = {"checkpoint": {"enabled": True} | fields}
    return {"metadata": {"name": "g", "namespace": "n"}, "spec": {"services": {"Worker": service}}}


def pod(container=None, labels=None, annotations=None, **spec):
    main = {"name": "main", "command": ["serve"], "env": [{"name": "A", "value": "1"}]} | (container or {})
    marks = {"nvidia.com/dynamo-graph-deployment-name": "g", "nvidia.com/dynamo-component": "Worker"}
    return {
        "metadata": {"labels": marks if labels is None else labels, "annotations": annotations or {}},
        "spec": {"containers": [main, {"name": "sidecar", "command": ["x"]}]} | spec,
    }


def known(graphs_=None, checkpoints=(), *, admits=True):
    """As the operator's watches have them."""
    by_name = {one["metadata"]["name"]: checkpoints_.known(one) for one in checkpoints}
    return Known(
        lambda namespace, name: graphs_,
        lambda namespace, name: by_name.get(name),
        lambda key: next(iter(by_name.values()), None),
        lambda namespace, runtime_class: admits,
    )


USABLE = [{"type": "StorageUsable", "status": "True"}]
READY = checkpoint(status={"phase": "Ready", "conditions": USABLE})
SNAPSHOT = {"name": "DYNAMO_CHECKPOINT_PROTOCOL", "value": "vllm-snapshot"}
SNAPSHOT_SERVER = ["python3", "-m", "vllm.snapshot.server", "--ready-file", "/r", "--release-file", "/l", "m"]
REFUSED = checkpoint(
    status={"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "NotAdmitted"}]}
)
REF = graph(checkpointRef="model")
AUTO = graph(mode="auto", identity=IDENTITY)
THEIRS = [
    ({"annotations": {"nvidia.com/restore-from": "snap"}}, {}),
    ({"annotations": {"nvidia.com/restore-container-map": "main=engine-0"}}, {}),
    # Their webhook may come after ours: it makes such a pod one that their agent restores.
    ({"annotations": {"nvidia.com/dynamo-checkpoint-restore-candidate": "true"}}, {}),
    ({"labels": {"nvidia.com/snapshot-is-checkpoint-source": "true"}}, {}),
    ({"labels": {"nvidia.com/snapshot-is-restore-target": "true"}}, {}),
    ({"annotations": {"nvidia.com/snapshot-is-checkpoint-source": "true"}}, {}),
    ({}, {"env": [{"name": "SNAPSHOT_RESTORE_STANDBY", "value": "1"}]}),
    ({}, {"env": [{"name": "DYN_SNAPSHOT_RESTORE_STANDBY", "value": "1"}]}),
]


def marked(marks, container, labels):
    made = pod(container, labels=labels)
    for kind, values in marks.items():
        made["metadata"][kind] = made["metadata"][kind] | values
    return made


VLLM = {"command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"]}
LATER = {
    "kind": "DynamoGraphDeployment", "apiVersion": "nvidia.com/v1beta1",
    "metadata": {"name": "g", "namespace": "n", "uid": "graph"},
    "spec": {"components": [{"name": "Worker", "experimental": {"checkpoint": {"enabled": True}}}]},
}  # fmt: skip


class World:
    """A graph, its one pod, and what is written."""

    def __init__(
        self, graph_, container=VLLM, found=None, *, snapshots=(), is_served=False, marks=(), settings=S3
    ):
        one = pod(container, annotations=dict.fromkeys(marks, "x"))
        one["metadata"] |= {"name": "worker", "namespace": "n"}
        self.objects = {
            f"{api.GRAPHS}/g": graph_, "pods/worker": one, **{f"podsnapshots/{name}": {} for name in snapshots}
        }  # fmt: skip
        self.made, self.merged, self.told, self.asked = [], [], [], []
        recorder = SimpleNamespace(
            event=lambda _subject, reason, message: self.told.append((reason, message))
        )
        log = SimpleNamespace(info=lambda *_, **__: None)
        self.graphs = Graphs(
            settings, self, recorder, log, pods=lambda *_: [pod_marks(one)], sharing=lambda _key: found,
            are_snapshots_served=is_served,
        )  # fmt: skip

    def find(self, path):
        self.asked.append(path)
        return self.objects.get("/".join(path.split("/")[-2:]))

    def create(self, _path, body):
        self.made.append(body)

    def merge(self, path, body):
        self.merged.append((path, body))

    def look(self):
        return self.graphs.reconcile(("n", "g"))
