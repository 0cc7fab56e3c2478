#!/usr/bin/env bash
# Train on this machine: the first call sets up an environment and MNIST; then mpirun -n RANKS python -m distcnn.train.
#
#   ./launch/local.sh [-n RANKS] [flags of distcnn.train]     (without -n: one rank per core, at most 4)
set -euo pipefail
# Neither pip nor MPICH's mpirun works with a closed standard stream.
{ : 3>&1; } 2>/dev/null || exec >/dev/null
{ : 3>&2; } || exec 2>/dev/null
start=$PWD
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
root=$PWD
. launch/environment.sh

ranks=auto
flags=()
prepare=yes
source=()
while [ $# -gt 0 ]; do
    case $1 in
        -n | -np)
            ranks=${2:-}
            shift
            ;;
        --data | --data=* | --config | --config=* | -h | --help) prepare=no && flags+=("$1") ;;
        --source) source=(--source "${2:-}") && flags+=("$1") ;;
        --source=*) source=("$1") && flags+=("$1") ;;
        *) flags+=("$1") ;;
    esac
    shift || true
done
case $ranks in
    auto) ;;
    '' | *[!0-9]* | 0) fail "-n is '$ranks': it must be the number of ranks, at least 1" ;;
esac

use_environment .venv mpi,images,report,onnx,safetensors,tensorboard
export_openmpi_settings
if [ "$ranks" = auto ]; then
    ranks=$(python -c 'from distcnn.system.host import default_ranks, usable_cores; print(default_ranks(usable_cores("")))') || exit 2
fi
cd "$start"
if [ $prepare = yes ]; then
    python "$root/data/mnist.py" --output "$root/data/mnist.h5" "${source[@]}"
    [ "$start" = "$root" ] || flags+=(--data "$root/data/mnist.h5")
fi
if [ -t 1 ]; then
    # The ranks write to mpirun's pipe, so tell them that the output is a terminal and how wide it is.
    export DISTCNN_PROGRESS=${DISTCNN_PROGRESS:-bar} COLUMNS=${COLUMNS:-$(tput cols 2>/dev/null || echo 100)}
fi
exec mpirun -n "$ranks" python -m distcnn.train "${flags[@]}"
