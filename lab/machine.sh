# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2054
#
# The machines. machine ARCH PROFILE sets QEMU (an array: program and
# arguments) and CMDLINE. Nothing here depends on the host but the choice of
# the accelerator.
#
# Device addresses are fixed, tests.tab and the init script rely on them:
#   igb       00:03.0  a real DMA engine, which libvfio has a driver for
#   ivshmem   00:04.0  BAR 2 is RAM: what is written there can be checked
#   edu       00:05.0  registers and a small DMA engine
#   testdev   00:06.0  a large BAR without memory behind it
#   nvme      00:07.0  MSI-X, and a controller memory buffer
#
# On x86, in pci and nested, behind a root port, 00:08.0, which can reset them and
# report their errors; functions of one device:
#   portmem   01:00.0  an ivshmem of 16 MiB
#   portram   01:00.1  another one
#   portigb   01:00.2  a PCIe device with AER; it has ARI, and as function 0 would
#                      have to name the others, which QEMU does not do
# And 00:09.0, for a device that can be reset alone:
#   loneram   02:00.0  an ivshmem of 16 MiB
# And 00:0a.0, for errors of a device with VFs:
#   portpf    03:00.0  an igb
# And 00:0b.0, for a device next to one with a driver of the kernel's own:
#   nexte     04:00.0  an e1000, whose driver wants it reset after any error
#   nextigb   04:00.1  an igb
# And 00:0c.0, a slot that a test takes the device out of:
#   pulled    05:00.0  an ivshmem of 16 MiB

declare -A DEVICE=(
	[igb]=0000:00:03.0 [ivshmem]=0000:00:04.0 [edu]=0000:00:05.0
	[testdev]=0000:00:06.0 [nvme]=0000:00:07.0
	[portmem]=0000:01:00.0 [portram]=0000:01:00.1 [portigb]=0000:01:00.2
	[loneram]=0000:02:00.0
	[portpf]=0000:03:00.0
	[nexte]=0000:04:00.0 [nextigb]=0000:04:00.1
	[pulled]=0000:05:00.0
)

ON_ROOT_BUS=(igb ivshmem edu testdev nvme)

# NAME...: have init bind these devices, too, to vfio-pci.
bind_devices() {
	local name list=
	for name; do
		list+=${list:+,}${DEVICE[$name]}
	done
	CMDLINE+=" lab.vfio=$list"
}

# Nested virtualisation is what the tests need: /dev/kvm may be there and
# still be of no use, and KVM without nesting is none either. x86 guests see
# an AMD CPU, so only kvm_amd counts.
accel() {
	local arch=$1
	if [ "${ACCEL:-}" ]; then
		echo "$ACCEL"
	elif [ "$arch" = x86 ] && [ -w /dev/kvm ] &&
	     grep -qs '^[1Y]' /sys/module/kvm_amd/parameters/nested &&
	     timeout 10 qemu-system-x86_64 -accel kvm -M q35 -nodefaults -display none \
		-S -monitor stdio <<<quit >/dev/null 2>&1; then
		echo kvm
	else
		# With a thread for each CPU, a CPU was seen now and then to get no
		# more timer interrupts (QEMU 10.0: idle, or in a nested guest that
		# spins on device memory). Taking turns in one thread it does not,
		# and run.sh keeps the host busy with several machines instead.
		echo tcg,thread=single
	fi
}

pci_devices() {
	QEMU+=(
		-device igb,addr=3
		-object memory-backend-ram,id=shm,size=64M,share=on
		-device ivshmem-plain,memdev=shm,addr=4
		-device edu,addr=5
		-device pci-testdev,membar=8G,addr=6
		-device nvme,serial=lab,cmb_size_mb=16,addr=7
	)
	bind_devices "${ON_ROOT_BUS[@]}"
	# Lets a guest ask for an instruction to be emulated (dmabuf_test).
	CMDLINE+=" kvm.force_emulation_prefix=1"
	# vfio_pci_driver_test fills 1 GiB of shared memory before each case: by
	# pages that takes a debug kernel longer than a case may.
	CMDLINE+=" transparent_hugepage_shmem=always"
}

