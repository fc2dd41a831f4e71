"""The chart as helm renders it, with values of each kind. helm alone; no server."""

import shutil
import subprocess

import pytest
import yaml

import guide
import images
from cluster.control_plane import NotInstalled, binaries

CHART = images.ROOT / "charts" / "dynamo-entry"

S3 = "checkpoint: {enabled: true, storage: {type: s3, s3: {uri: s3://bucket/prefix, credentialsSecretRef: keys}}}"
OCI = "checkpoint: {enabled: true, storage: {type: oci, oci: {uri: oci://host/repository, credentialsSecretRef: keys}}}"
GCS = """
checkpoint:
  enabled: true
  storage: {type: gcs, gcs: {uri: gs://bucket/prefix, credentialsSecretRef: login, options: {project: mine}}}
"""
GUIDE = guide.blocks()["1. Enable Checkpointing"]


def run(values, *options, chart=CHART):
    try:
        helm = binaries() / "helm"
    except NotInstalled as missing:
        pytest.skip(str(missing))
    argv = [helm, "template", "x", chart, "-n", "dynamo-system", "-f", "-", *options]
    return subprocess.run(argv, input=values, capture_output=True, text=True, check=False, timeout=60)


def render(values, *options, chart=CHART):
    done = run(values, *options, chart=chart)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


def notes(values, directory):
    """What an installation says at its end, which needs a server to be shown by itself."""
    chart = shutil.copytree(CHART, directory / "chart")
    said = '{{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}'
    (chart / "templates" / "said.yaml").write_text(f"kind: Notes\nmetadata: {{name: x}}\nsaid: {said}\n")
    return render(values, chart=chart)["Notes", "x"]["said"]


def umbrella(directory, **dependency):
    """A chart that has ours as a part."""
    shutil.copytree(CHART, directory / "charts" / "dynamo-entry")
    part = {"name": "dynamo-entry", "version": yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]}
    chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part | dependency]}
    (directory / "Chart.yaml").write_text(yaml.safe_dump(chart))
    return directory
