// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs in an IOAS, in combination with the other features of an IOAS
 *
 * The mock exporter of drivers/iommu/iommufd/selftest.c makes buffers of any
 * number of ranges. The mock domain tells page by page what it maps, and what
 * may be left in its IOTLB. Races with the exporter are in
 * iommufd_dmabuf_race.c, failures of allocations in iommufd_fail_nth.c.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#define __EXPORTED_HEADERS__
#include <linux/vfio.h>

#include "iommufd_utils.h"
#include "memcg_charge.h"

#define MAP_RW (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE)
#define MAP_RW_RESTORE (MAP_RW | IOMMU_IOAS_MAP_RESTORE)

static __attribute__((constructor)) void setup_sizes(void)
{
	PAGE_SIZE = sysconf(_SC_PAGE_SIZE);

	BUFFER_SIZE = PAGE_SIZE;
	buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert(buffer != MAP_FAILED);

	mfd_buffer = memfd_mmap(BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				&mfd);
	assert(mfd_buffer != MAP_FAILED);
	assert(mfd > 0);
}

FIXTURE(iommufd_dmabuf)
{
	int fd;
	uint32_t ioas_id;
	/* Of the device that came last */
	uint32_t stdev_id;
	uint32_t hwpt_id;
	uint32_t device_id;
};

FIXTURE_VARIANT(iommufd_dmabuf)
{
	unsigned int mock_domains;
};

FIXTURE_SETUP(iommufd_dmabuf)
{
	unsigned int i;

	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	for (i = 0; i != variant->mock_domains; i++)
		test_cmd_mock_domain(self->ioas_id, &self->stdev_id,
				     &self->hwpt_id, &self->device_id);
}

FIXTURE_TEARDOWN(iommufd_dmabuf)
{
	teardown_iommufd(self->fd, _metadata);
}

FIXTURE_VARIANT_ADD(iommufd_dmabuf, no_domain)
{
};

FIXTURE_VARIANT_ADD(iommufd_dmabuf, mock_domain)
{
	.mock_domains = 1,
};

FIXTURE_VARIANT_ADD(iommufd_dmabuf, two_mock_domain)
{
	.mock_domains = 2,
};

/* A second IOAS with a device of its own, for copies */
struct other_ioas {
	__u32 ioas_id;
	__u32 stdev_id;
	__u32 hwpt_id;
	__u32 device_id;
};

static void other_ioas_init(struct __test_metadata *_metadata, int fd,
			    struct other_ioas *other)
{
	ASSERT_EQ(0, _test_ioctl_ioas_alloc(fd, &other->ioas_id));
	ASSERT_EQ(0, _test_cmd_mock_domain(fd, other->ioas_id, &other->stdev_id,
					   &other->hwpt_id, &other->device_id));
}

/* Without large pages all is mapped in pages of PAGE_SIZE */
static int set_huge_pages(int fd, __u32 ioas_id, bool on)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = on,
		.object_id = ioas_id,
	};

	return ioctl(fd, IOMMU_OPTION, &cmd);
}

/* From the fixture's IOAS */
#define test_copy(dst_ioas_id, dst_iova_p, src_iova, length, flags)          \
	ASSERT_EQ(0, _test_ioctl_ioas_copy(self->fd, dst_ioas_id, dst_iova_p, \
					   self->ioas_id, src_iova, length,  \
					   flags))
#define test_err_copy(_errno, dst_ioas_id, dst_iova_p, src_iova, length,      \
		      flags)                                                  \
	EXPECT_ERRNO(_errno,                                                  \
		     _test_ioctl_ioas_copy(self->fd, dst_ioas_id, dst_iova_p, \
					   self->ioas_id, src_iova, length,   \
					   flags))

/* Map the slice, check it in a domain there before and in one that comes later */
static void check_dmabuf_slice(struct __test_metadata *_metadata,
			       FIXTURE_DATA(iommufd_dmabuf) *self,
			       const FIXTURE_VARIANT(iommufd_dmabuf) *variant,
			       int dfd, size_t offset, size_t length)
{
	__u32 hwpt_id;
	__u64 iova;

	test_ioctl_ioas_map_file(dfd, offset, length, &iova);
	ASSERT_EQ(offset % PAGE_SIZE, iova % PAGE_SIZE);
	if (variant->mock_domains) {
		test_dmabuf_mapped(self->hwpt_id, dfd, offset, iova, length);

		test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0,
				    &hwpt_id);
		test_dmabuf_mapped(hwpt_id, dfd, offset, iova, length);
		test_ioctl_destroy(hwpt_id);
	}
	test_ioctl_ioas_unmap(iova, length);
	if (variant->mock_domains)
		test_dmabuf_unmapped(self->hwpt_id, dfd, iova, length);
}

TEST_F(iommufd_dmabuf, slices)
{
	static const struct {
		unsigned int nr_pages;
		unsigned int range_pages;
		unsigned int flags;
	} bufs[] = {
		{ 6, 6, 0 },
		{ 6, 2, 0 },
		{ 6, 1, 0 },
		{ 6, 2, MOCK_DMABUF_MIXED_ATTRS },
	};
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(bufs); i++) {
		size_t buf_size = bufs[i].nr_pages * PAGE_SIZE;
		unsigned int start;
		unsigned int end;
		int dfd;

		test_cmd_get_dmabuf_ranges(buf_size,
					   bufs[i].range_pages * PAGE_SIZE,
					   bufs[i].flags, &dfd);
		/* Within a range, across two, across all, odd starts and ends */
		for (start = 0; start != bufs[i].nr_pages; start++)
			for (end = start + 1; end <= bufs[i].nr_pages; end++)
				check_dmabuf_slice(_metadata, self, variant,
						   dfd, start * PAGE_SIZE,
						   (end - start) * PAGE_SIZE);

		/* Sub page: starts, ends, and both, in one range and across */
		check_dmabuf_slice(_metadata, self, variant, dfd,
				   PAGE_SIZE + MOCK_PAGE_SIZE, MOCK_PAGE_SIZE);
		check_dmabuf_slice(_metadata, self, variant, dfd, PAGE_SIZE,
				   MOCK_PAGE_SIZE);
		check_dmabuf_slice(_metadata, self, variant, dfd,
				   PAGE_SIZE + MOCK_PAGE_SIZE,
				   PAGE_SIZE * 2 + MOCK_PAGE_SIZE);
		check_dmabuf_slice(_metadata, self, variant, dfd,
				   PAGE_SIZE + MOCK_PAGE_SIZE, PAGE_SIZE * 2);
		close(dfd);
	}
}

