"""One file on a file system that takes its time for every answer: mount.py FILE DIRECTORY MILLISECONDS.

It speaks the kernel's FUSE protocol (linux/fuse.h) itself, as much of it as reading one file takes, and answers as
many reads at once as are asked for: a server far away, with more bandwidth than anybody uses.
"""

import ctypes
import errno
import os
import stat
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 18, 25, 26, 36, 42,
)  # fmt: skip
ASYNC_READ, KEEP_CACHE = 1, 2
FILE = 2  # the number of its node; the directory's is 1 (FUSE_ROOT_ID)
AT_ONCE = 128
READ_AHEAD_BYTES = 128 << 10  # what a mount of a server has unless somebody changed it
FOR_EVER_S = 1 << 30


class Slow:
    """The file ``source`` as DIRECTORY/file."""

    def __init__(self, source, directory, delay_s):
        self.source = os.open(source, os.O_RDONLY)
        self.size = os.fstat(self.source).st_size
        self.delay_s = delay_s
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,max_read={READ_AHEAD_BYTES}"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"slow", os.fsencode(directory), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)

    def serve(self):
        """Until it is unmounted."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while True:
                try:
                    request = os.read(self.device, 1 << 20)
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        return
                    raise
                pool.submit(self._answer, request)

    def _answer(self, request):
        _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
        body = request[40:]
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        answer = self._answer_to(opcode, node, body)
        error, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
        os.writev(self.device, [struct.pack("=IiQ", 16 + len(data), error, unique), data])

    def _answer_to(self, opcode, node, body):
        if opcode == INIT:
            major, minor, _, flags = struct.unpack_from("=IIII", body)
            return struct.pack(
                "=IIIIHHIIHHI7I", major, min(minor, 38), READ_AHEAD_BYTES, flags & ASYNC_READ, AT_ONCE, AT_ONCE,
                READ_AHEAD_BYTES, 1, 0, 0, 0, *[0] * 7,
            )  # fmt: skip
        if opcode == LOOKUP:
            if body != b"file\0":
                return errno.ENOENT
            return struct.pack("=QQQQII", FILE, 0, FOR_EVER_S, FOR_EVER_S, 0, 0) + self._attributes(FILE)
        if opcode == GETATTR:
            return struct.pack("=QII", FOR_EVER_S, 0, 0) + self._attributes(node)
        if opcode == OPEN:
            return struct.pack("=QII", 0, KEEP_CACHE, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            time.sleep(self.delay_s)
            return os.pread(self.source, size, offset)
        return b"" if opcode in (RELEASE, FLUSH) else errno.ENOSYS

    def _attributes(self, node):
        mode, size = (stat.S_IFREG | 0o644, self.size) if node == FILE else (stat.S_IFDIR | 0o755, 0)
        return struct.pack("=6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


slow = Slow(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000)
print("mounted", flush=True)
slow.serve()
