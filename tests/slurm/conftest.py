"""The SLURM cluster that tests run on: whichever `sinfo` reaches."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Cluster:
    nodes: list[str]  # names
    gpus: int  # of a node, the least


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Skips, saying so, where there is none."""
    try:
        told = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %G"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        pytest.skip("sinfo reaches no SLURM cluster")
    gpus = dict(line.split(maxsplit=1) for line in told.splitlines())
    counts = [sum(int(count) for count in re.findall(r"gpu:(?:[^:,()]+:)?(\d+)", told)) for told in gpus.values()]
    return Cluster(sorted(gpus), min(counts))
