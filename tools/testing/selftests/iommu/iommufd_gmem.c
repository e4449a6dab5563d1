// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfds in an IOAS, in combination with the other features of an IOAS
 *
 * The mock provider of drivers/iommu/iommufd/selftest_gmem.c makes the files.
 * The mock domain tells page by page what it maps, and what may be left in its
 * IOTLB. Tests that need KVM and a device are in
 * tools/testing/selftests/kvm/guest_memfd_dma_test.c.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/userfaultfd.h>

#include "iommufd_utils.h"

#define MAP_RW (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE)

#define NR_PAGES 8
#define GMEM_SIZE (NR_PAGES * PAGE_SIZE)

static __attribute__((constructor)) void setup_sizes(void)
{
	PAGE_SIZE = sysconf(_SC_PAGE_SIZE);

	BUFFER_SIZE = PAGE_SIZE;
	buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert(buffer != MAP_FAILED);
}

FIXTURE(iommufd_gmem)
{
	int fd;
	int gfd;
	uint32_t ioas_id;
	/* Of the device that came last */
	uint32_t stdev_id;
	uint32_t hwpt_id;
	uint32_t device_id;
};

FIXTURE_VARIANT(iommufd_gmem)
{
	unsigned int mock_domains;
	/* All at once, as is usual with a slice of less than 1 GiB */
	bool large_steps;
};

FIXTURE_SETUP(iommufd_gmem)
{
	unsigned int i;

	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	ASSERT_EQ(0, _test_cmd_set_gmem_step(self->fd, variant->large_steps ?
							       GMEM_STEP_DEFAULT :
							       GMEM_STEP_SMALL));
	test_ioctl_ioas_alloc(&self->ioas_id);
	for (i = 0; i != variant->mock_domains; i++)
		test_cmd_mock_domain(self->ioas_id, &self->stdev_id,
				     &self->hwpt_id, &self->device_id);
	test_cmd_get_gmem(GMEM_SIZE, 0, &self->gfd);
}

FIXTURE_TEARDOWN(iommufd_gmem)
{
	close(self->gfd);
	teardown_iommufd(self->fd, _metadata);
	reset_gmem_step();
}

FIXTURE_VARIANT_ADD(iommufd_gmem, no_domain)
{
};

FIXTURE_VARIANT_ADD(iommufd_gmem, mock_domain)
{
	.mock_domains = 1,
};

FIXTURE_VARIANT_ADD(iommufd_gmem, two_mock_domain)
{
	.mock_domains = 2,
};

FIXTURE_VARIANT_ADD(iommufd_gmem, no_domain_large_steps)
{
	.large_steps = true,
};

FIXTURE_VARIANT_ADD(iommufd_gmem, mock_domain_large_steps)
{
	.mock_domains = 1,
	.large_steps = true,
};

/* Map the slice, check it in a domain there before and in one that comes later */
static void check_gmem_slice(struct __test_metadata *_metadata,
			     FIXTURE_DATA(iommufd_gmem) *self,
			     const FIXTURE_VARIANT(iommufd_gmem) *variant,
			     size_t offset, size_t length)
{
	__u32 hwpt_id;
	__u64 iova;

	test_ioctl_ioas_map_file(self->gfd, offset, length, &iova);
	ASSERT_EQ(offset % PAGE_SIZE, iova % PAGE_SIZE);
	if (variant->mock_domains) {
		test_gmem_mapped(self->hwpt_id, self->gfd, offset, iova,
				 length);

		test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0,
				    &hwpt_id);
		test_gmem_mapped(hwpt_id, self->gfd, offset, iova, length);
		test_ioctl_destroy(hwpt_id);
	}
	test_ioctl_ioas_unmap(iova, length);
	if (variant->mock_domains)
		test_gmem_unmapped(self->hwpt_id, self->gfd, iova, length);
}

TEST_F(iommufd_gmem, slices)
{
	unsigned int start;
	unsigned int end;

	for (start = 0; start != NR_PAGES; start++)
		for (end = start + 1; end <= NR_PAGES; end++)
			check_gmem_slice(_metadata, self, variant,
					 start * PAGE_SIZE,
					 (end - start) * PAGE_SIZE);

	/* Sub page: starts, ends, and both, in one page and across */
	check_gmem_slice(_metadata, self, variant, PAGE_SIZE + MOCK_PAGE_SIZE,
			 MOCK_PAGE_SIZE);
	check_gmem_slice(_metadata, self, variant, PAGE_SIZE, MOCK_PAGE_SIZE);
	check_gmem_slice(_metadata, self, variant, PAGE_SIZE + MOCK_PAGE_SIZE,
			 PAGE_SIZE * 2 + MOCK_PAGE_SIZE);
	check_gmem_slice(_metadata, self, variant, PAGE_SIZE + MOCK_PAGE_SIZE,
			 PAGE_SIZE * 2);
}

TEST_F(iommufd_gmem, capability)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_MAP_FILE,
		.op = IOMMU_OPTION_OP_GET,
	};

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_OPTION, &cmd));
	ASSERT_TRUE(cmd.val64 & IOMMU_MAP_FILE_GUEST_MEMFD);
}