# x-speed: after a reset of a faster link Linux waits until it is trained, and
# QEMU never says so. hotplug: the links of slots are reset by another driver.
# power_controller_present: with one, an empty slot is one that Linux switched off.
# ICH9-LPC: slots that ACPI looks after are empty for the port.
port_devices() {
	QEMU+=(
		-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
		-device pcie-root-port,id=rp,addr=8,chassis=1,slot=1,x-speed=5,hotplug=off
		-object memory-backend-ram,id=shm1,size=16M,share=on
		-device ivshmem-plain,memdev=shm1,bus=rp,addr=0.0,multifunction=on
		-object memory-backend-ram,id=shm2,size=16M,share=on
		-device ivshmem-plain,memdev=shm2,bus=rp,addr=0.1
		-device igb,bus=rp,addr=0.2
		-device pcie-root-port,id=rp2,addr=9,chassis=2,slot=2,x-speed=5,hotplug=off
		-object memory-backend-ram,id=shm3,size=16M,share=on
		-device ivshmem-plain,memdev=shm3,bus=rp2
		-device pcie-root-port,id=rp3,addr=0xa,chassis=3,slot=3,x-speed=5,hotplug=off
		-device igb,bus=rp3
		-device pcie-root-port,id=rp4,addr=0xb,chassis=4,slot=4,x-speed=5,hotplug=off
		-device e1000,bus=rp4,addr=0.0,multifunction=on
		-device igb,bus=rp4,addr=0.1
		-device pcie-root-port,id=rp5,addr=0xc,chassis=5,slot=5,x-speed=5,power_controller_present=off
		-object memory-backend-ram,id=shm4,size=16M,share=on
		-device ivshmem-plain,memdev=shm4,bus=rp5
	)
	bind_devices portmem portram portigb loneram portpf nextigb pulled
	# The firmware would give the handling of errors to kernels with ASPM only.
	CMDLINE+=" pcie_ports=native"
}

# The clock of this machine counts instructions, one nanosecond each: figures do
# not depend on what else the host does. Only one CPU can be had that way. What
# programs can read of the time on riscv has ticks of 100 ns, so an instruction takes
# 8 there: a tick is less than one in a hundred of the shortest figures.
bench_shift() { if [ "$1" = riscv ]; then echo 3; else echo 0; fi; }

bench_machine() {
	QEMU+=(
		-icount "shift=$(bench_shift "$arch"),sleep=off"
		-device "pci-testdev,membar=$1,addr=6"
		-device nvme,serial=lab,cmb_size_mb=16,addr=7
	)
	[ "$arch" != x86 ] || CMDLINE+=" clocksource=tsc tsc=reliable"
	bind_devices testdev nvme
}

# The devices of make demo-vmm work: a network behind igb, with a file to fetch,
# a disk behind nvme, and an edu that can address all memory. lab/vmm.sh makes both.
vmm_devices() {
	QEMU+=(
		-netdev "user,id=net,restrict=on,tftp=$BUILD/vmm/tftp"
		-device igb,netdev=net,addr=3
		-object memory-backend-ram,id=shm,size=64M,share=on
		-device ivshmem-plain,memdev=shm,addr=4
		-device edu,addr=5,dma_mask=0xffffffffffff
		-device pci-testdev,membar=8G,addr=6
		-drive "file=$BUILD/vmm/disk,format=raw,if=none,id=disk"
		-device nvme,serial=lab,cmb_size_mb=16,drive=disk,addr=7
	)
	bind_devices "${ON_ROOT_BUS[@]}"
}

