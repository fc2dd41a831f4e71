#!/usr/bin/env bash
# podman-py 5.8.0: of files that are hard links to each other, the context of a build has one, and the others are missing.
#
# Expected: all of them, as with podman build and docker-py 7.2.0.
# Seen: the second name of a file is nowhere in the archive. Links are a kind of entry of their own in a tar archive, and create_tar()
# leaves out all kinds but files, folders and symbolic links. There is no error before a COPY of that one name; COPY of the folder works.
# Who meets it: whoever builds from a folder that uv, `cp -l`, hardlink(1) or rsync --link-dest filled: environments and snapshots of
# models, where equal files are one file. The image starts without some of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q podman==5.8.0 docker==7.2.0
mkdir -p "$folder"/context/{base,tuned}
echo 'FROM scratch' >"$folder/context/Dockerfile"
echo weights >"$folder/context/base/model.safetensors"
cp "$folder/context/base/model.safetensors" "$folder/context/tuned/copied"
ln "$folder/context/base/model.safetensors" "$folder/context/tuned/linked"
"$folder/venv/bin/python" - "$folder/context" <<'PYTHON'
import sys
import tarfile

import docker.utils.build
import podman.api

ways = {"docker-py": docker.utils.build.tar, "podman-py": podman.api.create_tar}
seen = {}
for name, pack in ways.items():
    with pack(sys.argv[1]) as archive, tarfile.open(fileobj=archive) as tar:
        seen[name] = sorted(member.name for member in tar if not member.isdir())
    print(f"{name}: {seen[name]}")
assert seen["docker-py"] == ["Dockerfile", "base/model.safetensors", "tuned/copied", "tuned/linked"]
assert seen["podman-py"] == ["Dockerfile", "base/model.safetensors", "tuned/copied"]
PYTHON
