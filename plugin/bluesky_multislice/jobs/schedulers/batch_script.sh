#!/bin/bash
# One reconstruction under Slurm, written by bluesky-multislice from the site's profile. It lies in its job folder, which
# holds all that the job needs. By hand, from inside the folder: sbatch job.sh
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

# Slurm starts a job somewhere else where its folder is not to be found.
[ -r job.json ] || { echo "No job.json in $PWD: the nodes do not see the job folder"; exit 1; }

# Of the login's environment the job keeps no key and nothing of the services.
for variable in $(compgen -e); do
    [[ ${variable^^} =~ {{keys}} ]] && unset "$variable"
done

# The environment and the lines of the site's profile.
export OMP_NUM_THREADS={{threads}} GOMP_SPINCOUNT={{spins}}
{{environment}}
{{setup}}

epochs_done() { sed -n 's/.*"epoch": *\([0-9]*\).*/\1/p' interrupted.json 2>/dev/null; }
finish() { echo "$1" >exit-status; exit "$1"; }

# What an earlier start left would be taken for this one's.
before=$(epochs_done)
rm -f stop-request interrupted.json exit-status
if [ "$restarts" -gt {{most_restarts}} ]; then
    echo "Started again $restarts times, more often than the site's profile allows"
    finish 75
fi

# Shortly before its time is up Slurm warns this shell, which asks the ranks for a checkpoint.
out_of_time=
trap 'out_of_time=yes; touch stop-request' USR1

# The ranks meet at the first node, which is this one and whose name may stand in no DNS, at a port that is free there.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node --oneliner "$first" | grep --only-matching 'NodeAddr=[^ ]*' | cut --delimiter== --fields=2)
port=$({{python}} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
torchrun=({{python}} -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={{ranks_per_node}}
    --master-addr="$address" --master-port="$port")

# One task a node. Since 22.05 srun takes the cores from its own line only.
srun --export=ALL --input=none --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    bash -c 'exec "$@" --node-rank="$SLURM_NODEID" -m {{module}} "$PWD"' torchrun "${torchrun[@]}" &
step=$!
# The warning ends a wait early.
while kill -0 "$step" 2>/dev/null; do wait "$step"; done
wait "$step"
status=$?

[ -e interrupted.json ] || finish "$status"
if [ -n "$out_of_time" ] && [ "$(epochs_done)" -gt "${before:-0}" ] && [ "$restarts" -lt {{most_restarts}} ]; then
    echo "Out of time after epoch $(epochs_done): goes on in a new start"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
finish 75