TEST_F(iommufd_gmem, errors)
{
	unsigned int flags;
	__u64 iova;
	int gfd;

	test_err_ioctl_ioas_map_file(EBADF, -1, 0, PAGE_SIZE, &iova);

	/* Out of bounds */
	test_err_ioctl_ioas_map_file(EINVAL, self->gfd, 0, 0, &iova);
	test_err_ioctl_ioas_map_file(EINVAL, self->gfd, PAGE_SIZE, GMEM_SIZE,
				     &iova);
	test_err_ioctl_ioas_map_file(EINVAL, self->gfd, GMEM_SIZE, PAGE_SIZE,
				     &iova);
	test_err_ioctl_ioas_map_file(EINVAL, self->gfd, 0,
				     GMEM_SIZE + MOCK_PAGE_SIZE, &iova);
	test_err_ioctl_ioas_map_file(EOVERFLOW, self->gfd, -PAGE_SIZE,
				     PAGE_SIZE * 2, &iova);

	/* Flags */
	test_err_ioctl_ioas_map_file_flags(EINVAL, self->gfd, 0, GMEM_SIZE,
					   &iova,
					   MAP_RW | IOMMU_IOAS_MAP_RESTORE);
	test_err_ioctl_ioas_map_file_flags(EINVAL, self->gfd, 0, GMEM_SIZE,
					   &iova, 0);
	test_err_ioctl_ioas_map_file_flags(EOPNOTSUPP, self->gfd, 0, GMEM_SIZE,
					   &iova, MAP_RW | (1 << 4));

	/* IOVAs */
	if (variant->mock_domains) {
		iova = MOCK_APERTURE_LAST + 1UL;
		flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA;
		test_err_ioctl_ioas_map_file_flags(EINVAL, self->gfd, 0,
						   GMEM_SIZE, &iova, flags);
	}

	/* Memory that devices cannot share with the guest */
	test_cmd_get_gmem(GMEM_SIZE, MOCK_GMEM_PRIVATE, &gfd);
	test_err_ioctl_ioas_map_file(EOPNOTSUPP, gfd, 0, GMEM_SIZE, &iova);
	close(gfd);

	/* A hardware error */
	test_cmd_get_gmem(GMEM_SIZE, 0, &gfd);
	test_cmd_change_gmem(gfd, MOCK_GMEM_POISON, PAGE_SIZE * 3, PAGE_SIZE);
	test_err_ioctl_ioas_map_file(EHWPOISON, gfd, 0, GMEM_SIZE, &iova);
	test_err_ioctl_ioas_map_file(EHWPOISON, gfd, PAGE_SIZE * 3, PAGE_SIZE,
				     &iova);
	/* What was allocated is there, the importer is not: this would find it */
	test_cmd_change_gmem(gfd, MOCK_GMEM_PUNCH, 0, GMEM_SIZE);
	test_ioctl_ioas_map_file(gfd, 0, PAGE_SIZE * 3, &iova);
	if (variant->mock_domains)
		test_gmem_mapped(self->hwpt_id, gfd, 0, iova, PAGE_SIZE * 3);
	test_ioctl_ioas_unmap(iova, PAGE_SIZE * 3);
	close(gfd);

	/* Nothing was left behind */
	test_err_ioctl_ioas_unmap(ENOENT, 0, UINT64_MAX - 1);
}

static void handle_signal(int sig)
{
}

/* A signal ends the allocation of memory, and then nothing is left behind */
TEST_F(iommufd_gmem, signal)
{
	struct sigaction sa = { .sa_handler = handle_signal };
	sigset_t set, old;
	__u64 iova;
	pid_t pid;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, &old));
	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
				    MOCK_HOLD_GMEM_ATTACH, 0));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		if (!_test_ioctl_ioas_map_file(self->fd, self->ioas_id,
					       self->gfd, 0, GMEM_SIZE, &iova,
					       MAP_RW))
			_exit(1);
		_exit(errno == EINTR ? 0 : 2);
	}

	_test_wait_held(self->fd);
	ASSERT_EQ(0, kill(pid, SIGUSR1));
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);

	test_err_ioctl_ioas_unmap(ENOENT, 0, UINT64_MAX - 1);
	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	ASSERT_EQ(0, sigprocmask(SIG_SETMASK, &old, NULL));
}

/* Holes beside, in and across the slice; one page of it is enough */
TEST_F(iommufd_gmem, punch)
{
	static const struct {
		unsigned int start;
		unsigned int nr;
		bool revokes;
	} holes[] = {
		{ 0, 2, false },
		{ 6, 2, false },
		{ 0, 3, true },
		{ 5, 2, true },
		{ 3, 1, true },
		{ 2, 1, true },
		{ 5, 1, true },
		{ 2, 4, true },
		{ 0, 8, true },
	};
	size_t offset = PAGE_SIZE * 2;
	size_t length = PAGE_SIZE * 4;
	unsigned int i;
	__u64 iova;
	int rc;

	for (i = 0; i != ARRAY_SIZE(holes); i++) {
		test_ioctl_ioas_map_file(self->gfd, offset, length, &iova);
		test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH,
				     holes[i].start * PAGE_SIZE,
				     holes[i].nr * PAGE_SIZE);
		if (variant->mock_domains) {
			rc = _test_cmd_check_gmem(self->fd, self->hwpt_id,
						  self->gfd, offset, iova,
						  length, !holes[i].revokes);
			ASSERT_EQ(0, rc);
		}
		test_ioctl_ioas_unmap(iova, length);

		/* And once more: what was punched is allocated again */
		check_gmem_slice(_metadata, self, variant, offset, length);
	}
}

