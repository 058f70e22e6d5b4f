#!/bin/bash
# Ends what start.sh started under $1, by its process ids, after the jobs, and removes the folder.
set -uo pipefail

root=$1
[ -d "$root" ] || exit 0
export SLURM_CONF=$root/slurm.conf

timeout 20 scancel --me 2>/dev/null
for _ in $(seq 100); do [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break; sleep 0.2; done

end() {
    local process
    [ -s "$1" ] || return 0
    process=$(cat "$1")
    kill "$process" 2>/dev/null || return 0
    for _ in $(seq 150); do kill -0 "$process" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$process" 2>/dev/null
}

for daemon in "$root"/pid/slurmd.* "$root"/pid/{slurmctld,slurmdbd,mariadbd,munged}; do end "$daemon"; done
for group in /sys/fs/cgroup/*/slurm_v*; do
    case $group in */slurm_$(basename "$root"/spool.*-1 | cut -d. -f2) | */slurm_$(basename "$root"/spool.*-2 | cut -d. -f2))
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null ;;
    esac
done
rm -rf "$root"
