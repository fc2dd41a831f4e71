"""The guide as it is gone through: told step by step."""

import json
import time

import yaml

import engines
from guide import NAMESPACE


def say(text):
    print(f"   {text}", flush=True)


class Guide:
    """What the steps share: the checkpoint and the graph of the complete example, in the guide's namespace."""

    def __init__(self, cluster, node, engine, graph, checkpoint):
        self.cluster = cluster
        self.node = node
        self._engine = engine
        self.graph = graph["metadata"]["name"]
        self.name = checkpoint["metadata"]["name"]
        self._model = checkpoint["spec"]["identity"]["model"]
        self.pods = self.pods_of(self.graph)
        self.answer = None
        self.seconds = {}

    def kubectl(self, *argv, **options):
        return self.cluster.kubectl("-n", NAMESPACE, *argv, **options)

    def checkpoint(self, name=""):
        return self.cluster.get("dynamocheckpoint", name or self.name, NAMESPACE)

    def pods_of(self, graph):
        return engines.Pods(self.cluster, NAMESPACE, graph, "VllmWorker", self._engine.cold_s)

    def phase(self, name, phase, limit_s=None):
        """Wait for a phase, by default for as long as a creation takes, saying each one that is seen; the object then."""
        deadline, seen = time.monotonic() + (limit_s or self._engine.cold_s + 60), ""
        while True:
            found = self.checkpoint(name)
            status = found.get("status", {})
            if status.get("phase", "") != seen:
                seen = status["phase"]
                say(f"{name}: {seen}, {status['message']}")
            if seen == phase:
                return found
            assert time.monotonic() < deadline, yaml.safe_dump(status) + self.kubectl(
                "get", "jobs,pods", "-o", "wide"
            )
            time.sleep(0.1)

    def replicas(self, count):
        """Scale the graph; seconds until every pod is ready, and the pods."""
        patch = json.dumps({"spec": {"services": {"VllmWorker": {"replicas": count}}}})
        began = time.monotonic()
        self.kubectl("patch", "dynamographdeployment", self.graph, "--type=merge", "-p", patch)
        pods = self.pods.ready(count)
        return time.monotonic() - began, pods

    def new_pod(self):
        """One more replica; the new pod, ready."""
        before = self.pods.all()
        seconds, pods = self.replicas(len(before) + 1)
        (new,) = (
            pod for pod in pods if pod["metadata"]["uid"] not in {old["metadata"]["uid"] for old in before}
        )
        assert len(pods) == len(before) + 1, "no other pod was touched"
        return seconds, new

    def ask(self, pod):
        return self._engine.ask(pod, self._model)
