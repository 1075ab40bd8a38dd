#!/usr/bin/env bash
# Build wheel and sdist and try the wheel as users install it: in fresh environments, away from the source.
#
# Python 3.11, which constraints.txt was made with, gets everything: three lines of Python, the demo from images to a
# published encoder, and all commands. Newer ones get all dependencies but PyTorch, every module that needs none, and
# the signals of the demo; what they did not try is printed.
#
# Usage: cluster/tests/release.sh
# Settings, by environment: PYTHON311 ... PYTHON314, interpreters [python3.11 ... in PATH, else pyenv's]; DIST, where
# wheel and sdist are left [dist]; SCRATCH and KEEP=yes to leave everything there
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
SOURCE=${SOURCE:-$(dirname "$(dirname "$here")")}
DIST=${DIST:-$SOURCE/dist}
SCRATCH=$(realpath "${SCRATCH:-$(mktemp -d)}")
OPTIONS=(--atlas Demo457 --n-procs 1 -q)
# Neither this checkout, nor settings or packages of the user, may stand in for what the wheel lacks.
unset PYTHONPATH
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1 BIDS_SEMANTOKS_CACHE_DIR=$SCRATCH/cache

say() { printf '== %s\n' "$*"; }
finish() { if test -z "${KEEP:-}"; then rm -rf "$SCRATCH"; else say "kept $SCRATCH"; fi; }
trap finish EXIT
mkdir -p "$SCRATCH" && cd "$SCRATCH"
pin() { grep "^$1==" "$SOURCE/constraints.txt"; }
# That PyTorch is absent is meant; pip prints it as an error and goes on.
noise='^WARNING: Location|dependency resolver does not|requires torch.* not installed'
pip_install() {
    "$1/bin/pip" install --quiet --constraint "$SOURCE/constraints.txt" "${@:2}" 2> >(grep -Ev "$noise" >&2)
}

# Print a working interpreter of a version; a pyenv shim of a version that is not selected only prints an error.
find_python() {
    local variable=PYTHON${1/./} candidate
    for candidate in "${!variable:-}" "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        "$candidate" -c 'import ensurepip, sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" \
            2>/dev/null || continue
        command -v "$candidate" && return
    done
    return 1
}

try_commands() {
    for script in "${scripts[@]}"; do
        "$1/bin/$script" --help >"$script.help"
        grep --quiet --ignore-case '^usage: ' "$script.help"
    done
    say "${#scripts[@]} commands print their help"
}

expect_refusal() {
    local code=0 message=$1 expected=$2
    shift 2
    "$@" >refused.log 2>&1 || code=$?
    test "$code" = "$expected" && grep --quiet --fixed-strings -- "$message" refused.log && return
    cat refused.log && say "expected exit code $expected, found $code: $*" && return 1
}

try_everything() {
    local env=$SCRATCH/python$1
    "$2" -m venv "$env"
    pip_install "$env" "$(pin torch)"
    pip_install "$env" "$wheel"
    "$env/bin/pip" check
    try_commands "$env"
    "$env/bin/python" - <<'PYTHON'
import numpy
import bids_semantoks as bs
series = numpy.random.default_rng(0).normal(size=(120, 400))
encoder = bs.load_encoder("random:tiny")
embedding = encoder.encode(series, repetition_time=2.0, parcels="Schaefer400-7Networks")
assert embedding.pooled.ndim == 1 and numpy.isfinite(embedding.pooled).all()
print("== Python:", encoder, embedding.vectors.shape)
PYTHON
    say "the demo: signals, embeddings, an encoder"
    "$env/bin/python" -m bids_semantoks.demo study --participants 2 --short >/dev/null
    "$env/bin/bids_semantoks" study out participant --model random:tiny "${OPTIONS[@]}"
    "$env/bin/bids_semantoks" study out group --model random:tiny "${OPTIONS[@]}"
    "$env/bin/bids_semantoks" study out group --pretrain --encoder-config tiny --encoder-name own --epochs 1 \
        --train-batch-size 2 "${OPTIONS[@]}"
    say "publish, import, export; Parquet without and with its extra"
    "$env/bin/bids_semantoks-publish" out/encoders/own lab/Own --license cc-by-4.0 --data-terms Synthetic. --out ready
    mapfile -t series < <(find out/sub-* -name '*_stat-mean_timeseries.tsv')
    "$env/bin/bids_semantoks-import" "${series[@]}" imported --repetition-time 2 --atlas Demo457
    "$env/bin/bids_semantoks" imported out_imported participant --model ready "${OPTIONS[@]}"
    for ending in npz csv; do
        "$env/bin/bids_semantoks-export" out "table.$ending" --model RandomTiny
    done
    expect_refusal 'bids_semantoks[parquet]' 5 "$env/bin/bids_semantoks-export" out table.parquet --model RandomTiny
    pip_install "$env" "$wheel[parquet]"
    "$env/bin/bids_semantoks-export" out table.parquet --model RandomTiny
    "$env/bin/python" - <<'PYTHON'
import numpy, pandas
columns = ["dim0001", "dim0002"]
tables = [pandas.read_csv("table.csv")[columns], pandas.read_parquet("table.parquet")[columns]]
assert len(tables[0]) == 2 and numpy.allclose(*tables, rtol=1e-6)
PYTHON
}

