// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots that are backed by a dma-buf: resets and errors of devices
 * that share a bus or a slot, with guests that are busy with their memory.
 *
 * All devices on the command line take part; see the fixture for who does what.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>

#include <linux/sizes.h>

#include "dmabuf_load.h"
#include "dmabuf_vfio.h"

/*
 * Resets of devices with memory, alone or with all that are on their bus, and
 * guests that never stop reading it.  What they read is the tag.  While the device
 * is in reset nothing answers for the address, and it would be anything else, so
 * the memory has to be out of their reach from before the reset to after it.  All
 * devices on the command line take part that have such memory.
 */
#define MAX_DEVICES	8
#define BUS_TEST(name)	TEST_F_TIMEOUT(dmabuf_bus, name, 240)

struct bus_device {
	struct vfio_pci_device *dev;
	const char *bdf;
	int bar;
	int fd;
	struct readers readers;
};

FIXTURE(dmabuf_bus) {
	struct iommu *iommu;
	struct bus_device memory[MAX_DEVICES];
	struct vfio_pci_device *others[MAX_DEVICES];
	int nr_memory;
	int nr_others;
};

FIXTURE_SETUP(dmabuf_bus)
{
	struct vfio_pci_device *dev;
	int i, bar;

	self->iommu = iommu_init(MODE_IOMMUFD);
	for (i = 0; i < nr_bdfs && i < MAX_DEVICES; i++) {
		struct bus_device *d = &self->memory[self->nr_memory];

		dev = vfio_pci_device_init_nomap(bdfs[i], self->iommu);
		vfio_pci_set_memory_decode(dev, true);
		bar = vfio_pci_largest_bar(dev, TAG_PAGES * PAGE_SIZE);
		if (bar < 0 || !tag_bar(dev, bar)) {
			self->others[self->nr_others++] = dev;
			continue;
		}
		d->dev = dev;
		d->bdf = bdfs[i];
		d->bar = bar;
		d->fd = vfio_pci_dmabuf_export_bar(dev, bar);
		self->nr_memory++;
	}
}

FIXTURE_TEARDOWN(dmabuf_bus)
{
	int i;

	for (i = 0; i < self->nr_memory; i++) {
		close(self->memory[i].fd);
		vfio_pci_device_cleanup(self->memory[i].dev);
	}
	for (i = 0; i < self->nr_others; i++)
		vfio_pci_device_cleanup(self->others[i]);
	iommu_cleanup(self->iommu);
}

static void bus_readers_create(struct bus_device *d)
{
	readers_create(&d->readers, 0, 4ull * SZ_1G, SZ_4M, d->fd);
	readers_expect(&d->readers, false);
}

static void bus_readers_join(struct bus_device *d)
{
	readers_join(&d->readers);
	ksft_print_msg("%s: %lu reads were held up\n", d->bdf,
		       nr_revoked(&d->readers));
	/* A reset takes as long as thousands of reads. */
	TEST_ASSERT(nr_revoked(&d->readers), "%s was never revoked", d->bdf);
	kvm_vm_free(d->readers.vm);
}

BUS_TEST(reset)
{
	int i, round, nr = 0;

	for (i = 0; i < self->nr_memory; i++) {
		struct bus_device *d = &self->memory[i];

		if (!(d->dev->info.flags & VFIO_DEVICE_FLAGS_RESET))
			continue;
		nr++;
		bus_readers_create(d);
		for (round = 0; round < 3; round++) {
			vfio_pci_device_reset(d->dev);
			readers_expect(&d->readers, false);
			TEST_ASSERT_EQ(pci_sysfs_write(d->bdf, "reset", "1"), 0);
			readers_expect(&d->readers, false);
		}
		bus_readers_join(d);
	}

	if (!nr)
		SKIP(return, "no device with memory can be reset alone");
}

