"""A further process of a training that was started on one machine, which ends with the process that started it.

python -m slurm.worker RUN MODEL
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from configs.errors import Stopped
from train.stop import STOPPED, Stop

PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def main(run: str, model: str) -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    with Stop() as stop:  # before what takes seconds to import
        from slurm.jobs import Experiment
        from slurm.training import train_model

        try:
            train_model(Experiment.of(Path(run), stop), model)
            status = 0
        except Stopped:  # told by the leading process
            status = STOPPED
    os._exit(status)  # the leading process has written all; gloo's threads may abort an interpreter that ends while they wait


if __name__ == "__main__":
    main(*sys.argv[1:])