try_without_torch() {
    local env=$SCRATCH/python$1
    "$2" -m venv "$env"
    pip_install "$env" --no-deps "$wheel"
    # What the wheel itself says that it needs, less PyTorch and the extras.
    mapfile -t needed < <("$env/bin/python" -c 'from importlib.metadata import requires
print(*(one for one in requires("bids_semantoks") if "extra ==" not in one and not one.startswith("torch")), sep="\n")')
    pip_install "$env" "${needed[@]}"
    try_commands "$env"
    "$env/bin/python" - <<'PYTHON'
import importlib, importlib.metadata, importlib.util
assert importlib.util.find_spec("torch") is None, "PyTorch is installed: nothing would be skipped"
files = importlib.metadata.files("bids_semantoks")
names = [".".join(one.with_suffix("").parts).removesuffix(".__init__") for one in files if one.suffix == ".py"]
skipped = []
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        skipped.append(name.removeprefix("bids_semantoks."))
assert len(names) > 100 and "bids_semantoks.cli" in names, names
print(f"== {len(names) - len(skipped)} modules imported; not tried, since they need PyTorch:", ", ".join(sorted(skipped)))
PYTHON
    say "the demo without embeddings"
    "$env/bin/python" -m bids_semantoks.demo "study$1" --participants 2 --short >/dev/null
    "$env/bin/bids_semantoks" "study$1" "out$1" participant --signals-only "${OPTIONS[@]}"
    diff <(cd out && find . -name '*_stat-mean_timeseries.tsv' | sort) \
        <(cd "out$1" && find . -name '*_stat-mean_timeseries.tsv' | sort)
}

first=$(find_python 3.11) || { say "Python 3.11 not found: set PYTHON311"; exit 1; }
say "wheel from sdist, with $first"
"$first" -m venv build
pip_install build "$(pin build)"
build/bin/python -m build --outdir built "$SOURCE" >build.log 2>&1 || { tail -n 20 build.log; exit 1; }
wheel=$(echo "$SCRATCH"/built/*.whl)
mkdir -p "$DIST" && cp built/* "$DIST"
say "$(cd built && du --apparent-size --block-size=KB -- * | tr '\t\n' '  ')"
mapfile -t scripts < <(unzip -p "$wheel" '*/entry_points.txt' | sed -n 's/^\(bids_semantoks[a-z-]*\) *=.*/\1/p')
test "${#scripts[@]}" -ge 5

tried=() missing=()
for version in 3.11 3.12 3.13 3.14; do
    python=$(find_python "$version") || { missing+=("$version") && continue; }
    started=$SECONDS
    say "Python $version: $python"
    if test "$version" = 3.11; then try_everything "$version" "$python"; else try_without_torch "$version" "$python"; fi
    tried+=("$version ($((SECONDS - started)) s$(test "$version" = 3.11 || echo ", no PyTorch"))")
done
say "release check passed in $SECONDS s: ${tried[*]}; Python not found and not tried: ${missing[*]:-none}"
