# p2v: everything a newcomer needs is made by `make demo` and `make test`, from a Debian 12 machine
# with git, make and the Rust toolchain. Run as root: the lab's networks and apt need it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

CARGO ?= cargo
DESTDIR ?=
PREFIX ?= /usr
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST := x86_64-unknown-linux-gnu
CACHE := $(TARGET)/lab/cache
IMAGE := $(TARGET)/netboot
# What is shipped, and what the lab runs: without symbols, which are in NAME.debug beside each.
DIST := $(TARGET)/dist

# rust-toolchain.toml names a release. A machine that has that release under the name stable only, and cannot
# fetch it, takes this one.
RUST := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
ifeq ($(shell rustc --version 2>/dev/null),)
ifeq ($(word 2,$(shell rustc +stable --version 2>/dev/null)),$(RUST))
export RUSTUP_TOOLCHAIN := stable
endif
endif

# Cargo's own tools that the build takes beside cargo: outside target/, because compiling them takes minutes and
# every clone can use them. Not optimised: they run for a second.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/p2v-tools
export PATH := $(abspath $(TOOLS))/bin:$(PATH)
tool = env -u RUSTFLAGS -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 \
	$(CARGO) install -q --locked --debug --no-default-features --root $(TOOLS) $1

# No directory of the machine that builds is in what it ships. Everything in the release and image profiles is
# built with `release`, or cargo would compile it twice.
REMAP := $(CURDIR)=. $(abspath $(TARGET))=target \
	$(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src=crates \
	$(or $(RUSTUP_HOME),$(HOME)/.rustup)/toolchains=toolchains
# The list of dependencies goes into each program, for tools that look for known holes (cargo audit bin).
release = RUSTFLAGS='$(strip $(RUSTFLAGS) $(addprefix --remap-path-prefix=,$(REMAP)) $1)' \
	CFLAGS='$(strip $(CFLAGS) $(addprefix -ffile-prefix-map=,$(REMAP)))' $(CARGO) auditable build --locked -q

# Strips the program $1 into DIST, if it is newer, and puts its line tables into a file of their own.
define stripped
	@mkdir -p $(DIST); out=$(DIST)/$(notdir $1); [ $$out -nt $1 ] || { rm -f $$out; \
		objcopy --only-keep-debug --compress-debug-sections $1 $$out.debug; \
		objcopy --strip-all --add-gnu-debuglink=$$out.debug $1 $$out; }
endef

# Tests at a time, and stories: each has two machines, which keep one core busy while they do not wait, and 5 GB of
# memory.
UNIT_THREADS ?= 5
STORIES ?= 3

# What building, testing and the lab run; all from Debian 12.
PACKAGES := gcc g++ libc6-dev binutils pkg-config libzstd-dev \
	qemu-system-x86 qemu-utils ipxe-qemu seabios nbdkit mmdebstrap e2fsprogs fdisk gddrescue \
	pxelinux syslinux-common shim-signed grub-efi-amd64-signed grub-efi-amd64-bin grub-efi-ia32-bin grub-common \
	grub-pc-bin xorriso ovmf ovmf-ia32 iproute2 procps util-linux systemd \
	partclone fuse3 ntfs-3g xfsprogs btrfs-progs dosfstools mtools \
	vblade hdparm tftp-hpa atftp curl isc-dhcp-client udhcpc udhcpd \
	dnsmasq-base isc-dhcp-server kea-dhcp4-server \
	ceph-mon ceph-osd ceph-common \
	libnbd-bin netcat-openbsd ethtool nftables libwrap0 strace man-db

# GRUB for 32-bit UEFI, which Debian does not sign, and for 64-bit UEFI beside another DHCP server (see boot_set.rs).
GRUB_MODULES := efinet tftp http normal configfile linux echo sleep test true reboot minicmd smbios all_video

.PHONY: help setup cargo-auditable cargo-deny build image grub lab demo test check format lint test-programs unit end-to-end campaign bench fuzz install install-files install-debug clean

help:
	@echo "make demo      an old server is moved onto Xen before your eyes, all in QEMU (about 10 minutes the first time)"
	@echo "make test      every test"
	@echo "make campaign  commands killed at any point, damaged files, long outages, millions of strangers' frames (three hours;"
	@echo "               P2V_CAMPAIGN_SEED=N repeats one)"
	@echo "make install   p2v, its units and the netboot image onto this Xen host (DESTDIR= and PREFIX= as usual)"
	@echo "make bench     figures beside vblade, nbdcopy, dd, dnsmasq and tftpd-hpa, as ratios in one run (about an hour)"
	@echo "make fuzz      each fuzz target for a minute"
	@echo "also: setup build image lab check unit end-to-end clean"

# Installs what is missing, and asks apt for nothing when nothing is; no service that comes along is started
# (policy-rc.d, invoke-rc.d(8)). Before the first kernel and the first root file system the package lists are
# fetched too: old ones name packages that are gone. Twice, where apt removes one of ours that does not go with
# another (a qemu-utils of the backports beside Debian 12's qemu-system-x86): the second time gets the right one.
setup:
	@missing=(); \
	look() { \
		missing=(); \
		for package in $(PACKAGES); do \
			dpkg-query -W -f '$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed || missing+=($$package); \
		done; \
	}; \
	look; \
	if [ $${#missing[@]} -gt 0 ] || [ ! -d $(CACHE)/kernel ] || [ ! -d $(CACHE)/xen-host ]; then \
		apt-get update -qq || echo "apt-get update failed: going on with the package lists there are" >&2; \
	fi; \
	for round in 1 2; do \
		[ $${#missing[@]} -gt 0 ] || break; \
		echo "installing $${missing[*]}"; \
		if [ ! -e /usr/sbin/policy-rc.d ]; then \
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
			printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
		fi; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null >$(or $(TMPDIR),/tmp)/p2v-setup.log 2>&1 || \
			{ tail -n 30 $(or $(TMPDIR),/tmp)/p2v-setup.log; exit 1; }; \
		look; \
	done; \
	[ $${#missing[@]} -eq 0 ] || { echo "apt-get install does not bring: $${missing[*]} (what it said is in $(or $(TMPDIR),/tmp)/p2v-setup.log)" >&2; exit 1; }
	@command -v qemu-img >/dev/null || { echo "qemu-img is not there: apt-get install qemu-utils" >&2; exit 1; }

cargo-auditable: setup
	@$(call tool,cargo-auditable@0.7.7)

cargo-deny: setup
	@$(call tool,cargo-deny@0.20.2)

build: cargo-auditable
	$(call release) --release -p p2v -p p2v-lab -p p2v-image --bins
	$(call stripped,$(TARGET)/release/p2v)
	$(call stripped,$(TARGET)/release/p2v-image)
	$(call stripped,$(TARGET)/release/lab-guest)

# The agent is one static file, because there is nothing else in the image.
image: build
	$(call release,-C target-feature=+crt-static) --profile image --target $(HOST) -p p2v-agent
	$(call stripped,$(TARGET)/$(HOST)/image/p2v-agent)
	$(DIST)/p2v-image build --agent $(DIST)/p2v-agent --cache $(CACHE)/kernel --out $(IMAGE)
	@$(MAKE) --no-print-directory grub

grub:
	grub-mkimage -O i386-efi -p /grub -c pxelinux/grub/embedded.cfg -o $(IMAGE)/grubia32.efi $(GRUB_MODULES)
	grub-mkimage -O x86_64-efi -p /grub -c pxelinux/grub/embedded.cfg -o $(IMAGE)/grubx64.efi $(GRUB_MODULES)

# The Xen host's root file system, made again when its recipe changes.
lab: setup
	@recipe=$$(cat tests/xen-host/build tests/xen-host/packages | sha256sum | cut -c1-16); \
	if [ "$$(cat $(CACHE)/xen-host/recipe 2>/dev/null)" != "$$recipe" ]; then \
		echo "making the lab's Xen host (about 2 minutes)"; \
		rm -rf $(CACHE)/xen-host; \
		tests/xen-host/build $(CACHE)/xen-host; \
		echo "$$recipe" >$(CACHE)/xen-host/recipe; \
	fi

demo: image lab
	$(TARGET)/release/demo

check: format lint

format:
	$(CARGO) fmt --all --check

lint: setup cargo-deny
	nice $(CARGO) clippy --workspace --all-targets --locked -q -- -D warnings
	$(CARGO) deny --locked check bans licenses sources

test-programs: setup
	$(CARGO) test --workspace --locked -q --no-run

# More tests at a time than cores: most of them wait for a clock or for a machine. `times` notes each program.
unit: setup image
	P2V_IMAGE_DIR=$(abspath $(IMAGE)) CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(abspath tests/times) program" \
		$(CARGO) test --workspace --exclude p2v-lab --locked -q -- --test-threads=$(UNIT_THREADS)

# `--workspace`, so that what `unit` has built is used.
end-to-end: image lab
	$(CARGO) test --workspace --locked --test end_to_end -- --test-threads=$(STORIES)

# What keeps one core busy at most is done beside what uses all; no phase does again what another has done (`-o`). The
# end-to-end tests run beside the unit tests, and are shown after them: their summary ends the output, with the table of
# times before it. The lints take what is left over then.
test: export P2V_TIMES := $(abspath $(TARGET))/test-times
test:
	@mkdir -p $(TARGET); : >$(P2V_TIMES); export P2V_BEGAN=$$(date +%s); \
	made=; \
	phase() { tests/times phase $$1 $(MAKE) --no-print-directory $$made $$1; }; \
	beside() { phase $$1 >$(TARGET)/$$1.log 2>&1 & }; \
	waited() { wait $$2 || { cat $(TARGET)/$$1.log; exit 1; }; made="$$made -o $$1"; }; \
	phase setup; made="-o setup"; \
	beside lab; lab=$$!; \
	phase format; phase build; made="$$made -o build"; \
	beside image; image=$$!; \
	phase test-programs; waited lab $$lab; waited image $$image; \
	set -m; beside end-to-end; stories=$$!; set +m; \
	trap 'kill -- -'$$stories' 2>/dev/null || true' EXIT; \
	phase unit; \
	beside lint; waited lint $$!; \
	tail -n +1 --pid=$$stories -f $(TARGET)/end-to-end.log | tests/times table; \
	wait $$stories

# What is too long for every day (about three hours): commands killed anywhere and damaged files, ten million frames of
# strangers beside machines that boot, and each outage with a Linux guest that keeps a record.
campaign: image lab
	P2V_CAMPAIGN=10000 $(CARGO) test --locked -q -p p2v-dom0 --lib campaign -- --nocapture --test-threads=1
	$(CARGO) build --release --locked -q -p p2v-agent
	P2V_CAMPAIGN=10000000 $(CARGO) test --release --locked -p p2v --test service -- wire_campaign --nocapture
	$(CARGO) test --workspace --locked --test end_to_end -- --ignored --nocapture --test-threads=2

# Not installed, only unpacked: Debian's package starts its server.
TFTPD := $(CACHE)/tftpd-hpa/usr/sbin/in.tftpd

# Figures, not tests. ONLY="cached mtu=9000" or ONLY="copy random" measures some rows; BESIDE=FILE another p2v's
# netboot service in the same run. Copies need 30 GB of disk.
bench: image
	$(call release) --release -p p2v-bench -p p2v-agent -p p2v
	@test -x $(TFTPD) || { mkdir -p $(CACHE)/tftpd-hpa; cd $(CACHE)/tftpd-hpa; apt-get download -qq tftpd-hpa; dpkg -x tftpd-hpa_*.deb .; }
	$(TARGET)/release/bench --out $(TARGET)/bench --tftpd $(TFTPD) --only "$(ONLY)" $(if $(BESIDE),--beside $(BESIDE))

# Coverage instrumentation that the stable compiler has, so no other toolchain is needed.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := aoe_frame vendor_command target dhcp boot_menu tftp http_range
fuzz: setup
	RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1' \
		$(CARGO) build --manifest-path tests/fuzz/Cargo.toml --target-dir $(TARGET)/fuzz --release --target $(HOST) -q
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p tests/fuzz/corpus/$$target tests/fuzz/artifacts/$$target; \
		$(TARGET)/fuzz/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 \
			-artifact_prefix=tests/fuzz/artifacts/$$target/ tests/fuzz/corpus/$$target 2>tests/fuzz/artifacts/$$target.log || \
			{ tail -n 40 tests/fuzz/artifacts/$$target.log; exit 1; }; \
		grep -E 'number_of_executed_units|DONE' tests/fuzz/artifacts/$$target.log; \
	done

install: image install-files install-debug
	@[ -n "$(DESTDIR)" ] || systemd-sysusers p2v.conf

# Copies what is built; nothing is enabled or started.
install-files:
	install -D -m 755 $(DIST)/p2v $(DESTDIR)$(PREFIX)/sbin/p2v
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/p2v $(IMAGE)/vmlinuz $(IMAGE)/initrd $(IMAGE)/grubia32.efi $(IMAGE)/grubx64.efi
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system $(addprefix server/p2v/systemd/,p2v-serve.service p2v-devices.service p2v-watch.service)
	install -D -m 644 server/p2v/udev/60-p2v.rules $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-p2v.rules
	install -D -m 644 server/p2v/systemd/p2v.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/p2v.conf
	install -D -m 755 $(DIST)/p2v-image $(DESTDIR)$(PREFIX)/sbin/p2v-image
	install -D -m 755 $(DIST)/p2v-agent $(DESTDIR)$(PREFIX)/sbin/p2v-agent
	install -D -m 644 appliance/agent/man/p2v-agent.8 $(DESTDIR)$(PREFIX)/share/man/man8/p2v-agent.8
	install -D -m 644 server/p2v/man/p2v.8 $(DESTDIR)$(PREFIX)/share/man/man8/p2v.8
	rm -rf $(DIST)/docs && $(DIST)/p2v docs $(DIST)/docs
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 $(DIST)/docs/man8/*
	install -D -m 644 $(DIST)/docs/completions/bash/p2v.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/p2v
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions $(DIST)/docs/completions/zsh/_p2v
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DIST)/docs/completions/fish/p2v.fish
	install -D -m 644 server/p2v/p2v.toml $(DESTDIR)$(PREFIX)/share/doc/p2v/p2v.toml.example
	install -D -m 644 README.md $(DESTDIR)$(PREFIX)/share/doc/p2v/README.md

# By build ID, where gdb and the backtrace of a panic look; a package of its own, as Debian's -dbgsym are.
install-debug:
	@for name in p2v p2v-image p2v-agent; do \
		id=$$(readelf -n $(DIST)/$$name | sed -n 's/ *Build ID: //p'); \
		[ -n "$$id" ] || { echo "$(DIST)/$$name has no build ID" >&2; exit 1; }; \
		install -D -m 644 $(DIST)/$$name.debug $(DESTDIR)$(PREFIX)/lib/debug/.build-id/$${id:0:2}/$${id:2}.debug; \
	done

clean:
	rm -rf $(TARGET)
