"""The settings of SLURM jobs: what they ask for, and how they start. None of them changes results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.setting import section, setting


@dataclass
class Resources:
    """What one kind of job asks for; what is not given is as in `slurm`."""

    partition: str | None = setting(None, "partition")
    account: str | None = setting(None, "account")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features that the nodes must have, as a100|h100")
    time: str | None = setting(None, "time limit, as 30:00, 24:00:00 or 2-00:00:00")
    nodes: int | None = setting(None, "nodes of a job", "nodes")
    gpus: int | None = setting(None, "GPUs of each node", "GPUs")
    tasks: int | None = setting(None, "processes on each node", "processes")
    cpus: int | None = setting(None, "processor cores of each process", "cores")
    memory: str | None = setting(None, "memory of each node, as 200G; 0 is all of it")
    options: dict[str, Any] = setting(
        {}, "any further option of sbatch, as {reservation: mine, exclusive: true}; false leaves one out"
    )


@dataclass
class Slurm:
    """SLURM jobs. `nodes`, `gpus` and `tasks` are those of a training; all else is for every job."""

    partition: str | None = setting(None, "partition")
    account: str | None = setting(None, "account")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features that the nodes must have, as a100|h100")
    time: str = setting("24:00:00", "time limit of a job; a training that is not done by then goes on in the queue's next turn")
    nodes: int = setting(1, "nodes of a training", "nodes")
    gpus: int = setting(0, "GPUs of each node of a training; 0 trains on processors", "GPUs")
    tasks: int | None = setting(
        None, "processes on each node of a training; if not given one for each GPU, or train.devices shared out", "processes"
    )
    cpus: int | None = setting(None, "processor cores of each process", "cores")
    memory: str | None = setting(None, "memory of each node, as 200G; 0 is all of it")
    options: dict[str, Any] = setting(
        {}, "any further option of sbatch, as {reservation: mine, exclusive: true}; false leaves one out"
    )
    parallel: int | None = setting(
        None,
        "points of a sweep that run at once, of each job array that is submitted (one call of sbatch); all if not given",
        "points",
    )
    warning: int = setting(120, "time before the limit at which a training saves its state and queues again", "seconds")
    modules: list[str] = setting([], "environment modules to load")
    setup: list[str] = setting([], "lines of shell before a job's work, as source ~/imprint/.venv/bin/activate")
    container: str | None = setting(None, "image in which jobs run")
    runtime: str = setting("pyxis", "what runs the container: pyxis (srun --container-image) or apptainer")
    mounts: list[str] = setting([], "folders of the host that the container sees, as /data or /data:/mnt")
    program: str | None = setting(
        None, "how imprint is called on the nodes, in words of shell; its path here if not given, or `imprint` in a container"
    )
    corpus: Resources = section(Resources, "jobs that tokenize the corpus")
    plan: Resources = section(Resources, "jobs that decontaminate and plan")
    train: Resources = section(Resources, "trainings")
    eval: Resources = section(Resources, "jobs that audit and evaluate a model")
    report: Resources = section(Resources, "jobs that write reports, and the overview of a sweep")
