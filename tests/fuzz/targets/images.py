"""CRIU's images, as the rewriter and the plan of what is filled read them. Needs pycriu: runs in a worker image."""

import struct

from dynamo_entry.criu import images
from dynamo_entry.criu.rewrite import Rewriter, sockets, tasks
from dynamo_entry.fill import decode, plan

#: What a restore takes for images that cannot be decoded (checks/restore.py, worker/rebuild.py).
REFUSALS = (ValueError, TypeError, KeyError, IndexError)

_MAGIC = struct.pack("<II", 0x54564319, 0x12345678)
_AT = 0x7F0000000000


def _seed():
    """One process with a mapping that is filled, an open file and a socket that listens; all else is 0."""
    core = _made("core", "core_entry", mtype=1)
    core.tc.SetInParent()
    core.thread_core.futex_rla = 0
    for name in ("cap_inh", "cap_prm", "cap_eff", "cap_bnd", "cap_amb"):
        getattr(core.thread_core.creds, name).extend([0xFFFFFFFF, 0x1FF])
    clocks = _made("timens", "timens_entry")
    clocks.monotonic.tv_sec = clocks.boottime.tv_sec = 5
    memory = _made("mm", "mm_entry", exe_file_id=1)
    memory.vmas.add(start=_AT, end=_AT + (8 << 20), prot=3, flags=0x22, status=1, fd=-1)
    head = _made("pagemap", "pagemap_head", pages_id=1)
    run = _made("pagemap", "pagemap_entry", vaddr=_AT, flags=6, nr_pages=2048)
    regular = _made("fdinfo", "file_entry", type=1, id=1)
    regular.reg.name = "/usr/bin/engine"
    inet = _made("fdinfo", "file_entry", type=2, id=2)
    inet.isk.family, inet.isk.type, inet.isk.proto, inet.isk.state, inet.isk.src_port = 2, 1, 6, 10, 8000
    inet.isk.src_addr.append(0)
    inet.isk.dst_addr.append(0)
    parts = {
        "files.img": [regular, inet],
        "pstree.img": [_made("pstree", "pstree_entry", pid=100, pgid=100, sid=100, threads=[100])],
        "core-100.img": [core], "mm-100.img": [memory], "timens-0.img": [clocks], "pagemap-100.img": [head, run],
        "ids-100.img": [_made("core", "task_kobj_ids_entry", files_id=1)],
        "fdinfo-1.img": [_made("fdinfo", "fdinfo_entry", id=2, type=2, fd=3)],
    }  # fmt: skip
    return {
        name: images.join(_MAGIC, [_whole(message) for message in found]) for name, found in parts.items()
    }


def _made(module, name, **fields):
    return images.message(module, name)(**fields)


def _whole(message):
    """Encoded, with a 0 in every field that it has to have."""
    while missing := message.FindInitializationErrors():
        for path in missing:
            *above, last = path.split(".")
            place = message
            for name in above:
                field, _, number = name.partition("[")
                place = getattr(place, field)
                place = place[int(number[:-1])] if number else place
            kind = place.DESCRIPTOR.fields_by_name[last]
            if kind.message_type:
                getattr(place, last).SetInParent()
            else:
                setattr(
                    place,
                    last,
                    b"" if kind.type == kind.TYPE_BYTES else "" if kind.type == kind.TYPE_STRING else 0,
                )
    return message.SerializeToString()


SEEDS = [_seed()]


def feed(case, _place):
    """Everything that a restore asks of them before CRIU gets them."""
    decoded = images.Decoded(frozenset(case), case.__getitem__)
    rewriter = Rewriter(decoded, 100, {}, tasks.Grants(frozenset(), frozenset(range(41)), {}, None))
    rewriter.pids()
    rewriter.clocks()
    rewriter.regular_files()
    rewriter.mapped_bytes()
    rewriter.traces()
    rewriter.locks()
    rewriter.watched()
    rewriter.names()
    rewriter.ports()
    rewriter.move_sockets(sockets.Network({}, frozenset(), frozenset({"lo"}), lambda _: False))
    rewriter.give_up_owners(0, {0})
    rewriter.close_what_leads_out(keeps_half_closed=False)
    rewriter.half_closed()
    source = decode.Source(decoded, lambda name, at, length: case[name][at : at + length], 1000)
    made = plan.make(decode.read(source), None)
    for rest in made.remainders:
        decode.encode_pagemap(case[rest.pagemap.name], rest.runs)
    for name in case:
        rewriter.image(name)
