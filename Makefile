PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO := demo
VOXELS := $(DEMO)/voxels
VOXELS_OUT := $(VOXELS)/derivatives/bids_semantoks
SERIES := $(DEMO)/series
SERIES_OUT := $(DEMO)/series_semantoks
ATLAS := --atlas Demo457
# Each network has its own tokens, since the planted effects differ between networks and cancel in their mean.
PRETRAINING := --pretrain --encoder-config tiny --training-config $(SERIES)/code/pretraining.json --pooling networks
# Few repetitions and permutations, to be done in minutes.
PROBES := --probe sex age group --baselines pearson site random chance --n-repeats 2 --n-permutations 100

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-long check docs screenshots format validate frozen bench reproduce clean release-check image image-test cluster-test

help:
	@echo "make demo    in six minutes: extract signals of synthetic people, pretrain a tiny encoder, find what was planted"
	@echo "make test    all checks and tests; continuous integration runs it and make docs"
	@echo "make test-long  all names of files that pipelines state, and 500 damaged files of each kind, which takes hours"
	@echo "make check   linters, types, import contracts, docstrings"
	@echo "make docs    the documentation as a site in docs/_build, its examples run, its links checked"
	@echo "make screenshots  pictures of the demo's pages for the documentation (chromium)"
	@echo "make format  put the code into its format"
	@echo "make frozen  compare every output with that of an earlier commit (BASE=COMMIT)"
	@echo "make bench   speed and memory against peers"
	@echo "make reproduce  a table beside the published numbers (STUDIES=TABLE, MODEL=NAME; else synthetic, random weights)"
	@echo "make release-check  wheel and sdist, and the wheel in fresh environments (PYTHON311=PATH ... PYTHON314=PATH)"
	@echo "make image   the container image (ENGINE=docker or podman, TORCH_INDEX=URL, VARIANT=cuda, ASSETS=assets)"
	@echo "make image-test    image and Singularity definition without a daemon (root, buildah, debootstrap)"
	@echo "make cluster-test  the SLURM scripts on a SLURM of one node (root, slurm-wlm, munge)"

setup: $(STAMP)

# constraints.txt pins what was tested; pyproject.toml says what is accepted.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(VOXELS)/dataset_description.json: $(STAMP)
	echo "Simulating six people with voxels ..."
	$(BIN)/python -m bids_semantoks.demo $(VOXELS) --participants 6 --incomplete >/dev/null

$(SERIES)/dataset_description.json: $(STAMP)
	echo "Simulating 120 people with parcellated series ..."
	$(BIN)/python -m bids_semantoks.demo $(SERIES) --participants 120 --parcellated >/dev/null

# Its own commands are shown without the paths of .venv, and lines of 120 embedded runs not at all, to be read as a story.
.SILENT: demo $(VOXELS)/dataset_description.json $(SERIES)/dataset_description.json
demo: $(VOXELS)/dataset_description.json $(SERIES)/dataset_description.json
	echo "All data of this demo are synthetic."
	echo
	echo "1. Signals of six people with voxels as fMRIPrep writes them. One run is too short, one lacks its confounds:"
	echo "   bids_semantoks $(VOXELS) $(VOXELS_OUT) participant $(ATLAS) --model random:tiny --ignore-failed-runs"
	$(BIN)/bids_semantoks $(VOXELS) $(VOXELS_OUT) participant $(ATLAS) --model random:tiny --ignore-failed-runs
	echo
	echo "2. Signals of 120 people who come as parcellated series:"
	echo "   bids_semantoks $(SERIES) $(SERIES_OUT) participant $(ATLAS) --signals-only -q"
	$(BIN)/bids_semantoks $(SERIES) $(SERIES_OUT) participant $(ATLAS) --signals-only -q
	echo
	echo "3. Pretrain a tiny encoder on these 120 people without their phenotypes, then predict phenotypes:"
	echo "   bids_semantoks $(SERIES) $(SERIES_OUT) group $(ATLAS) $(PRETRAINING) $(PROBES)"
	bash -o pipefail -c "$(BIN)/bids_semantoks $(SERIES) $(SERIES_OUT) group $(ATLAS) $(PRETRAINING) $(PROBES) 2>&1 | \
	    grep --line-buffered -v ': ok ('"
	echo
	echo "4. What was found"
	echo
	$(BIN)/python -m bids_semantoks.demo --show $(SERIES_OUT)
	echo
	echo "Open in a browser:"
	echo "  $(SERIES_OUT)/group.html     how well phenotypes are predicted, by subgroup, and leakage of the site"
	echo "  $(VOXELS_OUT)/group_qc.html  which runs are usable, and why others are not"
	echo "  $(VOXELS_OUT)/sub-001.html   signals, motion and connectivity of one person"
	echo "Read:"
	echo "  $(SERIES_OUT)/encoders/tiny/README.md      the encoder's model card"
	echo "  $(SERIES)/code/truth/effects.json          what was planted"

# Threads that wait in a spin would take the CPUs from the other test process.
test: $(STAMP) check
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2
	$(MAKE) validate

test-long: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 -m long

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m numpydoc lint $$(git ls-files 'bids_semantoks/*.py')
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/python cluster/generate.py --check

docs: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/sphinx-build -q -n -W --keep-going docs docs/_build
	$(BIN)/python docs/check_links.py docs/_build

screenshots: demo
	$(BIN)/python docs/screenshots.py $(VOXELS_OUT) $(SERIES_OUT)

format: $(STAMP)
	$(BIN)/python cluster/generate.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

validate: demo
	$(BIN)/bids-validator-deno $(VOXELS_OUT)
	$(BIN)/bids-validator-deno $(SERIES_OUT)

# What may differ and why stands in tests/frozen/normalise.py.
frozen: $(STAMP)
	$(BIN)/python tests/frozen/compare.py $(or $(BASE),HEAD)

bench: $(STAMP)
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

reproduce: $(STAMP)
	$(BIN)/python benchmarks/reproduce.py $(if $(STUDIES),--studies $(STUDIES)) $(if $(MODEL),--model $(MODEL))

release-check:
	cluster/tests/release.sh

# The inventory of packages (CycloneDX) is copied out of the image.
ENGINE := docker
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bids_semantoks/version.py)
IMAGE_ID = $(ENGINE) image inspect --format '{{.Id}}' bids_semantoks:$(VERSION) | sed 's/^sha256://'
image:
	$(ENGINE) build --tag bids_semantoks:$(VERSION) --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD) --build-arg VARIANT=$(or $(VARIANT),cpu) \
	    --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg ASSETS=$(ASSETS) .
	mkdir -p dist
	$(ENGINE) run --rm --entrypoint cat bids_semantoks:$(VERSION) /opt/bids_semantoks/sbom.cdx.json \
	    >dist/bids_semantoks-$(VERSION).cdx.json
	@echo "Packages in the image: dist/bids_semantoks-$(VERSION).cdx.json"
	@echo "To have outputs name the image by its digest too, run it with"
	@echo "    --env BIDS_SEMANTOKS_CONTAINER_DIGEST=sha256:$$($(IMAGE_ID))"

image-test: $(STAMP)
	cluster/tests/image.sh
	cluster/tests/singularity.sh

cluster-test: $(STAMP)
	cluster/tests/slurm.sh

clean:
	rm -rf $(VENV) $(DEMO) docs/_build docs/auto_examples .frozen .mypy_cache .ruff_cache .pytest_cache
