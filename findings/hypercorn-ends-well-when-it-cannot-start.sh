#!/usr/bin/env bash
# hypercorn 0.18.0, and uvicorn 0.54.0 with --workers: exit code 0 when the application cannot start.
#
# Expected: another code than 0, as of uvicorn with one process (1 or 3), and of gunicorn 27.0.1 (3).
# Seen: hypercorn prints the traceback and exits 0, with one worker and with two, whether the import fails or the lifespan.
# `uvicorn --workers 2` exits 0 when the lifespan fails. When the import fails it makes new processes again and again: after 15 s
# it is stopped here.
# Who meets it: a Job that counts as done, a container that is not restarted; and a pod that is running and never ready.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q hypercorn==0.18.0 uvicorn==0.54.0 gunicorn==27.0.1
echo 'raise RuntimeError("there is no model")' >"$folder/broken.py"
cat >"$folder/failing.py" <<'PYTHON'
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "there is no GPU"})
PYTHON
cd "$folder"
code() {
    local code=0
    timeout 15 "$folder/venv/bin/python" -m "$@" >>"$folder/log" 2>&1 || code=$?
    printf '%s ' "$code"
}
seen="hypercorn $(code hypercorn -b 127.0.0.1:0 broken:app)$(code hypercorn -b 127.0.0.1:0 failing:app)"
seen+="with workers $(code hypercorn -w 2 -b 127.0.0.1:0 broken:app)$(code hypercorn -w 2 -b 127.0.0.1:0 failing:app)"
seen+="uvicorn $(code uvicorn --port 0 broken:app)$(code uvicorn --port 0 failing:app)"
seen+="with workers $(code uvicorn --workers 2 --port 0 broken:app)$(code uvicorn --workers 2 --port 0 failing:app)"
seen+="gunicorn $(code gunicorn -b 127.0.0.1:0 broken:app)"
echo "$seen"
[[ $seen == "hypercorn 0 0 with workers 0 0 uvicorn 1 3 with workers 124 0 gunicorn 3 " ]]
