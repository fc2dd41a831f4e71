#!/usr/bin/env bash
# umoci 0.4.7 (Debian bookworm): gc deletes the config and the layers of an image whose manifest is one of Docker's (schema 2).
#
# Expected: what index.json names stays whole. The image layout allows other media types in it, and a client that copies a
# repository without converting it leaves Docker's manifests as they are.
# Seen: the manifest is kept and what it names is not, without a word: of two images that differ in their media types alone the
# one of OCI keeps three blobs, and Docker's one.
# Who meets it: whoever mirrors images of a registry into a layout, and tidies it up.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download umoci=0.4.7+ds-3+b7)
dpkg-deb -x "$folder"/umoci_*.deb "$folder/root"
cat >"$folder/layout.py" <<'PYTHON'
import hashlib
import io
import json
import pathlib
import sys
import tarfile

KINDS = {
    "oci": ("vnd.oci.image.manifest.v1+json", "vnd.oci.image.config.v1+json", "vnd.oci.image.layer.v1.tar"),
    "docker": (
        "vnd.docker.distribution.manifest.v2+json", "vnd.docker.container.image.v1+json", "vnd.docker.image.rootfs.diff.tar",
    ),
}
layout = pathlib.Path(sys.argv[1])
(layout / "blobs" / "sha256").mkdir(parents=True)


def blob(kind, content):
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": f"application/{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def image(name):
    manifest, config, layer = KINDS[name]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    layers = [blob(layer, archive.getvalue())]
    rootfs = {"type": "layers", "diff_ids": [layers[0]["digest"]]}
    about = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}
    content = {"schemaVersion": 2, "config": blob(config, json.dumps(about).encode()), "layers": layers}
    content["mediaType"] = f"application/{manifest}"
    named = {"annotations": {"org.opencontainers.image.ref.name": name}}
    return blob(manifest, json.dumps(content).encode()) | named


(layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
(layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image(sys.argv[2])]}))
PYTHON
blobs() { find "$folder/$1/blobs" -type f | wc -l; }
for kind in oci docker; do
    python3 "$folder/layout.py" "$folder/$kind" "$kind"
    before=$(blobs "$kind")
    "$folder/root/usr/bin/umoci" gc --layout "$folder/$kind"
    echo "$kind: $before blobs, after gc $(blobs "$kind")"
done
[[ $(blobs oci) == 3 && $(blobs docker) == 1 ]]