TEST_F(iommufd_dmabuf, errors)
{
	const unsigned int fixed = MAP_RW_RESTORE | IOMMU_IOAS_MAP_FIXED_IOVA;
	size_t buf_size = PAGE_SIZE * 4;
	__u64 copy_iova;
	__u64 iova;
	int dfd;

	test_err_ioctl_ioas_map_file(EBADF, -1, 0, buf_size, &iova);

	/* Out of bounds */
	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfd);
	test_err_ioctl_ioas_map_file(EINVAL, dfd, PAGE_SIZE, buf_size, &iova);
	test_err_ioctl_ioas_map_file(EINVAL, dfd, buf_size, PAGE_SIZE, &iova);
	test_err_ioctl_ioas_map_file(EINVAL, dfd, buf_size + PAGE_SIZE,
				     PAGE_SIZE, &iova);
	test_err_ioctl_ioas_map_file(EOVERFLOW, dfd, -PAGE_SIZE, PAGE_SIZE * 2,
				     &iova);

	/* Flags */
	test_err_ioctl_ioas_map_file_flags(EOPNOTSUPP, dfd, 0, buf_size, &iova,
					   MAP_RW | (1 << 4));
	test_err_ioctl_ioas_map_file_flags(EINVAL, dfd, 0, buf_size, &iova,
					   IOMMU_IOAS_MAP_RESTORE);
	test_err_ioctl_ioas_map_file_flags(EINVAL, mfd, 0, PAGE_SIZE, &iova,
					   MAP_RW_RESTORE);
	EXPECT_ERRNO(EINVAL, _test_ioctl_ioas_map(self->fd, self->ioas_id,
						  buffer, PAGE_SIZE, &iova,
						  MAP_RW_RESTORE));
	test_ioctl_ioas_map_file(dfd, 0, buf_size, &iova);
	test_err_copy(EINVAL, self->ioas_id, &copy_iova, iova, buf_size,
		      MAP_RW_RESTORE);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);

	/* Where the IOMMU cannot translate, and where something is mapped */
	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfd);
	if (variant->mock_domains) {
		iova = MOCK_APERTURE_LAST + 1UL - PAGE_SIZE;
		test_err_ioctl_ioas_map_file_flags(EINVAL, dfd, 0, buf_size,
						   &iova, fixed);
		iova = MOCK_APERTURE_START - PAGE_SIZE;
		test_err_ioctl_ioas_map_file_flags(EINVAL, dfd, 0, buf_size,
						   &iova, fixed);
	}
	iova = MOCK_APERTURE_START;
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, fixed);
	test_err_ioctl_ioas_map_file_flags(EEXIST, dfd, 0, buf_size, &iova,
					   fixed);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);

	/* An exporter that only has scatterlists */
	test_cmd_get_dmabuf_ranges(buf_size, 0, MOCK_DMABUF_SCATTERLIST_ONLY,
				   &dfd);
	test_err_ioctl_ioas_map_file(EOPNOTSUPP, dfd, 0, buf_size, &iova);
	test_err_ioctl_ioas_map_file_flags(EOPNOTSUPP, dfd, 0, buf_size, &iova,
					   MAP_RW_RESTORE);
	close(dfd);

	/* An exporter that does not restore */
	test_cmd_get_dmabuf_ranges(buf_size, 0, MOCK_DMABUF_NO_RESTORE, &dfd);
	test_err_ioctl_ioas_map_file_flags(EOPNOTSUPP, dfd, 0, buf_size, &iova,
					   MAP_RW_RESTORE);
	test_ioctl_ioas_map_file(dfd, 0, buf_size, &iova);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);

	/* Neither a dma-buf nor a memfd, seen when a domain wants the pages */
	if (variant->mock_domains) {
		dfd = open("/dev/null", O_RDWR);
		ASSERT_LE(0, dfd);
		test_err_ioctl_ioas_map_file(EINVAL, dfd, 0, buf_size, &iova);
		close(dfd);
	}

	/* Nothing was left behind */
	test_err_ioctl_ioas_unmap(ENOENT, 0, UINT64_MAX - 1);
}

TEST_F(iommufd_dmabuf, permission)
{
	size_t buf_size = PAGE_SIZE * 4;
	__u64 copy_iova;
	__u64 iova;
	int dfd;

	/* The file cannot be written */
	test_cmd_get_dmabuf_ro(buf_size, &dfd);
	test_err_ioctl_ioas_map_file(EPERM, dfd, 0, buf_size, &iova);
	test_err_ioctl_ioas_map_file_flags(EPERM, dfd, 0, buf_size, &iova,
					   IOMMU_IOAS_MAP_WRITEABLE);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova,
				       IOMMU_IOAS_MAP_READABLE);

	/* A copy gains nothing */
	test_err_copy(EPERM, self->ioas_id, &copy_iova, iova, buf_size, MAP_RW);
	test_copy(self->ioas_id, &copy_iova, iova, buf_size,
		  IOMMU_IOAS_MAP_READABLE);
	test_ioctl_ioas_unmap(copy_iova, buf_size);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);

	/* The file cannot be read */
	ASSERT_EQ(0, _test_cmd_get_dmabuf(self->fd, buf_size, 0, 0, O_WRONLY,
					  &dfd));
	test_err_ioctl_ioas_map_file(EPERM, dfd, 0, buf_size, &iova);
	test_err_ioctl_ioas_map_file_flags(EPERM, dfd, 0, buf_size, &iova,
					   IOMMU_IOAS_MAP_READABLE);
	test_err_ioctl_ioas_map_file_flags(EPERM, dfd, 0, buf_size, &iova,
					   IOMMU_IOAS_MAP_WRITEABLE);
	close(dfd);

	/* The file can be written but for its last page */
	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE,
				   MOCK_DMABUF_LAST_RANGE_RO, &dfd);
	test_err_ioctl_ioas_map_file(EPERM, dfd, 0, buf_size, &iova);
	test_err_ioctl_ioas_map_file(EPERM, dfd, buf_size - PAGE_SIZE,
				     PAGE_SIZE, &iova);
	test_err_ioctl_ioas_map_file_flags(EPERM, dfd, 0, buf_size, &iova,
					   MAP_RW_RESTORE);
	test_ioctl_ioas_map_file(dfd, 0, buf_size - PAGE_SIZE, &iova);
	test_ioctl_ioas_unmap(iova, buf_size - PAGE_SIZE);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova,
				       IOMMU_IOAS_MAP_READABLE);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);
}

/* A revoke reaches every domain, and every copy of the mapping */
TEST_F(iommufd_dmabuf, revoke_all)
{
	size_t buf_size = PAGE_SIZE * 4;
	struct other_ioas other;
	__u32 hwpt_id3;
	__u64 iova_slice;
	__u64 copy_iova;
	__u64 iova;
	int dfd;

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");

	other_ioas_init(_metadata, self->fd, &other);
	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfd);
	test_ioctl_ioas_map_file(dfd, 0, buf_size, &iova);
	test_ioctl_ioas_map_file(dfd, PAGE_SIZE, PAGE_SIZE * 2, &iova_slice);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id3);
	test_copy(other.ioas_id, &copy_iova, iova, buf_size, MAP_RW);
	test_dmabuf_mapped(self->hwpt_id, dfd, 0, iova, buf_size);
	test_dmabuf_mapped(hwpt_id3, dfd, 0, iova, buf_size);
	test_dmabuf_mapped(other.hwpt_id, dfd, 0, copy_iova, buf_size);

	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova, buf_size);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova_slice, PAGE_SIZE * 2);
	test_dmabuf_unmapped(hwpt_id3, dfd, iova, buf_size);
	test_dmabuf_unmapped(hwpt_id3, dfd, iova_slice, PAGE_SIZE * 2);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);

	/* Nobody asked for more, so it is for ever, later domains included */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_ioctl_destroy(hwpt_id3);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id3);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova, buf_size);
	test_dmabuf_unmapped(hwpt_id3, dfd, iova, buf_size);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);
	test_copy(other.ioas_id, &copy_iova, iova, buf_size, MAP_RW);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);

	/* A new mapping lives next to it */
	test_ioctl_ioas_unmap(iova_slice, PAGE_SIZE * 2);
	test_ioctl_ioas_map_file(dfd, PAGE_SIZE, PAGE_SIZE * 2, &iova_slice);
	test_dmabuf_mapped(self->hwpt_id, dfd, PAGE_SIZE, iova_slice,
			   PAGE_SIZE * 2);
	test_ioctl_ioas_unmap(iova, buf_size);
	test_ioctl_ioas_unmap(iova_slice, PAGE_SIZE * 2);
	test_ioctl_destroy(hwpt_id3);
	test_ioctl_destroy(other.stdev_id);
	close(dfd);
}

