# shellcheck shell=bash
# Sourced by the scripts for clusters: the environment, the launcher's words, the run to begin or to go on with, and what an end means.
#
#   DISTCNN_HOME           the folder with distcnn/ and launch/ (default: where the job was submitted)
#   DISTCNN_SETUP          a file that is sourced first: module load ..., activation (default: .venv in DISTCNN_HOME, if it is there)
#   DISTCNN_RUN            the run directory: begun where it is not there, resumed where it is
#   DISTCNN_PYTHON         the Python on all hosts (default: the first python on the PATH)
#   DISTCNN_BIND           what a rank is bound to: core, none ... in the launcher's own word (default: core)
#   DISTCNN_MAX_RESTARTS   how often a job may run again by itself (default 20)

say() { printf '%s: %s\n' "${script:-distcnn}" "$*" >&2; }
fail() { say "error: $*"; exit 2; }

enter_home() {
    cd "$DISTCNN_HOME" || fail "DISTCNN_HOME is '$DISTCNN_HOME': there is no such folder on $(hostname)"
    if [ -n "${DISTCNN_SETUP:-}" ]; then
        [ -r "$DISTCNN_SETUP" ] || fail "DISTCNN_SETUP is '$DISTCNN_SETUP': no such file on $(hostname)"
        # shellcheck disable=SC1090
        . "$DISTCNN_SETUP"
    elif [ -r .venv/bin/activate ]; then
        # shellcheck disable=SC1091
        . .venv/bin/activate
    fi
    python=${DISTCNN_PYTHON:-$(command -v python || command -v python3)} || fail "there is no python on $(hostname): set DISTCNN_SETUP or DISTCNN_PYTHON"
    # What distcnn does not set itself: other libraries in the process must not start threads of their own either.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
    PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    family=$("$python" launch/mpi_family.py) || fail "$python cannot run: set DISTCNN_PYTHON, or load its module in DISTCNN_SETUP"
    case $family in
        none*) fail "no MPI (${family#none: }): load the site's module and pip install '.[mpi]', or pip install '.[mpi,mpich]'; see launch/README.md" ;;
    esac
}

# The words of mpirun for "host count" lines on standard input: set in the array mpirun_words.
set_mpirun_words() {
    local hosts='' total=0 host count rest mpirun=${DISTCNN_MPIRUN:-mpirun} bind=${DISTCNN_BIND:-core} most=0
    command -v "$mpirun" >/dev/null || fail "there is no $mpirun on the PATH: load the MPI module in DISTCNN_SETUP, or set DISTCNN_MPIRUN"
    while read -r host count rest; do
        [ -n "$host" ] || continue
        hosts=$hosts${hosts:+,}$host:$count
        total=$((total + count))
        [ "$count" -le $most ] || most=$count
    done
    [ -n "$hosts" ] || fail "no hosts were named"
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

# Whether to begin anew by itself after this end, the ``$2``. restart: 0 yes; else it says why not. A job that only fails must end.
may_restart() {
    local code=$1 restarts=$2
    if [ "$restarts" -ge "${DISTCNN_MAX_RESTARTS:-20}" ]; then
        say "it ran $((restarts + 1)) times: not again (DISTCNN_MAX_RESTARTS)"
        return 1
    fi
    if [ "$code" -ne 85 ] && [ "$restarts" -ge 3 ] && [ "$(newest_checkpoint)" = "$checkpoint_before" ]; then
        say "it ran $((restarts + 1)) times, and this time it came to no new checkpoint: not again"
        return 1
    fi
}

# Add --model, if it is among the flags given, to train_flags: a resume imports a model of your own only when the command repeats it.
repeat_model() {
    while [ $# -gt 0 ]; do
        case $1 in
            --model) train_flags+=(--model "${2:-}") ;;
            --model=* | --trust-model) train_flags+=("$1") ;;
        esac
        shift
    done
}

# The flags of distcnn.train for this start, in the array train_flags: those given begin a run; one that is there is gone on with.
set_train_flags() {
    checkpoint_before=$(newest_checkpoint)
    if [ -e "$DISTCNN_RUN/config.toml" ]; then
        train_flags=(--resume "$DISTCNN_RUN")
        repeat_model "$@"
        say "going on with $DISTCNN_RUN"
    else
        train_flags=(--output "$DISTCNN_RUN" "$@")
    fi
}

# Under Slurm, the words before a command that let all of the job's ranks run it, or RANKS of them: set in the array slurm_words.
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
        *) fail "srun has no MPI plugin '$plugin' for this $family library: set DISTCNN_MPI to one that fits, or DISTCNN_LAUNCHER=mpirun. It has: $known" ;;
    esac
    # Without --kill-on-bad-exit a step waits for ever for a rank that was killed; since Slurm 22.05 it takes no cores per task from its job.
    slurm_words=(srun "--mpi=$plugin" --kill-on-bad-exit=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}" "--cpu-bind=${bind/#core/cores}")
    [ -z "$ranks" ] || slurm_words+=(-n "$ranks")
}

# Under Slurm, before a start again: its steps have the same names as before, and MPICH names its shared memory after them. The ranks clean up
# too, wherever they run, but one of them may find what is left before another has removed it.
clean_shared_memory() { srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$python" launch/clean_shared_memory.py; }

# Put this Slurm job back into the queue; ``$1``: how to go on by hand.
requeue() {
    local try
    for try in {1..10}; do # while Slurm itself deals with a lost node, it refuses for a moment
        if scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
            say "job $SLURM_JOB_ID was requeued, to go on"
            sleep 60 # Slurm ends this shell meanwhile
            return
        elif scontrol show job -o "$SLURM_JOB_ID" | grep -q JobState=PENDING; then
            say "job $SLURM_JOB_ID was requeued by Slurm itself, to go on"
            return
        fi
        sleep 3
    done
    say "it could not be requeued; to go on: $1"
}

newest_checkpoint() { ls "$DISTCNN_RUN/checkpoints" 2>/dev/null | sort | tail -n 1; }
# Where the ranks note the exit code that they chose: launchers change it (srun gives 143 when it ended ranks after the first had failed).
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

# What the end of the ranks means: 0 the run is over, 1 it cannot go on by itself, 2 it can (stopped, killed, a host lost).
# A launcher's exit code alone does not tell: Open MPI's mpirun ends with 0 when the daemon of another host has gone.
judge_end() {
    local code=$1
    if [ "$code" -eq 0 ] && is_finished; then
        return 0
    fi
    case $code in
        1 | 2 | 3)
            say "ended with code $code: nothing that would pass by itself. The lines above say why; launch/README.md has the remedies"
            return 1
            ;;
        85) say "stopped by a signal with everything saved (code 85)" ;;
        *) say "ended with code $code before the run was over: a rank or a host was lost, or the job was killed" ;;
    esac
    return 2
}