/* A revocation reaches every domain and every copy, and is for ever */
TEST_F(iommufd_gmem, revoke_all)
{
	struct iommu_ioas_copy copy_cmd = {
		.size = sizeof(copy_cmd),
		.flags = MAP_RW,
		.src_ioas_id = self->ioas_id,
		.length = GMEM_SIZE,
	};
	__u32 stdev_id2, hwpt_id2, device_id2;
	__u64 iova_slice;
	__u32 hwpt_id3;
	__u32 ioas_id2;
	__u64 iova;

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");

	test_ioctl_ioas_alloc(&ioas_id2);
	test_cmd_mock_domain(ioas_id2, &stdev_id2, &hwpt_id2, &device_id2);
	copy_cmd.dst_ioas_id = ioas_id2;

	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	/* Another importer of the same file */
	test_ioctl_ioas_map_file(self->gfd, PAGE_SIZE * 4, PAGE_SIZE * 2,
				 &iova_slice);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id3);
	copy_cmd.src_iova = iova;
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
	test_gmem_mapped(self->hwpt_id, self->gfd, 0, iova, GMEM_SIZE);
	test_gmem_mapped(hwpt_id3, self->gfd, 0, iova, GMEM_SIZE);
	test_gmem_mapped(hwpt_id2, self->gfd, 0, copy_cmd.dst_iova, GMEM_SIZE);

	/* In the first one only */
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
	test_gmem_unmapped(self->hwpt_id, self->gfd, iova, GMEM_SIZE);
	test_gmem_unmapped(hwpt_id3, self->gfd, iova, GMEM_SIZE);
	test_gmem_unmapped(hwpt_id2, self->gfd, copy_cmd.dst_iova, GMEM_SIZE);
	test_gmem_mapped(self->hwpt_id, self->gfd, PAGE_SIZE * 4, iova_slice,
			 PAGE_SIZE * 2);
	test_gmem_mapped(hwpt_id3, self->gfd, PAGE_SIZE * 4, iova_slice,
			 PAGE_SIZE * 2);

	/* Nothing brings it back: not a domain, a copy, or another hole */
	test_ioctl_destroy(hwpt_id3);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id3);
	test_gmem_unmapped(hwpt_id3, self->gfd, iova, GMEM_SIZE);
	test_ioctl_ioas_unmap_id(ioas_id2, copy_cmd.dst_iova, GMEM_SIZE);
	copy_cmd.dst_iova = 0;
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
	test_gmem_unmapped(hwpt_id2, self->gfd, copy_cmd.dst_iova, GMEM_SIZE);
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, PAGE_SIZE, PAGE_SIZE);
	test_gmem_unmapped(self->hwpt_id, self->gfd, iova, GMEM_SIZE);

	/* A new mapping lives next to it, and is not it */
	test_ioctl_ioas_unmap(iova_slice, PAGE_SIZE * 2);
	test_ioctl_ioas_map_file(self->gfd, PAGE_SIZE, PAGE_SIZE * 2,
				 &iova_slice);
	test_gmem_mapped(self->hwpt_id, self->gfd, PAGE_SIZE, iova_slice,
			 PAGE_SIZE * 2);
	test_gmem_unmapped(self->hwpt_id, self->gfd, iova, GMEM_SIZE);

	/* The original goes, the copies of a live one stay */
	test_ioctl_ioas_unmap(iova, GMEM_SIZE);
	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	test_ioctl_ioas_unmap_id(ioas_id2, copy_cmd.dst_iova, GMEM_SIZE);
	copy_cmd.src_iova = iova;
	copy_cmd.dst_iova = 0;
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
	test_ioctl_ioas_unmap(iova, GMEM_SIZE);
	test_gmem_mapped(hwpt_id2, self->gfd, 0, copy_cmd.dst_iova, GMEM_SIZE);
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, PAGE_SIZE * 7,
			     PAGE_SIZE);
	test_gmem_unmapped(hwpt_id2, self->gfd, copy_cmd.dst_iova, GMEM_SIZE);

	test_ioctl_destroy(hwpt_id3);
	test_ioctl_destroy(stdev_id2);
}

/* The last device goes and another comes */
TEST_F(iommufd_gmem, late_device)
{
	__u32 stdev_id, hwpt_id;
	__u32 ioas_id = self->ioas_id;
	/* One that the device to come can have */
	__u64 iova = MOCK_APERTURE_START;

	if (variant->mock_domains)
		SKIP(return, "has a domain");

	test_ioctl_ioas_map_fixed_file(self->gfd, 0, GMEM_SIZE, iova);
	test_cmd_mock_domain(ioas_id, &stdev_id, &hwpt_id, NULL);
	test_gmem_mapped(hwpt_id, self->gfd, 0, iova, GMEM_SIZE);
	test_ioctl_destroy(stdev_id);

	test_cmd_mock_domain(ioas_id, &stdev_id, &hwpt_id, NULL);
	test_gmem_mapped(hwpt_id, self->gfd, 0, iova, GMEM_SIZE);
	test_ioctl_destroy(stdev_id);

	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
	test_cmd_mock_domain(ioas_id, &stdev_id, &hwpt_id, NULL);
	test_gmem_unmapped(hwpt_id, self->gfd, iova, GMEM_SIZE);
	test_ioctl_destroy(stdev_id);
}

