#!/bin/bash
# A real Slurm on this host for the tests: munge, mariadb, slurmdbd, slurmctld and two virtual nodes with two GPUs each,
# which are character devices without a GPU behind; the first node has the feature "fast". Jobs are charged to the
# account "beamline"; of the quality of service "live" they go first, of "rerun" one runs at a time. Everything lies
# under $1 and listens on ports from $2 on; nothing is written to /etc. Root only.
#
#   start.sh FOLDER PORT [--without-accounting]
#
# Without accounting slurmctld also forgets a job 2 s after its end, as a busy one does after a while. A job that is
# requeued waits for its credential to expire, 20 s instead of the usual 120 s.
set -euo pipefail

root=$1 port=$2 accounting=${3:-} host=$(hostname -s) nodes="v$2-1 v$2-2"
export SLURM_CONF=$root/slurm.conf MYSQL_UNIX_PORT=$root/mysql/socket

wait_for() {
    for _ in $(seq 600); do timeout 5 "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    echo "start.sh: in vain: $*" >&2
    return 1
}

folders() {
    mkdir -p "$root"/{munge,state,log,pid,gpus,mysql} $(printf "$root/spool.%s " $nodes)
    # munged wants its folders closed to others, mariadb's own user has to reach its folder through the root.
    chmod 755 "$root" "$root"/*/
    chmod 777 "$root/pid"
    for gpu in 0 1; do [ -e "$root/gpus/$gpu" ] || mknod "$root/gpus/$gpu" c 1 3; done
    (umask 077; head -c 1024 /dev/urandom >"$root/munge/key")
}

# Memory limits and the end of every process of a job need control groups: version 1, as Debian's Slurm has no other
# without systemd. Without them processes are found by their parents.
has_control_groups() {
    for controller in freezer memory cpuset devices; do
        grep -q " /sys/fs/cgroup/$controller cgroup rw" /proc/mounts && [ -w "/sys/fs/cgroup/$controller" ] || return 1
    done
}

configure() {
    local tracking="proctrack/linuxproc" tasks="task/none" name index=0 feature=Feature=fast
    if has_control_groups; then
        tracking="proctrack/cgroup" tasks="task/cgroup"
        printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no CgroupMountpoint=/sys/fs/cgroup \
            ConstrainRAMSpace=yes AllowedSwapSpace=0 >"$root/cgroup.conf"
    else
        echo CgroupAutomount=no >"$root/cgroup.conf"
    fi
    cat >"$SLURM_CONF" <<END
ClusterName=multislice
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket,cred_expire=20
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool.%n
SlurmctldPidFile=$root/pid/slurmctld
SlurmdPidFile=$root/pid/slurmd.%n
SlurmctldLogFile=$root/log/slurmctld
SlurmdLogFile=$root/log/slurmd.%n
ProctrackType=$tracking
TaskPlugin=$tasks
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=1
JobRequeue=1
KillWait=5
MinJobAge=$([ -z "$accounting" ] && echo 300 || echo 2)
CompleteWait=0
SlurmdTimeout=30
InactiveLimit=0
OverTimeLimit=0
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
END
    if [ -z "$accounting" ]; then
        printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=127.0.0.1 \
            AccountingStoragePort=$((port + 1)) "AccountingStoragePass=$root/munge/socket" \
            AccountingStorageEnforce=associations,limits,qos PriorityType=priority/multifactor \
            PriorityWeightQOS=1000 >>"$SLURM_CONF"
    else
        echo AccountingStorageType=accounting_storage/none >>"$SLURM_CONF"
    fi
    for name in $nodes; do
        index=$((index + 1))
        echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + index)) Sockets=1" \
            "CoresPerSocket=4 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:2 $feature State=UNKNOWN" >>"$SLURM_CONF"
        feature=
    done
    echo "PartitionName=gpu Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 DefMemPerCPU=500 PriorityTier=1" >>"$SLURM_CONF"
    echo "PartitionName=urgent Nodes=ALL MaxTime=60 DefaultTime=10 DefMemPerCPU=500 PriorityTier=9" >>"$SLURM_CONF"
    echo "NodeName=v$port-[1-2] Name=gpu File=$root/gpus/[0-1]" >"$root/gres.conf"
}

start_munge() {
    munged --force --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/pid/munged" \
        --log-file="$root/log/munged" --seed-file="$root/munge/seed" --num-threads=4
}

start_accounting() {
    chown -R mysql "$root/mysql"
    mariadb-install-db --no-defaults --user=mysql --datadir="$root/mysql" --skip-test-db \
        --auth-root-authentication-method=socket >"$root/log/mysql-install" 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir="$root/mysql" --socket="$MYSQL_UNIX_PORT" --skip-networking \
        --pid-file="$root/pid/mariadbd" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 \
        --innodb-lock-wait-timeout=900 >"$root/log/mariadbd" 2>&1 </dev/null &
    wait_for mariadb-admin --no-defaults --user=root --socket="$MYSQL_UNIX_PORT" ping
    mariadb --no-defaults --user=root --socket="$MYSQL_UNIX_PORT" --execute="CREATE DATABASE accounting"
    (
        umask 077
        printf '%s\n' AuthType=auth/munge "AuthInfo=socket=$root/munge/socket" "DbdHost=$host" DbdAddr=127.0.0.1 \
            DbdPort=$((port + 1)) SlurmUser=root "LogFile=$root/log/slurmdbd" "PidFile=$root/pid/slurmdbd" \
            StorageType=accounting_storage/mysql StorageHost=localhost StorageUser=root StorageLoc=accounting \
            >"$root/slurmdbd.conf"
    )
    slurmdbd
    wait_for sacctmgr --noheader show cluster
    {
        sacctmgr --immediate add cluster multislice
        sacctmgr --immediate add account beamline
        sacctmgr --immediate add qos live priority=100
        sacctmgr --immediate add qos rerun maxjobsperuser=1
        sacctmgr --immediate add user root account=beamline qos=normal,live,rerun
        sacctmgr --immediate modify user root set defaultaccount=beamline
    } >/dev/null
}

start_nodes() {
    slurmctld
    wait_for scontrol ping
    for name in $nodes; do slurmd -N "$name"; done
    wait_for sh -c '[ "$(sinfo --noheader --Node --partition=gpu --states=idle | wc -l)" = 2 ]'
}

folders
configure
start_munge
[ -n "$accounting" ] || start_accounting
start_nodes
