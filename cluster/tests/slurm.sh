#!/usr/bin/env bash
# Run the scripts of cluster/slurm on a SLURM of one node on loopback, and compare with a serial run.
#
# Needs root, slurm-wlm and munge (apt-get install slurm-wlm munge). The machine's own SLURM, if any, is left alone.
# Usage: cluster/tests/slurm.sh      (PYTHON: one with bids_semantoks; PARTICIPANTS: size of the study)
set -euo pipefail
# debootstrap, chroot and the daemons are system programs that may not be in PATH.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
slurm=$(dirname "$here")/slurm
PYTHON=${PYTHON:-$(dirname "$(dirname "$here")")/.venv/bin/python}
PARTICIPANTS=${PARTICIPANTS:-24}
SCRATCH=$(mktemp -d)
CPUS=2
OPTIONS=(--atlas Demo457 --model random:tiny --n-procs 1 --omp-nthreads 1 -q)
export SLURM_CONF=$SCRATCH/slurm.conf OMP_NUM_THREADS=1
export BIDS_SEMANTOKS="$PYTHON -m bids_semantoks" TORCHRUN="$PYTHON -m torch.distributed.run"

say() { printf '== %s\n' "$*"; }
daemons=()
finish() {
    status=$?
    set +e
    test "$status" = 0 || for log in "$SCRATCH"/*.log "$SCRATCH"/out/logs/slurm/*/*.log; do tail -n 8 "$log"; done
    scancel --user=root 2>/dev/null
    scancel --signal=KILL --full --user=root 2>/dev/null
    # Steps that can no longer report their end would remain.
    for _ in $(seq 60); do
        squeue --noheader 2>/dev/null | grep -q . || break
        sleep 1
    done
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do kill "${daemons[i]}" 2>/dev/null; done
    sleep 1
    for daemon in "${daemons[@]}"; do kill -KILL "$daemon" 2>/dev/null; done
    if test -z "${KEEP:-}"; then rm -rf "$SCRATCH"; else say "kept $SCRATCH"; fi
    exit "$status"
}
trap finish EXIT

host=$(hostname -s)
dd if=/dev/urandom of="$SCRATCH/munge.key" bs=1024 count=1 status=none
chmod 700 "$SCRATCH" && chmod 400 "$SCRATCH/munge.key"
mkdir -p "$SCRATCH/state" "$SCRATCH/spool"
cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$SCRATCH/munge.socket,cred_expire=5
StateSaveLocation=$SCRATCH/state
SlurmdSpoolDir=$SCRATCH/spool
SlurmctldPidFile=$SCRATCH/slurmctld.pid
SlurmdPidFile=$SCRATCH/slurmd.pid
SlurmctldLogFile=$SCRATCH/slurmctld.log
SlurmdLogFile=$SCRATCH/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
JobRequeue=1
MinJobAge=86400
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=200000
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
munged --foreground --force --num-threads=2 --key-file="$SCRATCH/munge.key" --socket="$SCRATCH/munge.socket" \
    --pid-file="$SCRATCH/munged.pid" --log-file="$SCRATCH/munged.log" --seed-file="$SCRATCH/munged.seed" \
    >/dev/null 2>&1 &
daemons+=($!)
sleep 1
slurmctld -D -c >/dev/null 2>&1 &
daemons+=($!)
sleep 1
slurmd -D >/dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 30); do
    sinfo --noheader --format=%t 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

# One CPU per task here; the scripts request resources for real data.
export SBATCH_ARGS="--cpus-per-task=1 --mem=0"
state() { scontrol --oneliner show job "$1" 2>/dev/null; }
wait_for() {
    for _ in $(seq "$3"); do
        if grep -Eq "$2" <<<"$(state "$1")"; then return; fi
        sleep 0.5
    done
    echo "job $1 never reached $2:" >&2
    state "$1" >&2
    return 1
}
UNFINISHED="PENDING|RUNNING|CONFIGURING|COMPLETING|REQUEUE"
wait_until_over() {
    # No answer does not mean the job has ended: a busy controller responds late.
    for _ in $(seq 3600); do
        over=yes
        for one in "$@"; do
            found=$(state "$one")
            if test -z "$found" || grep -Eq "JobState=($UNFINISHED)" <<<"$found"; then
                over=""
            fi
        done
        test -z "$over" || return 0
        sleep 0.5
    done
    return 1
}

study=$SCRATCH/study out=$SCRATCH/out serial=$SCRATCH/serial
say "study of $PARTICIPANTS participants, and a serial run"
"$PYTHON" -m bids_semantoks.demo "$study" --participants "$PARTICIPANTS" --short >/dev/null
for level in participant group; do "$PYTHON" -m bids_semantoks "$study" "$serial" "$level" "${OPTIONS[@]}"; done

