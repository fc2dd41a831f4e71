#!/usr/bin/env bash
# grpcio 1.85.3: a second server on a port that is in use starts without an error, and takes about half of the connections.
#
# Expected: RuntimeError ("Failed to bind"), as for any other port that is taken; asyncio, uvicorn and gunicorn fail.
# Seen: SO_REUSEPORT is set unless the option grpc.so_reuseport is 0. add_insecure_port() returns the port, and of 60 clients some
# reach the first server and some the second.
# Who meets it: whoever starts a worker twice, or a new one before the old one has gone: stale answers, now and then.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q grpcio==1.85.3
"$folder/venv/bin/python" - <<'PYTHON'
import collections
import concurrent.futures

import grpc


def server(name, address, options=()):
    made = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=options)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Who": handler}),))
    port = made.add_insecure_port(address)
    made.start()
    return made, port


first, port = server(b"first", "127.0.0.1:0")
second, same = server(b"second", f"127.0.0.1:{port}")
assert same == port
answers = collections.Counter()
for _ in range(60):
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        answers[channel.unary_unary("/test/Who")(b"", timeout=30)] += 1
print("answers:", dict(answers))
assert set(answers) == {b"first", b"second"}, answers
first.stop(0)
second.stop(0)
strict = [("grpc.so_reuseport", 0)]
_, port = server(b"first", "127.0.0.1:0", strict)
try:
    server(b"second", f"127.0.0.1:{port}", strict)
except RuntimeError as error:
    print(f"with grpc.so_reuseport=0: {type(error).__name__}")
else:
    raise SystemExit("with grpc.so_reuseport=0: no error")
PYTHON