TEST_F(iommufd_dmabuf, restore)
{
	size_t buf_size = PAGE_SIZE * 4;
	struct other_ioas other;
	__u32 hwpt_id3;
	__u64 copy_iova;
	__u64 iova2;
	__u64 iova;
	int dfd;

	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE * 2, 0, &dfd);
	if (!variant->mock_domains) {
		/* No domain, so there is only state to go wrong */
		test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova,
					       MAP_RW_RESTORE);
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
		test_ioctl_ioas_unmap(iova, buf_size);
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
		close(dfd);
		return;
	}

	other_ioas_init(_metadata, self->fd, &other);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	test_copy(other.ioas_id, &copy_iova, iova, buf_size, MAP_RW);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova, buf_size);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);

	/* A domain and a mapping that come while it is revoked */
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id3);
	test_dmabuf_unmapped(hwpt_id3, dfd, iova, buf_size);
	test_ioctl_ioas_map_file_flags(dfd, PAGE_SIZE, PAGE_SIZE * 2, &iova2,
				       MAP_RW_RESTORE);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova2, PAGE_SIZE * 2);

	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_mapped(self->hwpt_id, dfd, 0, iova, buf_size);
	test_dmabuf_mapped(other.hwpt_id, dfd, 0, copy_iova, buf_size);
	test_dmabuf_mapped(hwpt_id3, dfd, 0, iova, buf_size);
	test_dmabuf_mapped(self->hwpt_id, dfd, PAGE_SIZE, iova2, PAGE_SIZE * 2);
	test_dmabuf_mapped(hwpt_id3, dfd, PAGE_SIZE, iova2, PAGE_SIZE * 2);

	/* And again, with the original, a domain and a device gone */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_ioctl_destroy(hwpt_id3);
	test_ioctl_ioas_unmap(iova, buf_size);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_unmapped(self->hwpt_id, dfd, iova, buf_size);
	test_dmabuf_mapped(other.hwpt_id, dfd, 0, copy_iova, buf_size);
	test_dmabuf_mapped(self->hwpt_id, dfd, PAGE_SIZE, iova2, PAGE_SIZE * 2);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_ioctl_destroy(other.stdev_id);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_cmd_mock_domain(other.ioas_id, &other.stdev_id, &other.hwpt_id,
			     &other.device_id);
	test_dmabuf_mapped(other.hwpt_id, dfd, 0, copy_iova, buf_size);

	/* The owner goes away for good */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_CLOSE);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_unmapped(other.hwpt_id, dfd, copy_iova, buf_size);
	test_err_ioctl_ioas_map_file_flags(ENODEV, dfd, 0, buf_size, &iova,
					   MAP_RW_RESTORE);
	test_err_ioctl_ioas_map_file(ENODEV, dfd, 0, buf_size, &iova);
	test_ioctl_destroy(other.stdev_id);
	close(dfd);
}

/* In-kernel access is to pages, a dma-buf has none */
TEST_F(iommufd_dmabuf, access)
{
	struct iommu_test_cmd access_cmd = {
		.size = sizeof(access_cmd),
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.access_pages = { .length = PAGE_SIZE,
				  .uptr = (uintptr_t)buffer },
	};
	struct iommu_test_cmd rw_cmd = {
		.size = sizeof(rw_cmd),
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.access_rw = { .length = PAGE_SIZE,
			       .uptr = (uintptr_t)buffer },
	};
	size_t buf_size = PAGE_SIZE * 4;
	__u64 iova;
	int dfd;

	test_cmd_get_dmabuf(buf_size, &dfd);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	access_cmd.access_pages.iova = iova;
	rw_cmd.access_rw.iova = iova;

	test_cmd_create_access(self->ioas_id, &access_cmd.id,
			       MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	rw_cmd.id = access_cmd.id;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd,
				   _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_PAGES),
				   &access_cmd));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd,
				   _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_RW),
				   &rw_cmd));
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	EXPECT_ERRNO(EINVAL, ioctl(self->fd,
				   _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_PAGES),
				   &access_cmd));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd,
				   _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_RW),
				   &rw_cmd));
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_cmd_destroy_access(access_cmd.id);
	close(dfd);
}

/* Without large pages a restore could take too long for the exporter */
TEST_F(iommufd_dmabuf, restore_small_pages)
{
	size_t buf_size = PAGE_SIZE * 512;
	__u64 iova;
	int dfd;

	ASSERT_EQ(0, set_huge_pages(self->fd, self->ioas_id, false));
	test_cmd_get_dmabuf(buf_size, &dfd);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	if (variant->mock_domains)
		test_dmabuf_mapped(self->hwpt_id, dfd, 0, iova, buf_size);
	close(dfd);
}

/* The IOVA is congruent to where the memory is, not to the offset in the file */
TEST_F(iommufd_dmabuf, alloc_iova)
{
	size_t buf_size = PAGE_SIZE * 512;
	__u64 iova;
	int dfd;

	/* The exporter's kmalloc() of a power of two is aligned to it */
	test_cmd_get_dmabuf(buf_size, &dfd);
	/* The first free IOVA is not the right one by accident */
	test_ioctl_ioas_map_fixed_file(dfd, 0, PAGE_SIZE * 3,
				       MOCK_APERTURE_START);
	test_ioctl_ioas_map_file(dfd, 0, buf_size, &iova);
	if (PAGE_SIZE == 4096 || variant->mock_domains)
		ASSERT_EQ(0, iova % buf_size);
	test_ioctl_ioas_unmap(iova, buf_size);

	if (variant->mock_domains) {
		/* The largest page that fits is half of the buffer */
		test_ioctl_ioas_map_file(dfd, PAGE_SIZE, buf_size - PAGE_SIZE,
					 &iova);
		ASSERT_EQ(PAGE_SIZE, iova % (buf_size / 2));
		test_ioctl_ioas_unmap(iova, buf_size - PAGE_SIZE);
	}
	close(dfd);
}

/* The domain below a nested one, and the one of a PASID, are like any other */
TEST_F(iommufd_dmabuf, nest_parent)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	size_t buf_size = PAGE_SIZE * 4;
	__u32 parent_hwpt_id;
	__u32 nested_hwpt_id;
	__u64 iova2;
	__u64 iova;
	int dfd;

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");

	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfd);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id,
			    IOMMU_HWPT_ALLOC_NEST_PARENT, &parent_hwpt_id);
	test_cmd_hwpt_alloc_nested(self->device_id, parent_hwpt_id, 0,
				   &nested_hwpt_id, IOMMU_HWPT_DATA_SELFTEST,
				   &data, sizeof(data));
	test_cmd_mock_domain_replace(self->stdev_id, nested_hwpt_id);
	test_dmabuf_mapped(parent_hwpt_id, dfd, 0, iova, buf_size);

	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_dmabuf_unmapped(parent_hwpt_id, dfd, iova, buf_size);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova2,
				       MAP_RW_RESTORE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_mapped(parent_hwpt_id, dfd, 0, iova, buf_size);
	test_dmabuf_mapped(parent_hwpt_id, dfd, 0, iova2, buf_size);

	/* The device leaves, the parent stays with what it maps */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_cmd_mock_domain_replace(self->stdev_id, self->ioas_id);
	test_ioctl_destroy(nested_hwpt_id);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_mapped(parent_hwpt_id, dfd, 0, iova, buf_size);
	test_ioctl_destroy(parent_hwpt_id);
	test_ioctl_ioas_unmap(iova, buf_size);
	test_ioctl_ioas_unmap(iova2, buf_size);
	close(dfd);
}

