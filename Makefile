# Two commands on a fresh machine: `make export` and `make test`. `make help` lists the rest.
PYTHON  ?= python3
GPU     ?= 0
MODEL   ?= vitl
WEIGHTS ?= random
FRAMES  ?= 16
SIZE    ?=
PRECISION ?= fp32
LAYERS  ?=
OUT     ?= artifacts/$(MODEL)$(if $(LAYERS),-$(LAYERS)-layers)-$(FRAMES)x$(or $(SIZE),$(if $(findstring 384,$(MODEL)),384,256))-$(PRECISION)
VIDEO   ?= examples/moving-scene.mp4
CLIPS   ?=
CALIBRATION_CLIPS ?=

BIN    := .venv/bin
VJEPA2 := $(BIN)/vjepa2
EXTRAS := torch,export,finetune,baselines,onnxruntime,openvino,video,parquet,ray,s3,prometheus,report,examples,lance,dev
ifeq ($(GPU),1)
EXTRAS := torch,export,finetune,baselines,onnxruntime-gpu,tensorrt,video,parquet,ray,s3,prometheus,report,examples,lance,dev
endif
# random weights need to be told which model they are to fill; a name of ours is its own released checkpoint
SOURCE := $(WEIGHTS) $(if $(filter random hard,$(WEIGHTS)),--model $(MODEL) --seed 0) $(if $(filter %.pt,$(WEIGHTS)),--model $(MODEL) --key $(or $(KEY),encoder))
EXPORT := --frames $(FRAMES) $(if $(SIZE),--size $(SIZE)) $(if $(LAYERS),--layers $(LAYERS)) $(if $(CLIPS),--clips $(CLIPS)) $(if $(CALIBRATION_CLIPS),--calibration-clips $(CALIBRATION_CLIPS)) --precision $(PRECISION)

.PHONY: help install export edge test test-full check format lint bench bench-arena bench-cost bench-start bench-throughput drift gpu prove-giant probe-tensorrt bench-memory bench-scaling bench-preprocess record-preprocess fuzz-video soak-stream parity prove-precision prove-corpus report readme clean

.NOTPARALLEL:  # two that measure would disturb each other

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# a TensorRT that is the system's, as JetPack's is, is only seen from an environment that may see the system
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $$($(PYTHON) -c 'import tensorrt' 2>/dev/null && echo --system-site-packages) .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

install: .venv/installed  ## .venv with every extra this kind of machine can use (GPU=1: CUDA and TensorRT)

export: install  ## export MODEL with WEIGHTS, prove it, compile it if there is a GPU, embed VIDEO
	$(VJEPA2) export $(SOURCE) $(EXPORT) -o $(OUT)
	$(VJEPA2) compile $(OUT) --if-possible
	$(VJEPA2) embed $(OUT) $(VIDEO) -o $(OUT).npy $(if $(filter fp32 int8,$(PRECISION)),,|| { test $$? = 2 && test ! -d $(OUT)/engines && echo 'embedding: skipped, for the reason above'; })
	@echo 'bundle: $(OUT)'
	@test '$(filter random hard,$(WEIGHTS))' = '' || echo 'These weights are random and the embedding means nothing. Trained ones: make export WEIGHTS=facebook/vjepa2-vitl-fpc64-256'

$(OUT)/manifest.json: | install
	$(VJEPA2) export $(SOURCE) $(EXPORT) -o $(OUT)

# The edge is Python 3.10 without torch, as on JetPack 6. Where there is none, tests/test_edge.py says so and skips.
PYTHON310 ?= $(shell python3.10 -c 'import sys; print(sys.executable)' 2>/dev/null || ls "$$(pyenv prefix $$(pyenv latest 3.10))/bin/python" 2>/dev/null)
EDGE := .venv-edge/bin

