"""What `imprint status` shows: a table of points and arrays, what failed and why, what the others wait for, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slurm.status import RELEASE, STATES, JobStatus
from slurm.submission import OVERVIEW

STYLES = {"done": "green", "running": "cyan", "queued": "yellow", "failed": "bold red", "missing": "dim"}
GRAVEST = ["failed", "running", "queued", "missing", "done"]  # of an array's jobs at one point: what its cell says
NAMED = 3  # jobs that a line names, of those of which it says the same
ENDLESS = 10_000  # characters of a line: rich measures no more than it is given
QUOTED = 10  # failures whose last words are shown
REASONS = 12  # lines on what is queued or missing


def show(found: Sequence[JobStatus], title: str, console: Console) -> None:
    """The first table that the console is wide enough for, what failed, and why the others are not done."""
    tables = [
        lambda: status_table(found, title),
        lambda: status_table(found, title, narrow=True),
        lambda: status_table(found, title, narrow=True, turned=True),
        lambda: counts_table(found, title),
    ]
    for make in tables:
        table = make()
        if console.measure(table, options=console.options.update(max_width=ENDLESS)).maximum <= console.width:
            break
    console.print(table)
    for line in [*failures(found), *reasons(found)]:
        console.print(line, soft_wrap=True)


def status_table(found: Sequence[JobStatus], title: str, narrow: bool = False, turned: bool = False) -> Table:
    """A row a point, a column an array, or `turned`; below them the overview. `narrow` says how far a training is in percent."""
    points, arrays, cells = _by_point_and_array(found)
    table = Table(title=title, title_justify="left")
    if turned:
        table.add_column("job")
        for point in points:
            table.add_column(point or "state")
        for array in arrays:
            table.add_row(array, *(_cell(cells.get((point, array), []), narrow) for point in points))
    else:
        if any(points):
            table.add_column("point", overflow="fold")
        for array in arrays:
            kind, dash, model = array.partition("-")
            table.add_column(f"{kind}\n{model}" if dash else kind)
        for point in points:
            row = [_cell(cells.get((point, array), []), narrow) for array in arrays]
            table.add_row(*([point] if any(points) else []), *row)
    return _with_overview(table, found, narrow)


def counts_table(found: Sequence[JobStatus], title: str) -> Table:
    """A row an array: of how many points it is done, running, queued, failed or missing."""
    points, arrays, cells = _by_point_and_array(found)
    table = Table(title=title, title_justify="left")
    table.add_column("job")
    for state in STATES:
        table.add_column(state, justify="right")
    for array in arrays:
        gravest = [_gravest(jobs).state for point in points if (jobs := cells.get((point, array)))]
        counts = {state: gravest.count(state) for state in STATES}
        table.add_row(array, *(Text(f"{count:,}" if count else "", style=STYLES[state]) for state, count in counts.items()))
    return _with_overview(table, found, narrow=True)


def _by_point_and_array(found: Sequence[JobStatus]) -> tuple[list[str], list[str], dict[tuple[str, str], list[JobStatus]]]:
    cells: dict[tuple[str, str], list[JobStatus]] = {}
    for status in found:
        if status.job != OVERVIEW:
            cells.setdefault((status.point, status.array or status.job), []).append(status)
    points, arrays = (list(dict.fromkeys(each)) for each in zip(*cells, strict=True)) if cells else ([], [])
    return points, arrays, cells


def _with_overview(table: Table, found: Sequence[JobStatus], narrow: bool) -> Table:
    for status in found:
        if status.job == OVERVIEW:
            table.caption, table.caption_justify = Text.assemble(f"{OVERVIEW}: ", _cell([status], narrow)), "left"
    return table


def _gravest(jobs: Sequence[JobStatus]) -> JobStatus:
    return min(jobs, key=lambda job: GRAVEST.index(job.state))


def _cell(jobs: Sequence[JobStatus], narrow: bool) -> Text:
    if not jobs:
        return Text("")
    status = _gravest(jobs)
    words = "FAILED" if status.state == "failed" else status.state
    if status.step is not None and status.steps and status.state in ("running", "queued"):
        share = f"{status.step / status.steps:.0%}" if narrow else f"{status.step:,}/{status.steps:,}"
        words = share if narrow and status.state == "running" else f"{words} {share}"
    elif len(jobs) > 2 and status.state != "done":
        words += f" {sum(job.state == 'done' for job in jobs)}/{len(jobs)}"
    return Text(words, style=STYLES[status.state])


def failures(found: Sequence[JobStatus]) -> Iterator[Text]:
    """Each failure with SLURM's word, its log and the log's last lines; jobs of one log, or that failed alike, together."""
    groups: dict[tuple[str, str], list[JobStatus]] = {}
    for status in found:
        if status.state == "failed":
            groups.setdefault((status.log, status.log or status.why), []).append(status)
    for number, jobs in enumerate(groups.values()):
        first = jobs[0]
        told = f"{_names(jobs)}: {first.why}{f' ({first.slurm})' if first.slurm else ''}"
        yield Text.assemble("\n" if number < QUOTED else "", ("FAILED ", STYLES["failed"]), told)
        if first.log:
            yield Text(f"  {first.log}", style="dim")
        for line in first.words if number < QUOTED else []:
            yield Text(f"  | {line}")


def reasons(found: Sequence[JobStatus]) -> Iterator[Text]:
    """Why jobs are queued or missing, those of one reason in a line."""
    groups: dict[tuple[str, str], list[JobStatus]] = {}
    for state in ("running", "queued", "missing"):
        for status in found:
            if status.state == state and status.why:
                groups.setdefault((state, status.why), []).append(status)
    if groups:
        yield Text("")
    for (state, why), jobs in list(groups.items())[:REASONS]:
        yield Text.assemble((state, STYLES[state]), f" {_names(jobs)}: {why}")
    if len(groups) > REASONS:
        yield Text(f"and {len(groups) - REASONS} more reasons; --json has all")


def _names(jobs: Sequence[JobStatus]) -> str:
    named = [f"{job.job} of {job.point}" if job.point else job.job for job in jobs[:NAMED]]
    return ", ".join(named) + (f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else "")


def last_words(found: Sequence[JobStatus], arguments: Sequence[str], report: Path) -> list[str]:
    """How many jobs are in which state, and what to do next. `arguments` are those of `imprint status`."""
    counts = {state: sum(status.state == state for status in found) for state in STATES}
    lines = [f"{len(found)} jobs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)]
    submit = shlex.join(["imprint", "submit", *arguments])
    if counts["done"] == len(found):
        lines.append(f"Everything is done. The report: {report}")
    elif counts["missing"] == len(found) and not any(status.slurm for status in found):
        lines.append(f"Nothing was done yet. To SLURM: {submit}; here: {shlex.join(['imprint', 'run', *arguments])}")
    elif counts["failed"] or counts["missing"]:
        lines.append(f"What failed or is missing, again: {submit} --missing")
    elif any(RELEASE in status.why for status in found):
        lines.append("Nothing is missing, but what is held goes on only when it is released.")
    else:
        lines.append("Nothing is missing: what is queued or running does the rest.")
    return lines
