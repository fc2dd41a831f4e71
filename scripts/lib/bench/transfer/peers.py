"""The Python peers of scripts/bench storage: one transfer, whose seconds are printed."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# ruff: noqa: PLC0415 - a side loads its own client, and no other

ENDPOINT, BUCKET = os.environ.get("ENDPOINT"), os.environ.get("BUCKET")


def client():
    import boto3

    return boto3.client("s3", endpoint_url=ENDPOINT)


def bucket():
    s3 = client()
    return lambda: s3.create_bucket(Bucket=BUCKET)


def delete(key):
    s3 = client()
    return lambda: s3.delete_object(Bucket=BUCKET, Key=key)


def boto3_get(key, path):
    s3 = client()
    return lambda: s3.download_file(BUCKET, key, path)


def boto3_put(key, path):
    s3 = client()
    return lambda: s3.upload_file(path, BUCKET, key)


def filesystem():
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=ENDPOINT)


def s3fs_cat(key):
    files = filesystem()
    return lambda: files.cat_file(f"{BUCKET}/{key}")


def s3fs_put(key, path):
    files = filesystem()
    return lambda: files.put_file(path, f"{BUCKET}/{key}")


def obstore_get(key):
    """Ranges of 8 MiB, eight at once, each let go of when it is there: a client of ours could be built on it."""
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=ENDPOINT, client_options={"allow_http": True, "allow_invalid_certificates": True}
    )

    def act():
        size, step = store.head(key)["size"], 8 << 20

        def fetch(start):
            store.get_range(key, start=start, end=min(start + step, size))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, range(0, size, step)))

    return act


def registry():
    import oras.client

    made = oras.client.OrasClient(auth_backend="basic")
    # It sends a blob first and its password when asked, which the registry answers by closing the connection.
    made.session.auth = (os.environ["REGISTRY_USER"], os.environ["REGISTRY_PASSWORD"])
    return made


def oras_pull(target, directory):
    made = registry()
    return lambda: made.pull(target=target, outdir=directory)


def oras_push(target, directory):
    made = registry()
    layers = sorted(str(path) for path in Path(directory).iterdir())
    return lambda: made.push(target=target, files=layers, disable_path_validation=True)


act = globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
began = time.monotonic()
act()
print(time.monotonic() - began)
