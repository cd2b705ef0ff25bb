"""Who trains together: what launchers say, and processes started here."""

import os
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from configs.errors import ImprintError, Stopped
from train.stop import STOPPED
from train.world import World, _last_words, first_host, interface_to, start

SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
}


def test_without_a_launcher_a_process_is_alone() -> None:
    world = World.here({})
    assert (world.rank, world.size, world.leads) == (0, 1, True)


def test_torchrun_tells_a_process_its_place() -> None:
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "77"}
    assert World.here(told) == World(3, 4, 1, 2, "a", 77)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The addresses of the names that resolve: nothing is asked of a network, which may take long to answer."""
    known: dict[str, str] = {}

    def resolve(name: str, port: object) -> list:
        if name not in known:
            raise socket.gaierror(f"{name} is not known")
        return [(socket.AF_INET, None, 0, "", (known[name], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def test_srun_tells_a_process_its_place(names: dict[str, str]) -> None:
    names["gpu03"] = "10.1.0.3"
    world = World.here({**SRUN, "SLURM_LAUNCH_NODE_IPADDR": "10.9.9.9"})
    assert (world.rank, world.size, world.local_rank, world.local_size, world.address) == (5, 7, 1, 3, "gpu03")


def test_nodes_whose_names_are_not_those_of_their_hosts_meet_where_srun_was_called(names: dict[str, str]) -> None:
    assert World.here({**SRUN, "SLURM_LAUNCH_NODE_IPADDR": "10.1.0.3"}).address == "10.1.0.3"


def test_an_address_that_is_given_is_the_one(names: dict[str, str]) -> None:
    told = {"MASTER_ADDR": "10.1.0.4", "SLURM_LAUNCH_NODE_IPADDR": "10.1.0.3"}
    assert World.here({**SRUN, **told}).address == "10.1.0.4"
    assert World.here({**SRUN, **told, "SLURM_STEP_TASKS_PER_NODE": "7", "SLURM_NODEID": "0"}).address == "10.1.0.4"


def test_a_process_within_a_slurm_job_knows_that_it_is() -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "1"}
    assert not World.here({}).scheduled
    assert not World.here(torchrun).scheduled
    assert World.here({"SLURM_JOB_ID": "12"}).scheduled
    assert World.here({**torchrun, "SLURM_JOB_ID": "12"}).scheduled
    assert World.here(SRUN).scheduled


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of their network interfaces otherwise")
def test_the_interface_to_other_nodes_is_the_one_that_holds_this_hosts_address() -> None:
    assert interface_to("127.0.1.1") == "lo"  # what Debian calls the host itself: all is on one machine
    assert interface_to("no-such-host.invalid") == ""
    own = own_address()
    if own is None:
        pytest.skip("this machine is in no network")
    interface = interface_to(own)
    assert interface in [name for _, name in socket.if_nameindex()]
    assert interface != "lo"
    assert interface_to("127.0.1.1", own) == interface  # on the first node, whose own name leads to itself


def own_address() -> str | None:
    """This host's address in its network, if it is in one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))  # an address for documentation: nothing is sent
        except OSError:
            return None
        return str(probe.getsockname()[0])


def test_processes_of_one_node_need_not_know_its_name() -> None:
    alone = {**SRUN, "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "7", "SLURM_STEP_NODELIST": "gpu03"}
    assert World.here(alone).address == "127.0.0.1"


def test_steps_of_a_job_side_by_side_have_ports_of_their_own() -> None:
    assert World.here(SRUN).port != World.here({**SRUN, "SLURM_STEP_ID": "1"}).port


def test_within_an_allocation_but_outside_srun_a_process_is_alone() -> None:
    allocation = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "12"}
    assert World.here(allocation).size == 1
    assert World.here({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}).size == 1  # srun --pty bash


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],login", "gpu03"),
        ("a,b", "a"),
        ("node7", "node7"),
        ("r1-[2,4]-x", "r1-2-x"),
        ("login,gpu[1-2]", "login"),
        ("r[1-2]c[3,4]", "r1c3"),
    ],
)
def test_the_first_host_is_read_from_slurms_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def script(folder: Path, text: str) -> list[str]:
    (folder / "other.py").write_text(text)
    return [str(folder / "other.py")]


def test_processes_started_here_find_their_place(tmp_path: Path) -> None:
    command = script(tmp_path, f"import os; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(os.environ['WORLD_SIZE'])")
    with start(3, command) as world:
        assert (world.rank, world.size, world.local_size) == (0, 3, 3)
    assert {path.name: path.read_text() for path in tmp_path.glob("[0-9]")} == {"1": "3", "2": "3"}


def test_the_last_words_of_a_process_that_fails_are_told(tmp_path: Path) -> None:
    told = "process 1 of 2 ended with status 1: ValueError: no such thing"
    with pytest.raises(ImprintError, match=told), start(2, script(tmp_path, "raise ValueError('no such thing')")):
        pass


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["Traceback (most recent call last):", '  File "a.py"', "ValueError: no", "[2026-01-01] [INFO] exits"], "ValueError: no"),
        (["[rank1]: torch.OutOfMemoryError: CUDA", "a.py:3: UserWarning: leaked"], "[rank1]: torch.OutOfMemoryError: CUDA"),
        (["imprint: there is no corpus", "W resource_tracker: 1 leaked"], "imprint: there is no corpus"),
        (["KeyError: 'x'", "Exception ignored in: <function f>", "Traceback", "ChildProcessError: [Errno 10]"], "KeyError: 'x'"),
        (["Exception ignored in: <function f>", "OSError: 9", "KeyError: 'x'", "bye"], "KeyError: 'x'"),
        (["it began", "Killed"], "Killed"),
        ([], "it said nothing"),
    ],
)
def test_the_last_words_are_those_of_the_exception_and_not_what_libraries_say_after(said: list[str], told: str) -> None:
    assert _last_words(StringIO("\n".join(said))) == told


def test_a_lost_connection_is_told_as_the_failure_that_caused_it(tmp_path: Path) -> None:
    def lose_connection() -> None:
        time.sleep(1)
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(ImprintError, match="out of memory"), start(2, script(tmp_path, "import sys; sys.exit('out of memory')")):
        lose_connection()


def test_a_process_that_stopped_as_asked_has_not_failed(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopped("stopped at step 3")

    command = script(tmp_path, f"import sys, time; time.sleep(0.3); open(r'{tmp_path}/ended', 'w').close(); sys.exit({STOPPED})")
    with pytest.raises(Stopped, match="stopped at step 3"), start(2, command):
        stop()
    assert (tmp_path / "ended").exists()  # it was not killed


def test_processes_end_when_the_leading_one_is_stopped(tmp_path: Path) -> None:
    def be_stopped() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        raise KeyboardInterrupt

    command = script(tmp_path, f"import os, time; open(r'{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(60)")
    with pytest.raises(KeyboardInterrupt), start(2, command):
        be_stopped()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_waits_in_a_library_ends_when_another_has_failed(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("raise ValueError('no such thing')")
    (tmp_path / "leading.py").write_text(
        f"""
import time
from train import world
world.STUCK_SECONDS = 0.1
with world.start(2, [r"{tmp_path / "other.py"}"]):
    time.sleep(60)
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "leading.py")], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 2
    assert done.stderr == "imprint: process 1 of 2 ended with status 1: ValueError: no such thing\n"
