# SPDX-License-Identifier: GPL-2.0
#
# Front door of the repository: every target is one script.
#
# Variables: ARCH=x86|arm64|riscv, DEBUG=1, PAGES=16k|64k (arm64), KERNEL_SRC= (tarball, tree or git
# repository instead of the network), TREE=, BUILD=, JOBS=, FORCE=1,
# ONLY= (names of tests, shell patterns), FLAVOURS= (release debug 16k 64k),
# PROFILE= (machine of make shell), TOPIC= (make check, make series), FAST=1 and
# FULL=1 (make check), CHECK=1 (make refresh), STRICT=1 (make hooks),
# BASE_COMMIT=, REROLL= and RFC=1 (make series), ALLOW_OTHER=1 (make tree: another
# version of the kernel), DEPS=skip, DOC=, BEFORE= and AGAIN= (make bench), GROUP= (make profile),
# VARIANTS= and UNPATCHED=1 or 0 (make demo-vmm), TIME_LIMIT= in minutes (make test),
# SLOW= (times the tests' timeouts).

export ARCH DEBUG PAGES KERNEL_SRC KERNEL_REV TREE BUILD JOBS FORCE ONLY
export FLAVOURS PROFILE FAST FULL DEPS DOC VARIANTS UNPATCHED
export BEFORE AGAIN TIME_LIMIT TOPIC STRICT BASE_COMMIT REROLL RFC ALLOW_OTHER

.PHONY: help deps tree refresh build test test-all demo demo-vmm qemu bench profile shell check hooks series objdiff

help:
	@echo 'Revocable device memory for Linux: the series and its lab'
	@echo
	@echo '  make demo      boot a patched kernel and show what it does'
	@echo '  make demo-vmm  boot it, patched QEMU in it, a Linux guest on assigned devices'
	@echo '  make test      what CI runs: build, boot, test; ARCH= and FLAVOURS= pick kernels'
	@echo
	@echo '  make test-all  the slow tests too; ONLY="pattern ..." picks tests'
	@echo '  make bench     what device memory costs by dma-buf and by VMA; DOC= updates a document, BEFORE= compares'
	@echo '  make profile   where the instructions of make bench go; GROUP= of its figures'
	@echo '  make shell     the booted test machine; commands on stdin are run there'
	@echo '  make build     the kernel alone (ARCH=x86|arm64|riscv, DEBUG=1, PAGES=16k|64k)'
	@echo '  make deps      install the Debian packages all this needs'
	@echo
	@echo '  make qemu      QEMU with clients/qemu applied, in build/qemu'
	@echo '  make tree      Linux with the series, a commit per patch, a branch per topic, in build/linux'
	@echo '  make refresh   the way back: commits of build/linux to patches/ and files'
	@echo '  make check     checkpatch, kernel-doc, documentation, MAINTAINERS, each step with W=1'
	@echo '                 and sparse (FAST=1: no builds); TOPIC=NN-topic keeps to one topic'
	@echo '  make hooks     how much of the kernel'"'"'s own files each topic changes'
	@echo '  make objdiff   with the feature off, which functions differ from the base?'
	@echo '  make series    mails to send, in build/series; TOPIC=NN-topic keeps to one topic'

deps:
	@scripts/deps.sh

tree: deps
	@scripts/tree.sh

refresh:
	@scripts/refresh.sh $(if $(CHECK),--check)

build: tree
	@scripts/build.sh

test:
	@lab/run.sh ci

test-all:
	@lab/run.sh all

demo:
	@lab/demo.sh

bench: tree
	@lab/bench.sh

profile: tree
	@lab/profile.sh $(GROUP)

qemu:
	@scripts/qemu.sh

demo-vmm: tree
	@lab/vmm.sh

shell: tree
	@lab/shell.sh

check: tree
	@scripts/check.sh

hooks: tree
	@scripts/hooks.sh

series: tree
	@scripts/series.sh

objdiff: tree
	@scripts/objdiff.sh
