#!/usr/bin/env bash
# Build the image and run the demo study in it without daemon or registry: debootstrap creates the base image.
#
# Needs root, buildah and debootstrap (apt-get install buildah debootstrap). Takes about 10 GB below SCRATCH.
# Usage: cluster/tests/image.sh
# Settings, by environment: PYTHON, one with bids_semantoks for the native run; SOURCE, what is built; VARIANT, cpu or
# cuda (tried on the CPU; what it has for compiling is looked at); MIRROR of Debian; SCRATCH and KEEP=yes to leave
# everything there, and then REUSE=yes to take the image of that run
set -euo pipefail
# debootstrap, chroot and the daemons are system programs that may not be in PATH.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "$0")" && pwd)
SOURCE=${SOURCE:-$(dirname "$(dirname "$here")")}
PYTHON=${PYTHON:-$SOURCE/.venv/bin/python}
SCRATCH=${SCRATCH:-$(mktemp -d)}
BASE=localhost/debian:bookworm-slim
IMAGE=localhost/bids_semantoks:test
USER_ID=12345
VARIANT=${VARIANT:-cpu}
LIMIT_MB=2000
OPTIONS=(--atlas Demo457 --model random:tiny --n-procs 1)

export BUILDAH_ISOLATION=chroot
storage=(--storage-driver "${DRIVER:-vfs}" --root "$SCRATCH/storage" --runroot "$SCRATCH/run")
buildah() { command buildah "${storage[@]}" "$@"; }
say() { printf '== %s\n' "$*"; }
finish() {
    status=$?
    set +e
    umount "$SCRATCH/readonly" 2>/dev/null
    test -z "${container:-}" || buildah umount "$container" >/dev/null
    if test -z "${KEEP:-}"; then rm -rf --one-file-system "$SCRATCH"; else say "kept $SCRATCH"; fi
    exit "$status"
}
trap finish EXIT
mkdir -p "$SCRATCH"

build() {
    say "base image by debootstrap"
    test -d "$SCRATCH/base" || debootstrap --variant=minbase bookworm "$SCRATCH/base" ${MIRROR:+"$MIRROR"} \
        >"$SCRATCH/debootstrap.log"
    scratch=$(buildah from scratch)
    buildah add --quiet "$scratch" "$SCRATCH/base" / >/dev/null
    buildah commit --quiet --rm "$scratch" "$BASE" >/dev/null
    digest=$(buildah images --digests --format '{{.Digest}}' "$BASE")
    say "build"
    started=$SECONDS
    buildah bud --pull-never --quiet --tag "$IMAGE" "${pip_settings[@]}" --build-arg VERSION=test \
        --build-arg REVISION=test --build-arg "BASE=$BASE" --build-arg "BASE_DIGEST=$digest" \
        --build-arg "VARIANT=$VARIANT" --file "$SOURCE/Dockerfile" "$SOURCE" 2>&1 |
        grep -v '^WARNING: Location\|^debconf'
    say "built in $((SECONDS - started)) s"
}
mapfile -t pip_settings < <("$PYTHON" "$here/pip_settings.py")
# Not `test || build`, in which a failing step would not end the script.
if test -z "${REUSE:-}"; then build; fi

container=$(buildah from --pull-never "$IMAGE")
root=$(buildah mount "$container")
size=$(du --summarize --block-size=1000000 --one-file-system "$root" | cut -f 1)
say "size: $size MB uncompressed (limit of the CPU variant $LIMIT_MB)"
test "$VARIANT" = cuda || test "$size" -lt "$LIMIT_MB"
say "largest: $(du --block-size=1000000 "$root"/opt/bids_semantoks/lib/python3.11/site-packages --max-depth 1 |
    sort -rn | sed -n '2,5p' | awk '{n = split($2, part, "/"); printf "%s %s MB  ", part[n], $1}')"
test -z "$(find "$root/home" -mindepth 1)"
test -z "$(find "$root/opt" ! -perm -004 ! -type l)"
buildah inspect "$IMAGE" >"$SCRATCH/inspect.json"
for label in 'licenses": "Apache-2.0' 'version": "test' 'revision": "test' "base.name\": \"$BASE" \
    'base.digest": "sha256:'; do
    grep --quiet "\"org.opencontainers.image.$label" "$SCRATCH/inspect.json" || { say "no label $label"; exit 1; }