TEST_F(iommufd_dmabuf, pasid)
{
	__u32 stdev_id, hwpt_id, device_id;
	size_t buf_size = PAGE_SIZE * 4;
	__u32 pasid_hwpt_id;
	__u32 late_hwpt_id;
	__u32 ioas_id;
	__u32 pasid = 100;
	__u64 iova;
	int dfd;

	/* An IOAS that only PASIDs are attached to, beside the device's own */
	test_ioctl_ioas_alloc(&ioas_id);
	test_cmd_mock_domain_flags(ioas_id, MOCK_FLAGS_DEVICE_PASID, &stdev_id,
				   &hwpt_id, &device_id);
	test_cmd_hwpt_alloc(device_id, self->ioas_id, IOMMU_HWPT_ALLOC_PASID,
			    &pasid_hwpt_id);
	/* Once a PASID is in use the device's own domain has to allow for it */
	test_cmd_hwpt_alloc(device_id, ioas_id, IOMMU_HWPT_ALLOC_PASID,
			    &hwpt_id);
	test_cmd_mock_domain_replace(stdev_id, hwpt_id);

	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfd);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	ASSERT_EQ(0, _test_cmd_pasid_attach(self->fd, stdev_id, pasid,
					    pasid_hwpt_id));
	test_dmabuf_mapped(pasid_hwpt_id, dfd, 0, iova, buf_size);
	test_dmabuf_unmapped(hwpt_id, dfd, iova, buf_size);

	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_dmabuf_unmapped(pasid_hwpt_id, dfd, iova, buf_size);

	/* Another one comes, and replaces the first, while it is revoked */
	test_cmd_hwpt_alloc(device_id, self->ioas_id, IOMMU_HWPT_ALLOC_PASID,
			    &late_hwpt_id);
	ASSERT_EQ(0, _test_cmd_pasid_replace(self->fd, stdev_id, pasid,
					     late_hwpt_id));
	test_ioctl_destroy(pasid_hwpt_id);
	test_dmabuf_unmapped(late_hwpt_id, dfd, iova, buf_size);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_mapped(late_hwpt_id, dfd, 0, iova, buf_size);
	test_dmabuf_unmapped(hwpt_id, dfd, iova, buf_size);

	ASSERT_EQ(0, _test_cmd_pasid_detach(self->fd, stdev_id, pasid));
	test_ioctl_destroy(late_hwpt_id);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);
}

/* IOASes of two iommufds, two devices each, overlapping slices of one dma-buf */
TEST_F(iommufd_dmabuf, many)
{
	static const struct {
		unsigned int start;
		unsigned int nr;
	} slices[] = { { 0, 6 }, { 1, 3 }, { 2, 4 }, { 5, 1 } };
	/* Live, revoked, restored, revoked again by the end of the owner */
	static const unsigned int rounds[] = {
		MOCK_DMABUF_RESTORE,
		MOCK_DMABUF_REVOKE,
		MOCK_DMABUF_RESTORE,
		MOCK_DMABUF_CLOSE,
	};
	enum { NR_IOAS = 4, NR_DEVICES = 2 };
	__u64 iovas[NR_IOAS][ARRAY_SIZE(slices)];
	__u32 hwpt_ids[NR_IOAS][NR_DEVICES];
	size_t buf_size = PAGE_SIZE * 6;
	unsigned int i, j, k, n, round;
	__u32 ioas_ids[NR_IOAS];
	int fds[NR_IOAS];
	int fd2, dfd, rc;

	fd2 = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, fd2);
	test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE * 2, 0, &dfd);
	for (i = 0; i != NR_IOAS; i++) {
		fds[i] = i % 2 ? fd2 : self->fd;
		ASSERT_EQ(0, _test_ioctl_ioas_alloc(fds[i], &ioas_ids[i]));
		/* One device comes before the mappings, one after */
		ASSERT_EQ(0, _test_cmd_mock_domain(fds[i], ioas_ids[i], NULL,
						   &hwpt_ids[i][0], NULL));
		for (j = 0; j != ARRAY_SIZE(slices); j++) {
			rc = _test_ioctl_ioas_map_file(fds[i], ioas_ids[i], dfd,
						       slices[j].start * PAGE_SIZE,
						       slices[j].nr * PAGE_SIZE,
						       &iovas[i][j],
						       MAP_RW_RESTORE);
			ASSERT_EQ(0, rc);
		}
		ASSERT_EQ(0, _test_cmd_mock_domain(fds[i], ioas_ids[i], NULL,
						   &hwpt_ids[i][1], NULL));
	}

	for (round = 0; round != ARRAY_SIZE(rounds); round++) {
		if (round)
			test_cmd_revoke_dmabuf(dfd, rounds[round]);
		for (n = 0; n != NR_IOAS * NR_DEVICES * ARRAY_SIZE(slices);
		     n++) {
			i = n % NR_IOAS;
			j = n / NR_IOAS % ARRAY_SIZE(slices);
			k = n / NR_IOAS / ARRAY_SIZE(slices);
			rc = _test_cmd_check_dmabuf(fds[i], hwpt_ids[i][k], dfd,
						    slices[j].start * PAGE_SIZE,
						    iovas[i][j],
						    slices[j].nr * PAGE_SIZE,
						    rounds[round] ==
							    MOCK_DMABUF_RESTORE);
			ASSERT_EQ(0, rc);
		}
	}
	close(fd2);
	close(dfd);
}

/* An unmap goes over areas that are live, revoked, and no dma-buf at all */
TEST_F(iommufd_dmabuf, unmap_mixed)
{
	size_t buf_size = PAGE_SIZE * 4;
	__u64 start = MOCK_APERTURE_START;
	unsigned int flags[] = { MAP_RW, MAP_RW_RESTORE, MAP_RW_RESTORE, MAP_RW };
	int dfds[ARRAY_SIZE(flags)];
	uint64_t unmapped;
	unsigned int i;
	__u64 iova;

	for (i = 0; i != ARRAY_SIZE(flags); i++) {
		test_cmd_get_dmabuf_ranges(buf_size, PAGE_SIZE, 0, &dfds[i]);
		iova = start + i * buf_size;
		test_ioctl_ioas_map_file_flags(dfds[i], 0, buf_size, &iova,
					       flags[i] |
						       IOMMU_IOAS_MAP_FIXED_IOVA);
	}
	test_ioctl_ioas_map_fixed(buffer, PAGE_SIZE, start + i * buf_size);

	/* The second and the fourth: of each kind one is left */
	test_cmd_revoke_dmabuf(dfds[1], MOCK_DMABUF_REVOKE);
	test_cmd_revoke_dmabuf(dfds[3], MOCK_DMABUF_REVOKE);

	/* A part of a revoked one is as little possible as of any other */
	test_err_ioctl_ioas_unmap(ENOENT, start + buf_size, PAGE_SIZE);
	test_err_ioctl_ioas_unmap(ENOENT, start + buf_size + PAGE_SIZE,
				  buf_size);

	ASSERT_EQ(0, _test_ioctl_ioas_unmap(self->fd, self->ioas_id, start,
					    i * buf_size + PAGE_SIZE,
					    &unmapped));
	ASSERT_EQ(i * buf_size + PAGE_SIZE, unmapped);

	/* Nothing of it comes back */
	for (i = 0; i != ARRAY_SIZE(flags); i++) {
		test_cmd_revoke_dmabuf(dfds[i], MOCK_DMABUF_RESTORE);
		if (variant->mock_domains)
			test_dmabuf_unmapped(self->hwpt_id, dfds[i],
					     start + i * buf_size, buf_size);
		close(dfds[i]);
	}
	test_err_ioctl_ioas_unmap(ENOENT, 0, UINT64_MAX - 1);
}

