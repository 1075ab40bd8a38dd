#!/usr/bin/env bash
# Run the scripts of cluster/slurm on a SLURM of one node on loopback, and compare with a serial run.
#
# Needs root, slurm-wlm and munge (apt-get install slurm-wlm munge). The machine's own SLURM, if any, is left alone.
# It takes some four minutes on two CPUs, and works as root in a container: no systemd, no cgroups, ports of its own.
# Usage: cluster/tests/slurm.sh      (PYTHON: one with bids_semantoks; PARTICIPANTS: size of the study, 10 or more;
#                                     KEEP=yes: leave the folder with logs; TRAIN=no: without pretraining)
set -euo pipefail
# The daemons are programs of the administrator, not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
slurm=$(dirname "$here")/slurm
PYTHON=${PYTHON:-$(dirname "$(dirname "$here")")/.venv/bin/python}
PARTICIPANTS=${PARTICIPANTS:-12}
SCRATCH=$(mktemp -d)
CPUS=2
# One more than an array may have tasks: fewer than there are participants.
LARGEST=5
OPTIONS=(--atlas Demo457 --model random:tiny --n-procs 1 --omp-nthreads 1 -q)
export SLURM_CONF=$SCRATCH/slurm.conf OMP_NUM_THREADS=1
export BIDS_SEMANTOKS="$PYTHON -m bids_semantoks" TORCHRUN="$PYTHON -m torch.distributed.run"

say() { printf '== %s\n' "$*"; }
daemons=() is_up=""
finish() {
    status=$?
    set +e
    test "$status" = 0 || for log in "$SCRATCH"/*.log "$SCRATCH"/out/logs/slurm/*/*.log; do tail -n 8 "$log"; done
    # A controller that never answered has no jobs, and waiting for it would take minutes.
    if test -n "$is_up"; then
        scancel --user=root 2>/dev/null
        scancel --signal=KILL --full --user=root 2>/dev/null
        # Steps that can no longer report their end would remain.
        for _ in $(seq 60); do
            squeue --noheader 2>/dev/null | grep -q . || break
            sleep 1
        done
    fi
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
MaxArraySize=$LARGEST
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=200000
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
# From 23 on slurmd looks for cgroups even where nothing uses them; 22 does not know the word.
test "$(slurmd -V | grep -o '[0-9]*' | head -n 1)" -lt 23 || echo CgroupPlugin=disabled >"$SCRATCH/cgroup.conf"
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
    is_up=$({ sinfo --noheader --format=%t 2>/dev/null || true; } | grep -o idle | head -n 1) || true
    test -z "$is_up" || break
    sleep 1
done
test -n "$is_up" || { echo "SLURM did not start" >&2; exit 1; }

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
    for _ in $(seq 600); do
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
    echo "jobs $* are not over after 5 minutes" >&2
    squeue >&2
    return 1
}

study=$SCRATCH/study out=$SCRATCH/out serial=$SCRATCH/serial
probes=(--probe age sex --baselines motion random --n-repeats 2 --n-permutations 19)
run_serially() { "$PYTHON" -m bids_semantoks "$study" "$serial" "$1" "${OPTIONS[@]}" "${probes[@]}" --ignore-failed-runs; }
submit() { (cd "$SCRATCH" && "$slurm/submit.sh" "$study" "$out" "${OPTIONS[@]}" "${probes[@]}"); }
find_number() { sed -n "s/^$1.*: //p" <<<"$submitted"; }

say "study of $PARTICIPANTS participants, one with a damaged image, and a serial run"
"$PYTHON" -m bids_semantoks.demo "$study" --participants "$PARTICIPANTS" --short >/dev/null
# Of a participant without other runs, so that a task of its own ends with 7.
plan=$("$PYTHON" -m bids_semantoks "$study" "$out" participant "${OPTIONS[@]}" --dry-run --format tsv)
damaged=$(awk '$3 == "make" { n[$2]++ } END { for (one in n) if (n[one] == 1) print one }' <<<"$plan" | sort | head -n 1)
image=$(find "$study/derivatives" -path "*/$damaged/*_desc-preproc_bold.nii.gz")
mv "$image" "$SCRATCH/whole.nii.gz"
head -c 20000 "$SCRATCH/whole.nii.gz" >"$image"
for level in participant group; do run_serially "$level"; done

say "array in blocks with one task killed, an array of phenotypes, and the job that joins them"
started=$SECONDS
submitted=$(submit 2>"$SCRATCH/submit.err")
cat "$SCRATCH/submit.err"
echo "$submitted"
grep -q "MaxArraySize allows $((LARGEST - 1)) tasks" "$SCRATCH/submit.err"
grep -q "array of $((LARGEST - 1)) tasks for $PARTICIPANTS participants" <<<"$submitted"
grep -q 'array of 2 phenotypes' <<<"$submitted"
array=$(find_number 'array of .* tasks') embedding=$(find_number 'embedding job') group=$(find_number 'group job')
wait_for "$embedding" 'Reason=Dependency' 20
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
wait_until_over "$array" "$embedding" "$group"
say "all jobs are over after $((SECONDS - started)) s"
grep -q 'killed; requeued' "$job/participant-$task.log"
wait_for "${array}_$task" 'Restarts=1' 20
wait_for "$group" 'JobState=COMPLETED' 20
echo "$(state "$array" | grep -o 'JobState=[A-Z]*' | sort | uniq -c | tr '\n' ' ')of the array's tasks"
grep -h 'phenotypes were probed by other calls' "$out"/logs/calls/*/*.log
grep -hq '2 of 2 phenotypes were probed by other calls' "$out"/logs/calls/*/*.log
test -z "$(ls "$out/logs/probes/parts")"
"$PYTHON" "$here/compare.py" "$serial" "$out"
test -z "$(find "$out" -name '*.tmp')"

say "the same call again: failed runs are left alone, or tried again"
submitted=$(RETRY_FAILED=no GROUP=no submit)
echo "$submitted"
grep -q 'all participants are complete, but for 1 failed' <<<"$submitted"
submitted=$(GROUP=no submit)
echo "$submitted"
grep -q 'array of 1 tasks for 1 participants' <<<"$submitted"
array=$(find_number array)
wait_until_over "$array"
wait_for "$array" 'JobState=COMPLETED' 20
grep -h 'all runs of this task failed' "$out"/logs/slurm/*/participant-1.log

say "another image in place of the damaged one: its participant alone, even where failed runs are left alone"
mv "$SCRATCH/whole.nii.gz" "$image"
run_serially participant
submitted=$(RETRY_FAILED=no GROUP=no submit)
echo "$submitted"
grep -q 'array of 1 tasks for 1 participants' <<<"$submitted"
wait_until_over "$(find_number array)"
"$PYTHON" "$here/compare.py" "$serial" "$out" --level participant

test "${TRAIN:-yes}" = yes || { say "SLURM test passed, without pretraining"; exit 0; }
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
# Some 48 steps; it is asked to stop at one of the first.
stopped=$(pretrain stopped --epochs $((96 / PARTICIPANTS)) --checkpoint-every 1)
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
grep -q 'from step [0-9]* of' "$SCRATCH/stopped.log"
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