say "array, with one task killed, and the group level after it"
started=$SECONDS
submitted=$(cd "$SCRATCH" && "$slurm/submit.sh" "$study" "$out" "${OPTIONS[@]}")
echo "$submitted"
array=$(sed -n 's/^array.*: //p' <<<"$submitted") group=$(sed -n 's/^group job: //p' <<<"$submitted")
wait_for "$group" 'Reason=Dependency' 20
job=$(echo "$out"/logs/slurm/*)
victim=""
for _ in $(seq 600); do
    # Kill the first program that has loaded its libraries, in the middle of its work.
    for process in /proc/[0-9]*; do
        { tr '\0' ' ' <"$process/cmdline" | grep -q -- "$out participant .*--participant-label" &&
            grep -zq '^SLURM_ARRAY_TASK_ID=' "$process/environ"; } 2>/dev/null || continue
        case $(cat "$process/comm" 2>/dev/null) in python*) victim=${process#/proc/} ;; esac
        test -z "$victim" || break
    done
    test -z "$victim" || break
    sleep 0.2
done
task=$(tr '\0' '\n' <"/proc/$victim/environ" | sed -n 's/^SLURM_ARRAY_TASK_ID=//p')
sleep 1
kill -KILL "$victim"
say "killed the program of task $task (process $victim)"
wait_until_over "$array" "$group"
say "array and group are over after $((SECONDS - started)) s"
cat "$job/participant-$task.log"
grep -q 'killed; requeued' "$job/participant-$task.log"
wait_for "${array}_$task" 'Restarts=1' 20
wait_for "$group" 'JobState=COMPLETED' 20
echo "$(state "$array" | grep -o 'JobState=[A-Z]*' | sort | uniq -c | tr '\n' ' ')of the array's tasks"
"$PYTHON" "$here/compare.py" "$serial" "$out"
test -z "$(find "$out" -name '*.tmp')"

say "the same call again submits the group level alone"
again=$(cd "$SCRATCH" && BLOCK=5 "$slurm/submit.sh" "$study" "$out" "${OPTIONS[@]}")
echo "$again"
grep -q 'all participants are complete' <<<"$again"
scancel "$(sed -n 's/^group job: //p' <<<"$again")"

say "blocks of 7 participants a task"
blocks=$(cd "$SCRATCH" && BLOCK=7 GROUP=no "$slurm/submit.sh" "$study" "$SCRATCH/blocks" "${OPTIONS[@]}" --signals-only)
echo "$blocks"
wait_until_over "$(sed -n 's/^array.*: //p' <<<"$blocks")"
test "$(find "$SCRATCH/blocks" -name '*_stat-mean_timeseries.tsv' | wc -l)" = \
    "$(find "$serial" -name '*_stat-mean_timeseries.tsv' | wc -l)"

say "a task for each phenotype, and a job that joins them"
probes=(--probe age sex --baselines motion random --n-repeats 2 --n-permutations 19)
"$PYTHON" -m bids_semantoks "$study" "$serial" group "${OPTIONS[@]}" "${probes[@]}"
joined=$(cd "$SCRATCH" && "$slurm/submit.sh" "$study" "$out" "${OPTIONS[@]}" "${probes[@]}")
echo "$joined"
grep -q 'array of 2 phenotypes' <<<"$joined"
group=$(sed -n 's/^group job: //p' <<<"$joined")
wait_until_over "$group"
wait_for "$group" 'JobState=COMPLETED' 20
test -z "$(ls "$out/logs/probes/parts")"
"$PYTHON" "$here/compare.py" "$serial" "$out"

say "pretraining on two processes, asked to stop, requeued; a job that waits for it"
pretrain() {
    # 0 GPUs here; everything else as on a cluster.
    NPROC_PER_NODE=2 sbatch --parsable --nodes=1 --gpus-per-node=0 --cpus-per-task="$CPUS" --mem=0 \
        --output="$SCRATCH/$1.log" \
        "$slurm/pretrain.sbatch" "$study" "$out" --encoder-config tiny --atlas Demo457 --encoder-name "$1" "${@:2}"
}
follow() {
    sbatch --parsable "--dependency=afterok:$1" --kill-on-invalid-dep=yes --output=/dev/null --wrap true
}
# About 72 steps; a stop is requested at one of the first.
stopped=$(pretrain stopped --epochs $((144 / PARTICIPANTS)) --checkpoint-every 1)
after=$(follow "$stopped")
for _ in $(seq 600); do
    compgen -G "$out/encoders/stopped/checkpoints/*" >/dev/null && grep -q Pretraining "$SCRATCH/stopped.log" && break
    sleep 0.5
done
scancel --batch --signal=USR1 "$stopped"
wait_for "$stopped" 'Restarts=1' 240
grep -q 'Reason=Dependency' <<<"$(state "$after")"
wait_until_over "$stopped" "$after"
grep -v '^  File\|^    \|^Traceback\|^epoch' "$SCRATCH/stopped.log"
grep -q 'stopped early (exit code 8); requeued' "$SCRATCH/stopped.log"
grep -q 'Going on from step' "$SCRATCH/stopped.log"
wait_for "$stopped" 'JobState=COMPLETED' 20
wait_for "$after" 'JobState=COMPLETED' 20
test -f "$out/encoders/stopped/config.json"

say "pretraining that --max-hours stops, or that diverges, must not let the next job start"
early=$(pretrain early --epochs 4000 --max-hours 0.001)
after_early=$(follow "$early")
diverged=$(pretrain diverged --epochs 4000 --learning-rate 1e30)
after_diverged=$(follow "$diverged")
wait_until_over "$early" "$after_early" "$diverged" "$after_diverged"
cat "$out/logs/launch-$early-0.json" "$out/logs/launch-$diverged-0.json"
wait_for "$early" 'JobState=FAILED.* ExitCode=8:0' 20
wait_for "$diverged" 'JobState=FAILED.* ExitCode=9:0' 20
wait_for "$after_early" 'JobState=CANCELLED' 20
wait_for "$after_diverged" 'JobState=CANCELLED' 20
test ! -f "$out/encoders/early/config.json" && test ! -f "$out/encoders/diverged/config.json"
say "SLURM test passed"
