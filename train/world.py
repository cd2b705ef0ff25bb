"""Who trains together: the processes that srun or torchrun started, or those started here; one process for each device."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from configs.errors import ImprintError, Stopped
from train.stop import STOPPED

STUCK_SECONDS = 20  # that this process may take to see by itself that another has failed
SIOCGIFADDR = 0x8915  # of Linux's netdevice(7): the address of a network interface
# How an exception is named: ValueError: no such thing, [rank1]: torch.OutOfMemoryError: CUDA, imprint: there is no such recipe.
ERROR = re.compile(r"(\[rank\d+\]: )?((\w+\.)+[A-Z]\w*|[A-Z]\w*(Error|Exception|Interrupt)|imprint)(: |$)")
Other = tuple[subprocess.Popen, TextIO]  # a process started here, and what it says


@dataclass(frozen=True)
class World:
    """One process among those that train together; rank 0 writes all files."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of its node
    local_size: int = 1
    address: str = "127.0.0.1"  # where rank 0 listens
    port: int = 29_500
    interface: str = ""  # network interface that reaches the other nodes; empty: left to the libraries
    scheduled: bool = False  # within a SLURM job, where nobody stands by to try again

    @staticmethod
    def here(environment: Mapping[str, str] = os.environ) -> World:
        """This process among those that torchrun (or `start`) or srun has started; alone where none did.

        Within an sbatch script or salloc, outside srun, SLURM's variables tell of the allocation: there a process is alone.
        """
        scheduled = "SLURM_JOB_ID" in environment
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return World(
                rank=int(environment["RANK"]),
                size=int(environment["WORLD_SIZE"]),
                local_rank=int(environment.get("LOCAL_RANK", 0)),
                local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
                address=environment.get("MASTER_ADDR", "127.0.0.1"),
                port=int(environment.get("MASTER_PORT", 29_500)),
                scheduled=scheduled,
            )
        if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            tasks = _tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])
            address, launcher = "127.0.0.1", ""  # where srun runs: in an sbatch script on the first node
            if len(tasks) > 1:  # a step on one node needs no names
                launcher = environment.get("SLURM_LAUNCH_NODE_IPADDR", "")
                address = _first_address(environment["SLURM_STEP_NODELIST"], launcher)
            address = environment.get("MASTER_ADDR") or address
            return World(
                rank=int(environment["SLURM_PROCID"]),
                size=int(environment["SLURM_STEP_NUM_TASKS"]),
                local_rank=int(environment["SLURM_LOCALID"]),
                local_size=tasks[int(environment["SLURM_NODEID"])],
                address=address,
                # steps of one job may run side by side
                port=int(
                    environment.get("MASTER_PORT")
                    or 15_000 + int(environment["SLURM_JOB_ID"] + environment["SLURM_STEP_ID"]) % 16_384
                ),
                interface=interface_to(address, launcher),
                scheduled=scheduled,
            )
        return World(port=free_port(), scheduled=scheduled)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def environment(self) -> dict[str, str]:
        """What tells a process, and the libraries it uses, its place."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _tasks_of_nodes(counts: str) -> list[int]:
    """Tasks of each node, from SLURM's way to write them: 4(x2),3 is 4, 4, 3."""
    tasks: list[int] = []
    for part in counts.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ImprintError(f"SLURM_STEP_TASKS_PER_NODE is {counts!r}, which is not SLURM's way to write tasks, as 4(x2),3")
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


def first_host(nodes: str) -> str:
    """The first of the hosts in SLURM's way to write them: gpu[03-05,9],login is gpu03."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first  # it matches nothing, too
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def _first_address(nodes: str, launcher: str) -> str:
    """Where the first of SLURM's nodes is reached: by its name, or, where that is not its host's, at the launcher's address."""
    name = first_host(nodes)
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return launcher or name
    return name


def interface_to(*addresses: str) -> str:
    """The network interface from which the first of the addresses that is not this host itself is reached; empty if none is found.

    gloo takes the one that the host's own name leads to, which is often 127.0.1.1 or nothing at all. Where all addresses lead to
    this host, its loopback: then the nodes are one machine.
    """
    found = [interface for interface in map(_interface, filter(None, addresses)) if interface]
    return next((interface for interface in found if interface != "lo"), next(iter(found), ""))


