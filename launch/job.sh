# shellcheck shell=bash
# Sourced by the cluster scripts: the environment, the launcher's command line, starting or resuming the run, and what its end means.
#
#   DISTCNN_HOME           the folder with distcnn/ and launch/ (default: where the job was submitted)
#   DISTCNN_SETUP          a file to source first: module load ..., activation (default: .venv in DISTCNN_HOME, if it exists)
#   DISTCNN_RUN            the run directory: resumed if it exists, else created
#   DISTCNN_PYTHON         the Python to use on all hosts (default: the first python on the PATH)
#   DISTCNN_BIND           what each rank is bound to: core, none ... as the launcher calls it (default: core)
#   DISTCNN_MAX_RESTARTS   how many times a job may restart automatically (default: 20)

say() { printf '%s: %s\n' "${script:-distcnn}" "$*" >&2; }
fail() { say "error: $*"; exit 2; }

enter_home() {
    cd "$DISTCNN_HOME" || fail "DISTCNN_HOME is '$DISTCNN_HOME': no such directory on $(hostname)"
    if [ -n "${DISTCNN_SETUP:-}" ]; then
        [ -r "$DISTCNN_SETUP" ] || fail "DISTCNN_SETUP is '$DISTCNN_SETUP': no such file on $(hostname)"
        # shellcheck disable=SC1090
        . "$DISTCNN_SETUP"
    elif [ -r .venv/bin/activate ]; then
        # shellcheck disable=SC1091
        . .venv/bin/activate
    fi
    python=${DISTCNN_PYTHON:-$(command -v python || command -v python3)} || fail "no python on $(hostname): set DISTCNN_SETUP or DISTCNN_PYTHON"
    # distcnn limits BLAS itself; this keeps other libraries in the process from starting threads.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
    PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    family=$("$python" launch/mpi_family.py) || fail "$python does not run: set DISTCNN_PYTHON, or load its module in DISTCNN_SETUP"
    case $family in
        none*) fail "no MPI (${family#none: }): load the site's module and pip install '.[mpi]', or pip install '.[mpi,mpich]'; see docs/cluster.md" ;;
    esac
}

# Set the array mpirun_words: the mpirun command line for the "host count" lines on standard input.
set_mpirun_words() {
    local hosts='' total=0 host count rest mpirun=${DISTCNN_MPIRUN:-mpirun} bind=${DISTCNN_BIND:-core} most=0
    command -v "$mpirun" >/dev/null || fail "no $mpirun on the PATH: load the MPI module in DISTCNN_SETUP, or set DISTCNN_MPIRUN"
    while read -r host count rest; do
        [ -n "$host" ] || continue
        hosts=$hosts${hosts:+,}$host:$count
        total=$((total + count))
        [ "$count" -le $most ] || most=$count
    done
    [ -n "$hosts" ] || fail "no hosts given"
    ranks=${ranks:-$total}
    if [ "$family" = openmpi ]; then
        mpirun_words=("$mpirun" -n "$ranks" --host "$hosts" --map-by slot --bind-to "$bind")
        [ -z "${DISTCNN_SSH:-}" ] || mpirun_words+=(--prtemca plm_ssh_agent "$DISTCNN_SSH")
        for name in PATH PYTHONPATH LD_LIBRARY_PATH VIRTUAL_ENV OMP_NUM_THREADS PYTHONUNBUFFERED; do
            [ -z "${!name:-}" ] || mpirun_words+=(-x "$name")
        done
    else
        mpirun_words=("$mpirun" -n "$ranks" -hosts "$hosts" -bind-to "$bind")
        [ -z "${DISTCNN_SSH:-}" ] || mpirun_words+=(-launcher ssh -launcher-exec "$DISTCNN_SSH")
    fi
}

# Decide whether to restart after exit code $1 when this was restart $2: 0 for yes, else print why not. A job that keeps failing must end.
may_restart() {
    local code=$1 restarts=$2
    if [ "$restarts" -ge "${DISTCNN_MAX_RESTARTS:-20}" ]; then
        say "not restarted: it has already run $((restarts + 1)) times (limit: DISTCNN_MAX_RESTARTS)"
        return 1
    fi
    if [ "$code" -ne 85 ] && [ "$restarts" -ge 3 ] && [ "$(newest_checkpoint)" = "$checkpoint_before" ]; then
        say "not restarted: it has run $((restarts + 1)) times, the last time without a new checkpoint"
        return 1
    fi
}

# Copy --model from the given flags to train_flags: a resume imports a user's own model only if the command repeats it.
repeat_model() {
    while [ $# -gt 0 ]; do
        case $1 in
            --model) train_flags+=(--model "${2:-}") ;;
            --model=* | --trust-model) train_flags+=("$1") ;;
        esac
        shift
    done
}

