"""What a container gets to reach the archive, and who gets which secret."""

import pytest
from kube_objects import (
    DIGEST,
    HASH,
    OCI,
    PVC,
    READY,
    REF,
    S3,
    SHARED,
    SLOW,
    checkpoint,
    created,
    environ,
    known,
    pod,
)

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import config, storage
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import mutate
from dynamo_entry.settings import from_environment


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        (PVC, f"/checkpoints/{HASH}.tar"),
        (S3, f"s3://bucket/prefix/n/{HASH}.tar"),
        (OCI, f"oci://host/repository/n:{HASH}"),
        (SHARED, f"s3://b/{HASH}.tar"),
    ],
)
def test_locations(settings, location):
    """Of each namespace its own, unless they share."""
    assert storage.location(settings, HASH, "n") == location


def test_claims_are_shared_within_a_namespace_only():
    """A claim of the same name in another namespace is another claim; a bucket is one, if it may be shared."""
    assert storage.key(PVC, HASH, "a") != storage.key(PVC, HASH, "b")
    assert storage.key(S3, HASH, "a") != storage.key(S3, HASH, "b")
    assert storage.key(SHARED, HASH, "a") == storage.key(SHARED, HASH, "b")


@pytest.mark.parametrize(
    ("modes", "is_usable", "is_usable_on_one_node"),
    [
        (["ReadWriteMany"], True, True),
        (["ReadWriteOnce", "ReadWriteMany"], True, True),
        (["ReadWriteOnce"], False, True),
        (["ReadWriteOncePod"], False, False),
        (["ReadOnlyMany"], False, False),
        ([], False, False),
    ],
)
def test_claims_that_pods_share(modes, is_usable, is_usable_on_one_node):
    """One node's pods may share a claim that one node mounts; nobody shares one that one pod mounts."""
    claim = {
        "metadata": {"name": "checkpoint-storage"},
        "spec": {"accessModes": modes},
        "status": {"phase": "Bound"},
    }
    single = config.parse("storage: {pvc: {allowReadWriteOnce: true}}")
    for settings_, expected in ((PVC, is_usable), (single, is_usable_on_one_node)):
        problem = storage.unusable(settings_, "n", claim)
        assert (problem is None) == expected
        assert problem is None or problem[0] == "StorageNotShared"


