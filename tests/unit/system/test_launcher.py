"""What launchers declare: when MPI is loaded, and when a wrong launcher is refused."""

from __future__ import annotations

import pytest

from distcnn.distributed import Communicator, open_communicator
from distcnn.errors import InputError
from distcnn.system import launcher

HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "2"}
OPENMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
}
SHELL_IN_A_STEP = {
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
    "PMI_SIZE": "1",
    "PMI_RANK": "0",
}


@pytest.mark.parametrize(
    "environment", [HYDRA, OPENMPI, SRUN, {"PMIX_RANK": "0"}, SHELL_IN_A_STEP | HYDRA]
)
def test_mpi_is_needed_where_a_launcher_started_several(environment: dict[str, str]) -> None:
    assert launcher.needs_mpi(environment)


@pytest.mark.parametrize(
    "environment",
    [{}, BATCH_SCRIPT, SHELL_IN_A_STEP, {"PMI_SIZE": "4"}, {"PMI_SIZE": "x", "PMI_RANK": "y"}],
)
def test_no_mpi_is_loaded_where_no_launcher_started_several(environment: dict[str, str]) -> None:
    assert not launcher.needs_mpi(environment)
    assert isinstance(open_communicator(environment), Communicator)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (HYDRA, "PMI_SIZE"),
        (OPENMPI, "OMPI_COMM_WORLD_SIZE"),
        (SRUN, "SLURM_STEP_NUM_TASKS"),
        ({"PMIX_RANK": "3"}, "PMIX_RANK"),
    ],
)
def test_a_world_of_one_under_a_launcher_of_several_is_a_mismatch(
    environment: dict[str, str], names: str
) -> None:
    problem = launcher.mismatch(1, "MPICH 5", environment)
    assert problem is not None
    assert names in problem
    assert "than MPICH 5, which mpi4py loaded: use the mpirun of that library" in problem


@pytest.mark.parametrize("environment", [{}, BATCH_SCRIPT, SHELL_IN_A_STEP])
def test_a_world_of_one_alone_is_right(environment: dict[str, str]) -> None:
    assert launcher.mismatch(1, "MPICH 5", environment) is None


def test_an_mpich_under_the_mpirun_of_open_mpi_is_refused_before_it_starts() -> None:
    problem = launcher.foreign_library("MPICH Version: 5.0.2", OPENMPI)
    assert problem is not None
    assert "the launcher is Open MPI's (it started 4 processes" in problem
    assert launcher.foreign_library("Open MPI v5.0.11", OPENMPI) is None
    assert launcher.foreign_library("MPICH Version: 5.0.2", HYDRA) is None
    assert (
        launcher.foreign_library("MPICH Version: 5.0.2", OPENMPI | HYDRA) is None
    )  # Hydra inside a job of Open MPI's


def test_larger_worlds_are_not_compared_with_what_slurm_counts() -> None:
    assert launcher.mismatch(8, "MPICH 5", SRUN) is None


def test_the_declared_rank_says_who_may_print() -> None:
    assert launcher.declared_rank(HYDRA) == 2
    assert launcher.declared_rank({}) == 0


def test_a_missing_mpi_library_is_an_input_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "distcnn.distributed.mpi", None
    )  # importing it raises ImportError
    with pytest.raises(InputError, match=r"mpi4py cannot be used.*\.\[mpi,mpich\]"):
        open_communicator(HYDRA)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (HYDRA, None),
        (HYDRA | {"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, launcher.Place(1, 2)),
        (
            OPENMPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"},
            launcher.Place(0, 3),
        ),
        (
            SRUN
            | {"SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"},
            launcher.Place(1, 3),
        ),
        (
            SRUN
            | {"SLURM_LOCALID": "1", "SLURM_NODEID": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"},
            launcher.Place(1, None),
        ),
        (SRUN | {"SLURM_LOCALID": "1"}, launcher.Place(1, None)),
        (BATCH_SCRIPT | {"SLURM_LOCALID": "0"}, None),
        # Hydra's proxy, which srun started: the proxy's place is not the rank's.
        (
            SRUN | {"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            launcher.Place(1, 2),
        ),
    ],
)
def test_the_place_on_the_host_is_what_the_launcher_says(
    environment: dict[str, str], place: launcher.Place | None
) -> None:
    assert launcher.declared_place(environment) == place


def test_tasks_per_node_are_read_from_the_short_form() -> None:
    assert launcher.tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert launcher.tasks_per_node("16") == [16]
    assert launcher.tasks_per_node("") == []
    assert launcher.tasks_per_node("2(x3),one") == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["mpirun", "-n", "4"]),
        ({"PMI_SIZE": "4", "PMI_RANK": "0", "MPI_LOCALRANKID": "0"}, ["mpirun", "-n", "4"]),
        (
            {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "PMI_SIZE": "4", "PMI_RANK": "0"},
            ["srun", "-n", "4"],
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "PMIX_RANK": "0"}, ["srun", "-n", "4"]),
        (
            {"SLURM_STEP_ID": "0", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
            ["mpirun", "-n", "4"],
        ),
        ({"SLURM_JOB_ID": "7"}, ["mpirun", "-n", "4"]),
    ],
)
def test_how_ranks_are_started_again(environment: dict[str, str], words: list[str]) -> None:
    assert launcher.starting_words(4, environment) == words
    assert launcher.starting_words(1, environment) == []