/* Does a hot reset of one reset the other? */
static bool reset_together(struct bus_device *a, struct bus_device *b)
{
	struct vfio_pci_hot_reset_info *info;
	size_t size = sizeof(*info) + 64 * sizeof(info->devices[0]);
	unsigned int segment, bus, dev, fn, i;
	bool found = false;
	int ret;

	ret = sscanf(b->bdf, "%x:%x:%x.%x", &segment, &bus, &dev, &fn);
	TEST_ASSERT_EQ(ret, 4);
	info = calloc(1, size);
	info->argsz = size;
	if (!ioctl(a->dev->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info))
		for (i = 0; i < info->count; i++)
			found |= info->devices[i].segment == segment &&
				 info->devices[i].bus == bus &&
				 info->devices[i].devfn == (dev << 3 | fn);
	free(info);

	return found;
}

BUS_TEST(hot_reset)
{
	struct bus_device *together[MAX_DEVICES];
	int i, j, nr = 0, round, ret;

	/* A device that is not alone on its bus, and those that are with it. */
	for (i = 0; i < self->nr_memory && nr < 2; i++)
		for (nr = 0, j = 0; j < self->nr_memory; j++)
			if (reset_together(&self->memory[i], &self->memory[j]))
				together[nr++] = &self->memory[j];
	if (nr < 2)
		SKIP(return, "no two devices with memory can be reset together");

	for (i = 0; i < nr; i++)
		bus_readers_create(together[i]);
	for (round = 0; round < 4; round++) {
		ret = __vfio_pci_hot_reset(together[round % nr]->dev);
		TEST_ASSERT(!ret, "hot reset: %s", strerror(-ret));
		for (i = 0; i < nr; i++)
			readers_expect(&together[i]->readers, false);
	}
	for (i = 0; i < nr; i++)
		bus_readers_join(together[i]);
}

/* The devices with memory that are in the same slot as @bdf. */
static int same_slot(FIXTURE_DATA(dmabuf_bus) *self, const char *bdf,
		     struct bus_device **hit)
{
	int i, nr = 0;

	for (i = 0; i < self->nr_memory; i++)
		if (!strncmp(self->memory[i].bdf, bdf, strlen("0000:00:00")))
			hit[nr++] = &self->memory[i];

	return nr;
}

/*
 * Set the device up again.  VFIO takes no notice of that before the PCI core is
 * done with the error, which cannot be seen from here: until a guest can read.
 */
static void set_up_again(struct bus_device *d)
{
	struct reader_state *state = d->readers.r[0].state;
	u64 done = READ_ONCE(state->done);

	do {
		vfio_pci_set_memory_decode(d->dev, true);
		poll_pause();
	} while (READ_ONCE(state->done) == done);
}

/*
 * A fatal error of one of the other devices takes those with memory with it that
 * are in the same slot.  They come back when they are set up again.
 */
BUS_TEST(fatal_error)
{
	struct bus_device *hit[MAX_DEVICES];
	int i, j, nr = 0, ret;

	for (j = 0; j < self->nr_others && !nr; j++)
		nr = same_slot(self, self->others[j]->bdf, hit);
	if (!nr)
		SKIP(return, "no device shares its slot with one that has memory");

	for (i = 0; i < nr; i++)
		bus_readers_create(hit[i]);

	ret = pci_inject_error(self->others[j - 1]->bdf, PCI_ERR_UNC_MALF_TLP);

	/* The link is reset when each device has lost its setup. */
	for (i = 0; i < nr && !ret; i++)
		while (pci_sysfs_command(hit[i]->bdf) & PCI_COMMAND_MEMORY)
			poll_pause();
	for (i = 0; i < nr && !ret; i++) {
		set_up_again(hit[i]);
		readers_expect(&hit[i]->readers, false);
		bus_readers_join(hit[i]);
	}
	if (ret) {
		for (i = 0; i < nr; i++)
			readers_join(&hit[i]->readers);
		SKIP(return, "no error can be injected: %s", strerror(-ret));
	}
}

int main(int argc, char *argv[])
{
	return dmabuf_main(argc, argv);
}
