#!/usr/bin/env bash
# torch 2.13.0, Linux 6.18: a TCPStore holds an io_uring, although UV_USE_IO_URING=0 tells libuv to use none.
#
# Expected: UV_USE_IO_URING=0 keeps libuv from making a ring, as it does in uvloop 0.22.1.
# Seen: /proc/self/fd has anon_inode:[io_uring] with the variable set, and with USE_LIBUV=0 in the environment, too. Only
# TCPStore(use_libuv=False) makes none.
# Who meets it: whoever checkpoints a process of torch.distributed with CRIU, which cannot dump io_uring.
# Where the kernel or its sysctl kernel.io_uring_disabled forbids rings there is none to see, and this script says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/rings.py" <<'PYTHON'
import os
import sys

import torch.distributed

store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True, use_libuv=sys.argv[1] == "libuv")
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
print(sum("io_uring" in link for link in links))
PYTHON
rings() { env "${@:2}" "$folder/venv/bin/python" "$folder/rings.py" "$1" | tail -n 1; }
plain=$(rings libuv A=b) off=$(rings libuv UV_USE_IO_URING=0) other=$(rings libuv USE_LIBUV=0) without=$(rings none A=b)
echo "rings: $plain; with UV_USE_IO_URING=0: $off; with USE_LIBUV=0: $other; use_libuv=False: $without"
[[ $plain != 0 ]] || { echo "this kernel makes no rings: nothing to see here"; exit 0; }
[[ $off == "$plain" && $other == "$plain" && $without == 0 ]]