.venv-edge/installed: pyproject.toml constraints.txt
ifneq ($(PYTHON310),)
	test -x $(EDGE)/vjepa2 || { $(PYTHON310) -m venv .venv-edge && $(EDGE)/python -m pip install --quiet . && \
	  (cd / && $(CURDIR)/$(EDGE)/python -c 'import vjepa2, vjepa2.runtime') && $(EDGE)/vjepa2 doctor >/dev/null; }
	$(EDGE)/python -m pip install --quiet --constraint constraints.txt '.[onnxruntime,openvino,video,parquet,prometheus]' pytest pytest-timeout psutil
	touch $@
endif

edge: .venv-edge/installed  ## .venv-edge: Python 3.10 with the runtime and nothing that exports, tried bare first
ifneq ($(PYTHON310),)
	$(EDGE)/python -m pip install --quiet --no-deps --force-reinstall .
	rm -rf build
endif

probe-tensorrt: install edge  ## hold our lists of five TensorRTs to their real bindings, imported over stub libraries
	@test -n '$(PYTHON310)' || { echo 'no Python 3.10 is here, which all five have bindings for; give PYTHON310=...' >&2; exit 2; }
	$(BIN)/python tests/probe_tensorrt.py $(PYTHON310) .venv-tensorrt

test: install edge  ## the tests, without those of full-size models, two at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-full: install  ## the tests of full-size models: about a quarter of an hour
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: install  ## format, lint and types, changing nothing
	$(BIN)/ruff format --check vjepa2 export runtime tests examples benchmarks
	$(BIN)/ruff check vjepa2 export runtime tests examples benchmarks
	$(BIN)/mypy vjepa2 tests examples benchmarks

format: install  ## rewrite the sources as the linter wants them
	$(BIN)/ruff format vjepa2 export runtime tests examples benchmarks
	$(BIN)/ruff check --fix vjepa2 export runtime tests examples benchmarks

check: lint test  ## everything that must be green before a commit

clean:  ## remove what the other targets made
	rm -rf .venv .venv-corpus .venv-edge .venv-tensorrt artifacts build *.egg-info

bench-arena: install  ## memory and time of both graphs in ONNX Runtime at 64 frames, with and without its arena
	$(VJEPA2) export random --model vitl --seed 0 --layers 2 --frames 64 --no-simplify -o artifacts/vitl-2-layers-64x256-fp32
	$(BIN)/python benchmarks/arena.py artifacts/vitl-2-layers-64x256-fp32

# Builds no environment: PYTHON has torch >= 2.11 and what exports, TENSORRT_PYTHON has TensorRT >= 8.6 (Python >= 3.10).
# CASES= of tiny-fp16,vitl-bf16, REUSE=1 for bundles and engines of an earlier run, STEP_SECONDS=, DOCS= for the report
TENSORRT_PYTHON ?= $(PYTHON)

gpu:  ## engines beside torch on this machine's GPU, into docs/gpu: PYTHON= with torch, TENSORRT_PYTHON= with TensorRT
	@$(PYTHON) -m benchmarks.gpu --python '$(PYTHON)' --tensorrt-python '$(TENSORRT_PYTHON)' $(if $(CASES),--cases '$(CASES)') $(if $(REUSE),--reuse) $(if $(STEP_SECONDS),--step-seconds $(STEP_SECONDS)) $(if $(DOCS),--docs '$(DOCS)')

BACKENDS ?=
BENCH_SECONDS ?= 60
BENCH = $(VJEPA2) bench $(OUT) $(if $(BACKENDS),--backends $(BACKENDS)) --seconds $(BENCH_SECONDS)

bench: $(OUT)/manifest.json  ## how much faster: every backend of OUT that runs here beside transformers' own, proved, in turns (LAYERS=2: a cut model)
	$(BENCH) --json $(OUT).latency.json

