#!/usr/bin/env bash
# requests 2.34.2, botocore 1.44.8, httpx 0.28.1, Python 3.11's urllib: an IPv6 address in NO_PROXY has no spelling that all of
# an engine's clients understand, and a network in CIDR notation is understood by one of them.
#
# Expected: `NO_PROXY=fd00::1` (or `[fd00::1]`) and `NO_PROXY=10.0.0.0/8` keep a cluster's own addresses from the proxy in all.
# Seen: without brackets requests goes straight, botocore and urllib by the proxy. With brackets it is the other way round, and
# httpx cannot make a client at all (InvalidURL), whatever it is to be used for. The CIDR: requests goes straight, the rest
# by the proxy. Of an IPv6 network (fd00::/8) nobody makes sense, and httpx cannot make a client once more.
# Who meets it: pods of a dual-stack cluster behind a proxy, whose image has a hub client on requests or httpx and buckets by boto3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q requests==2.34.2 botocore==1.44.8 httpx==0.28.1
env -u http_proxy -u no_proxy -u ALL_PROXY -u all_proxy HTTP_PROXY=http://127.0.0.1:9 "$folder/venv/bin/python" - <<'PYTHON'
import os
import urllib.request
from urllib.parse import urlsplit

import botocore.utils
import httpx
import requests.utils


def by_httpx(url):
    with httpx.Client() as client:
        return client._transport_for_url(httpx.URL(url)) is client._transport


clients = {
    "requests": lambda url: requests.utils.should_bypass_proxies(url, None),
    "botocore": lambda url: bool(botocore.utils.should_bypass_proxies(url)),
    "urllib": lambda url: bool(urllib.request.proxy_bypass(urlsplit(url).netloc)),
    "httpx": by_httpx,
}


def asked(name, url):
    try:
        return "straight" if clients[name](url) else "proxy"
    except httpx.InvalidURL:
        return "InvalidURL"


expected = {
    ("fd00::1", "http://[fd00::1]/"): ["straight", "proxy", "proxy", "straight"],
    ("[fd00::1]", "http://[fd00::1]/"): ["proxy", "straight", "straight", "InvalidURL"],
    ("10.0.0.0/8", "http://10.1.2.3/"): ["straight", "proxy", "proxy", "proxy"],
    ("fd00::/8", "http://[fd00::1]/"): ["proxy", "proxy", "proxy", "InvalidURL"],
    ("10.1.2.3", "http://10.1.2.3/"): ["straight"] * 4,
}
for (spelling, url), wanted in expected.items():
    os.environ["NO_PROXY"] = spelling
    found = [asked(name, url) for name in clients]
    print(f"NO_PROXY={spelling:10}  {url:18}  " + ", ".join(f"{name}: {what}" for name, what in zip(clients, found)))
    assert found == wanted, (spelling, found, wanted)
PYTHON
