/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Buffers of the mock exporter, /dev/dma-buf-mock (CONFIG_DMABUF_MOCK).
 *
 * What a test asks for and does not get fails the test, but for the functions
 * with underscores, which return a negative errno.
 */
#ifndef SELFTEST_KVM_DMABUF_MOCK_H
#define SELFTEST_KVM_DMABUF_MOCK_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>

#include "../../../../../drivers/dma-buf/dma-buf-mock-uapi.h"
#include "test_util.h"

#define MOCK_RO		(DMA_BUF_MOCK_READ | DMA_BUF_MOCK_MMIO)
#define MOCK_RW		(MOCK_RO | DMA_BUF_MOCK_WRITE)

static const struct dma_buf_mock_offer mock_kvm_restorable = {
	DMA_BUF_MOCK_KVM, DMA_BUF_MOCK_RESTORABLE
};

static inline int __mock_ioctl(int dev, unsigned long cmd, void *args)
{
	return ioctl(dev, cmd, args) ? -errno : 0;
}

#define mock_ioctl(dev, cmd, args)						\
do {										\
	int __ret = __mock_ioctl(dev, cmd, args);				\
										\
	TEST_ASSERT(!__ret, #cmd ": %s", strerror(-__ret));			\
} while (0)

/* @nr extents, each a block of its own. */
static inline void mock_blocks(struct dma_buf_mock_extent *extents, u32 nr,
			       u32 order, u32 attrs)
{
	u32 i;

	for (i = 0; i < nr; i++)
		extents[i] = (struct dma_buf_mock_extent) {
			.attrs = attrs,
			.order = order,
			.nr_pages = 1u << order,
		};
}

/* Returns the fd, or a negative errno. */
static inline int __mock_create(int dev, const struct dma_buf_mock_extent *extents,
				u32 nr, const struct dma_buf_mock_offer *offers,
				u32 nr_offers)
{
	struct dma_buf_mock_create args = {
		.flags = O_RDWR | O_CLOEXEC,
		.nr_extents = nr,
		.extents = (u64)extents,
		.offers = (u64)offers,
		.nr_offers = nr_offers,
	};

	return __mock_ioctl(dev, DMA_BUF_MOCK_CREATE, &args) ?: args.fd;
}

static inline int mock_create(int dev, const struct dma_buf_mock_extent *extents,
			      u32 nr)
{
	int fd = __mock_create(dev, extents, nr, &mock_kvm_restorable, 1);

	TEST_ASSERT(fd >= 0, "DMA_BUF_MOCK_CREATE: %s", strerror(-fd));
	return fd;
}

static inline int __mock_revoke(int dev, int fd)
{
	struct dma_buf_mock_revoke args = { .fd = fd };

	return __mock_ioctl(dev, DMA_BUF_MOCK_REVOKE, &args);
}

static inline void mock_revoke(int dev, int fd)
{
	int ret = __mock_revoke(dev, fd);

	TEST_ASSERT(!ret, "DMA_BUF_MOCK_REVOKE: %s", strerror(-ret));
}

/* Returns how many importers could not be restored, or a negative errno. */
static inline int __mock_restore(int dev, int fd)
{
	struct dma_buf_mock_revoke args = { .fd = fd };

	return __mock_ioctl(dev, DMA_BUF_MOCK_RESTORE, &args) ?: args.nr_not_restored;
}

static inline void mock_restore(int dev, int fd)
{
	TEST_ASSERT_EQ(__mock_restore(dev, fd), 0);
}

/* Returns as __mock_restore(). */
static inline int __mock_move(int dev, int fd,
			      const struct dma_buf_mock_extent *extents, u32 nr)
{
	struct dma_buf_mock_move args = {
		.fd = fd,
		.nr_extents = nr,
		.extents = (u64)extents,
	};

	return __mock_ioctl(dev, DMA_BUF_MOCK_MOVE, &args) ?: args.nr_not_restored;
}

static inline void mock_move(int dev, int fd,
			     const struct dma_buf_mock_extent *extents, u32 nr)
{
	TEST_ASSERT_EQ(__mock_move(dev, fd, extents, nr), 0);
}

static inline void __mock_attrs(int dev, int fd, u32 first, u32 nr, u32 attrs,
				u32 flags)
{
	struct dma_buf_mock_attrs args = {
		.fd = fd,
		.first = first,
		.nr_extents = nr,
		.attrs = attrs,
		.flags = flags,
	};

	mock_ioctl(dev, DMA_BUF_MOCK_ATTRS, &args);
	TEST_ASSERT_EQ(args.nr_not_restored, 0);
}

static inline void mock_attrs(int dev, int fd, u32 first, u32 nr, u32 attrs)
{
	__mock_attrs(dev, fd, first, nr, attrs, 0);
}

static inline void mock_data(int dev, int fd, unsigned long cmd, u64 offset,
			     void *data, u32 len)
{
	struct dma_buf_mock_data args = {
		.fd = fd,
		.len = len,
		.offset = offset,
		.data = (u64)data,
	};

	mock_ioctl(dev, cmd, &args);
}

static inline u64 mock_peek64(int dev, int fd, u64 offset)
{
	u64 val;

	mock_data(dev, fd, DMA_BUF_MOCK_PEEK, offset, &val, sizeof(val));
	return val;
}

static inline void mock_poke64(int dev, int fd, u64 offset, u64 val)
{
	mock_data(dev, fd, DMA_BUF_MOCK_POKE, offset, &val, sizeof(val));
}

/* The @nth time from now the step fails with @error. */
static inline void mock_fail(int dev, int fd, u32 step, u32 nth, u32 error)
{
	struct dma_buf_mock_fail args = {
		.fd = fd,
		.step = step,
		.nth = nth,
		.error = error,
	};

	mock_ioctl(dev, DMA_BUF_MOCK_FAIL, &args);
}

static inline void mock_fence(int dev, int fd)
{
	struct dma_buf_mock_fence args = { .fd = fd };

	mock_ioctl(dev, DMA_BUF_MOCK_FENCE, &args);
}

static inline u32 mock_signal(int dev, int fd)
{
	struct dma_buf_mock_fence args = { .fd = fd };

	mock_ioctl(dev, DMA_BUF_MOCK_SIGNAL, &args);
	return args.nr_signaled;
}

/* Returns 0, or a negative errno. */
static inline int __mock_hold(int dev, int fd, u32 action)
{
	struct dma_buf_mock_hold args = { .fd = fd, .action = action };

	return __mock_ioctl(dev, DMA_BUF_MOCK_HOLD, &args);
}

/* Returns the number of the importer, or a negative errno. */
static inline int __mock_import(int dev, int fd, u32 models, u32 flags)
{
	struct dma_buf_mock_import args = { .fd = fd, .models = models, .flags = flags };

	return __mock_ioctl(dev, DMA_BUF_MOCK_IMPORT, &args) ?: args.id;
}

static inline void mock_idle(int dev, int id)
{
	struct dma_buf_mock_import args = { .id = id };

	mock_ioctl(dev, DMA_BUF_MOCK_IDLE, &args);
}

static inline void mock_unimport(int dev, int id)
{
	struct dma_buf_mock_import args = { .id = id };

	mock_ioctl(dev, DMA_BUF_MOCK_UNIMPORT, &args);
}

static inline struct dma_buf_mock_status mock_status(int dev, int fd)
{
	struct dma_buf_mock_status args = { .fd = fd };

	mock_ioctl(dev, DMA_BUF_MOCK_STATUS, &args);
	return args;
}

static inline struct dma_buf_mock_check mock_check(int dev)
{
	struct dma_buf_mock_check args = {};

	mock_ioctl(dev, DMA_BUF_MOCK_CHECK, &args);
	return args;
}

/* Nobody wrote to memory that had been revoked, moved away from or released. */
static inline void mock_assert_unchanged(int dev)
{
	u64 nr = mock_check(dev).nr_changed;

	TEST_ASSERT(!nr, "%lu pages changed after they had been revoked", nr);
}

/* The same for all owners, closed ones too, since the module was loaded. */
static inline u64 mock_changed_pages(void)
{
	const char *path = "/sys/module/dma_buf_mock/parameters/changed_pages";
	FILE *f = fopen(path, "r");
	u64 nr;

	TEST_ASSERT(f && fscanf(f, "%lu", &nr) == 1, "Failed to read %s", path);
	fclose(f);
	return nr;
}

#endif /* SELFTEST_KVM_DMABUF_MOCK_H */
