"""A pod's volumes as directories of this machine, and its environment from secrets, config maps and itself."""

from __future__ import annotations

import asyncio
import base64
import shutil
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError
from node.network import run
from node.spec import Object, Refused, expand


class NotYet(Exception):
    """Something the pod refers to is not there; a kubelet waits for it."""


class Volumes:
    """The volumes of one pod below ``directory``."""

    def __init__(self, api: Api, pod: Object, directory: Path) -> None:
        self._api = api
        self._pod = pod
        self._namespace = pod["metadata"]["namespace"]
        self._directory = directory
        self._paths: dict[str, Path] = {}
        self._mounted: list[Path] = []

    async def prepare(self) -> None:
        """Make all of them. Raises NotYet, Refused; may be called again after that."""
        for volume in self._pod["spec"].get("volumes", ()):
            if volume["name"] not in self._paths:
                self._paths[volume["name"]] = await self._make(volume)

    async def remove(self) -> None:
        for path in self._mounted:
            await run("umount", "-l", str(path))
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def mounts(self, container: Object, values: dict[str, str]) -> list[str]:
        """podman's ``--volume`` values."""
        found = []
        for mount in container.get("volumeMounts", ()):
            source = self._paths[mount["name"]]
            sub = expand(mount["subPathExpr"], values) if mount.get("subPathExpr") else mount.get("subPath")
            if sub:
                source /= sub
                if not source.exists():
                    source.mkdir(parents=True)
            mode = "ro" if mount.get("readOnly") or mount["name"] in self._read_only else "rw"
            found.append(f"{source}:{mount['mountPath']}:{mode}")
        return found

    @property
    def _read_only(self) -> set[str]:
        return {
            volume["name"]
            for volume in self._pod["spec"].get("volumes", ())
            if volume.get("persistentVolumeClaim", {}).get("readOnly")
            or volume.keys() & {"secret", "configMap", "projected", "downwardAPI"}
        }

    async def _make(self, volume: Object) -> Path:
        path = self._directory / volume["name"]
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return await self._claim(volume["persistentVolumeClaim"]["claimName"])
        if "emptyDir" in volume:
            await self._empty(path, volume["emptyDir"])
            return path
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        path.mkdir(parents=True, exist_ok=True)
        for source in sources:
            for name, data in (await self._files(source)).items():
                target = path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        return path

    async def _empty(self, path: Path, options: Object) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if options.get("medium") == "Memory":
            size = str(options["sizeLimit"]).removesuffix("i") if "sizeLimit" in options else "50%"
            await run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(path))
            self._mounted.append(path)
        group = self._pod["spec"].get("securityContext", {}).get("fsGroup")
        if group is not None:
            shutil.chown(path, group=group)
        path.chmod(0o2777 if group is not None else 0o777)

    async def _claim(self, name: str) -> Path:
        claim = await self._api.find(f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{name}")
        if claim is None or claim["status"].get("phase") != "Bound":
            raise NotYet(f"persistentvolumeclaim {name!r} is {'not bound' if claim else 'not found'}")
        volume = await self._api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        if "hostPath" not in volume["spec"]:
            raise Refused(f"the volume of claim {name!r} is not a hostPath")
        return _host_path(volume["spec"]["hostPath"] | {"type": "DirectoryOrCreate"})

    async def _files(self, source: Object) -> dict[str, bytes]:
        if "secret" in source:
            options = source["secret"]
            name = options.get("secretName") or options["name"]
            return _selected(await self._data("secret", name, options), options, name)
        if "configMap" in source:
            options = source["configMap"]
            return _selected(
                await self._data("configmap", options["name"], options), options, options["name"]
            )
        if "downwardAPI" in source:
            return {
                item["path"]: field(self._pod, item["fieldRef"]["fieldPath"]).encode()
                for item in source["downwardAPI"]["items"]
            }
        if "serviceAccountToken" in source:
            return {source["serviceAccountToken"]["path"]: await self._token(source["serviceAccountToken"])}
        raise Refused(f"a volume of kind {set(source) - {'name'}} is not known on this node")

    async def _token(self, options: Object) -> bytes:
        account = self._pod["spec"].get("serviceAccountName", "default")
        spec: dict[str, Any] = {"expirationSeconds": options.get("expirationSeconds", 3600)}
        if "audience" in options:
            spec["audiences"] = [options["audience"]]
        answer = await self._api.create(
            f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(answer["status"]["token"]).encode()

    async def _data(self, kind: str, name: str, options: Object) -> dict[str, bytes]:
        """What a Secret or ConfigMap holds. Raises NotYet where it is absent and not optional."""
        try:
            found = await self._api.get(f"/api/v1/namespaces/{self._namespace}/{kind}s/{name}")
        except ApiError as error:
            if error.status != 404:
                raise
            if options.get("optional"):
                return {}
            raise NotYet(f"{kind} {name!r} not found") from None
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
        return {key: value.encode() for key, value in found.get("data", {}).items()}

    async def environment(self, container: Object, host: dict[str, str]) -> list[tuple[str, str]]:
        """The container's variables, resolved. Raises NotYet like a kubelet's CreateContainerConfigError."""
        values = dict(host)
        for source in container.get("envFrom", ()):
            kind, options = (
                ("secret", source["secretRef"])
                if "secretRef" in source
                else ("configmap", source["configMapRef"])
            )
            for key, data in (await self._data(kind, options["name"], options)).items():
                values[source.get("prefix", "") + key] = data.decode()
        for variable in container.get("env", ()):
            value = await self._value(variable, values)
            if value is not None:
                values[variable["name"]] = value
        return list(values.items())

    async def _value(self, variable: Object, values: dict[str, str]) -> str | None:
        source = variable.get("valueFrom")
        if source is None:
            return expand(variable.get("value", ""), values)
        if "fieldRef" in source:
            return field(self._pod, source["fieldRef"]["fieldPath"])
        for kind, key in (("secret", "secretKeyRef"), ("configmap", "configMapKeyRef")):
            if key in source:
                options = source[key]
                data = await self._data(kind, options["name"], options)
                if options["key"] in data:
                    return data[options["key"]].decode()
                if options.get("optional"):
                    return None
                raise NotYet(f"couldn't find key {options['key']} in {kind} {options['name']!r}")
        raise Refused(f"variable {variable['name']}: {set(source)} is not known on this node")


def _selected(data: dict[str, bytes], options: Object, name: str) -> dict[str, bytes]:
    if "items" not in options:
        return data
    chosen = {}
    for item in options["items"]:
        if item["key"] in data:
            chosen[item["path"]] = data[item["key"]]
        elif not options.get("optional"):
            raise NotYet(f"{name!r} references non-existent key {item['key']}")
    return chosen


def _host_path(options: Object) -> Path:
    path = Path(options["path"])
    if options.get("type") == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        raise NotYet(f"hostPath {path} does not exist")
    return path


def field(pod: Object, path: str) -> str:
    """A field of the pod as the downward API gives it. Raises Refused for an unknown one."""
    name, _, key = path.partition("[")
    if key:
        return str(pod["metadata"].get(name.removeprefix("metadata."), {}).get(key.strip("]'\""), ""))
    fields = {
        "metadata.name": ("metadata", "name"), "metadata.namespace": ("metadata", "namespace"),
        "metadata.uid": ("metadata", "uid"), "spec.nodeName": ("spec", "nodeName"),
        "spec.serviceAccountName": ("spec", "serviceAccountName"), "status.hostIP": ("status", "hostIP"),
        "status.podIP": ("status", "podIP"),
    }  # fmt: skip
    if path in ("metadata.labels", "metadata.annotations"):
        found = pod["metadata"].get(path.partition(".")[2], {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(found.items()))
    if path not in fields:
        raise Refused(f"the downward API's {path} is not known on this node")
    section, key = fields[path]
    return str(pod[section].get(key, ""))