/* Permission is the mapping's, a copy gains nothing */
TEST_F(iommufd_gmem, permission)
{
	struct iommu_ioas_copy copy_cmd = {
		.size = sizeof(copy_cmd),
		.dst_ioas_id = self->ioas_id,
		.src_ioas_id = self->ioas_id,
		.length = GMEM_SIZE,
		.flags = MAP_RW,
	};

	test_ioctl_ioas_map_file_flags(self->gfd, 0, GMEM_SIZE,
				       &copy_cmd.src_iova,
				       IOMMU_IOAS_MAP_READABLE);
	EXPECT_ERRNO(EPERM, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
	copy_cmd.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_RESTORE;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
	copy_cmd.flags = IOMMU_IOAS_MAP_READABLE;
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy_cmd));
}

/* The file is all that the mapping needs */
TEST_F(iommufd_gmem, close_file)
{
	__u64 iova;
	int gfd;

	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	gfd = dup(self->gfd);
	ASSERT_LE(0, gfd);
	close(self->gfd);
	if (variant->mock_domains)
		test_gmem_mapped(self->hwpt_id, gfd, 0, iova, GMEM_SIZE);
	close(gfd);
	self->gfd = -1;
	test_ioctl_ioas_unmap(iova, GMEM_SIZE);
}

/* In-kernel access would have to hold pages */
TEST_F(iommufd_gmem, access)
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
	__u64 iova;

	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
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
	rw_cmd.access_rw.flags = MOCK_ACCESS_RW_SLOW_PATH;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd,
				   _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_RW),
				   &rw_cmd));
	test_cmd_destroy_access(access_cmd.id);
}

/* One piece of memory can have large IOPTEs, unless that is turned off */
TEST_F(iommufd_gmem, contiguous)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = 0,
		.object_id = self->ioas_id,
	};
	size_t size = PAGE_SIZE * 512;
	__u64 iova;
	int gfd;

	test_cmd_get_gmem(size, MOCK_GMEM_CONTIGUOUS, &gfd);
	test_ioctl_ioas_map_file(gfd, 0, size, &iova);
	if (variant->mock_domains)
		test_gmem_mapped(self->hwpt_id, gfd, 0, iova, size);
	test_ioctl_ioas_unmap(iova, size);

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_OPTION, &cmd));
	test_ioctl_ioas_map_file(gfd, 0, size, &iova);
	if (variant->mock_domains)
		test_gmem_mapped(self->hwpt_id, gfd, 0, iova, size);
	test_cmd_change_gmem(gfd, MOCK_GMEM_PUNCH, size - PAGE_SIZE, PAGE_SIZE);
	if (variant->mock_domains)
		test_gmem_unmapped(self->hwpt_id, gfd, iova, size);
	close(gfd);
}

/* "VmLck", "VmPin" of /proc/self/status, in kB */
static long vm_status(const char *field)
{
	char line[128];
	long val = -1;
	FILE *file;

	file = fopen("/proc/self/status", "r");
	assert(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			sscanf(line + strlen(field), ": %ld", &val);
	fclose(file);
	return val;
}

static void drop_cap_ipc_lock(struct __test_metadata *_metadata)
{
	cap_value_t cap_list[1] = { CAP_IPC_LOCK };
	cap_t caps;

	caps = cap_get_proc();
	ASSERT_NE(caps, NULL);
	ASSERT_NE(-1, cap_set_flag(caps, CAP_EFFECTIVE, 1, cap_list,
				   CAP_CLEAR));
	ASSERT_NE(-1, cap_set_proc(caps));
	cap_free(caps);
}

/* Nothing is pinned, so there is nothing to be charged, or to move */
TEST_F(iommufd_gmem, accounting)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };
	struct rlimit limit = {};
	struct rlimit old;
	long locked, pinned;
	pid_t child;
	__u64 iova;
	int status;

	locked = vm_status("VmLck");
	pinned = vm_status("VmPin");
	ASSERT_EQ(0, getrlimit(RLIMIT_MEMLOCK, &old));
	limit.rlim_max = old.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	drop_cap_ipc_lock(_metadata);
	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	ASSERT_EQ(locked, vm_status("VmLck"));
	ASSERT_EQ(pinned, vm_status("VmPin"));

	child = fork();
	ASSERT_LE(0, child);
	if (!child)
		_exit(ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd) ?
			      errno : 0);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	if (variant->mock_domains)
		test_gmem_mapped(self->hwpt_id, self->gfd, 0, iova, GMEM_SIZE);
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
	if (variant->mock_domains)
		test_gmem_unmapped(self->hwpt_id, self->gfd, iova, GMEM_SIZE);
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd));
	test_ioctl_ioas_unmap(iova, GMEM_SIZE);
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &old));
}

