# Everything here needs Go and, for what touches the network, root. Go fetches
# the rest by itself.
GO       ?= go
LINT      = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
FUZZTIME ?= 60s

.PHONY: build demo test lint race bench perf fuzz kernel programs pgo generate drift soak soak-routes ci-stress clean

# What git knows of the commit goes into the program, where git knows any.
VCS = $(if $(shell git rev-parse HEAD 2>/dev/null),auto,false)

build: ## the program, as bin/xdpct; VERSION=v1.2.3 to name a release
	$(GO) build -buildvcs=$(VCS) $(if $(VERSION),-ldflags "-X main.release=$(VERSION)") -o bin/xdpct ./cmd/xdpct

demo: build ## the main job, in namespaces that come and go with it
	./bin/xdpct demo

# Tests of forwarding wait for the kernel's timers more than they compute, so more packages
# run at a time than there are cores on a small machine.
test: ## the whole suite
	$(GO) test -p 4 ./...

lint: ## go vet and golangci-lint
	$(GO) vet ./...
	$(GO) run $(LINT) run ./...

# The packages whose tests run goroutines beside each other. The others see no race.
RACED = ./cmd/... ./control ./engine ./expect ./icmplimit ./mirror ./nat ./policy ./rx/...

race: ## what runs concurrently, under the race detector
	$(GO) test -race -short $(RACED)
	$(GO) test -race -short -run AtOnce ./shard

bench: ## one iteration of every benchmark
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

SUITE = $(GO) run -pgo cmd/xdpct/default.pgo ./perf/suite

perf: ## every scenario, compared with perf/baseline.jsonl and plotted (as root)
	mkdir -p bin
	$(SUITE) run -o bin/perf.jsonl
	$(SUITE) plot -o bin bin/perf.jsonl
	$(SUITE) compare perf/baseline.jsonl bin/perf.jsonl

fuzz: ## every fuzz target for FUZZTIME
	$(GO) test ./packet -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./shard -run '^$$' -fuzz FuzzDatagrams -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./shard -run '^$$' -fuzz FuzzForwarding -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./mirror -run '^$$' -fuzz FuzzMessages -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./engine -run '^$$' -fuzz FuzzReplay -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./policy/syntax -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME) -fuzzminimizetime 10x
	$(GO) test ./policy -run '^$$' -fuzz FuzzCompile -fuzztime $(FUZZTIME) -fuzzminimizetime 10x
	$(GO) test ./control -run '^$$' -fuzz FuzzRequest -fuzztime $(FUZZTIME) -fuzzminimizetime 2s
	$(GO) test ./conntrack -run '^$$' -fuzz FuzzCommandLine -fuzztime $(FUZZTIME) -fuzzminimizetime 2s

DURATION ?= 10m

soak: ## real hosts, a router and a bridge, reloads and changes for DURATION; every byte accounted for (as root)
	$(GO) test ./internal/soak -timeout 60m -v -duration $(DURATION)

soak-routes: ## a million routes, two million solicitations, a hundred lost links, random routing (as root)
	$(GO) test ./mirror -timeout 30m -v -soak

SEEDS ?= 40

kernel: ## random rules and traffic beside the running kernel, SEEDS times (as root)
	$(GO) test ./internal/kernel -run 'RulesAgree|KernelAgrees|BridgeAgrees' -timeout 60m -seeds $(SEEDS) -v

programs: ## FTP, TFTP, IRC, SIP and PPTP by programs of Debian through a router that masquerades: the kernel, then xdpct (as root)
	.ci/programs

pgo: ## the profile that guides the build of the program anew
	$(GO) test ./perf -run '^$$' -bench Engine -benchtime 2x -cpuprofile cmd/xdpct/default.pgo -o /dev/null

generate: ## the BPF objects anew (needs clang, llvm-strip and libbpf-dev)
	$(GO) generate ./rx ./perf/wire

drift: generate ## fail if what is checked in is not what is generated
	git diff --exit-code -- rx/xdp_bpfel.go rx/xdp_bpfel.o perf/wire/wire_bpfel.go perf/wire/wire_bpfel.o

RUNS ?= 10

ci-stress: ## .ci/run RUNS times on fresh clones while every core is kept busy (hours)
	.ci/stress $(RUNS)

clean:
	rm -rf bin