done
"$PYTHON" - "$root/opt/bids_semantoks" <<'PYTHON'
import json, sys
from importlib.metadata import distributions
from pathlib import Path
listed = json.loads((Path(sys.argv[1]) / "sbom.cdx.json").read_text())["components"]
found = distributions(path=[str(Path(sys.argv[1]) / "lib/python3.11/site-packages")])
pairs = {(one["name"].lower().replace("_", "-"), one["version"]) for one in listed}
missing = {(one.name.lower().replace("_", "-"), one.version) for one in found} ^ pairs
assert not missing and len(pairs) > 20, sorted(missing)
print(f"== SBOM: {len(pairs)} packages, all that are installed")
PYTHON
# Index settings of the build must not end up in the image.
for value in "${pip_settings[@]}"; do
    ! grep --fixed-strings --quiet -- "${value#*=*=}" "$SCRATCH/inspect.json"
done

if test "$VARIANT" = cuda; then
    say "what torch.compile needs on a GPU"
    buildah run "$container" -- python -c "if True:
        from bids_semantoks.training.loop import find_compiler_obstacle
        print(find_compiler_obstacle() or 'all there')" | grep "all there"
fi

say "the demo study, and a native run to compare with"
study=$SCRATCH/study native=$SCRATCH/native
"$PYTHON" -m bids_semantoks.demo "$study" --participants 4 --short >/dev/null
"$PYTHON" -m bids_semantoks "$study" "$native" participant "${OPTIONS[@]}" -q
"$PYTHON" -m bids_semantoks "$study" "$native" group "${OPTIONS[@]}" -q

say "buildah run, UID $USER_ID, read-only input, no network"
install -d -o "$USER_ID" -g "$USER_ID" "$SCRATCH/out"
image_digest=$(buildah images --digests --format '{{.Digest}}' "$IMAGE")
for level in participant group; do
    unshare --net "$(command -v buildah)" "${storage[@]}" run --user "$USER_ID:$USER_ID" \
        --volume "$study:/data:ro" --volume "$SCRATCH/out:/out" \
        --env "BIDS_SEMANTOKS_CONTAINER_DIGEST=$image_digest" "$container" -- \
        /opt/bids_semantoks/bin/bids_semantoks /data /out "$level" "${OPTIONS[@]}" -q
done
test -z "$(find "$SCRATCH/out" ! -uid "$USER_ID")"
grep -q "\"bids_semantoks:test@$image_digest\"" "$SCRATCH/out/dataset_description.json"
"$PYTHON" "$here/compare.py" "$native" "$SCRATCH/out"

# buildah has no --read-only, so the image's root is mounted read-only by hand, once with /tmp and once without.
mkdir -p "$SCRATCH/readonly"
"$PYTHON" - "$SCRATCH/inspect.json" >"$SCRATCH/env" <<'PYTHON'
import json, sys
print("\n".join(json.load(open(sys.argv[1]))["OCIv1"]["config"]["Env"]))
PYTHON
mapfile -t environment <"$SCRATCH/env"
run_readonly() {
    unshare --net --mount bash -euc '
        mount --bind "$1" "$2" && mount --bind "$3" "$2/mnt" && mount --bind "$4" "$2/srv"
        mount -o remount,bind,ro "$2" && mount -o remount,bind,ro "$2/mnt"
        mount -t proc proc "$2/proc" && mount -t tmpfs tmpfs "$2/dev" && mknod -m 666 "$2/dev/null" c 1 3
        mknod -m 666 "$2/dev/urandom" c 1 9 && mount -o remount,ro "$2/dev"
        test -z "$5" || mount -t tmpfs -o mode=1777 tmpfs "$2/tmp"
        shift 5
        exec "$@"' -- "$root" "$SCRATCH/readonly" "$study" "$1" "$2" \
        env --ignore-environment "${environment[@]}" "$(command -v chroot)" --userspec="$USER_ID:$USER_ID" \
        "$SCRATCH/readonly" "${@:3}"
}
for tmp in yes ""; do
    say "read-only root, $(test -n "$tmp" && echo with || echo without) a /tmp of its own, no network, no home"
    out=$SCRATCH/out-readonly-${tmp:-no}
    install -d -o "$USER_ID" -g "$USER_ID" "$out"
    run_readonly "$out" "$tmp" /opt/bids_semantoks/bin/bids_semantoks /mnt /srv participant "${OPTIONS[@]}" -q
    "$PYTHON" "$here/compare.py" "$native" "$out" --level participant
done

say "Singularity.def in this image: %test"
section() { awk -v name="%$1" '/^%/ {on = ($1 == name); next} on' "$SOURCE/Singularity.def"; }
{ section environment && section test; } >"$study/section.sh"
run_readonly "$SCRATCH/out" yes /bin/sh /mnt/section.sh 2>&1 | tail -n 3
say "image test passed"
