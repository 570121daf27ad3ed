# The two that a newcomer needs are "make demo" and "make test".
SHELL       := /bin/sh
.SUFFIXES:
export PATH := $(PATH):/usr/sbin:/sbin

GO          ?= go
export CGO_ENABLED := 0
# The version comes from below; asking git again fails when the tree belongs to somebody else.
export GOFLAGS += -buildvcs=false
# One binary without dependencies; the version is the nearest tag.
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS     := -s -w -X main.version=$(VERSION)

ARTIFACTS   := $(CURDIR)/artifacts
RESULTS     := $(ARTIFACTS)/results.json
SUM         := bin/testsum run -results $(RESULTS)
# Server logs of failed tests end up below artifacts/.
GOTEST      := $(GO) test -json -count=1 -shuffle=on -artifacts -outputdir $(ARTIFACTS)
FORMATTED   := cmd internal test docs tools/testsum

.PHONY: help setup build test lint vuln bench demo docs sim chaos clean

help:
	@echo "make demo   build, start a monitor and three nodes here, kill the primary, watch"
	@echo "make test   everything that must pass: unit tests, simulation, real servers"
	@echo "make build  bin/pgdrover"
	@echo "make lint   golangci-lint, built from the version in tools/go.mod"
	@echo "make sim    the simulation, a million schedules"
	@echo "make chaos  the fault tests on real servers, ten times over"
	@echo "make bench  failover times and idle cost, beside pg_auto_failover; replication, joins, Citus"
	@echo "make docs   generated pages: commands, rules and transitions"
	@echo "make setup  what the above need on a Debian-like machine with Go"

setup:
	@scripts/setup

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

bin/testsum: $(wildcard tools/testsum/*.go) tools/go.mod
	@$(GO) build -C tools -o ../bin/testsum ./testsum

# Every stage runs, also after a failure; the sum says what was red, and every
# test that was skipped is named with its reason. The last line is the count.
test: setup build bin/testsum
	@rm -rf $(ARTIFACTS) && mkdir -p $(ARTIFACTS)
	@$(SUM) -stage gofmt -plain -- sh -c 'test -z "$$(gofmt -l $(FORMATTED) | tee /dev/stderr)"'
	@$(SUM) -stage vet -plain -- $(GO) vet ./...
	@CGO_ENABLED=1 $(SUM) -stage "unit, race detector" -- $(GOTEST) -race -timeout 15m ./cmd/... ./internal/... ./docs ./test/group
	@$(SUM) -stage simulation -- $(GOTEST) -timeout 10m ./test/sim/...
	@$(SUM) -stage "faults on real servers" -- $(GOTEST) -parallel 6 -timeout 20m ./test/integration/...
	@$(SUM) -stage "operations, security, adoption" -- $(GOTEST) -parallel 5 -timeout 20m ./test/operations/... ./test/security/... ./test/adoption/...
	@$(SUM) -stage "cut networks" -- $(GOTEST) -parallel 11 -timeout 20m ./test/partition/...
	@$(SUM) -stage "multi-master" -- $(GOTEST) -parallel 3 -timeout 20m ./test/multimaster/...
	@$(SUM) -stage "nodes that come and go, Citus" -- $(GOTEST) -parallel 3 -timeout 20m ./test/zodan/... ./test/citus/...
	@$(SUM) -stage tools -- $(GO) test -C tools -json -count=1 ./testsum
	@bin/testsum total -results $(RESULTS)

TOOLS := bin/golangci-lint bin/govulncheck
$(TOOLS) &: tools/go.mod tools/go.sum
	$(GO) build -C tools -o ../bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint golang.org/x/vuln/cmd/govulncheck
	@touch $(TOOLS)

lint: $(TOOLS)
	bin/golangci-lint run ./...
	$(GO) mod tidy -diff

# Asks the vulnerability database, so it needs the network.
vuln: $(TOOLS)
	bin/govulncheck ./...

sim:
	PGDROVER_SIM_SCHEDULES=1000000 $(GO) test -count=1 -timeout 24h -v ./test/sim/...

# On the disk, where "make test" prefers memory when there is plenty.
chaos bench: export PGDROVER_TEST_DIR ?= /tmp

# Of the multi-master tests a hundred fresh seeds on two, three and four nodes each,
# and fifty with several sessions a subscription.
chaos: setup build
	PGDROVER_TEST_FAULTS=100 $(GO) test -count=1 -run TestRandomFaults -timeout 4h -artifacts -outputdir $(ARTIFACTS) ./test/integration
	$(GO) test -count=10 -shuffle=on -timeout 12h -artifacts -outputdir $(ARTIFACTS) ./test/integration/... ./test/partition/...
	PGDROVER_TEST_SCHEMES=all $(GO) test -count=1 -timeout 1h -artifacts -outputdir $(ARTIFACTS) ./test/security/...
	PGDROVER_TEST_MONITOR_AWAY=3600 $(GO) test -count=1 -parallel 4 -timeout 3h -artifacts -outputdir $(ARTIFACTS) -run TestMonitorIsAway ./test/operations/...
	PGDROVER_TEST_JOINS=50 $(GO) test -count=1 -timeout 12h -artifacts -outputdir $(ARTIFACTS) -run TestJoinsUnderLoad ./test/zodan/...
	PGDROVER_CITUS_ROUNDS=10 $(GO) test -count=1 -timeout 6h -artifacts -outputdir $(ARTIFACTS) -run TestFormation ./test/citus/...
	MULTIMASTER_SEEDS=100 $(GO) test -count=1 -timeout 12h -artifacts -outputdir $(ARTIFACTS) -run TestCheck01 ./test/multimaster/...
	MULTIMASTER_SEEDS=50 MULTIMASTER_SESSIONS=4 $(GO) test -count=1 -timeout 12h -artifacts -outputdir $(ARTIFACTS) -run TestCheck01 ./test/multimaster/...

bench: setup build
	$(GO) test -count=1 -timeout 1h -run '^$$' -bench . -benchtime 1x ./test/bench/... ./test/citus

# Servers refuse to run as root; the script steps down to user postgres then.
demo: setup build
	@scripts/as-server-user bin/pgdrover demo $(DEMOFLAGS)

docs:
	$(GO) test -count=1 -run 'TestCommandPages|TestSurface' ./internal/cli -rewrite
	$(GO) test -count=1 ./docs -rewrite

clean:
	rm -rf bin $(ARTIFACTS)