# Set the array train_flags, the flags of distcnn.train for this start: resume the run if it exists, else start it with the given flags.
set_train_flags() {
    checkpoint_before=$(newest_checkpoint)
    if [ -e "$DISTCNN_RUN/config.toml" ]; then
        train_flags=(--resume "$DISTCNN_RUN")
        repeat_model "$@"
        say "resuming $DISTCNN_RUN"
    else
        train_flags=(--output "$DISTCNN_RUN" "$@")
    fi
}

# Set the array slurm_words: the srun or mpirun command line that runs a command on all of the job's ranks, or on $1 of them.
set_slurm_words() {
    ranks=${1:-}
    if [ "${DISTCNN_LAUNCHER:-srun}" = mpirun ]; then
        set_mpirun_words < <(
            mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
            mapfile -t counts < <("$python" -c 'import sys
from distcnn.system.launcher import tasks_per_node
print(*tasks_per_node(sys.argv[1]), sep="\n")' "${SLURM_TASKS_PER_NODE:?}")
            for index in "${!hosts[@]}"; do echo "${hosts[index]} ${counts[index]}"; done
        )
        slurm_words=("${mpirun_words[@]}")
        return
    fi
    local plugin known bind=${DISTCNN_BIND:-core}
    case $family in openmpi) plugin=pmix ;; cray) plugin=cray_shasta ;; *) plugin=pmi2 ;; esac
    plugin=${DISTCNN_MPI:-$plugin}
    known=$(srun --mpi=list 2>&1)
    case $known in
        *"$plugin"*) ;;
        *) fail "srun has no MPI plugin '$plugin' for this $family library: set DISTCNN_MPI to a matching one, or DISTCNN_LAUNCHER=mpirun; available: $known" ;;
    esac
    # Without --kill-on-bad-exit a step waits forever for a killed rank; since Slurm 22.05 a step does not inherit the job's cores per task.
    slurm_words=(srun "--mpi=$plugin" --kill-on-bad-exit=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}" "--cpu-bind=${bind/#core/cores}")
    [ -z "$ranks" ] || slurm_words+=(-n "$ranks")
}

# Before a restart under Slurm: steps have the same names as before, and MPICH names its shared memory after them. The ranks clean up too, but
# one of them may find the leftovers before another has removed them.
clean_shared_memory() { srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$python" launch/clean_shared_memory.py; }

# Put this Slurm job back into the queue; $1 is the command to resume by hand.
requeue() {
    local try
    for try in {1..10}; do # Slurm refuses for a moment while it handles a lost node
        if scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
            say "job $SLURM_JOB_ID was requeued and will resume"
            sleep 60 # Slurm ends this shell meanwhile
            return
        elif scontrol show job -o "$SLURM_JOB_ID" | grep -q JobState=PENDING; then
            say "job $SLURM_JOB_ID was requeued by Slurm and will resume"
            return
        fi
        sleep 3
    done
    say "requeueing failed; to resume: $1"
}

newest_checkpoint() { ls "$DISTCNN_RUN/checkpoints" 2>/dev/null | sort | tail -n 1; }
# The file in which the ranks note their exit code. Launchers change it: srun returns 143 if it ended ranks after the first one failed.
name_exit_note() {
    mkdir -p "$(dirname "$DISTCNN_RUN")"
    DISTCNN_EXIT_NOTE=$(cd "$(dirname "$DISTCNN_RUN")" && pwd)/.exit-$$-$RANDOM
    export DISTCNN_EXIT_NOTE
    trap 'rm -f "$DISTCNN_EXIT_NOTE"' EXIT
}
read_exit_note() {
    local noted
    if noted=$(cat "$DISTCNN_EXIT_NOTE" 2>/dev/null) && [[ $noted =~ ^[0-9]+$ ]] && [ "$code" -ne 0 ]; then
        code=$noted
    fi
    rm -f "$DISTCNN_EXIT_NOTE"
}
is_finished() { [ -e "$DISTCNN_RUN/result.json" ]; }

# Judge exit code $1: 0 if the run is complete, 1 if it needs a person, 2 if it can resume (stopped, killed, a host lost).
# A launcher's exit code is not enough: Open MPI's mpirun returns 0 if the daemon on another host died.
judge_end() {
    local code=$1
    if [ "$code" -eq 0 ] && is_finished; then
        return 0
    fi
    case $code in
        1 | 2 | 3)
            say "failed with code $code; a restart would not help. See the error above, and docs/cluster.md for remedies"
            return 1
            ;;
        85) say "stopped by a signal with everything saved (code 85)" ;;
        *) say "ended with code $code before the run was complete: a rank or host was lost, or the job was killed" ;;
    esac
    return 2
}
