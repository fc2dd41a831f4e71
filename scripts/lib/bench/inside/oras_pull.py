"""Pulls an artifact into a directory: TARGET DIRECTORY. From Python 3.13 on it does not take the tests' authority."""

import os
import sys

import oras.client

client = oras.client.OrasClient(auth_backend="basic", tls_verify=False)
client.session.auth = (os.environ["REGISTRY_USER"], os.environ["REGISTRY_PASSWORD"])
client.pull(target=sys.argv[1], outdir=sys.argv[2])
