# shellcheck shell=bash
# Sourced by the scripts beside it: makes a Python environment and puts it first on the PATH. Work that is done is not repeated.
#
#   use_environment FOLDER EXTRAS    the active environment if there is one, else FOLDER, with distcnn[EXTRAS] installed
#   make_environment FOLDER EXTRAS   FOLDER with distcnn[EXTRAS] installed
#
# Needs only Python 3.11 or newer and its standard library; pip is fetched if the system has no ensurepip.

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename "$0"): error: $*"; exit 2; }

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer on the PATH: install one, or load its module"
}

# What an environment was made from; a change in any of it installs again. One stamp per set of extras, because local.sh and test.sh share
# an environment.
stamp_of() { cat pyproject.toml distcnn/__init__.py launch/environment.sh | cksum && pwd -P; }
stamp_file() { printf '%s/.distcnn-extras/%s' "$1" "$2"; }
is_set_up() { [ -x "$1/bin/python" ] && [ "$(cat "$(stamp_file "$1" "$2")" 2>/dev/null)" = "$(stamp_of)" ]; }

make_environment() {
    # Check before writing anything: the checkout may belong to somebody else.
    ! is_set_up "$1" "$2" || return 0
    [ -w "$(dirname "$1")" ] || fail "$1 must be set up, but user $(id -un) has no write permission in $(cd "$(dirname "$1")" && pwd -P): have its owner run $0 once, or activate an environment of your own"
    if command -v flock >/dev/null; then
        (flock 9 && _make_environment "$@") 9>"$1.lock"
    else
        _make_environment "$@"
    fi
}

_make_environment() {
    local folder=$1 extras=$2 python
    ! is_set_up "$folder" "$extras" || return 0 # another process did it while this one waited for the lock
    if [ ! -x "$folder/bin/python" ]; then
        python=$(find_python) || exit 2
        say "setting up $folder with $python"
        # --without-pip and then pip from the index: Debian has ensurepip in a separate package.
        "$python" -m venv --without-pip "$folder" || fail "$python cannot make an environment in $folder"
    fi
    install_into "$folder/bin/python" "$folder" "$extras"
    mkdir -p "$folder/.distcnn-extras"
    stamp_of >"$(stamp_file "$folder" "$extras")"
}

# pip, under the name "pip" too: without it, "pip install" would reach another Python.
ensure_pip() {
    local python=$1 folder=$2
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip --default-pip >/dev/null 2>&1 || "$python" launch/get_pip.py || fail "pip cannot be installed into $folder"
    fi
    if [ ! -e "$folder/bin/pip" ] && [ -e "$folder/bin/pip3" ]; then
        cp "$folder/bin/pip3" "$folder/bin/pip"
    fi
}

install_into() {
    local python=$1 folder=$2 extras=$3
    ensure_pip "$python" "$folder"
    say "installing distcnn[$extras] into $folder"
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" || fail "distcnn[$extras] cannot be installed into $folder"
}

use_environment() {
    local folder=$1 extras=$2 active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    if [ -n "$active" ] && ! "$active/bin/python" --version >/dev/null 2>&1; then
        say "the active environment $active has no working Python: using $folder"
        active=
    fi
    if [ -z "$active" ] || [ "$active" -ef "$folder" ]; then
        make_environment "$folder" "$extras,mpich" || exit 2
        # shellcheck disable=SC1091
        . "$folder/bin/activate"
        return
    fi
    # An active environment may have its own MPI, which a wheel would replace.
    if ! { command -v mpirun && "$active/bin/python" -c 'from mpi4py import MPI'; } >/dev/null 2>&1; then
        extras="$extras,mpich"
    fi
    if ! "$active/bin/python" launch/has_extras.py "$extras"; then
        install_into "$active/bin/python" "$active" "$extras"
    fi
    PATH="$active/bin:$PATH"
}

# Open MPI on one machine: allow root and oversubscription, and do not spin while waiting. Other MPIs ignore these.
export_openmpi_settings() {
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
    export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl=^ofi
}
