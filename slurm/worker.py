"""A further process of a training that was started on one machine, which ends with the process that started it.

python -m slurm.worker RUN MODEL
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from slurm.jobs import Experiment

PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def main(run: str, model: str) -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    Experiment.of(Path(run)).train(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
