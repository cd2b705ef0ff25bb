"""One writer per folder: a lock with a heartbeat, over all hosts that share the disk."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import LockError
from configs.layout import temporary_beside

HEARTBEAT_SECONDS = 120  # a lock of another host that was not renewed for so long is taken over


class Lock:
    """One writer per folder: a file that names host and process, whose time is renewed while the writer lives.

    Use as a context manager. A lock that was not renewed for HEARTBEAT_SECONDS, or whose process on this host is gone, is taken
    over; any other is a LockError that names its holder. Who is `patient` waits for it so long before: it may be what is left of
    this job's first start on another host. A holder whose lock was taken over ends its process, as two would write.
    """

    def __init__(self, folder: Path, patient: bool = False):
        self.path = folder / "lock.json"
        self.patient = patient
        self._own = {"host": socket.gethostname(), "process": os.getpid()}
        if job := os.environ.get("SLURM_JOB_ID"):
            self._own["job"] = job
        self._released = threading.Event()

    def __enter__(self) -> Lock:
        beats = HEARTBEAT_SECONDS / 8
        # a beat more than the time itself: one may have come just before this looked
        patience = time.monotonic() + (HEARTBEAT_SECONDS + beats if self.patient else 0)
        told = False
        while not self._taken():
            holder = self._take_over()
            if holder is None:
                continue
            if time.monotonic() >= patience:
                raise LockError(f"{self.path.parent} is being written by {holder}; wait for it, stop it, or use another name=")
            if not told:
                wait = f"this waits until it has given no sign of life for {HEARTBEAT_SECONDS} seconds"
                print(f"{self.path.parent} was being written by {holder}; {wait}", flush=True)
                told = True
            time.sleep(beats / 8)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._released.set()
        if _written(self.path) == self._own:
            self.path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether anyone holds the lock and has given a sign of life lately."""
        try:
            return time.time() - self.path.stat().st_mtime < HEARTBEAT_SECONDS
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _taken(self) -> bool:
        """Whether the lock could be taken: its file appears whole, and nowhere that another one is."""
        written = temporary_beside(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)  # again: who held it may have left nothing behind
        try:
            written.write_text(json.dumps(self._own))
            os.link(written, self.path)
        except (FileExistsError, FileNotFoundError):  # there is another lock; or its holder removed `written`, as a leftover
            return False
        finally:
            written.unlink(missing_ok=True)
        return True

    def holder(self) -> dict[str, Any] | None:
        """The living holder: its host, its process and, of a SLURM job, its `job`; {} where that is not known, None without one."""
        try:
            age = time.time() - self.path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        holder = _written(self.path)
        gone = holder and holder.get("host") == socket.gethostname() and not _lives(int(holder.get("process", 0)))
        return None if gone or age > HEARTBEAT_SECONDS else holder

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS / 8):
            try:
                holder = _written(self.path)
                if holder == self._own:
                    os.utime(self.path)
            except OSError:  # a disk that does not answer now says nothing of who holds the lock; the next beat asks again
                continue
            if holder != self._own and not self._released.is_set():
                self._end(holder)

    def _end(self, holder: dict[str, Any] | None) -> None:
        """End this process, at once: the main thread may be in a computation or an exchange that no exception interrupts."""
        now = f"by process {holder.get('process')} on {holder.get('host')}" if holder else "by nobody"
        print(
            f"imprint: {self.path.parent} is held {now} now: this process's lock was removed, or taken over after it had given no "
            f"sign of life for {HEARTBEAT_SECONDS} seconds; it ends, so that there is one writer",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    def _take_over(self) -> str | None:
        """Remove a lock whose holder is gone or silent; of any other, who holds it."""
        try:
            age = time.time() - self.path.stat().st_mtime
            holder = _written(self.path)
        except FileNotFoundError:
            return None
        if holder is None:
            return None
        host, process = holder.get("host"), holder.get("process")  # of a half written one only its age is known
        gone = host == socket.gethostname() and not (process and _lives(process))
        if age < HEARTBEAT_SECONDS and not gone:
            return f"process {process} on {host}"
        self._remove(holder)
        return None

    def _remove(self, holder: dict[str, Any]) -> None:
        """Remove the lock of a holder, and put back the one that another process has taken in its place meanwhile."""
        taken = temporary_beside(self.path)
        with suppress(FileNotFoundError):
            self.path.rename(taken)
            if _written(taken) != holder:
                with suppress(FileExistsError):
                    os.link(taken, self.path)
            taken.unlink()


def _written(path: Path) -> dict[str, Any] | None:
    """What a lock's file says of its holder, {} where it is half written, None where there is none."""
    try:
        holder = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(process: int) -> bool:
    """Whether another process of this number is running on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