bench-cost: install  ## what measuring adds to a backend that spins for a known time: at most 1 %
	test -f artifacts/tiny/manifest.json || $(VJEPA2) export random --model vitl --seed 0 --layers 1 --frames 2 --size 32 --no-simplify -o artifacts/tiny
	$(BIN)/python -m benchmarks.bench_cost artifacts/tiny

bench-start: install  ## from nothing to the first embedding of ViT-L: import, hash, load, first clip, beside transformers; exit 1 if the import takes more than 0.3 s
	test -f artifacts/vitl-16x256-fp32/manifest.json || $(VJEPA2) export random --model vitl --seed 0 --frames 16 -o artifacts/vitl-16x256-fp32
	$(BIN)/python benchmarks/start.py artifacts/vitl-16x256-fp32

VIDEOS ?= 64

bench-throughput: install  ## encode on VIDEOS short videos beside its backend on ready clips: ViT-L cut to 6 layers, 8 frames of 192, in turns; exit 1 under 0.95
	test -f artifacts/vitl-6-layers-8x192-fp32/manifest.json || $(VJEPA2) export random --model vitl --seed 0 --layers 6 --frames 8 --size 192 --no-simplify -o artifacts/vitl-6-layers-8x192-fp32
	$(BIN)/python benchmarks/throughput.py artifacts/vitl-6-layers-8x192-fp32 $(VIDEOS)

# the clips of ViT-L cut to 2 blocks: on each axis they agree on the others
SCALING := 8x256x1 16x256x1 32x256x1 16x384x1 16x256x2
SCALING_BACKENDS ?= onnxruntime,openvino
SCALING_FOLDERS := $(SCALING:%=artifacts/scaling/%)

artifacts/scaling/%/manifest.json: | install
	$(VJEPA2) export random --model vitl --seed 0 --layers 2 --frames $(word 1,$(subst x, ,$*)) --size $(word 2,$(subst x, ,$*)) --batch $(word 3,$(subst x, ,$*)) --no-simplify -o $(@D)

bench-scaling: $(SCALING_FOLDERS:%=%/manifest.json)  ## how time grows with frames (8, 16, 32), size (256, 384) and batch (1, 2): ViT-L cut to 2 layers
	$(VJEPA2) bench $(SCALING_FOLDERS) --backends $(SCALING_BACKENDS) --seconds 20 --json artifacts/scaling/latency.json

bench-memory: install  ## what ONNX Runtime holds beside what `vjepa2 plan` says: both graphs, 8 to 64 frames (6 GB of memory)
	$(BIN)/python benchmarks/memory.py

prove-giant: install  ## ViT-g (4 GB): export, simplify, prove in ONNX Runtime; stages, seconds and peak memory as JSON
	$(VJEPA2) export random --model vitg --seed 0 --frames 4 --json - -o artifacts/vitg-4x256-fp32

# another precision is held to the float32 bundle of the same weights, where there is one
SIBLING := $(OUT:-$(PRECISION)=-fp32)
PARITY = $(VJEPA2) parity $(OUT) $(if $(BACKENDS),--backends $(BACKENDS)) $(if $(filter-out fp32,$(PRECISION)),$(if $(wildcard $(SIBLING)/manifest.json),--reference $(SIBLING))) $(if $(CLIPS),--clips $(CLIPS))

parity: $(OUT)/manifest.json  ## hold the bundle of `make export` in every backend here to PyTorch float32, and its gate to eight mistakes
	$(PARITY) --json $(OUT).parity.json

REPORTS := $(addprefix $(OUT)/reports/,parity.json latency.json inspect.json drift.json)
# what was measured and is not good is for the page to tell; what cannot be measured is said, and the page says so too
FOR_THE_PAGE = || case $$? in 1) echo '$(@F): not passed; the page says why';; \
	2) echo '$(@F): not measured, for the reason above';; *) exit 1;; esac

report: $(REPORTS)  ## one page of what is known of the bundle of `make export`; measures what was not measured yet
	$(VJEPA2) report $(OUT) --json $(OUT).report.json