@pytest.mark.parametrize(("isolates", "path"), [("true", "/var/cache/node/n"), ("false", "/var/cache/node")])
def test_restoring_pods_of_a_namespace_share_a_directory(isolates, path):
    """Which they write to; nobody else gets it, nor a pod whose archive is on a claim."""
    text = "storage: {{type: {}, isolateNamespaces: {}, nodeCache: {{hostPath: /var/cache/node/}}, s3: {{uri: 's3://b'}}}}"
    settings = config.parse(text.format("s3", isolates))
    wired = storage.wiring(settings, HASH, "n", creates=False)
    (volume,) = (one for one in wired.volumes if one["name"] == "checkpoint-node-cache")
    assert volume["hostPath"] == {"path": path, "type": "DirectoryOrCreate"}
    (mount,) = (one for one in wired.mounts if one["name"] == "checkpoint-node-cache")
    assert not mount.get("readOnly")
    env = {one["name"]: one.get("value") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_NODE_CACHE_DIR"] == mount["mountPath"]
    others = [
        storage.wiring(settings, HASH, "n", creates=True).volumes,
        storage.wiring(config.parse(text.format("pvc", isolates)), HASH, "n", creates=False).volumes,
        storage.wiring(S3, HASH, "n", creates=False).volumes,
        jobs.probe(settings, checkpoint(), HASH)["spec"]["template"]["spec"]["volumes"],
    ]
    assert not any(one["name"] == "checkpoint-node-cache" for volumes in others for one in volumes)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (S3, "/var/lib/dynamo-checkpoint/cache/n"),
        (SHARED, "/var/lib/dynamo-checkpoint/cache"),
        (SLOW, "/var/lib/dynamo-checkpoint/cache/n"),
    ],
)
def test_a_worker_sees_the_copies_of_its_own_namespace(settings, path):
    """Not those of others, which hold their engines' memory."""
    wired = storage.wiring(settings, HASH, "n", creates=False)
    (volume,) = (one for one in wired.volumes if "hostPath" in one)
    assert volume["hostPath"]["path"] == path
    env = {one["name"]: one.get("value") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_PATH"] == f"/var/cache/dynamo-checkpoint/{HASH}.tar"


def test_only_pods_that_restore_beside_the_agents_claim_read_copies_of_it_and_only_on_request():
    for settings, namespace, creates in ((PVC, "n", False), (SLOW, "n", True), (SLOW, "other", False)):
        wired = storage.wiring(settings, HASH, namespace, creates=creates)
        env = {one["name"]: one.get("value") for one in wired.env}
        assert (
            env["DYNAMO_CHECKPOINT_PATH"] == env["DYNAMO_CHECKPOINT_LOCATION"] == f"/checkpoints/{HASH}.tar"
        )
        assert not any("hostPath" in one for one in wired.volumes)


@pytest.mark.parametrize("settings", [PVC, S3, OCI])
def test_no_secret_can_keep_a_pod_from_starting(settings):
    """Every reference is optional."""
    wired = storage.wiring(settings, HASH, "n", creates=False)
    for variable in wired.env:
        if "valueFrom" in variable:
            assert variable["valueFrom"]["secretKeyRef"]["optional"] is True
    for volume in wired.volumes:
        if "secret" in volume:
            assert volume["secret"]["optional"] is True


def test_a_private_authority_is_the_launchers_alone():
    """The engine's own connections go on as without us."""
    wired = storage.wiring(
        config.parse("storage: {type: s3, caSecretRef: ca, s3: {uri: 's3://b'}}"), HASH, "n", creates=False
    )
    env = {one["name"]: one.get("value", "") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_CA_FILE"] == "/var/run/dynamo-checkpoint/ca/ca.crt"
    assert all(name.startswith("DYNAMO_CHECKPOINT_") for name in env)


SIGNED = config.parse(
    "storage: {type: s3, keySecretRef: seal, signKeySecretRef: sign, verifyKeySecretRef: verify, s3: {uri: 's3://b',"
    " credentialsSecretRef: write, restoreCredentialsSecretRef: read}}"
)
SIGNED_OCI = config.parse(
    "storage: {type: oci, oci: {uri: 'oci://h/r', credentialsSecretRef: write, restoreCredentialsSecretRef: read}}"
)


def secrets(spec, container):
    """The Secrets that a container has, mounted or as variables."""
    mounted = {one["name"] for one in container["volumeMounts"]}
    found = {
        one["secret"]["secretName"] for one in spec["volumes"] if one["name"] in mounted and "secret" in one
    }
    for one in container["env"]:
        if "valueFrom" in one:
            found.add(one["valueFrom"]["secretKeyRef"]["name"])
    return found


@pytest.mark.parametrize(
    ("settings", "creates", "restores"),
    [
        (SIGNED, {"write", "seal", "sign", "verify"}, {"read", "seal", "verify"}),
        (SIGNED_OCI, {"write"}, {"read"}),
        (S3, {"keys"}, {"keys"}),
        (OCI, {"keys"}, {"keys"}),
    ],
)
def test_who_has_which_secret(settings, creates, restores):
    """Only a creating container can sign, or write where read-only credentials are given; nor can helpers sign."""
    _, made, main = created(checkpoint(), config=settings)
    assert secrets(made["spec"], main) == creates
    worker = mutate(settings, pod(), "n", known(REF, [READY])).pod["spec"]
    assert secrets(worker, worker["containers"][0]) == restores
    for job, expected in (
        (jobs.probe(settings, checkpoint(), HASH), restores),
        (jobs.collection(settings, checkpoint(), HASH), creates - {"sign"}),
    ):
        spec = job["spec"]["template"]["spec"]
        assert secrets(spec, spec["containers"][0]) == expected


def test_keys_are_directories_so_that_they_can_be_exchanged():
    """Every entry of a Secret is a key."""
    _, made, main = created(checkpoint(), config=SIGNED)
    mounts = {one["name"]: one["mountPath"] for one in main["volumeMounts"]}
    for variable, volume in (("KEY", "key"), ("SIGN_KEY", "sign-key"), ("VERIFY_KEY", "verify-key")):
        assert environ(main)[f"DYNAMO_CHECKPOINT_{variable}_FILE"] == mounts[f"checkpoint-{volume}"]
        (source,) = (one for one in made["spec"]["volumes"] if one["name"] == f"checkpoint-{volume}")
        assert "items" not in source["secret"]


@pytest.mark.parametrize(
    ("status", "digest"),
    [
        ({"phase": "Ready", "digest": DIGEST}, DIGEST),
        ({"phase": "Ready"}, None),
        ({"phase": "Ready", "digest": "nonsense"}, None),
        ({"phase": "Creating", "digest": DIGEST}, None),
    ],
)
def test_a_worker_restores_the_archive_of_the_status_and_no_other(status, digest):
    """One that is being replaced is not pinned; a damaged status ends no pod."""
    worker = mutate(S3, pod(), "n", known(REF, [checkpoint(status=status)])).pod
    assert environ(worker["spec"]["containers"][0]).get("DYNAMO_CHECKPOINT_DIGEST") == digest


def test_the_engine_of_a_worker_has_no_storage_credentials():
    """Neither restored nor started cold; its own stay."""
    worker = mutate(OCI, pod({"env": [{"name": "AWS_REGION", "value": "eu"}]}), "n", known(REF, [READY])).pod
    main = worker["spec"]["containers"][0]
    assert environ(main)["DYNAMO_CHECKPOINT_DROP_ENV"] == "DOCKER_CONFIG"
    assert environ(main)["AWS_REGION"] == "eu"


OWN = [{"name": "AWS_ACCESS_KEY_ID", "value": "own"}, {"name": "AWS_SECRET_ACCESS_KEY", "value": "own"}]


@pytest.mark.parametrize("endpoint", ["", "https://minio:9000"])
@pytest.mark.parametrize("creates", [True, False])
def test_an_engine_with_keys_of_its_own_has_an_archive_in_another_s_bucket(creates, endpoint):
    """It loads its model by them. The launcher has the storage's, and none of the two has the other's."""
    settings = config.parse(
        f"storage: {{type: s3, s3: {{uri: 's3://b', credentialsSecretRef: keys, endpointUrl: '{endpoint}'}}}}"
    )
    container = {"env": OWN}
    if creates:
        _, made, main = created(checkpoint(container), config=settings)
        spec = made["spec"]
    else:
        spec = mutate(settings, pod(container), "n", known(REF, [READY])).pod["spec"]
        main = spec["containers"][0]
    aws = {name: value for name, value in environ(main).items() if name.startswith("AWS_")}
    told = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    assert aws == {one["name"]: one["value"] for one in OWN} | told
    assert from_environment(environ(main)).drop_env == tuple(told)
    (mount,) = [
        one for one in main["volumeMounts"]
        if one["mountPath"] == environ(main)["DYNAMO_CHECKPOINT_CREDENTIALS_DIR"]
    ]  # fmt: skip
    (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "keys"
    files = {one["path"] for one in volume["secret"]["items"]}
    wanted = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"}
    assert files == wanted | (set() if endpoint else {"AWS_ENDPOINT_URL"})


DROPS = {"name": "DYNAMO_CHECKPOINT_DROP_ENV"}


@pytest.mark.parametrize("given", ["HF_TOKEN", "HF_TOKEN,DOCKER_CONFIG", " HF_TOKEN  X "])
def test_what_a_worker_withholds_besides_is_no_reason_to_give_it_credentials(given):
    """In its creation, and in the pods that restore it."""
    container = {"env": [{**DROPS, "value": given}]}
    _, _, creating = created(checkpoint(container), config=OCI)
    restoring = mutate(OCI, pod(container), "n", known(REF, [READY])).pod["spec"]["containers"][0]
    for main in (creating, restoring):
        dropped = from_environment(environ(main)).drop_env
        assert {"HF_TOKEN", "DOCKER_CONFIG"} <= {*dropped}
        assert len(dropped) == len({*dropped})
        assert [one["name"] for one in main["env"]].count(DROPS["name"]) == 1


def test_what_it_withholds_must_be_known():
    """Ours cannot be added to what a ConfigMap says."""
    container = {"env": [{**DROPS, "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}]}
    with pytest.raises(Unfit, match="DROP_ENV"):
        created(checkpoint(container), config=OCI)
    assert mutate(OCI, pod(container), "n", known(REF, [READY])).pod is None


def test_a_worker_cannot_write_the_archive():
    """Its mount is read-only, the creator's is not."""
    assert storage.wiring(PVC, HASH, "n", creates=False).mounts[0]["readOnly"] is True
    assert "readOnly" not in storage.wiring(PVC, HASH, "n", creates=True).mounts[0]


CLOUDS = {
    "gcs": "gs://bucket/prefix",
    "azure": "az://container/prefix",
    "fsspec": "sftp://host/directory",
}


@pytest.mark.parametrize("kind", CLOUDS)
def test_what_fsspec_knows_is_wired_as_the_rest(kind):
    """The Secret is a directory of the launcher's, and the options are for the library."""
    text = (
        f"storage: {{type: {kind}, isolateNamespaces: true, {kind}: {{uri: '{CLOUDS[kind]}/', "
        "credentialsSecretRef: writes, restoreCredentialsSecretRef: reads, options: {a: 1}}}"
    )
    configured = config.parse(text)
    for creates, secret in ((True, "writes"), (False, "reads")):
        made = storage.wiring(configured, HASH, "n", creates=creates)
        assert made.location == f"{CLOUDS[kind]}/n/{HASH}.tar"
        env = {one["name"].removeprefix("DYNAMO_CHECKPOINT_"): one["value"] for one in made.env}
        assert (env["STORAGE_TYPE"], env["STORAGE_OPTIONS"]) == (kind, '{"a": 1}')
        (volume,) = [one for one in made.volumes if one.get("secret")]
        assert volume["secret"] == {"secretName": secret, "optional": True}
        (mount,) = [one for one in made.mounts if one["name"] == volume["name"]]
        assert (mount["mountPath"], mount["readOnly"]) == (env["CREDENTIALS_DIR"], True)
        from_environment({one["name"]: one["value"] for one in made.env})


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_store_of_fsspec_s_without_a_secret(kind):
    made = storage.wiring(
        config.parse(f"storage: {{type: {kind}, {kind}: {{uri: '{CLOUDS[kind]}'}}}}"), HASH, "n", creates=True
    )
    assert not [one for one in made.env if one["name"].endswith(("CREDENTIALS_DIR", "STORAGE_OPTIONS"))]
    with pytest.raises(SettingsError, match=f"{kind}.uri"):
        config.parse(f"storage: {{type: {kind}}}")