machine() {
	local arch=$1 profile=$2 mem=4G cpus=2 cpu=EPYC-Milan,+svm,+npt acc
	acc=$(accel "$arch")
	if [[ $profile == *bench ]]; then
		# 48 bits make room for a BAR of 4 TiB.
		acc=tcg,thread=single cpus=1 cpu+=,phys-bits=48
	fi
	case $arch in
	x86)
		QEMU=(qemu-system-x86_64 -accel "$acc" -M q35,kernel-irqchip=split)
		case $acc in
		kvm*) QEMU+=(-cpu host) ;;
		*) QEMU+=(-cpu "$cpu") ;;
		esac
		# One port for the kernel, one for the tests: neither cuts
		# the other's lines.
		QEMU+=(-device intel-iommu,intremap=on,aw-bits=48)
		# The boot-time check counts timer interrupts in emulated time,
		# and panics when the host is too busy to deliver enough.
		# Only guests plug and unplug (guest.config).
		CMDLINE="console=ttyS0 loglevel=5 panic=-1 intel_iommu=on no_timer_check acpiphp.disable=1"
		;;
	arm64)
		mem=3G
		QEMU=(qemu-system-aarch64 -accel "$acc" -cpu max
		      -M virt,virtualization=on,gic-version=3,iommu=smmuv3)
		CMDLINE="console=ttyAMA0 loglevel=5 panic=-1"
		;;
	riscv)
		mem=3G
		# AIA gives the machine MSIs, and KVM an interrupt controller of its
		# own with files for two guests on each CPU. The IOMMU has to let MSIs
		# through, and cannot isolate them.
		QEMU=(qemu-system-riscv64 -accel "$acc" -cpu rv64,h=true,svpbmt=true
		      -M virt,aia=aplic-imsic,aia-guests=2
		      -bios "${OPENSBI:-/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin}"
		      -device '{"driver":"virtio-iommu-pci","addr":"1","reserved-regions":["0x28000000:0x2800ffff:1"]}')
		CMDLINE="console=ttyS0 loglevel=5 panic=-1 iommufd.allow_unsafe_interrupts=1"
		;;
	*) die "no machine for $arch" ;;
	esac

	case $profile in
	kvm) ;;
	# nested: guests of the machine that use its devices.
	pci | nested)
		pci_devices
		[ "$arch" != x86 ] || port_devices
		;;
	demo) pci_devices ;;
	# relaxed: claimed device memory is open to root.
	relaxed) pci_devices; CMDLINE+=" iomem=relaxed" ;;
	# nv: they can have guests of their own, for which arm64 KVM has to be
	# asked (the guests of its selftests then run at EL2). x86 always can.
	nv) pci_devices; CMDLINE+=" kvm-arm.mode=nested" ;;
	# pkvm: the hypervisor is apart from the host, which cannot have dma-buf
	# memslots then.
	pkvm) pci_devices; CMDLINE+=" kvm-arm.mode=protected" ;;
	# One CPU: when QEMU (10.0) injects an interrupt into a nested guest, it
	# leaves the vector in exception_index (helper_vmrun()). A CPU that has to
	# leave its loop then, for no reason of its own, delivers it once more,
	# also to a guest with interrupts off: Linux waits for itself in
	# irq_wait_on_inprogress(). thread=single kicks all CPUs when it kicks
	# one; with one, a kick comes with an interrupt, which ends the guest's
	# turn before that. Of 17 boots of nested Linux guests none got to init
	# with two CPUs, and all of 24 with one.
	vmm) mem=6G cpus=1; vmm_devices ;;
	# For iommufd's own tests: they take huge pages and need no device.
	iommufd) CMDLINE+=" lab.hugepages=64" ;;
	# What there is room for on arm64 is 512 GiB, with all other BARs, and on riscv
	# 16 GiB, without: others find room below 4 GiB.
	bench)
		case $arch in
		x86) bench_machine 512G ;;
		arm64) bench_machine 256G ;;
		riscv) bench_machine 16G ;;
		esac
		;;
	largebench) bench_machine 4T ;;
	vmmbench) mem=6G; bench_machine 256G ;;
	*) die "no machine profile $profile" ;;
	esac
	QEMU+=(-smp "$cpus" -m "$mem" -nodefaults -display none -no-reboot)
}