.PRECIOUS: $(REPORTS)  # what an interrupted run leaves is called partial, not removed
$(REPORTS): | $(OUT)/manifest.json
$(OUT)/reports/parity.json:
	$(PARITY) $(FOR_THE_PAGE)

$(OUT)/reports/latency.json:
	$(BENCH) $(FOR_THE_PAGE)

$(OUT)/reports/inspect.json:
	mkdir -p $(@D)
	$(VJEPA2) inspect $(OUT) --json $@ $(FOR_THE_PAGE)

$(OUT)/reports/drift.json:
	mkdir -p $(@D)
	$(VJEPA2) drift $(OUT) --json $@ $(FOR_THE_PAGE)

readme: install  ## what make parity and make bench measured of OUT into README's tables, and into docs/results
	$(BIN)/python -m benchmarks.readme $(OUT)

# transformers' processor needs torchvision, which beside the CPU's torch goes in without its dependencies
.venv-processor/installed: constraints.txt
	test -x .venv-processor/bin/python || $(PYTHON) -m venv .venv-processor
	.venv-processor/bin/python -m pip install --quiet --constraint constraints.txt torch transformers pillow
	.venv-processor/bin/python -m pip install --quiet --no-deps torchvision==0.28.0
	touch $@

bench-preprocess: .venv-processor/installed  ## 16 frames to a clip, beside transformers' processor, in turns
	.venv-processor/bin/python -m benchmarks.preprocess

record-preprocess: .venv-processor/installed  ## ask transformers' processor again what the tests hold us to
	.venv-processor/bin/python -m tests.record_preprocessing

MUTANTS ?= 2000
SEED    ?= 0

fuzz-video: install  ## decode MUTANTS spoilt videos from SEED: each ok, partial or rejected, none silently short, nothing left
	$(BIN)/python -m tests.fuzz_video $(MUTANTS) $(SEED)

MINUTES ?= 20

soak-stream: install  ## stream for MINUTES with reconnections, stalls and changing rates: memory within noise, nothing left
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak_stream $(MINUTES) $(or $(BACKEND),auto)

PARTS ?=

.venv-corpus/installed: pyproject.toml constraints.txt
	test -x .venv-corpus/bin/python || $(PYTHON) -m venv .venv-corpus
	.venv-corpus/bin/python -m pip install --quiet --constraint constraints.txt '.[corpus,onnxruntime,ray,s3]' 'moto[server]' psutil pytest pytest-timeout
	rm -rf build
	touch $@

prove-corpus: install .venv-corpus/installed  ## kills, full disks (as root), Ray, S3, cost of corpus runs; PARTS= of same kills points full_disk cost
	$(BIN)/python -m benchmarks.corpus.prepare artifacts/corpus 2000
	.venv-corpus/bin/python -m benchmarks.corpus artifacts/corpus artifacts/corpus/report.json $(PARTS)
	VJEPA2_TEST_BUNDLES=artifacts/corpus/bundles .venv-corpus/bin/python -m pytest tests/test_corpus_ray.py tests/test_corpus_s3.py

prove-precision: install  ## what fp16, bf16, int8 and fp8 lose of ViT-L's tokens, on random and on hard weights; 20 to 60 minutes
	$(BIN)/python benchmarks/precision.py artifacts/precision --clips 1

drift: install  ## where ViT-L cut to 4 layers, its weights hard and every result in fp16, leaves the gate, and which islands bring it back
	test -f artifacts/vitl-4-layers-hard-4x256-fp32/manifest.json || $(VJEPA2) export hard --model vitl --seed 0 --layers 4 --frames 4 --no-simplify -o artifacts/vitl-4-layers-hard-4x256-fp32
	$(VJEPA2) drift artifacts/vitl-4-layers-hard-4x256-fp32 --backend naive-fp16 --json artifacts/drift.json --plot artifacts/drift.svg; test $$? -eq 1
