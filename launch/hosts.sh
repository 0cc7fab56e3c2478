#!/usr/bin/env bash
# Train on hosts that ssh reaches, without a batch system: mpirun over ssh.
#
#   ./launch/hosts.sh HOSTFILE [-n RANKS] [flags of distcnn.train]
#
# HOSTFILE has one line per host: "name" or "name ranks" (default: 1 rank; # starts a comment). All hosts need distcnn, its
# Python, its MPI and the image set at the same paths; the run directory is written on the first host, where rank 0 runs.
# Variables, besides those of launch/job.sh: DISTCNN_SSH, a replacement for ssh. DISTCNN_RUN defaults to runs/hosts-<time>.
set -uo pipefail
script=hosts.sh
DISTCNN_HOME=${DISTCNN_HOME:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
. "$DISTCNN_HOME/launch/job.sh"

hostfile=${1:-}
case $hostfile in
    '' | -*) fail "no host file given: hosts.sh HOSTFILE [-n RANKS] [flags of distcnn.train]" ;;
esac
[ -r "$hostfile" ] || fail "$hostfile: no such host file"
hostfile=$(cd "$(dirname "$hostfile")" && pwd)/$(basename "$hostfile")
shift
ranks=
if [ "${1:-}" = -n ]; then
    ranks=${2:-}
    case $ranks in
        '' | *[!0-9]* | 0) fail "-n is '$ranks': it must be the number of ranks, at least 1" ;;
    esac
    shift 2
fi
places=$(sed 's/#.*//' "$hostfile" | awk 'NF { print $1, (NF > 1 ? $2 : 1) }')
bad=$(awk '$2 !~ /^[1-9][0-9]*$/ { print; exit }' <<<"$places")
[ -z "$bad" ] || fail "$hostfile: cannot read '$bad': each line is a host name and its number of ranks"

enter_home
set_mpirun_words <<<"$places"
DISTCNN_RUN=${DISTCNN_RUN:-runs/hosts-$(date +%Y%m%d-%H%M%S)}
set_train_flags "$@"
name_exit_note
"${mpirun_words[@]}" "$python" -m distcnn.train "${train_flags[@]}"
code=$?
read_exit_note
judge_end $code
case $? in
    0) exit 0 ;;
    2) say "to resume: DISTCNN_RUN=$DISTCNN_RUN launch/hosts.sh $hostfile" ;;
esac
[ $code -ne 0 ] || code=1
exit $code