/*
 * In the exporter's context there is no time for the small pages of a large
 * dma-buf. A limit has two sides, and three ways to get to it.
 */
TEST_F(iommufd_dmabuf, restore_limit)
{
	const size_t limit = 1UL << 30;
	__u64 copy_iova;
	__u32 stdev_id;
	__u32 ioas_id;
	__u64 iova;
	int dfd;

	test_cmd_get_dmabuf_ranges(limit + PAGE_SIZE, 0, MOCK_DMABUF_NO_MEMORY,
				   &dfd);
	test_ioctl_ioas_alloc(&ioas_id);
	ASSERT_EQ(0, set_huge_pages(self->fd, ioas_id, false));

	/* Map */
	EXPECT_ERRNO(EDQUOT, _test_ioctl_ioas_map_file(self->fd, ioas_id, dfd,
						       0, limit + PAGE_SIZE,
						       &iova, MAP_RW_RESTORE));
	ASSERT_EQ(0, _test_ioctl_ioas_map_file(self->fd, ioas_id, dfd, 0,
					       limit, &iova, MAP_RW_RESTORE));
	test_ioctl_ioas_unmap_id(ioas_id, iova, limit);
	ASSERT_EQ(0, _test_ioctl_ioas_map_file(self->fd, ioas_id, dfd, 0,
					       limit + PAGE_SIZE, &iova,
					       MAP_RW));
	test_ioctl_ioas_unmap_id(ioas_id, iova, limit + PAGE_SIZE);

	/* Copy. With large pages it is no problem */
	test_ioctl_ioas_map_file_flags(dfd, 0, limit + PAGE_SIZE, &iova,
				       MAP_RW_RESTORE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	if (variant->mock_domains) {
		test_dmabuf_mapped(self->hwpt_id, dfd, 0, iova, PAGE_SIZE);
		test_dmabuf_mapped(self->hwpt_id, dfd, limit, iova + limit,
				   PAGE_SIZE);
	}
	test_err_copy(EDQUOT, ioas_id, &copy_iova, iova, limit + PAGE_SIZE,
		      MAP_RW);

	/* Ask for small pages afterwards; nothing to fill is no problem */
	test_ioctl_ioas_unmap(iova, limit + PAGE_SIZE);
	ASSERT_EQ(0, set_huge_pages(self->fd, ioas_id, true));
	/* Where the domain can have it, which comes later */
	iova = MOCK_APERTURE_START;
	ASSERT_EQ(0, _test_ioctl_ioas_map_file(self->fd, ioas_id, dfd, 0,
					       limit + PAGE_SIZE, &iova,
					       MAP_RW_RESTORE |
						       IOMMU_IOAS_MAP_FIXED_IOVA));
	ASSERT_EQ(0, set_huge_pages(self->fd, ioas_id, false));
	test_err_mock_domain(EDQUOT, ioas_id, NULL, NULL);
	test_ioctl_ioas_unmap_id(ioas_id, iova, limit + PAGE_SIZE);
	test_cmd_mock_domain(ioas_id, &stdev_id, NULL, NULL);
	test_ioctl_destroy(stdev_id);
	test_ioctl_destroy(ioas_id);
	close(dfd);
}

/* The same limit, for an IOVA at which large pages do not fit */
TEST_F(iommufd_dmabuf, restore_limit_iova)
{
	const unsigned int copy_flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA;
	const size_t limit = 1UL << 30;
	const unsigned int flags = MAP_RW_RESTORE | IOMMU_IOAS_MAP_FIXED_IOVA;
	__u64 good = limit / 2 + (1UL << 21);
	__u64 bad = limit / 2 + PAGE_SIZE;
	__u32 ioas_id;
	int dfd;

	test_cmd_get_dmabuf_ranges(limit + PAGE_SIZE, 0, MOCK_DMABUF_NO_MEMORY,
				   &dfd);
	if (!variant->mock_domains) {
		/* The first domain decides */
		test_ioctl_ioas_map_file_flags(dfd, 0, limit + PAGE_SIZE, &bad,
					       flags);
		test_err_mock_domain(EDQUOT, self->ioas_id, NULL, NULL);
		test_ioctl_ioas_unmap(bad, limit + PAGE_SIZE);
		test_ioctl_ioas_map_file_flags(dfd, 0, limit + PAGE_SIZE, &good,
					       flags);
		test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
		close(dfd);
		return;
	}

	test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, limit + PAGE_SIZE,
					   &bad, flags);
	test_ioctl_ioas_map_file_flags(dfd, 0, limit + PAGE_SIZE, &good, flags);
	test_dmabuf_mapped(self->hwpt_id, dfd, limit, good + limit, PAGE_SIZE);

	/* It makes no difference that it is revoked */
	test_ioctl_ioas_alloc(&ioas_id);
	test_cmd_mock_domain(ioas_id, NULL, NULL, NULL);
	test_err_copy(EDQUOT, ioas_id, &bad, good, limit + PAGE_SIZE,
		      copy_flags);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_err_copy(EDQUOT, ioas_id, &bad, good, limit + PAGE_SIZE,
		      copy_flags);
	test_dmabuf_unmapped(self->hwpt_id, dfd, good, PAGE_SIZE);

	/* What was refused does not get into the way of the others */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	test_dmabuf_mapped(self->hwpt_id, dfd, limit, good + limit, PAGE_SIZE);
	test_ioctl_ioas_unmap(good, limit + PAGE_SIZE);
	close(dfd);
}

