#!/usr/bin/env bash
# skopeo 1.9.3 (Debian bookworm): `skopeo copy` of an image whose layers are not compressed makes another image, without their annotations.
#
# Expected: the same manifest under the same digest, as for an artifact with media types of its own, and as `copy` to dir: gives it.
# Seen: layers of the type application/vnd.oci.image.layer.v1.tar are compressed, also from one layout to another. Manifest and layer
# have other digests, and the layer's annotations are gone, among them org.opencontainers.image.title, by which `oras pull` names files;
# those of the manifest stay. It succeeds. With --preserve-digests all is as it was.
# Who meets it: whoever mirrors what is pinned by its digest, or read by ranges: the tar that was to be read in the middle is a stream.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download skopeo=1.9.3+ds1-1+b10 libgpgme11 libassuan0 libdevmapper1.02.1
for package in *.deb; do dpkg-deb -x "$package" root; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/$(uname -m)-linux-gnu:$folder/root/lib/$(uname -m)-linux-gnu
cat >layout.py <<'PYTHON'
import hashlib
import io
import json
import pathlib
import sys
import tarfile

action, folder, kind = sys.argv[1:]
blobs = pathlib.Path(folder, "blobs", "sha256")


def put(media_type, data, **more):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}


if action == "make":
    blobs.mkdir(parents=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("weights")
        member.size = 4096
        tar.addfile(member, io.BytesIO(bytes(4096)))
    title = {"org.opencontainers.image.title": "weights.tar"}
    layer = put("application/vnd.oci.image.layer.v1.tar" if kind == "image" else "application/x-tar", buffer.getvalue(), annotations=title)
    settings = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    config = put("application/vnd.oci.image.config.v1+json", json.dumps(settings).encode())
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer], "annotations": {"model": "m"}}
    entry = put(media_type, json.dumps(manifest).encode(), annotations={"org.opencontainers.image.ref.name": "tag"})
    pathlib.Path(folder, "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    pathlib.Path(folder, "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
entry = json.loads(pathlib.Path(folder, "index.json").read_text())["manifests"][0]
if action == "digest":
    print(entry["digest"])
elif action == "show":
    manifest = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_text())
    layer = manifest["layers"][0]
    print(layer["mediaType"].rpartition("/")[2], sorted(layer.get("annotations", {}).values()), manifest["annotations"])
PYTHON
for kind in image artifact; do
    python3 layout.py make "$kind" "$kind"
    for option in --all --preserve-digests; do
        root/usr/bin/skopeo --insecure-policy copy -q "$option" "oci:$kind:tag" "oci:$kind$option:tag"
        same="another digest"
        [[ $(python3 layout.py digest "$kind" -) != $(python3 layout.py digest "$kind$option" -) ]] || same="the same digest"
        echo "$kind $option: $same, $(python3 layout.py show "$kind$option" -)"
    done
done | tee seen
diff seen - <<'SEEN'
image --all: another digest, vnd.oci.image.layer.v1.tar+gzip [] {'model': 'm'}
image --preserve-digests: the same digest, vnd.oci.image.layer.v1.tar ['weights.tar'] {'model': 'm'}
artifact --all: the same digest, x-tar ['weights.tar'] {'model': 'm'}
artifact --preserve-digests: the same digest, x-tar ['weights.tar'] {'model': 'm'}
SEEN