/* Dirty pages are those of the mapping, and none when it is revoked */
TEST_F(iommufd_gmem, dirty)
{
	__u64 bitmap[2];
	__u32 stdev_id, device_id, hwpt_id, hwpt_attached;
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = 0,
		.object_id = self->ioas_id,
	};
	__u64 iova = MOCK_APERTURE_START;
	unsigned int i;
	__u64 nr;

	if (variant->mock_domains)
		SKIP(return, "has a domain of another kind");

	/* Neighbours that are contiguous by chance would be dirty together */
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_OPTION, &cmd));
	test_ioctl_ioas_map_fixed_file(self->gfd, 0, GMEM_SIZE, iova);
	test_cmd_mock_domain_flags(self->ioas_id, 0, &stdev_id, &hwpt_attached,
				   &device_id);
	test_cmd_hwpt_alloc(device_id, self->ioas_id,
			    IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &hwpt_id);
	test_cmd_set_dirty_tracking(hwpt_id, true);
	test_gmem_mapped(hwpt_id, self->gfd, 0, iova, GMEM_SIZE);

	/* Pages 1 and 4 */
	memset(bitmap, 0, sizeof(bitmap));
	bitmap[0] = 0x12;
	test_cmd_mock_domain_set_dirty(self->fd, hwpt_id, GMEM_SIZE, iova,
				       PAGE_SIZE, bitmap, &nr);
	ASSERT_EQ(2, nr);
	memset(bitmap, 0, sizeof(bitmap));
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, GMEM_SIZE, iova,
				  PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0x12, bitmap[0]);
	memset(bitmap, 0, sizeof(bitmap));
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, GMEM_SIZE, iova,
				  PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0, bitmap[0]);

	/* Part of it, of a bitmap that does not begin where the mapping does */
	bitmap[0] = 0xff;
	test_cmd_mock_domain_set_dirty(self->fd, hwpt_id, GMEM_SIZE, iova,
				       PAGE_SIZE, bitmap, &nr);
	bitmap[0] = 0;
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, PAGE_SIZE * 2,
				  iova + PAGE_SIZE * 3, PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0x3, bitmap[0]);
	bitmap[0] = 0;
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, GMEM_SIZE, iova,
				  PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0xe7, bitmap[0]);

	/* Revoked: all that is asked for is dirty, each time, and no more */
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
	test_gmem_unmapped(hwpt_id, self->gfd, iova, GMEM_SIZE);
	for (i = 0; i != 3; i++) {
		bitmap[0] = 0;
		bitmap[1] = 0;
		test_cmd_get_dirty_bitmap(
			self->fd, hwpt_id, GMEM_SIZE, iova, PAGE_SIZE, bitmap,
			i ? 0 : IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
		ASSERT_EQ(0xff, bitmap[0]);
		ASSERT_EQ(0, bitmap[1]);
	}
	bitmap[0] = 0;
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, PAGE_SIZE * 2,
				  iova + PAGE_SIZE * 3, PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0x3, bitmap[0]);
	test_cmd_set_dirty_tracking(hwpt_id, false);
	test_cmd_set_dirty_tracking(hwpt_id, true);
	bitmap[0] = 0;
	test_cmd_get_dirty_bitmap(self->fd, hwpt_id, GMEM_SIZE, iova,
				  PAGE_SIZE, bitmap, 0);
	ASSERT_EQ(0xff, bitmap[0]);

	test_ioctl_destroy(hwpt_id);
	test_ioctl_destroy(stdev_id);
}

/* A domain with dirty tracking, of a device that comes to the IOAS */
static __u32 dirty_domain(struct __test_metadata *_metadata,
			  FIXTURE_DATA(iommufd_gmem) *self)
{
	__u32 hwpt_attached, hwpt_id;

	test_cmd_mock_domain_flags(self->ioas_id, 0, &self->stdev_id,
				   &hwpt_attached, &self->device_id);
	test_cmd_hwpt_alloc(self->device_id, self->ioas_id,
			    IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &hwpt_id);
	test_cmd_set_dirty_tracking(hwpt_id, true);
	return hwpt_id;
}

/*
 * With a bit for each byte of memory the bitmap of some mebibytes does not fit
 * in what the kernel pins at once, and where it goes on is in the middle of a
 * page.
 */
#define WINDOW_MAPPINGS 9
#define WINDOW_GMEM_SIZE (PAGE_SIZE * 512)
#define WINDOW_SIZE (WINDOW_GMEM_SIZE * WINDOW_MAPPINGS)
#define WINDOW_BITMAP_SIZE (WINDOW_SIZE / BITS_PER_BYTE)
/* Pages that a page can hold pointers to */
#define PINNED_SIZE (PAGE_SIZE / sizeof(void *) * PAGE_SIZE)
#define BITMAP_SKEW sizeof(__u64)

static void window_setup(struct __test_metadata *_metadata,
			 FIXTURE_DATA(iommufd_gmem) *self)
{
	unsigned int i;
	int gfd;

	test_cmd_get_gmem(WINDOW_GMEM_SIZE, MOCK_GMEM_CONTIGUOUS, &gfd);
	for (i = 0; i != WINDOW_MAPPINGS; i++)
		test_ioctl_ioas_map_fixed_file(gfd, 0, WINDOW_GMEM_SIZE,
					       MOCK_APERTURE_START +
					       i * WINDOW_GMEM_SIZE);
	close(self->gfd);
	self->gfd = gfd;
}

static void window_set_dirty(struct __test_metadata *_metadata,
			     FIXTURE_DATA(iommufd_gmem) *self, __u32 hwpt_id)
{
	__u64 dirty[512 * WINDOW_MAPPINGS / 64];
	__u64 nr;

	memset(dirty, 0xff, sizeof(dirty));
	test_cmd_mock_domain_set_dirty(self->fd, hwpt_id, WINDOW_SIZE,
				       MOCK_APERTURE_START, PAGE_SIZE, dirty,
				       &nr);
	ASSERT_EQ(512 * WINDOW_MAPPINGS, nr);
}