/* What is known of the place, or can be guessed, decides about the IOVA */
TEST_F(iommufd_dmabuf, alloc_iova_large)
{
	const size_t size = 1UL << 30;
	size_t align = size;
	__u64 iova;
	int dfd;

	/* Without a domain the page sizes are those of the CPU, 1 GiB or not */
	if (!variant->mock_domains && PAGE_SIZE != 4096)
		align = PAGE_SIZE;

	/* The first free IOVA is not the right one by accident */
	test_cmd_get_dmabuf(PAGE_SIZE, &dfd);
	test_ioctl_ioas_map_fixed_file(dfd, 0, PAGE_SIZE, MOCK_APERTURE_START);
	close(dfd);

	test_cmd_get_dmabuf_ranges(size, 0, MOCK_DMABUF_NO_MEMORY, &dfd);
	test_ioctl_ioas_map_file(dfd, 0, size, &iova);
	ASSERT_EQ(0, iova % align);
	test_ioctl_ioas_unmap(iova, size);

	/* Unaligned at both ends: congruent modulo what fits between */
	test_ioctl_ioas_map_file(dfd, size / 4 + PAGE_SIZE,
				 size / 2 - 2 * PAGE_SIZE, &iova);
	if (variant->mock_domains)
		ASSERT_EQ(PAGE_SIZE, iova % (size / 4));
	test_ioctl_ioas_unmap(iova, size / 2 - 2 * PAGE_SIZE);

	/* Of two ranges, a page apart, the second is the longer one in here */
	if (variant->mock_domains) {
		int dfd2;

		test_cmd_get_dmabuf_ranges(size, size / 2,
					   MOCK_DMABUF_NO_MEMORY, &dfd2);
		test_ioctl_ioas_map_file(dfd2, size / 4, size * 3 / 4, &iova);
		ASSERT_EQ(PAGE_SIZE, (iova + size / 4) % (size / 2));
		test_ioctl_ioas_unmap(iova, size * 3 / 4);
		close(dfd2);
	}

	/* Where it will be is not known, that it will be aligned is likely */
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_ioctl_ioas_map_file_flags(dfd, 0, size, &iova, MAP_RW_RESTORE);
	ASSERT_EQ(0, iova % align);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	if (variant->mock_domains)
		test_dmabuf_mapped(self->hwpt_id, dfd, size - PAGE_SIZE,
				   iova + size - PAGE_SIZE, PAGE_SIZE);
	test_ioctl_ioas_unmap(iova, size);
	close(dfd);
}

/* Which kinds of file there are can be asked, without having one */
TEST_F(iommufd_dmabuf, capability)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_MAP_FILE,
		.op = IOMMU_OPTION_OP_GET,
		.val64 = UINT64_MAX,
	};

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_OPTION, &cmd));
	ASSERT_EQ(IOMMU_MAP_FILE_MEMFD | IOMMU_MAP_FILE_DMABUF |
			  IOMMU_MAP_FILE_DMABUF_RESTORE,
		  cmd.val64 & ~IOMMU_MAP_FILE_GUEST_MEMFD);

	/* It is read only, and of no object */
	cmd.op = IOMMU_OPTION_OP_SET;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_OPTION, &cmd));
	cmd.op = IOMMU_OPTION_OP_GET;
	cmd.object_id = self->ioas_id;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_OPTION, &cmd));
	cmd.object_id = 0;
	cmd.__reserved = 1;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_OPTION, &cmd));
}

/* What would be refused while the memory is there is refused anyway */
TEST_F(iommufd_dmabuf, revoked_refuses)
{
	const unsigned int flags = MAP_RW_RESTORE | IOMMU_IOAS_MAP_FIXED_IOVA;
	const unsigned int copy_flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA;
	const size_t size = 1UL << 30;
	__u64 good = size / 2 + (1UL << 21);
	__u64 bad = size / 2 + PAGE_SIZE;
	__u32 stdev_id;
	__u32 ioas_id;
	__u64 iova;
	int dfd;

	/* Permission */
	test_cmd_get_dmabuf_ranges(PAGE_SIZE * 2, PAGE_SIZE,
				   MOCK_DMABUF_LAST_RANGE_RO, &dfd);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	test_err_ioctl_ioas_map_file_flags(EPERM, dfd, 0, PAGE_SIZE * 2, &iova,
					   MAP_RW_RESTORE);
	test_ioctl_ioas_map_file_flags(dfd, 0, PAGE_SIZE, &iova,
				       MAP_RW_RESTORE);
	test_ioctl_ioas_unmap(iova, PAGE_SIZE);
	close(dfd);

	/* Size: of a mapping, a copy, and a domain that comes later */
	test_cmd_get_dmabuf_ranges(size, 0, MOCK_DMABUF_NO_MEMORY, &dfd);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	if (variant->mock_domains)
		test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, size, &bad,
						   flags);
	test_ioctl_ioas_map_file_flags(dfd, 0, size, &good, flags);

	/* It counts as mapped for who wants small pages from now on */
	if (variant->mock_domains) {
		EXPECT_ERRNO(EINVAL, set_huge_pages(self->fd, self->ioas_id,
						    false));
	} else {
		EXPECT_EQ(0, set_huge_pages(self->fd, self->ioas_id, false));
		EXPECT_EQ(0, set_huge_pages(self->fd, self->ioas_id, true));
	}

	test_ioctl_ioas_alloc(&ioas_id);
	test_copy(ioas_id, &bad, good, size, copy_flags);
	test_err_mock_domain(EDQUOT, ioas_id, NULL, NULL);
	test_ioctl_ioas_unmap_id(ioas_id, bad, size);
	test_cmd_mock_domain(ioas_id, &stdev_id, NULL, NULL);
	test_err_copy(EDQUOT, ioas_id, &bad, good, size, copy_flags);

	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	if (variant->mock_domains)
		test_dmabuf_mapped(self->hwpt_id, dfd, 0, good, PAGE_SIZE);
	test_ioctl_destroy(stdev_id);
	close(dfd);
}

struct revoker {
	pthread_t thread;
	int fd;
	int dfd;
	int result;
};

static void *revoker_thread(void *arg)
{
	struct revoker *revoker = arg;

	revoker->result = _test_cmd_revoke_dmabuf(revoker->fd, revoker->dfd,
						  MOCK_DMABUF_REVOKE);
	return NULL;
}

/* The exporter is about to revoke: it has dma_resv, and is held there */
static void revoker_start(struct __test_metadata *_metadata,
			  struct revoker *revoker, int fd, int dfd)
{
	revoker->fd = fd;
	revoker->dfd = dfd;
	_test_cmd_hold(fd, MOCK_HOLD_RELEASE, 0, 0);
	ASSERT_EQ(0, _test_cmd_hold(fd, MOCK_HOLD_ARM, MOCK_HOLD_REVOKE_BEGIN,
				    0));
	ASSERT_EQ(0, pthread_create(&revoker->thread, NULL, revoker_thread,
				    revoker));
	_test_wait_held(fd);
}

static void revoker_finish(struct __test_metadata *_metadata,
			   struct revoker *revoker)
{
	ASSERT_EQ(0, _test_cmd_hold(revoker->fd, MOCK_HOLD_RELEASE, 0, 0));
	ASSERT_EQ(0, pthread_join(revoker->thread, NULL));
	ASSERT_EQ(0, revoker->result);
}

enum {
	ITEMS_ATTACH = 262144,
	ITEMS_BUFFER = 1048576,
	ITEMS_MAPPINGS = ITEMS_BUFFER / ITEMS_ATTACH,
	ITEMS_COPIES = 4,
};

/* An odd one, so that all of a mapping is in pages of MOCK_PAGE_SIZE */
static __u64 items_iova(unsigned int nr, size_t size)
{
	return (1UL << 29) + MOCK_PAGE_SIZE + nr * (size + (1UL << 21));
}

static int items_copy(int fd, __u32 dst_ioas_id, __u32 src_ioas_id,
		      unsigned int nr, size_t size)
{
	__u64 dst_iova = items_iova(nr, size);

	return _test_ioctl_ioas_copy(fd, dst_ioas_id, &dst_iova, src_ioas_id,
				     items_iova(0, size), size,
				     MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA);
}

