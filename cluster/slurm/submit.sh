#!/bin/bash
# Submit the participant level as a job array, followed by the group level.
#
#   cluster/slurm/submit.sh BIDS_DIR OUT_DIR [options of bids_semantoks]
#
# Array tasks never download anything. The dry run below downloads missing files to the cache if this machine has network
# access; otherwise, or for a container without a persistent cache, download atlas, transforms and weights once and make
# them available to the tasks:
#
#   bids_semantoks-fetch /data/assets --space MNI152NLin6Asym       # and/or fsLR, fsaverage5 ...
#   export BIDS_SEMANTOKS_CACHE_DIR=/data/assets                    # Apptainer: also APPTAINERENV_BIDS_SEMANTOKS_CACHE_DIR
#
# A dry run over names, settings and recorded statuses finds participants with remaining work, so that repeating the
# call submits only those. It opens no images; runs skipped before are omitted as long as their files and the settings
# are unchanged.
# Settings (environment variables):
#   BIDS_SEMANTOKS   command that starts the program [bids_semantoks], e.g.
#                    "apptainer run --cleanenv --no-home -B /data /data/bids_semantoks.sif"
#   BLOCK            participants per task [1; more if the array would exceed the cluster's MaxArraySize]
#   AT_ONCE          maximum number of simultaneous tasks [100]
#   RETRY_FAILED     no: do not retry runs that failed with the same files and settings [yes]
#   GROUP            no: no group job [yes]
#   PROBE_ARRAY      no: one group job for all phenotypes [yes: one task per phenotype, joined by a final job]
#   SBATCH_ARGS      additional sbatch arguments, e.g. "--partition=long --account=me"
# Prints the job IDs of the array and of the group job.
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
# Empty cells are n/a, so that there are no consecutive tabs, which `read` would merge.
while IFS=$'\t' read -r run participant action reason recorded message is_current; do
    # Statuses with other files or settings do not apply to this call.
    test "$is_current" = true || recorded=n/a
    case $action-$recorded in
        # Skipped for good; but every run needs a status once.
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
# A task selects its own participants; those of the call would be added to them.
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

# Array indices are smaller than this.
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
        # The final job does what a task could not do.
        after=("--dependency=afterany:${probes%%;*}" --kill-on-invalid-dep=yes)
    fi
    group=$(sbatch --parsable "--output=$job/group.log" "${after[@]}" "${sbatch_args[@]}" "$here/group.sbatch" "$job")
    echo "group job: $group"
fi