def _interface(address: str) -> str:
    """The interface from which an address is reached; empty where it is unknown."""
    if sys.platform != "linux":
        return ""
    import fcntl  # there is none on Windows

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # of a datagram socket: only looks up the route
        except OSError:
            return ""
        own = probe.getsockname()[0]
        if own.startswith("127."):
            return "lo"
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == own:
                return name
    return ""


@contextmanager
def start(size: int, command: list[str]) -> Iterator[World]:
    """Start `size` - 1 further processes of `command` on this machine and be their rank 0 within the block.

    They find their place by `World.here()`, and end with this process. When one fails, its last words are told, and the block ends
    with an ImprintError; where it waits for the one that failed all the same, deep in a library, this process ends with status 2.
    """
    port = free_port()
    repository = str(Path(__file__).parents[1])
    found = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
    others: list[Other] = []
    left = threading.Event()
    watcher = threading.Thread(target=_end_if_stuck, args=(others, left), daemon=True)
    try:
        for rank in range(1, size):
            world = World(rank, size, rank, size, port=port)
            words: TextIO = tempfile.TemporaryFile("w+")  # type: ignore[assignment]  # noqa: SIM115 - lives as long as its process
            environment = {**os.environ, **world.environment(), "PYTHONPATH": found}
            process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=words)
            others.append((process, words))
        watcher.start()
        yield World(0, size, 0, size, port=port)
        left.set()
        for process, _ in others:
            process.wait(60)
        if failure := _failure(others):
            raise ImprintError(failure)
    except Stopped:  # as all agreed: the others end by themselves, too
        left.set()
        for process, _ in others:
            process.wait(60)
        raise
    except Exception as error:
        if isinstance(error, ImprintError):
            raise
        # one may have failed first, and this process only lost the connection to it, perhaps before that one has quite ended
        if failure := _failure(others, seconds=5):
            raise ImprintError(failure) from error
        raise
    finally:
        left.set()
        if watcher.ident:  # it was started; it reads what is closed now
            watcher.join()
        for process, words in others:
            process.kill()
            process.wait()
            words.close()
        disconnect()


def disconnect() -> None:
    """Leave the group of processes, if this one is in any. DeepSpeed has groups of its own within it, which end with it."""
    import torch.distributed  # takes a second, and is there already where training has begun

    if not torch.distributed.is_initialized():
        return
    zero = sys.modules.get("train.zero")
    if zero is None or not zero.disconnect():
        torch.distributed.destroy_process_group()


def _end_if_stuck(others: list[Other], left: threading.Event) -> None:
    """End this process when another has failed, and the block is not left for STUCK_SECONDS after that.

    Who waits for others to connect, or for a GPU's exchange with them, may wait for half an hour, and no exception reaches it.
    """
    while not left.wait(1):
        failure = _failure(others)
        if failure and not left.wait(STUCK_SECONDS):
            print(f"imprint: {failure}", file=sys.stderr, flush=True)
            for process, _ in others:
                process.kill()
            os._exit(2)


def _failure(others: list[Other], seconds: float = 0) -> str | None:
    """Of the first of the other processes that has failed, or does so within `seconds`, what it did last."""
    end = time.monotonic() + seconds
    while True:
        for rank, (process, words) in enumerate(others, 1):
            if (status := process.poll()) and status != STOPPED:
                ended = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
                return f"process {rank} of {len(others) + 1} {ended}: {_last_words(words)}"
        if time.monotonic() >= end:
            return None
        time.sleep(0.05)


def _last_words(words: TextIO) -> str:
    """The line that names the last exception that was not ignored; the last line of all where there is none.

    Libraries say more as they end.
    """
    words.seek(0)
    lines = [line.strip() for line in words.read().splitlines() if line.strip()]
    errors, ignored = [], False
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("Exception ignored"):  # in a destructor: its traceback follows
            ignored = True
        elif line.startswith("Traceback"):
            ignored = before.startswith("Exception ignored")
        elif ERROR.match(line):
            errors += [] if ignored else [line]
            ignored = False
    return (errors or lines or ["it said nothing"])[-1]
