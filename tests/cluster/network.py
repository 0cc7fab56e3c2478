"""The network between the hosts of ``hosts.py``: a process that carries their packets, with delay.

    python network.py FOLDER PID [PID ...]      one host for each process, whose network namespace it is

Each host gets a TUN device eth0 (segments of TCP up to 64 KiB pass as one), with the address
198.18.0.1, .2 and so on (RFC 2544's range for measurements: nothing leaves the namespaces).
FOLDER/network holds the delay of a packet and the hosts that are cut off,
{"delay_seconds": 0.001, "cut": [2]}; SIGHUP makes the process read it again. The kernel limits a
link's rate (``hosts.py``): its queue makes senders wait, as a real card's does, while TCP would
take a queue here for an endless one.
"""  # noqa: E501

from __future__ import annotations

import collections
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

ADDRESS = "198.18.0.{}"
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN_WITHOUT_INFO_WITH_OFFLOAD_HEADER = 0x0001 | 0x1000 | 0x4000
CHECKSUMS_AND_SEGMENTS = 0x01 | 0x02 | 0x04
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCSIFTXQLEN, UP_AND_RUNNING = (
    0x8916,
    0x891C,
    0x8914,
    0x8943,
    0x1 | 0x40,
)
CLONE_NEWNET = 0x40000000
HEADER_BYTES, LARGEST_PACKET, PACKETS_AT_A_TIME = 10, 70000, 32


def enter_network(path: str) -> None:
    """Move this thread into the network namespace of ``path``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(descriptor)


def set_up(device: str, address: str | None) -> None:
    """Give the device its address (None: it has one) and switch it on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, text in (
            ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.0")) if address else ()
        ):
            place = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(str(text)))
            fcntl.ioctl(control, request, struct.pack("16s16s", device.encode(), place))
        if address:
            fcntl.ioctl(control, SIOCSIFTXQLEN, struct.pack("16si12x", device.encode(), 10000))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", device.encode(), UP_AND_RUNNING))


def open_device(pid: int, number: int) -> int:
    """The host's eth0, as a descriptor from which its packets are read."""
    enter_network(f"/proc/{pid}/ns/net")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(
        device, TUNSETIFF, struct.pack("16sH22x", b"eth0", TUN_WITHOUT_INFO_WITH_OFFLOAD_HEADER)
    )
    fcntl.ioctl(device, TUNSETOFFLOAD, CHECKSUMS_AND_SEGMENTS)
    set_up("lo", None)
    set_up("eth0", ADDRESS.format(number))
    return device


class Network:
    """All links. ``queues`` hold (arrival time, packet) for each host, in order."""

    def __init__(self, folder: Path, devices: list[int]) -> None:
        self._folder, self._devices = folder, devices
        self._queues: list[collections.deque[tuple[float, bytes]]] = [
            collections.deque() for _ in devices
        ]
        self.read_settings()

    def read_settings(self, *_: object) -> None:
        settings = json.loads((self._folder / "network").read_text())
        self._delay, self._cut = settings["delay_seconds"], set(settings["cut"])

    def carry(self) -> None:
        """Carry packets until this process is ended."""
        sender_of = {device: index for index, device in enumerate(self._devices)}
        while True:
            arrivals = [queue[0][0] for queue in self._queues if queue]
            wait = max(0.0, min(arrivals) - time.monotonic()) if arrivals else None
            for device in select.select(self._devices, (), (), wait)[0]:
                self._take(device, sender_of[device])
            for receiver, queue in enumerate(self._queues):
                self._deliver(self._devices[receiver], queue)

    def _take(self, device: int, sender: int) -> None:
        for _ in range(PACKETS_AT_A_TIME):
            try:
                packet = os.read(device, LARGEST_PACKET)
            except BlockingIOError:
                return
            if len(packet) < HEADER_BYTES + 20 or packet[HEADER_BYTES] >> 4 != 4:
                continue
            receiver = packet[HEADER_BYTES + 19] - 1  # the last byte of the address it goes to
            if (
                not 0 <= receiver < len(self._queues)
                or receiver == sender
                or {sender + 1, receiver + 1} & self._cut
            ):
                continue
            queue, arrives = self._queues[receiver], time.monotonic() + self._delay
            queue.append((max(arrives, queue[-1][0]) if queue else arrives, packet))

    def _deliver(self, device: int, queue: collections.deque[tuple[float, bytes]]) -> None:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, packet = queue.popleft()
            try:
                os.write(device, packet)
            except OSError:  # its queue is full, or it has gone: lost, as on any network
                continue


def main(folder: str, *pids: str) -> None:
    """Carry packets between the namespaces of these processes until this one is ended."""
    devices = [open_device(int(pid), number) for number, pid in enumerate(pids, 1)]
    network = Network(Path(folder), devices)
    signal.signal(signal.SIGHUP, network.read_settings)
    try:  # it must not wait for those it carries for
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        os.nice(-20)
    print("ready", flush=True)
    network.carry()


if __name__ == "__main__":
    main(*sys.argv[1:])
