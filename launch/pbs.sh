#!/usr/bin/env bash
# Train under PBS (Professional, OpenPBS). A job that was stopped or lost a host submits itself again and resumes the run.
#
#   qsub launch/pbs.sh                                                       on 2 chunks of 2 ranks
#   qsub -l select=8:ncpus=32:mpiprocs=32 -v DISTCNN_FLAGS="--num-shards 256" launch/pbs.sh
#
# Variables, besides those of launch/job.sh, given with qsub -v:
#   DISTCNN_FLAGS     flags of distcnn.train, split at spaces (PBS passes no arguments to scripts)
#   DISTCNN_RUN       the run directory (default: runs/pbs-<job>; jobs that resume it use the same)
#   DISTCNN_QSUB      the command that resubmits (default: qsub; empty: only print how)
#
#PBS -N distcnn
#PBS -l select=2:ncpus=2:mpiprocs=2
#PBS -l walltime=00:30:00
#PBS -j oe
# PBS must not rerun the job: this script decides whether that helps.
#PBS -r n
set -uo pipefail
script=pbs.sh
DISTCNN_HOME=${DISTCNN_HOME:-${PBS_O_WORKDIR:?submit this with qsub}}
. "$DISTCNN_HOME/launch/job.sh" || { echo "$script: error: $DISTCNN_HOME/launch/job.sh does not exist: submit from distcnn's folder, or set DISTCNN_HOME" >&2; exit 2; }
trap '' TERM USR1 USR2 XCPU # this shell must outlive the signals that the ranks get

enter_home
DISTCNN_RUN=${DISTCNN_RUN:-runs/pbs-${PBS_JOBID%%.*}}
restarts=${DISTCNN_RESTARTS:-0}
ranks=
# The node file has one line per rank.
set_mpirun_words < <(awk 'NF && !($1 in count) { order[++hosts] = $1 } NF { count[$1]++ } END { for (i = 1; i <= hosts; i++) print order[i], count[order[i]] }' "$PBS_NODEFILE")
# shellcheck disable=SC2086
set_train_flags ${DISTCNN_FLAGS:-}
name_exit_note
"${mpirun_words[@]}" "$python" -m distcnn.train "${train_flags[@]}"
code=$?
read_exit_note
judge_end $code
case $? in
    0) exit 0 ;;
    1) exit $code ;;
esac
# Request the same resources as this job.
resources=()
asked=$(qstat -f "${PBS_JOBID:-}" 2>/dev/null | awk '/^\t/ { sub(/^\t/, ""); line = line $0; next } { print line; line = $0 } END { print line }')
for name in select walltime; do
    value=$(sed -n "s/^ *Resource_List\.$name = //p" <<<"$asked")
    [ -z "$value" ] || resources+=(-l "$name=$value")
done
again="DISTCNN_RUN=$DISTCNN_RUN,DISTCNN_HOME=$DISTCNN_HOME,DISTCNN_RESTARTS=$((restarts + 1))"
for name in DISTCNN_SETUP DISTCNN_PYTHON DISTCNN_BIND DISTCNN_MAX_RESTARTS; do
    [ -z "${!name:-}" ] || again=$again,$name=${!name}
done
[ $code -ne 0 ] || code=1
if ! may_restart $code "$restarts"; then
    say "to resume: qsub -v DISTCNN_RUN=$DISTCNN_RUN launch/pbs.sh"
elif [ -n "${DISTCNN_QSUB-qsub}" ] && next=$(${DISTCNN_QSUB-qsub} "${resources[@]}" -v "$again" "$DISTCNN_HOME/launch/pbs.sh"); then
    say "submitted again as $next, which will resume $DISTCNN_RUN"
else
    say "to resume: qsub -v DISTCNN_RUN=$DISTCNN_RUN launch/pbs.sh"
fi
exit $code