/* The bounds are for all domains and copies, and for all of a dma-buf */
TEST_F(iommufd_dmabuf, items)
{
	const unsigned int flags = MAP_RW_RESTORE | IOMMU_IOAS_MAP_FIXED_IOVA;
	const size_t size = ITEMS_ATTACH / ITEMS_COPIES * MOCK_PAGE_SIZE;
	__u64 other_iova = items_iova(ITEMS_COPIES, size);
	__u32 ioas_ids[ITEMS_MAPPINGS];
	__u64 iova = items_iova(0, size);
	struct revoker revoker;
	__u32 device_id;
	__u32 hwpt_id;
	unsigned int m;
	unsigned int i;
	int dfd;

	if (variant->mock_domains)
		SKIP(return, "uses IOASes of its own");

	test_cmd_get_dmabuf_ranges(size, 0, MOCK_DMABUF_NO_MEMORY, &dfd);
	for (m = 0; m != ITEMS_MAPPINGS; m++) {
		test_ioctl_ioas_alloc(&ioas_ids[m]);
		test_cmd_mock_domain(ioas_ids[m], NULL, NULL, &device_id);
		ASSERT_EQ(0, _test_ioctl_ioas_map_file(self->fd, ioas_ids[m],
						       dfd, 0, size, &iova,
						       flags));
		for (i = 1; i != ITEMS_COPIES; i++)
			ASSERT_EQ(0, items_copy(self->fd, ioas_ids[m],
						ioas_ids[m], i, size));

		/* One too many for this mapping, live or not */
		EXPECT_ERRNO(EDQUOT, items_copy(self->fd, ioas_ids[m],
						ioas_ids[m], i, size));
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
		EXPECT_ERRNO(EDQUOT, items_copy(self->fd, ioas_ids[m],
						ioas_ids[m], i, size));
		/* And so is another domain */
		test_err_hwpt_alloc(EDQUOT, device_id, ioas_ids[m], 0,
				    &hwpt_id);
		test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	}

	/* One too many for the dma-buf, with a domain or without */
	for (i = 0; i != 2; i++) {
		test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, PAGE_SIZE,
						   &iova, flags);
		/* What has nothing to restore is visited all the same */
		test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, PAGE_SIZE,
						   &iova,
						   flags & ~IOMMU_IOAS_MAP_RESTORE);
		EXPECT_ERRNO(EDQUOT, items_copy(self->fd, self->ioas_id,
						ioas_ids[0], 0, size));
		if (!i)
			test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	}

	/* What goes away makes room, though the exporter is busy: a copy */
	revoker_start(_metadata, &revoker, self->fd, dfd);
	test_ioctl_ioas_unmap_id(ioas_ids[3], items_iova(3, size), size);
	revoker_finish(_metadata, &revoker);
	test_ioctl_ioas_map_file_flags(dfd, 0, size, &iova, flags);
	test_ioctl_ioas_unmap(iova, size);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);

	/* Of that, what is not restored takes one item */
	test_ioctl_ioas_map_file_flags(dfd, 0, size, &iova,
				       flags & ~IOMMU_IOAS_MAP_RESTORE);
	test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, size, &other_iova,
					   flags);
	test_ioctl_ioas_unmap(iova, size);
	test_ioctl_ioas_map_file_flags(dfd, 0, size, &iova, flags);

	/* A mapping with all copies */
	test_err_ioctl_ioas_map_file_flags(EDQUOT, dfd, 0, PAGE_SIZE,
					   &other_iova, flags);
	for (i = 0; i != ITEMS_COPIES; i++)
		test_ioctl_ioas_unmap_id(ioas_ids[2], items_iova(i, size),
					 size);
	for (i = 1; i != ITEMS_COPIES; i++) {
		iova = items_iova(i, size);
		test_ioctl_ioas_map_file_flags(dfd, 0, size, &iova, flags);
	}
	close(dfd);
}

static unsigned int nr_sigusr1;

static void sigusr1_handler(int signum)
{
	__atomic_add_fetch(&nr_sigusr1, 1, __ATOMIC_RELAXED);
}

struct waiter {
	pthread_t thread;
	int fd;
	__u32 ioas_id;
	int dfd;
	int result;
};

static void *waiter_thread(void *arg)
{
	struct waiter *waiter = arg;
	__u64 iova;

	waiter->result = _test_ioctl_ioas_map_file(waiter->fd, waiter->ioas_id,
						   waiter->dfd, 0, PAGE_SIZE,
						   &iova, MAP_RW_RESTORE) ?
				 errno : 0;
	return NULL;
}

static void waiter_start(struct __test_metadata *_metadata,
			 struct waiter *waiter, int sa_flags)
{
	struct sigaction action = {
		.sa_handler = sigusr1_handler,
		.sa_flags = sa_flags,
	};

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, pthread_create(&waiter->thread, NULL, waiter_thread,
				    waiter));
}

/* An exporter that is busy does not make anybody wait who has a signal */
TEST_F(iommufd_dmabuf, interrupt)
{
	struct waiter waiter = {
		.fd = self->fd,
		.ioas_id = self->ioas_id,
	};
	struct revoker revoker;
	unsigned int nr;

	test_cmd_get_dmabuf(PAGE_SIZE, &waiter.dfd);
	revoker_start(_metadata, &revoker, self->fd, waiter.dfd);

	waiter_start(_metadata, &waiter, 0);
	/* It may not be there yet when the signal comes, so send more */
	while (pthread_kill(waiter.thread, SIGUSR1) == 0 &&
	       pthread_tryjoin_np(waiter.thread, NULL))
		usleep(1000);
	EXPECT_EQ(EINTR, waiter.result);

	/* With SA_RESTART it goes on waiting, and nobody sees an error */
	waiter_start(_metadata, &waiter, SA_RESTART);
	nr = __atomic_load_n(&nr_sigusr1, __ATOMIC_RELAXED) + 10;
	while (__atomic_load_n(&nr_sigusr1, __ATOMIC_RELAXED) < nr) {
		ASSERT_EQ(0, pthread_kill(waiter.thread, SIGUSR1));
		usleep(1000);
	}
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(waiter.thread, NULL));
	revoker_finish(_metadata, &revoker);
	ASSERT_EQ(0, pthread_join(waiter.thread, NULL));
	EXPECT_EQ(0, waiter.result);
	close(waiter.dfd);
}

#define BUFINFO "/sys/kernel/debug/dma_buf/bufinfo"

static void *bufinfo_thread(void *arg)
{
	int fd = open(BUFINFO, O_RDONLY);
	char buf[4096];

	__atomic_store_n((pid_t *)arg, gettid(), __ATOMIC_RELEASE);
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
	return NULL;
}

static bool thread_sleeps(pid_t tid)
{
	char path[64];
	char state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	file = fopen(path, "r");
	if (!file)
		return true;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state == 'S' || state == 'D';
}

/* Who reads bufinfo waits for a busy exporter, and nobody waits for him */
TEST_F(iommufd_dmabuf, bufinfo)
{
	struct revoker revoker;
	pthread_t reader;
	pid_t tid = 0;
	int other;
	int dfd;

	if (access(BUFINFO, R_OK))
		SKIP(return, "no debugfs");

	test_cmd_get_dmabuf(PAGE_SIZE, &dfd);
	revoker_start(_metadata, &revoker, self->fd, dfd);
	ASSERT_EQ(0, pthread_create(&reader, NULL, bufinfo_thread, &tid));
	while (!__atomic_load_n(&tid, __ATOMIC_ACQUIRE) || !thread_sleeps(tid))
		usleep(1000);

	/* Export and release go on, of the same exporter */
	test_cmd_get_dmabuf(PAGE_SIZE, &other);
	ASSERT_EQ(0, close(other));
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(reader, NULL));
	revoker_finish(_metadata, &revoker);
	ASSERT_EQ(0, pthread_join(reader, NULL));
	close(dfd);
}

