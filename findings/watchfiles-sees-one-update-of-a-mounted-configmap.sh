#!/usr/bin/env bash
# watchfiles 1.3.0, watchdog 7.1.0: a watch of a file in a mounted ConfigMap sees its first update, or none, and nothing afterwards.
#
# Expected: one change for each update of the file, as long as the watch is there.
# Seen: the kubelet replaces a symbolic link (..data) beside the file and deletes the old folder. watchfiles has resolved the
# path, and says "deleted" once; watchdog says nothing. Of three updates the last two are seen by neither. A watch of the folder
# by watchfiles sees all three.
# Who meets it: programs that load their configuration, certificates or tokens anew when the file changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q watchfiles==1.3.0 watchdog==7.1.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import shutil
import sys
import threading
import time

import watchfiles
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

UPDATES = (1, 2, 3)
mount = pathlib.Path(sys.argv[1], "mount")
seen = {"watchfiles, file": set(), "watchfiles, folder": set(), "watchdog, file": set()}
update = 0


def publish(number):
    """As the kubelet does it."""
    place = mount / f"..{number}"
    place.mkdir(parents=True)
    (place / "config").write_text(str(number))
    (mount / "..data_tmp").symlink_to(place.name)
    (mount / "..data_tmp").rename(mount / "..data")
    if number:
        shutil.rmtree(mount / f"..{number - 1}")
    else:
        (mount / "config").symlink_to("..data/config")


def watch(name, path):
    for _ in watchfiles.watch(path, step=50, rust_timeout=200, stop_event=stop):
        seen[name].add(update)


class Handler(FileSystemEventHandler):
    def on_any_event(self, event):
        if event.event_type not in ("opened", "closed_no_write"):
            seen["watchdog, file"].add(update)


publish(0)
stop = threading.Event()
observer = Observer()
observer.schedule(Handler(), str(mount / "config"))
observer.start()
for name, path in (("watchfiles, file", mount / "config"), ("watchfiles, folder", mount)):
    threading.Thread(target=watch, args=(name, path), daemon=True).start()
time.sleep(1)
for update in UPDATES:
    publish(update)
    assert (mount / "config").read_text() == str(update)
    time.sleep(2.5)
stop.set()
observer.stop()
print("updates seen:", {name: sorted(found) for name, found in seen.items()})
assert seen["watchfiles, file"] == {1} and seen["watchfiles, folder"] == set(UPDATES), seen
assert not seen["watchdog, file"] & {2, 3}, seen
PYTHON
