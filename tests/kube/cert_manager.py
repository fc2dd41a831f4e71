"""Stands in for cert-manager: its resources as far as a webhook's certificate needs them, its two controllers."""

from __future__ import annotations

import base64
import json
import threading
from datetime import timedelta
from typing import Any

from dynamo_entry.kube.webhook.certificates import self_signed


def _crd(plural: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object"} | spec}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.cert-manager.io"},
        "spec": {
            "group": "cert-manager.io", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip


_TEXT = {"type": "string"}

#: From deploy/crds of cert-manager 1.21: what is not in here, the API server drops.
CRDS = [
    _crd("issuers", "Issuer", {
        "properties": {"selfSigned": {
            "type": "object", "properties": {"crlDistributionPoints": {"type": "array", "items": _TEXT}}
        }}
    }),
    _crd("certificates", "Certificate", {
        "required": ["issuerRef", "secretName"],
        "properties": {
            "secretName": _TEXT, "commonName": _TEXT, "duration": _TEXT, "renewBefore": _TEXT,
            "dnsNames": {"type": "array", "items": _TEXT}, "isCA": {"type": "boolean"},
            "issuerRef": {
                "type": "object", "required": ["name"], "properties": {"name": _TEXT, "kind": _TEXT, "group": _TEXT}
            },
        },
    }),
]  # fmt: skip


class CertManager:
    """Issues what the Certificates of one namespace ask for, and injects authorities where annotations ask for them."""

    def __init__(self, cluster: Any, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        cluster.apply(*CRDS)
        cluster.kubectl(
            "wait", "--for=condition=Established", *(f"crd/{one['metadata']['name']}" for one in CRDS)
        )
        self._thread.start()

    def stop(self) -> None:
        """What was issued stays."""
        self._ended.set()
        self._thread.join(30)

    def close(self) -> None:
        """Take the resources away, too."""
        self.stop()
        self._cluster.kubectl("delete", "crd", *(one["metadata"]["name"] for one in CRDS))

    def _work(self) -> None:
        while not self._ended.wait(0.5):
            for one in self._cluster.get("certificates.cert-manager.io", namespace=self._namespace)["items"]:
                self._inject(f"{self._namespace}/{one['metadata']['name']}", self._issued(one["spec"]))

    def _issued(self, spec: dict[str, Any]) -> str:
        """The authority of the Secret, which is made where it is missing."""
        issuer = spec["issuerRef"]["name"]
        if "selfSigned" not in self._cluster.get("issuers.cert-manager.io", issuer, self._namespace)["spec"]:
            raise AssertionError(f"{issuer} is of another kind")
        found = self._cluster.get("secret", spec["secretName"], self._namespace, check=False)
        if not found:
            (name,) = spec["dnsNames"]
            data = {
                key: base64.b64encode(value).decode()
                for key, value in self_signed(name, timedelta(days=90)).items()
            }
            found = {
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"name": spec["secretName"]}, "data": data,
            }  # fmt: skip
            self._cluster.apply(found, namespace=self._namespace)
        return str(found["data"]["ca.crt"])

    def _inject(self, certificate: str, authority: str) -> None:
        for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            for one in self._cluster.get(kind)["items"]:
                if (
                    one["metadata"].get("annotations", {}).get("cert-manager.io/inject-ca-from")
                    != certificate
                ):
                    continue
                paths = [
                    f"/webhooks/{number}/clientConfig/caBundle" for number in range(len(one["webhooks"]))
                ]
                change = [{"op": "add", "path": path, "value": authority} for path in paths]
                self._cluster.kubectl(
                    "patch", kind, one["metadata"]["name"], "--type=json", "-p", json.dumps(change)
                )
