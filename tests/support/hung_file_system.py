"""python hung_file_system.py MOUNT FILE READS: a FUSE file system with FILE as MOUNT/set.h5 that
stops answering after READS reads.

Nothing is cached, so each read of a reader is one here. Needs root and /dev/fuse. The protocol is
in linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
import time
from pathlib import Path

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, INIT = 1, 2, 3, 14, 15, 18, 26
WITHOUT_ANSWER = (FORGET, 36, 42)
ROOT, FILE = 1, 2
NO_SUCH_FILE, NOT_IMPLEMENTED = -2, -38
UNCACHED = 1


def attributes(node: int, size: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
    return struct.pack(
        "<6Q10I", node, 0 if node == ROOT else size, *[0] * 7, mode, 1, 0, 0, 0, 4096, 0
    )


def answer(operation: int, node: int, body: bytes, content: bytes) -> tuple[int, bytes]:
    """The error, or 0, and the data."""
    if operation == INIT:
        return 0, struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 10, 65536, 1, *[0] * 10)
    if operation == LOOKUP and body.rstrip(b"\0") == b"set.h5":
        return 0, struct.pack("<4Q2I", FILE, 0, 0, 0, 0, 0) + attributes(FILE, len(content))
    if operation == GETATTR:
        return 0, struct.pack("<Q2I", 0, 0, 0) + attributes(node, len(content))
    if operation == OPEN:
        return 0, struct.pack("<Q2I", 1, UNCACHED, 0)
    if operation == READ:
        _, offset, size = struct.unpack_from("<2QI", body)
        return 0, content[offset : offset + size]
    return (
        0 if operation == RELEASE else NO_SUCH_FILE if operation == LOOKUP else NOT_IMPLEMENTED
    ), b""


def serve(mount: str, content: bytes, reads: int) -> None:
    device, libc = os.open("/dev/fuse", os.O_RDWR), ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hung", mount.encode(), b"fuse", 0, options):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    while reads:
        request = os.read(device, 1 << 20)
        length, operation, unique, node = struct.unpack_from("<2I2Q", request)
        if operation not in WITHOUT_ANSWER:
            error, data = answer(operation, node, request[40:length], content)
            os.write(device, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
            reads -= operation == READ
    print("hung", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
