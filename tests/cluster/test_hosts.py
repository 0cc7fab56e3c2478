"""Several hosts, each a namespace: the same bits, and a prompt end when a host or the network
between hosts fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, hosts
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, write_image_set
from tests.support.running import STAGED, reference_hash, resume, running

pytestmark = pytest.mark.xdist_group("hosts")

TIMEOUT = 3
SECONDS_MORE = 20
"""From the time-out to the end of the last rank: the turns of the ranks before, answers, ticks;
each host ends by itself.
"""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four hosts, a tenth of a millisecond apart."""
    with hosts(4, tmp_path_factory.getbasetemp() / "four-hosts", delay_seconds=1e-4) as made:
        yield made


@pytest.mark.parametrize(
    ("names", "ranks_a_host"), [(("h1", "h2"), 2), (("h1", "h2", "h3", "h4"), 1)]
)
def test_the_same_bits_as_one_process(
    names: tuple[str, ...],
    ranks_a_host: int,
    any_mpi: Launcher,
    four: Hosts,
    image_set: MakeImageSet,
    tmp_path: Path,
) -> None:
    spread = four.launcher(any_mpi, *names, ranks_a_host=ranks_a_host)
    flags = ["--data", str(image_set()), "--epochs", "2"]
    done = spread.run(4, "-m", "distcnn.train", "--output", str(tmp_path / "hosts"), *flags)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    placed = "; ".join(
        f"{name}: {index * 2}-{index * 2 + 1}" if ranks_a_host == 2 else f"{name}: {index}"
        for index, name in enumerate(names)
    )
    assert f"ranks    4 on {len(names)} hosts ({placed}) (" in done.stdout
    alone = SERIAL.train(1, tmp_path / "alone", *flags)
    assert f"weights {alone['params_sha256']}" in done.stdout


@pytest.mark.parametrize("name", ["h1", "h2"])
def test_a_host_that_dies_ends_the_job(
    name: str, any_mpi: Launcher, four: Hosts, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), output=tmp_path / "run", checkpoint_every=1)
    with running(
        four.launcher(any_mpi, "h1", "h2", ranks_a_host=2), 4, *STAGED, *flags, STAGED_PACE="0.1"
    ) as run:
        run.wait_for_step(3)
        start = time.monotonic()
        four.crash(name)
        run.process.wait(10)
        run.wait_for_none_left(10)
        seconds = time.monotonic() - start
    print(
        f"measured: {any_mpi.name}, all of {name} killed: {seconds:.1f} s until the last process"
        " was gone"
    )
    assert seconds < 10
    assert not (
        tmp_path / "run" / "result.json"
    ).exists()  # Open MPI's mpirun ends with 0 when the daemon of another host has gone
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


def test_a_cut_network_is_noticed_on_both_sides(
    any_mpi: Launcher, four: Hosts, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(
        data=image_set(), output=tmp_path / "run", checkpoint_every=1, stall_timeout=TIMEOUT
    )
    with running(
        four.launcher(any_mpi, "h1", "h2", ranks_a_host=2), 4, *STAGED, *flags, STAGED_PACE="0.1"
    ) as run:
        run.wait_for_step(3)
        ranks = run.ranks()
        try:
            four.set_network(1e-4, cut=["h2"])
            start = time.monotonic()
            run.wait_for_text("distcnn.train: error: stalled: no progress for ", TIMEOUT + 5)
            noticed = time.monotonic() - start
            while (
                set(ranks.values()) & set(run.processes())
                and time.monotonic() - start < TIMEOUT + SECONDS_MORE
            ):
                time.sleep(0.05)
            seconds = time.monotonic() - start
            assert not set(ranks.values()) & set(run.processes()), "ranks are left"
        finally:
            run.kill()
            four.set_network(1e-4)
        print(
            f"measured: {any_mpi.name}, network cut, time-out {TIMEOUT} s: told after {noticed:.1f}"
            f" s, all gone after {seconds:.1f} s"
        )
        assert "late: rank 2 on host h2" in run.stderr
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


def test_an_image_set_on_one_host_alone_is_reported(
    any_mpi: Launcher, four: Hosts, tmp_path: Path
) -> None:
    path = write_image_set(tmp_path / "set.h5")
    hide = f"mount -t tmpfs tmpfs {tmp_path}"  # in a mount namespace of the rank's own
    script = (
        f'[ "$(hostname)" = h1 ] || {hide}; exec {any_mpi.python} -m distcnn.train --data {path}'
        f" --output {tmp_path}/run"
    )
    spread = four.launcher(any_mpi, "h1", "h2")
    done = Launcher("a shell", "unshare", spread.mpirun).run(2, "-m", "bash", "-c", script)
    assert done.returncode == 2, done.stderr
    assert (
        f"--data: rank 0 on host h1 sees {path}, rank 1 on host h2 does not: put it on a file"
        " system that all hosts share" in done.stderr
    )
    assert not (tmp_path / "run").exists()
