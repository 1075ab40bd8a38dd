PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO := demo
DEMO_OUT := $(DEMO)/derivatives/bids_semantoks
RUN := $(BIN)/bids_semantoks $(DEMO) $(DEMO_OUT)
ATLAS := --atlas Demo457
OPTIONS := $(ATLAS) --model random:tiny
# About a minute on two CPUs; larger batches than the automatic two, since 24 participants are few.
PRETRAINING := --encoder-config tiny --epochs 80 --train-batch-size 8
# Few people and few permutations: to see what comes out, not to believe it.
PROBES := --probe age sex --n-repeats 2 --n-permutations 50

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-long check docs screenshots format validate frozen bench reproduce clean release-check image image-test cluster-test

help:
	@echo "make demo    make a synthetic study, run participant and group on it, probe age and sex, pretrain a tiny encoder"
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

$(DEMO)/dataset_description.json: $(STAMP)
	$(BIN)/python -m bids_semantoks.demo $(DEMO)

demo: $(DEMO)/dataset_description.json
	$(RUN) participant $(OPTIONS)
	$(RUN) group $(OPTIONS) $(PROBES)
	$(RUN) group $(ATLAS) --pretrain $(PRETRAINING)
	@echo
	@echo "Report of each participant:   $(DEMO_OUT)/sub-*.html"
	@echo "Embeddings of each run:      $(DEMO_OUT)/sub-*/**/func/*_embedding.tsv"
	@echo "One row for each participant: $(DEMO_OUT)/phenotype/"
	@echo "What they know of age, sex:   $(DEMO_OUT)/group.html"
	@echo "An encoder of your own:       $(DEMO_OUT)/encoders/tiny/README.md"

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
	$(BIN)/python docs/screenshots.py $(DEMO_OUT)

format: $(STAMP)
	$(BIN)/python cluster/generate.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

validate: demo
	$(BIN)/bids-validator-deno $(DEMO_OUT)

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