/* Memory that is not there yet, with a page before and one after the bitmap */
static __u8 *window_bitmap(void)
{
	__u8 *mem = mmap(NULL, WINDOW_BITMAP_SIZE + PAGE_SIZE * 2,
			 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	assert(mem != MAP_FAILED);
	return mem + PAGE_SIZE;
}

static void window_unmap(__u8 *bitmap)
{
	assert(!munmap(bitmap - PAGE_SIZE, WINDOW_BITMAP_SIZE + PAGE_SIZE * 2));
}

static bool all_bytes(const __u8 *mem, size_t len, __u8 val)
{
	size_t i;

	for (i = 0; i != len; i++)
		if (mem[i] != val)
			return false;
	return true;
}

TEST_F(iommufd_gmem, dirty_windows)
{
	static const struct {
		__u32 flags;
		__u8 val;
	} reads[] = {
		{ IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR, 0xff },
		{ 0, 0xff },
		{ 0, 0 },
	};
	unsigned int i;
	__u8 *bitmap;
	__u32 hwpt_id;

	if (variant->mock_domains)
		SKIP(return, "has a domain of another kind");

	window_setup(_metadata, self);
	hwpt_id = dirty_domain(_metadata, self);
	window_set_dirty(_metadata, self, hwpt_id);
	for (i = 0; i != ARRAY_SIZE(reads); i++) {
		bitmap = window_bitmap() + BITMAP_SKEW;
		test_cmd_get_dirty_bitmap(self->fd, hwpt_id, WINDOW_SIZE,
					  MOCK_APERTURE_START, 1,
					  (__u64 *)bitmap, reads[i].flags);
		ASSERT_TRUE(all_bytes(bitmap, WINDOW_BITMAP_SIZE,
				      reads[i].val));
		ASSERT_TRUE(all_bytes(bitmap - BITMAP_SKEW, BITMAP_SKEW, 0));
		ASSERT_TRUE(all_bytes(bitmap + WINDOW_BITMAP_SIZE,
				      PAGE_SIZE - BITMAP_SKEW, 0));
		window_unmap(bitmap - BITMAP_SKEW);
	}

	/* What cannot be written */
	window_set_dirty(_metadata, self, hwpt_id);
	bitmap = window_bitmap();
	ASSERT_EQ(0, mprotect(bitmap + PINNED_SIZE, PAGE_SIZE, PROT_READ));
	EXPECT_ERRNO(EFAULT,
		     _test_cmd_get_dirty_bitmap(self->fd, hwpt_id, WINDOW_SIZE,
						MOCK_APERTURE_START, 1,
						(__u64 *)bitmap, 0));
	window_unmap(bitmap);

	test_ioctl_destroy(hwpt_id);
	test_ioctl_destroy(self->stdev_id);
}

struct dirty_reader {
	int fd;
	__u32 hwpt_id;
	__u8 *bitmap;
	int rc;
};

static void *read_dirty(void *arg)
{
	struct dirty_reader *reader = arg;

	reader->rc = _test_cmd_get_dirty_bitmap(reader->fd, reader->hwpt_id,
						WINDOW_SIZE,
						MOCK_APERTURE_START, 1,
						(__u64 *)reader->bitmap, 0);
	return NULL;
}

/* Whoever punches a hole does not wait for page faults of who reads dirty bits */
TEST_F(iommufd_gmem, dirty_fault)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_zeropage zero = {};
	struct uffdio_register reg = {
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct dirty_reader reader = { .fd = self->fd };
	struct pollfd poll_fd = { .events = POLLIN };
	struct uffd_msg msg;
	pthread_t thread;
	int uffd;

	if (variant->mock_domains)
		SKIP(return, "has a domain of another kind");
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		SKIP(return, "no userfaultfd, errno %d", errno);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));

	window_setup(_metadata, self);
	reader.hwpt_id = dirty_domain(_metadata, self);
	window_set_dirty(_metadata, self, reader.hwpt_id);
	reader.bitmap = window_bitmap();
	/* What is pinned in a second step, in which a page that is dirty ends */
	reg.range.start = (uintptr_t)reader.bitmap + PINNED_SIZE;
	reg.range.len = WINDOW_BITMAP_SIZE + PAGE_SIZE - PINNED_SIZE;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	reader.bitmap += BITMAP_SKEW;

	ASSERT_EQ(0, pthread_create(&thread, NULL, read_dirty, &reader));
	poll_fd.fd = uffd;
	ASSERT_EQ(1, poll(&poll_fd, 1, -1));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));

	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
	test_gmem_unmapped(reader.hwpt_id, self->gfd, MOCK_APERTURE_START,
			   WINDOW_GMEM_SIZE);

	zero.range = reg.range;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, reader.rc);
	/* What was read before is not lost, and the rest is taken for dirty */
	ASSERT_TRUE(all_bytes(reader.bitmap, WINDOW_BITMAP_SIZE, 0xff));
	close(uffd);
	window_unmap(reader.bitmap - BITMAP_SKEW);

	test_ioctl_destroy(reader.hwpt_id);
	test_ioctl_destroy(self->stdev_id);
}