/* What is revoked goes to another process as well, and is restored there */
TEST_F(iommufd_dmabuf, change_process_revoked)
{
	struct iommu_ioas_change_process cmd = {
		.size = sizeof(cmd),
	};
	size_t buf_size = PAGE_SIZE * 4;
	__u64 iova;
	int dfd;

	test_cmd_get_dmabuf(buf_size, &dfd);
	test_ioctl_ioas_map_file_flags(dfd, 0, buf_size, &iova, MAP_RW_RESTORE);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd));
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_RESTORE);
	if (variant->mock_domains)
		test_dmabuf_mapped(self->hwpt_id, dfd, 0, iova, buf_size);
	test_ioctl_ioas_unmap(iova, buf_size);
	close(dfd);
}

/*
 * Who pays for page tables. The test is in the memory cgroup "maker", and has
 * processes in the cgroup "other" do what anybody may do.
 */
FIXTURE(iommufd_dmabuf_memcg)
{
	int fd;
	int dfd;
	uint32_t ioas_id;
	struct memcgs memcgs;
};

/* In pages of PAGE_SIZE. The mock has a table for each MOCK_HUGE_PAGE_SIZE */
#define MEMCG_LENGTH (256UL * 1024 * 1024)
#define MEMCG_TABLES (MEMCG_LENGTH / MOCK_HUGE_PAGE_SIZE)

FIXTURE_SETUP(iommufd_dmabuf_memcg)
{
	const char *reason = memcgs_create(&self->memcgs);

	if (reason)
		SKIP(return, "%s", reason);

	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	ASSERT_EQ(0, set_huge_pages(self->fd, self->ioas_id, false));
	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	test_cmd_get_dmabuf_ranges(MEMCG_LENGTH, 0, MOCK_DMABUF_NO_MEMORY,
				   &self->dfd);

	ASSERT_EQ(0, cg_enter_current(self->memcgs.maker));
}

FIXTURE_TEARDOWN(iommufd_dmabuf_memcg)
{
	EXPECT_EQ(0, memcgs_destroy(&self->memcgs));
	close(self->dfd);
	teardown_iommufd(self->fd, _metadata);
}

static bool memcg_has_tables(const char *cgroup, bool has)
{
	return memcg_is_charged(cgroup, "sec_pagetables ",
				MEMCG_TABLES * PAGE_SIZE, has);
}

/* One cgroup has all page tables, or none has */
static void expect_payer(struct __test_metadata *_metadata,
			 FIXTURE_DATA(iommufd_dmabuf_memcg) *self,
			 const char *payer)
{
	struct memcgs *memcgs = &self->memcgs;

	EXPECT_TRUE(memcg_has_tables(memcgs->maker, payer == memcgs->maker));
	EXPECT_TRUE(memcg_has_tables(memcgs->other, payer == memcgs->other));
}

static int memcg_revoke(const char *cgroup, void *arg)
{
	FIXTURE_DATA(iommufd_dmabuf_memcg) *self = arg;

	return !!_test_cmd_revoke_dmabuf(self->fd, self->dfd,
					 MOCK_DMABUF_REVOKE);
}

static int memcg_restore(const char *cgroup, void *arg)
{
	FIXTURE_DATA(iommufd_dmabuf_memcg) *self = arg;

	return !!_test_cmd_revoke_dmabuf(self->fd, self->dfd,
					 MOCK_DMABUF_RESTORE);
}

static int memcg_change_process(const char *cgroup, void *arg)
{
	FIXTURE_DATA(iommufd_dmabuf_memcg) *self = arg;
	struct iommu_ioas_change_process cmd = {
		.size = sizeof(cmd),
	};

	return !!ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

/* The process that made the mapping pays, whoever restores it */
TEST_F_TIMEOUT(iommufd_dmabuf_memcg, restore, 120)
{
	__u64 iova;

	test_ioctl_ioas_map_file_flags(self->dfd, 0, MEMCG_LENGTH, &iova,
				       MAP_RW_RESTORE);
	expect_payer(_metadata, self, self->memcgs.maker);

	ASSERT_EQ(0, cg_run(self->memcgs.other, memcg_revoke, self));
	expect_payer(_metadata, self, NULL);
	ASSERT_EQ(0, cg_run(self->memcgs.other, memcg_restore, self));
	expect_payer(_metadata, self, self->memcgs.maker);
	test_ioctl_ioas_unmap(iova, MEMCG_LENGTH);
	expect_payer(_metadata, self, NULL);
}

/* The process that took over does, even if it has exited, and the maker restores */
TEST_F_TIMEOUT(iommufd_dmabuf_memcg, change_process, 120)
{
	__u64 iova;

	test_ioctl_ioas_map_file_flags(self->dfd, 0, MEMCG_LENGTH, &iova,
				       MAP_RW_RESTORE);
	ASSERT_EQ(0, cg_run(self->memcgs.other, memcg_change_process, self));
	/* What there is stays where it was charged */
	expect_payer(_metadata, self, self->memcgs.maker);

	test_cmd_revoke_dmabuf(self->dfd, MOCK_DMABUF_REVOKE);
	expect_payer(_metadata, self, NULL);
	test_cmd_revoke_dmabuf(self->dfd, MOCK_DMABUF_RESTORE);
	expect_payer(_metadata, self, self->memcgs.other);
	test_ioctl_ioas_unmap(iova, MEMCG_LENGTH);
	expect_payer(_metadata, self, NULL);
}

/* The only one who splits mappings is VFIO's type1 as it was first */
TEST_F(iommufd_dmabuf, compat_split)
{
	struct iommu_vfio_ioas ioas_cmd = {
		.size = sizeof(ioas_cmd),
		.op = IOMMU_VFIO_IOAS_SET,
		.ioas_id = self->ioas_id,
	};
	struct vfio_iommu_type1_dma_unmap unmap_cmd = {
		.argsz = sizeof(unmap_cmd),
		.iova = MOCK_APERTURE_START + PAGE_SIZE,
		.size = PAGE_SIZE,
	};
	size_t buf_size = PAGE_SIZE * 4;
	int dfd;

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_VFIO_IOAS, &ioas_cmd));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
	test_cmd_get_dmabuf(buf_size, &dfd);
	test_ioctl_ioas_map_fixed_file(dfd, 0, buf_size, MOCK_APERTURE_START);

	EXPECT_ERRNO(EOPNOTSUPP,
		     ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap_cmd));
	test_dmabuf_mapped(self->hwpt_id, dfd, 0, MOCK_APERTURE_START,
			   buf_size);
	test_cmd_revoke_dmabuf(dfd, MOCK_DMABUF_REVOKE);
	EXPECT_ERRNO(EOPNOTSUPP,
		     ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap_cmd));

	unmap_cmd.iova = MOCK_APERTURE_START;
	unmap_cmd.size = buf_size;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap_cmd));
	ASSERT_EQ(buf_size, unmap_cmd.size);
	close(dfd);
}

TEST_HARNESS_MAIN
