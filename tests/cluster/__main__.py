"""A sweep of the quickstart on a real SLURM cluster, with things going wrong, beside the same sweep run here.

. DIR/env.sh; python -m tests.cluster --steps 600

Four points, two DeepSpeed processes each. One training is preempted, the node of another goes down, one point can't be written.
All the while `imprint status` is compared with what SLURM and the files say. Then what failed is mended, `imprint submit --missing`
finishes, and the streams, certificates and findings are compared with those of `imprint run`. Exit status 1 if anything is not as
it should be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.cluster.sweep import Sweep, compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="steps of each training (default 600; the quickstart has 3,000)")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    parser.add_argument("--strategy", default="zero_2", help="train.strategy on the cluster (default zero_2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        sweep = Sweep(
            folder / "cluster", folder / "cache", arguments.steps, (f"train.strategy={arguments.strategy}", "slurm.tasks=2")
        )
        sweep.besiege()
        sweep.finish()
        here = Sweep(folder / "here", folder / "cache", arguments.steps)
        here.run_here()
        faults = [*sweep.faults, *compare(sweep, here)]
    print("\n".join(sweep.told))
    print(*faults, sep="\n")
    print(f"{'FAILED' if faults else 'as it should be'}: {len(faults)} faults, status compared {sweep.compared} times")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
