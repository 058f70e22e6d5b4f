#!/bin/bash
# Slurm batch script of one reconstruction, written by bluesky-multislice from the site profile. The job folder contains
# all files that the job needs. To submit it manually, change to the job folder and run: sbatch job.sh
{{directives}}
#SBATCH --ntasks-per-node=1
#SBATCH --output=log.txt
#SBATCH --open-mode=append
#SBATCH --export=NONE
#SBATCH --requeue
#SBATCH --signal=B:USR1@{{warning_seconds}}

set -uo pipefail
umask {{umask}}
restarts=${SLURM_RESTART_COUNT:-0}
echo "Job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, started again $restarts times, $(date --iso-8601=seconds)"

# If the node cannot see the job folder, Slurm starts the job in another directory.
[ -r job.json ] || { echo "No job.json in $PWD: the nodes do not see the job folder"; exit 1; }

# Remove secrets and service settings that the job inherited from the login environment.
for variable in $(compgen -e); do
    [[ ${variable^^} =~ {{secret_names}} ]] && unset "$variable"
done

# Environment variables and setup lines of the site profile.
export OMP_NUM_THREADS={{threads}} GOMP_SPINCOUNT={{spin_count}}
{{environment}}
{{setup}}

epochs_done() { sed -n 's/.*"epoch": *\([0-9]*\).*/\1/p' interrupted.json 2>/dev/null; }
finish() { echo "$1" >exit-status; exit "$1"; }

# Remove files of an earlier start, so that they are not mistaken for this one's.
before=$(epochs_done)
rm -f stop-request interrupted.json exit-status
if [ "$restarts" -gt {{most_restarts}} ]; then
    echo "Started again $restarts times, more often than the site's profile allows"
    finish 75
fi

# Shortly before the time limit Slurm signals this shell, which then asks the ranks for a checkpoint.
out_of_time=
trap 'out_of_time=yes; touch stop-request' USR1

# The ranks rendezvous at a free port of the first node, which is this node. Its address is used because DNS may not know
# its name.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node --oneliner "$first" | grep --only-matching 'NodeAddr=[^ ]*' | cut --delimiter== --fields=2)
port=$({{python}} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
launcher=({{python}} -u -m bluesky_multislice.parallel.start_ranks --nnodes="$SLURM_JOB_NUM_NODES"
    --nproc-per-node={{ranks_per_node}} --master-addr="$address" --master-port="$port")

# One task per node. Since Slurm 22.05, srun reads cpus-per-task from its own command line only.
srun --export=ALL --input=none --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    bash -c 'exec "$@" --node-rank="$SLURM_NODEID" -m {{module}} "$PWD"' launcher "${launcher[@]}" &
step=$!
# The trapped signal interrupts `wait`.
while kill -0 "$step" 2>/dev/null; do wait "$step"; done
wait "$step"
status=$?

[ -e interrupted.json ] || finish "$status"
if [ -n "$out_of_time" ] && [ "$(epochs_done)" -gt "${before:-0}" ] && [ "$restarts" -lt {{most_restarts}} ]; then
    echo "Out of time after epoch $(epochs_done): requeued to resume from the checkpoint"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
finish 75