struct mapper {
	int fd;
	int gfd;
	__u32 ioas_id;
	__u64 iova;
	int rc;
	pthread_t thread;
};

static void *map_thread(void *arg)
{
	struct mapper *mapper = arg;

	mapper->rc = _test_ioctl_ioas_map_file(mapper->fd, mapper->ioas_id,
					       mapper->gfd, 0, GMEM_SIZE,
					       &mapper->iova, MAP_RW);
	return NULL;
}

static void *punch_thread(void *arg)
{
	struct mapper *mapper = arg;

	mapper->rc = _test_cmd_change_gmem(mapper->fd, mapper->gfd,
					   MOCK_GMEM_PUNCH, PAGE_SIZE,
					   PAGE_SIZE);
	return NULL;
}

static void *unmap_thread(void *arg)
{
	struct mapper *mapper = arg;

	mapper->rc = _test_ioctl_ioas_unmap(mapper->fd, mapper->ioas_id,
					    mapper->iova, GMEM_SIZE, NULL);
	return NULL;
}

static void start(struct __test_metadata *_metadata,
		  FIXTURE_DATA(iommufd_gmem) *self, struct mapper *mapper,
		  void *(*fn)(void *))
{
	mapper->fd = self->fd;
	mapper->gfd = self->gfd;
	mapper->ioas_id = self->ioas_id;
	mapper->rc = -1;
	ASSERT_EQ(0, pthread_create(&mapper->thread, NULL, fn, mapper));
}

static void finish(struct __test_metadata *_metadata, struct mapper *mapper)
{
	ASSERT_EQ(0, pthread_join(mapper->thread, NULL));
	ASSERT_EQ(0, mapper->rc);
}

/* A hole while a part is mapped: nobody waits, and the part goes */
TEST_F(iommufd_gmem, held_step)
{
	struct mapper mapper = {};

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");
	if (variant->large_steps)
		SKIP(return, "has one step");

	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
				    MOCK_HOLD_GMEM_STEP, 0));
	start(_metadata, self, &mapper, map_thread);
	_test_wait_held(self->fd);
	test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, PAGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
	finish(_metadata, &mapper);

	test_gmem_unmapped(self->hwpt_id, self->gfd, mapper.iova, GMEM_SIZE);
	test_ioctl_ioas_unmap(mapper.iova, GMEM_SIZE);

	/* Beside it: the rest follows */
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
				    MOCK_HOLD_GMEM_STEP, 0));
	mapper.iova = 0;
	start(_metadata, self, &mapper, map_thread);
	_test_wait_held(self->fd);
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
	finish(_metadata, &mapper);
	test_gmem_mapped(self->hwpt_id, self->gfd, 0, mapper.iova, GMEM_SIZE);
}

/*
 * A hole while pages are being allocated, where that has been and where it is to
 * come: nobody waits, and the mapping is one that is revoked
 */
TEST_F(iommufd_gmem, held_attach)
{
	unsigned int i;
	__u64 iova;

	for (i = 0; i != NR_PAGES; i++) {
		struct mapper mapper = {};

		ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
					    MOCK_HOLD_GMEM_ATTACH, 0));
		start(_metadata, self, &mapper, map_thread);
		_test_wait_held(self->fd);
		test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, i * PAGE_SIZE,
				     PAGE_SIZE);
		ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
		finish(_metadata, &mapper);

		if (variant->mock_domains)
			test_gmem_unmapped(self->hwpt_id, self->gfd,
					   mapper.iova, GMEM_SIZE);

		/* Beside it one that has all pages */
		test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
		if (variant->mock_domains)
			test_gmem_mapped(self->hwpt_id, self->gfd, 0, iova,
					 GMEM_SIZE);
		test_ioctl_ioas_unmap(iova, GMEM_SIZE);
		test_ioctl_ioas_unmap(mapper.iova, GMEM_SIZE);
	}
	test_err_ioctl_ioas_unmap(ENOENT, 0, UINT64_MAX - 1);
}

/* A mapping while pages leave the file: it gets those that come after them */
TEST_F(iommufd_gmem, held_punch)
{
	struct mapper mapper = {}, puncher = {};
	__u64 iova;

	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
				    MOCK_HOLD_REVOKE_END, 0));
	start(_metadata, self, &puncher, punch_thread);
	_test_wait_held(self->fd);
	start(_metadata, self, &mapper, map_thread);
	ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
	finish(_metadata, &puncher);
	finish(_metadata, &mapper);

	if (variant->mock_domains) {
		test_gmem_unmapped(self->hwpt_id, self->gfd, iova, GMEM_SIZE);
		test_gmem_mapped(self->hwpt_id, self->gfd, 0, mapper.iova,
				 GMEM_SIZE);
	}
}

/* Unmapped by its user and its owner: one of them does it */
TEST_F(iommufd_gmem, held_unmap)
{
	struct mapper unmapper = {}, puncher = {};
	unsigned int i;

	if (!variant->mock_domains)
		SKIP(return, "needs a domain");

	for (i = 0; i != 2; i++) {
		struct mapper *first = i ? &unmapper : &puncher;

		test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE,
					 &unmapper.iova);
		ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_ARM,
					    MOCK_HOLD_DOMAIN_UNMAP, 0));
		start(_metadata, self, first, i ? unmap_thread : punch_thread);
		_test_wait_held(self->fd);
		start(_metadata, self, i ? &puncher : &unmapper,
		      i ? punch_thread : unmap_thread);
		ASSERT_EQ(0, _test_cmd_hold(self->fd, MOCK_HOLD_RELEASE, 0, 0));
		finish(_metadata, &puncher);
		finish(_metadata, &unmapper);
		test_gmem_unmapped(self->hwpt_id, self->gfd, unmapper.iova,
				   GMEM_SIZE);
	}
}

