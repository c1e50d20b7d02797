# make chat          install what is needed into .venv, then chat       (MODEL=openai/gpt-oss-20b for the real one)
# make test          lint, types, import order, and the fast tests
# make test-slow     the tests marked slow                make soak     ten minutes of random load on the engine
# make parity        print the parity table               make sanitize the cpu backend's tests under ASan and UBSan
# make test-docker   the sandbox in a container engine    make neon-check  the Arm kernels under qemu, cross-compiled
# make lint          ruff, mypy, import-linter            make format   rewrite the code the way ruff wants it
# make web           the server's page, with npm         make test-web the page's tests, in Chromium
# make docs          what docs/ computes, then the site, in site/
# make test-package  wheel and sdist, built and installed clean   make windows-check  the kernels under Wine, cross-compiled
# make fuzz          wrong requests for every route, FUZZ_SECONDS of them (300)
# make man           the manual page, from the commands      make sbom     what the package consists of, as CycloneDX
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODEL  ?=
NATIVE := CMakeLists.txt $(shell find csrc -name '*.cc' -o -name '*.h')

.PHONY: chat web test-web test test-slow test-docker soak fuzz parity lint format sanitize neon-check docs test-package windows-check man sbom clean

chat: $(VENV)/.installed
	$(BIN)/gpt-oss chat $(MODEL)

test: lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

test-docker: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m docker

test-package: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow tests/packaging

neon-check:
	bash csrc/neon.sh

windows-check:
	bash csrc/windows.sh

man: $(VENV)/.installed-test
	$(BIN)/python packaging/man.py

# Of a clean environment with the package and what it depends on, nothing of the tests.
sbom:
	rm -rf build/sbom && $(PYTHON) -m venv build/sbom/package && $(PYTHON) -m venv build/sbom/tool
	build/sbom/package/bin/pip install --quiet . && build/sbom/tool/bin/pip install --quiet 'cyclonedx-bom>=7'
	build/sbom/package/bin/pip uninstall --quiet --yes pip setuptools
	mkdir -p dist && build/sbom/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --spec-version 1.6 --output-file dist/gpt-oss.cdx.json build/sbom/package/bin/python

docs: $(VENV)/.installed-test
	for script in cli_reference diagrams pictures figures; do $(BIN)/python docs/$$script.py || exit 1; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The page: TypeScript out of web/, checked and put together into gpt_oss/server/static.
web: web/node_modules/.installed
	cd web && npm run build

web/node_modules/.installed: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

test-web: web $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/web

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak --timeout 1200

fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz

parity: $(VENV)/.installed-test
	$(BIN)/python -m tests.parity.table

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sanitize: $(VENV)/.installed-test
	bash csrc/sanitize.sh $(abspath $(BIN))/python

clean:
	rm -rf $(VENV) build dist

# The package is installed editable: a change to Python counts at once, a change to csrc/ is rebuilt by the next make.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV) || ($(PYTHON) -m pip install --user --break-system-packages virtualenv && $(PYTHON) -m virtualenv $(VENV))
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml $(NATIVE)
	@echo 'Building the kernels and installing gpt-oss into $(VENV): a minute or two'
	$(BIN)/pip install --quiet --editable .
	touch $@

# torch is pinned: the one version that the tests' figures were measured with.
$(VENV)/.installed-test: $(VENV)/.created pyproject.toml $(NATIVE)
	@echo 'Building the kernels and installing gpt-oss with its test tools into $(VENV): a few minutes'
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test,torch,triton,metal,transformers,gguf,train,serve,ray]'
	touch $(VENV)/.installed $@
