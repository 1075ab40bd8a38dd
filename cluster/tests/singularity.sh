#!/usr/bin/env bash
# Emulate `apptainer build Singularity.scratch.def` and `apptainer test` without Apptainer.
#
# debootstrap makes the root from the file's header; %files are copied, %post runs in it as root, %test and %runscript
# as an ordinary user without home, in a root that is mounted read-only, with its own /tmp and no network, as in a
# container. Not covered: whether Apptainer itself accepts the file, its image format, and --nv.
#
# Needs root and debootstrap. Usage: cluster/tests/singularity.sh
# Settings, by environment: PYTHON, one with pip as configured here; SOURCE, what is built; MIRROR of Debian;
# SCRATCH and KEEP=yes to leave everything there, and then REUSE=yes to take the root of that run.
set -euo pipefail
# debootstrap, chroot and the daemons are system programs that may not be in PATH.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
SOURCE=${SOURCE:-$(dirname "$(dirname "$here")")}
PYTHON=${PYTHON:-$SOURCE/.venv/bin/python}
SCRATCH=${SCRATCH:-$(mktemp -d)}
DEFINITION=$SOURCE/Singularity.scratch.def
USER_ID=12345
root=$SCRATCH/root

say() { printf '== %s\n' "$*"; }
finish() {
    status=$?
    set +e
    # Unmount before removing anything, so that nothing outside is removed.
    for path in "${mounted[@]}"; do umount "$path" 2>/dev/null; done
    if grep -q " $SCRATCH/" /proc/mounts; then say "still mounted below $SCRATCH"; exit 1; fi
    if test -z "${KEEP:-}"; then rm -rf --one-file-system "$SCRATCH"; else say "kept $SCRATCH"; fi
    exit "$status"
}
mounted=()
trap finish EXIT
header() { sed -n "s/^$1: //p" "$DEFINITION"; }
section() { awk -v name="%$1" '/^%/ {on = ($1 == name); next} on' "$2"; }
fill_in() { sed "s|{{ TORCH_INDEX }}|${TORCH_INDEX:-default}|g"; }

build() {
    say "debootstrap: $(header Include)"
    mkdir -p "$SCRATCH"
    debootstrap --variant=minbase "--include=$(header Include | tr ' ' ',')" "$(header OSVersion)" "$root" \
        ${MIRROR:+"$MIRROR"} >"$SCRATCH/debootstrap.log"

    say "%files"
    while read -r from to; do
        test -n "$from" || continue
        mkdir -p "$root$(dirname "$to")"
        cp -fLr "$SOURCE/$from" "$root$to"
    done < <(section files "$DEFINITION")
    find "$root/source" -name __pycache__ -prune -exec rm -rf {} +

    say "%post"
    settings=()
    while IFS='=' read -r name value; do
        test "$name" != PIP_CERT || { cp "$value" "$root/tmp/pip-cert.pem" && value=/tmp/pip-cert.pem; }
        settings+=("$name=$value")
    done < <("$PYTHON" "$here/pip_settings.py" --environment)
    while read -r path; do
        test -d "$path" || continue
        mkdir -p "$root$path"
        mount --bind "$path" "$root$path" && mounted+=("$root$path")
        mount -o remount,bind,ro "$root$path"
    done < <("$PYTHON" "$here/pip_settings.py" --paths)
    mount -t proc proc "$root/proc" && mounted+=("$root/proc")
    started=$SECONDS
    section post "$DEFINITION" | fill_in >"$root/tmp/post"
    env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "${settings[@]}" \
        "$(command -v chroot)" "$root" /bin/sh -e /tmp/post >"$SCRATCH/post.log" 2>&1 ||
        { tail -n 20 "$SCRATCH/post.log"; exit 1; }
    say "%post took $((SECONDS - started)) s"
    for path in "${mounted[@]}"; do umount "$path"; done
    mounted=()
    rm -rf "$root/tmp/post" "$root/tmp/pip-cert.pem"
}
# Not `test || build`, in which a failing step would not end the script.
if test -z "${REUSE:-}"; then build; fi
say "size: $(du --summarize --block-size=1000000 --one-file-system "$root" | cut -f 1) MB"

run_section() {
    { section environment "$2" && section "$1" "$2"; } >"$SCRATCH/$1.sh"
    unshare --net --mount bash -euc '
        mount --bind "$1" "$1" && mount -t tmpfs -o mode=1777 tmpfs "$1/tmp" && cp "$2" "$1/tmp/section.sh"
        mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -o remount,bind,ro "$1"
        root=$1 user=$3
        shift 3
        exec env --ignore-environment TEMPLATEFLOW_HOME=/nowhere/templateflow HOME=/nowhere \
            "$(command -v chroot)" --userspec="$user:$user" "$root" /bin/sh /tmp/section.sh "$@"' \
        -- "$root" "$SCRATCH/$1.sh" "$USER_ID" "${@:3}"
}
for definition in "$DEFINITION"; do
    say "%runscript and %test of $(basename "$definition"), UID $USER_ID, read-only root, no network, no home"
    run_section runscript "$definition" --version
    run_section test "$definition" 2>&1 | tail -n 4
done
say "definition test passed; not run: Apptainer itself, its image format, --nv"