/*
 * Everything at the same time: holes, mappings, copies and devices that come and
 * go. What to see is up to KASAN and lockdep; in the end a mapping made when all
 * is quiet has to work.
 */
struct racer {
	int fd;
	int gfd;
	__u32 ioas_id;
	__u32 ioas_id2;
	/* Of its own, and one that any device can have */
	__u64 iova;
	bool *stop;
	unsigned long done;
	pthread_t thread;
};

static void *race_punch(void *arg)
{
	struct racer *racer = arg;
	unsigned int i = 0;

	while (!__atomic_load_n(racer->stop, __ATOMIC_RELAXED)) {
		assert(!_test_cmd_change_gmem(racer->fd, racer->gfd,
					      MOCK_GMEM_PUNCH,
					      i++ % NR_PAGES * PAGE_SIZE,
					      PAGE_SIZE));
		__atomic_fetch_add(&racer->done, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *race_map(void *arg)
{
	struct racer *racer = arg;

	const unsigned int flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA;

	while (!__atomic_load_n(racer->stop, __ATOMIC_RELAXED)) {
		struct iommu_ioas_copy copy_cmd = {
			.size = sizeof(copy_cmd),
			.flags = MAP_RW,
			.src_ioas_id = racer->ioas_id,
			.dst_ioas_id = racer->ioas_id2,
			.src_iova = racer->iova,
			.length = GMEM_SIZE / 2,
		};

		assert(!_test_ioctl_ioas_map_file(racer->fd, racer->ioas_id,
						  racer->gfd, PAGE_SIZE,
						  GMEM_SIZE / 2,
						  &copy_cmd.src_iova, flags));
		assert(!ioctl(racer->fd, IOMMU_IOAS_COPY, &copy_cmd));
		assert(!_test_ioctl_ioas_unmap(racer->fd, racer->ioas_id,
					       copy_cmd.src_iova, GMEM_SIZE / 2,
					       NULL));
		assert(!_test_ioctl_ioas_unmap(racer->fd, racer->ioas_id2,
					       copy_cmd.dst_iova, GMEM_SIZE / 2,
					       NULL));
		__atomic_fetch_add(&racer->done, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *race_attach(void *arg)
{
	struct racer *racer = arg;
	__u32 stdev_id;

	while (!__atomic_load_n(racer->stop, __ATOMIC_RELAXED)) {
		assert(!_test_cmd_mock_domain(racer->fd, racer->ioas_id,
					      &stdev_id, NULL, NULL));
		assert(!_test_ioctl_destroy(racer->fd, stdev_id));
		__atomic_fetch_add(&racer->done, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Four threads of a slow machine */
TEST_F_TIMEOUT(iommufd_gmem, race, 120)
{
	static void *(*const fns[])(void *) = { race_punch, race_map, race_map,
						race_attach };
	struct racer racers[ARRAY_SIZE(fns)] = {};
	__u32 ioas_id2, stdev_id2, hwpt_id;
	bool stop = false;
	unsigned int i;
	__u64 iova;

	test_ioctl_ioas_alloc(&ioas_id2);
	test_cmd_mock_domain(ioas_id2, &stdev_id2, NULL, NULL);
	for (i = 0; i != ARRAY_SIZE(fns); i++) {
		racers[i] = (struct racer){
			.fd = self->fd,
			.gfd = self->gfd,
			.ioas_id = self->ioas_id,
			.ioas_id2 = ioas_id2,
			.iova = MOCK_APERTURE_START + i * (1 << 20),
			.stop = &stop,
		};
		ASSERT_EQ(0, pthread_create(&racers[i].thread, NULL, fns[i],
					    &racers[i]));
	}
	for (i = 0; i != ARRAY_SIZE(fns); i++)
		while (__atomic_load_n(&racers[i].done, __ATOMIC_RELAXED) < 30)
			sched_yield();
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i != ARRAY_SIZE(fns); i++)
		ASSERT_EQ(0, pthread_join(racers[i].thread, NULL));

	test_ioctl_ioas_map_file(self->gfd, 0, GMEM_SIZE, &iova);
	if (variant->mock_domains) {
		/*
		 * The mock keeps one range of what was not flushed.  Those who unmap
		 * at once make it one that neither of them flushes.
		 */
		test_cmd_hwpt_alloc(self->device_id, self->ioas_id, 0, &hwpt_id);
		test_gmem_mapped(hwpt_id, self->gfd, 0, iova, GMEM_SIZE);
		test_cmd_change_gmem(self->gfd, MOCK_GMEM_PUNCH, 0, PAGE_SIZE);
		test_gmem_unmapped(hwpt_id, self->gfd, iova, GMEM_SIZE);
		test_ioctl_destroy(hwpt_id);
	}
	test_ioctl_destroy(stdev_id2);
}

TEST_HARNESS_MAIN
