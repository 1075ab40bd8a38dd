#!/bin/bash
# Submit the participant level as a job array, and the group level after it.
#
#   cluster/slurm/submit.sh BIDS_DIR OUT_DIR [options of bids_semantoks]
#
# Tasks of an array never fetch anything. The dry run below fetches into the cache what is lacking, where this machine has
# a network; else, or for a container that keeps no cache, bring atlas, transforms and weights first, once, and let the
# tasks see them:
#
#   bids_semantoks-fetch /data/assets --space MNI152NLin6Asym       # and/or fsLR, fsaverage5 ...
#   export BIDS_SEMANTOKS_CACHE_DIR=/data/assets                    # Apptainer: also APPTAINERENV_BIDS_SEMANTOKS_CACHE_DIR
#
# A dry run over names, settings and recorded statuses says which participants have something left to do, so that the
# same call again submits only those. It opens no image; what a task skipped before is left out as long as its files and
# the settings are the same.
# Settings, by environment:
#   BIDS_SEMANTOKS   how the program is started [bids_semantoks], such as
#                    "apptainer run --cleanenv --no-home -B /data /data/bids_semantoks.sif"
#   BLOCK            participants of one task [1; more where the array would exceed the cluster's MaxArraySize]
#   AT_ONCE          tasks that run at a time [100]
#   RETRY_FAILED     no: leave runs alone that failed with the same files and settings [yes]
#   GROUP            no: no group job [yes]
#   PROBE_ARRAY      no: one group job for all phenotypes [yes: several have a task each, which a last job joins]
#   SBATCH_ARGS      more arguments of sbatch, such as "--partition=long --account=me"
# Prints the numbers of the array and of the group job.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
test $# -ge 2 || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
bids_dir=$(realpath "$1") out_dir=$(realpath --canonicalize-missing "$2")
shift 2
read -r -a program <<<"${BIDS_SEMANTOKS:-bids_semantoks}"
read -r -a sbatch_args <<<"${SBATCH_ARGS:-}"
block=${BLOCK:-1}

plan=$("${program[@]}" "$bids_dir" "$out_dir" participant "$@" --dry-run --format tsv)
labels=() refused="" n_left_alone=0
# Empty cells are n/a, so that tabs never stand side by side, which read would take for one.
while IFS=$'\t' read -r run participant action reason recorded message is_current; do
    # What was recorded of other files or settings says nothing about this call.
    test "$is_current" = true || recorded=n/a
    case $action-$recorded in
        # Skipped for good; but every run needs its status once.
        keep-* | skip-skipped) continue ;;
        refuse-*) refused=yes && printf '%s: %s\n' "$run" "$message" >&2 ;;
        *-failed)
            if test "${RETRY_FAILED:-yes}" = no; then
                n_left_alone=$((n_left_alone + 1))
                continue
            fi
            ;;
    esac
    labels+=("${participant#sub-}")
done < <(tail -n +2 <<<"$plan")
test -z "$refused" || exit 4
test "${#labels[@]}" = 0 || mapfile -t labels < <(printf '%s\n' "${labels[@]}" | sort -u)

job=$out_dir/logs/slurm/$(date +%Y%m%dT%H%M%S)-$$
mkdir -p "$job"
printf '%s\n' "$bids_dir" "$out_dir" >"$job/directories"
printf '%s\n' "${program[@]}" >"$job/program"
printf '%s\n' "$@" >"$job/options"
# A task names its own participants; those of the call would count beside them.
task_options=() option="" n_phenotypes=0
for argument in "$@"; do
    case $argument in
        -*) option=${argument%%=*} ;;
    esac
    case $option in
        --participant[-_]label) continue ;;
        --probe) test "$argument" = --probe || n_phenotypes=$((n_phenotypes + 1)) ;;
        --pretrain | --scaling | --task-blocks | --audit | --dry-run) PROBE_ARRAY=no ;;
    esac
    task_options+=("$argument")
done
printf '%s\n' "${task_options[@]}" >"$job/task-options"

# Indices of an array are smaller than this.
largest=$({ scontrol show config 2>/dev/null || true; } | sed -n 's/^MaxArraySize *= *//p')
largest=$((${largest:-1001} - 1))
after=()
if test "${#labels[@]}" -gt 0; then
    printf '%s\n' "${labels[@]}" >"$job/participants"
    least=$(((${#labels[@]} + largest - 1) / largest))
    if test "$block" -lt "$least"; then
        echo "MaxArraySize allows $largest tasks: $least participants each instead of $block" >&2
        block=$least
    fi
    n_tasks=$(((${#labels[@]} + block - 1) / block))
    array=$(sbatch --parsable "--array=1-$n_tasks%${AT_ONCE:-100}" "--output=$job/participant-%a.log" \
        "${sbatch_args[@]}" "$here/participant.sbatch" "$job" "$block")
    echo "array of $n_tasks tasks for ${#labels[@]} participants: $array"
    after=("--dependency=afterok:${array%%;*}" --kill-on-invalid-dep=yes)
elif test "$n_left_alone" = 0; then
    echo "all participants are complete"
else
    echo "all participants are complete, but for $n_left_alone failed runs (RETRY_FAILED=no)"
fi
if test "${GROUP:-yes}" = yes; then
    if test "${PROBE_ARRAY:-yes}" = yes && test "$n_phenotypes" -gt 1 && test "$n_phenotypes" -le "$largest"; then
        embedding=$(sbatch --parsable "--output=$job/embedding.log" "${after[@]}" "${sbatch_args[@]}" \
            "$here/group.sbatch" "$job" 0)
        probes=$(sbatch --parsable "--array=1-$n_phenotypes%${AT_ONCE:-100}" "--output=$job/probe-%a.log" \
            "--dependency=afterok:${embedding%%;*}" --kill-on-invalid-dep=yes "${sbatch_args[@]}" \
            "$here/group.sbatch" "$job" array)
        echo "embedding job: $embedding"
        echo "array of $n_phenotypes phenotypes: $probes"
        # What a task could not do, the last job does itself.
        after=("--dependency=afterany:${probes%%;*}" --kill-on-invalid-dep=yes)
    fi
    group=$(sbatch --parsable "--output=$job/group.log" "${after[@]}" "${sbatch_args[@]}" "$here/group.sbatch" "$job")
    echo "group job: $group"
fi
