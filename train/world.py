"""Who trains together: the processes that srun or torchrun started, or those started here; one process for each device."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from configs.errors import ImprintError


@dataclass(frozen=True)
class World:
    """One process among those that train together; rank 0 writes all files."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of its node
    local_size: int = 1
    address: str = "127.0.0.1"  # where rank 0 listens
    port: int = 29_500

    @staticmethod
    def here(environment: Mapping[str, str] = os.environ) -> World:
        """This process among those that torchrun (or `start`) or srun has started; alone where none did.

        Within an sbatch script or salloc, outside srun, SLURM's variables tell of the allocation: there a process is alone.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return World(
                rank=int(environment["RANK"]),
                size=int(environment["WORLD_SIZE"]),
                local_rank=int(environment.get("LOCAL_RANK", 0)),
                local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
                address=environment.get("MASTER_ADDR", "127.0.0.1"),
                port=int(environment.get("MASTER_PORT", 29_500)),
            )
        if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            return World(
                rank=int(environment["SLURM_PROCID"]),
                size=int(environment["SLURM_STEP_NUM_TASKS"]),
                local_rank=int(environment["SLURM_LOCALID"]),
                local_size=_tasks_of_node(environment["SLURM_STEP_TASKS_PER_NODE"], int(environment["SLURM_NODEID"])),
                address=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
                # steps of one job may run side by side
                port=int(
                    environment.get("MASTER_PORT")
                    or 15_000 + int(environment["SLURM_JOB_ID"] + environment["SLURM_STEP_ID"]) % 16_384
                ),
            )
        return World(port=free_port())

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


def _tasks_of_node(counts: str, node: int) -> int:
    """Tasks of one node, from SLURM's way to write them: 4(x2),3 is 4, 4, 3."""
    tasks: list[int] = []
    for part in counts.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ImprintError(f"SLURM_STEP_TASKS_PER_NODE is {counts!r}, which is not SLURM's way to write tasks, as 4(x2),3")
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks[node]


def first_host(nodes: str) -> str:
    """The first of the hosts in SLURM's way to write them: gpu[03-05,9],login is gpu03."""
    return re.sub(r"^([^\[,]*)\[(\w+)[^\]]*\](.*?)(,.*)?$", r"\1\2\3", nodes).split(",")[0]


@contextmanager
def start(size: int, command: list[str]) -> Iterator[World]:
    """Start `size` - 1 further processes of `command` on this machine and be their rank 0 within the block.

    They find their place by `World.here()`, and end with this process. When one fails, its last words are told, and the block ends
    with an ImprintError.
    """
    port = free_port()
    repository = str(Path(__file__).parents[1])
    found = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
    others: list[tuple[subprocess.Popen, TextIO]] = []
    try:
        for rank in range(1, size):
            world = World(rank, size, rank, size, port=port)
            words: TextIO = tempfile.TemporaryFile("w+")  # type: ignore[assignment]  # noqa: SIM115 - lives as long as its process
            environment = {**os.environ, **world.environment(), "PYTHONPATH": found}
            process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=words)
            others.append((process, words))
        yield World(0, size, 0, size, port=port)
        for rank, (process, words) in enumerate(others, 1):
            if process.wait(60):
                raise ImprintError(f"process {rank} of {size} ended with status {process.returncode}: {_last_words(words)}")
    except Exception as error:
        if isinstance(error, ImprintError):
            raise
        for rank, (process, words) in enumerate(others, 1):
            if process.poll():  # it failed first, and this process only lost the connection to it
                raise ImprintError(
                    f"process {rank} of {size} ended with status {process.returncode}: {_last_words(words)}"
                ) from error
        raise
    finally:
        import torch.distributed  # takes a second, and is there already where training has begun

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for process, words in others:
            process.kill()
            process.wait()
            words.close()


def _last_words(words: TextIO) -> str:
    words.seek(0)
    lines = [line.strip() for line in words.read().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
