// SPDX-License-Identifier: GPL-2.0-only
/*
 * A provider of guest_memfds without guests, for iommufd's selftest
 *
 * Model: importers cannot tell this provider from KVM. An attach lists the
 * importer, and then allocates its pages chunk by chunk. The pages stay in the
 * file until a hole is punched, and importers are told before that.
 *
 * Locks, in this order, as in KVM:
 *
 *	mock_gmem::invalidate_lock	pages leave the file
 *	guest_memfd_importers::lock
 *	mock_gmem::alloc_lock		as KVM's folio locks, pages enter the file
 *
 * alloc_lock is not taken under guest_memfd_importers::lock.
 *
 * Invariants: see virt/lib/guest_memfd.c.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/guest_memfd_provider.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "iommufd_test.h"
#include "selftest_gmem.h"

struct mock_gmem {
	struct guest_memfd_importers importers;
	struct rw_semaphore invalidate_lock;
	struct mutex alloc_lock; /* pages, and poisoned */
	unsigned int flags;
	/* One page that has a hardware error, or ULONG_MAX */
	pgoff_t poisoned;
	unsigned long nr;
	struct page *pages[] __counted_by(nr);
};

/* As large as a fixed order makes it, so that importers can use large pages */
#define MOCK_GMEM_ORDER 9

/* How many pages an attach allocates at once, small enough to have several */
#define MOCK_GMEM_CHUNK 4

static void mock_gmem_free(struct mock_gmem *gmem, pgoff_t first, pgoff_t last)
{
	pgoff_t i;

	for (i = first; i <= last; i++) {
		if (!gmem->pages[i])
			continue;
		__free_page(gmem->pages[i]);
		WRITE_ONCE(gmem->pages[i], NULL);
	}
}

static int mock_gmem_release(struct inode *inode, struct file *file)
{
	struct mock_gmem *gmem = file->private_data;

	WARN_ON(!RB_EMPTY_ROOT(&gmem->importers.tree.rb_root));
	mock_gmem_free(gmem, 0, gmem->nr - 1);
	kvfree(gmem);
	return 0;
}

static const struct file_operations mock_gmem_fops = {
	.owner = THIS_MODULE,
	.release = mock_gmem_release,
};

static int mock_gmem_alloc_pages(struct mock_gmem *gmem, pgoff_t first,
				 pgoff_t last)
{
	pgoff_t i;

	guard(mutex)(&gmem->alloc_lock);
	for (i = first; i <= last; i++) {
		struct page *page;

		if (i == gmem->poisoned)
			return -EHWPOISON;
		if (gmem->pages[i])
			continue;
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		WRITE_ONCE(gmem->pages[i], page);
	}
	return 0;
}

static int mock_gmem_attach(struct guest_memfd_importer *importer)
{
	struct mock_gmem *gmem = importer->file->private_data;
	pgoff_t first = importer->range.start;
	pgoff_t last = importer->range.last;
	pgoff_t i, end;
	int rc;

	if (last >= gmem->nr)
		return -EINVAL;
	if (gmem->flags & MOCK_GMEM_PRIVATE)
		return -EOPNOTSUPP;

	scoped_guard(rwsem_read, &gmem->invalidate_lock)
		guest_memfd_add_importer(&gmem->importers, importer);

	for (i = first; i <= last; i = end + 1) {
		end = min(last, i + MOCK_GMEM_CHUNK - 1);
		scoped_guard(rwsem_read, &gmem->invalidate_lock) {
			if (guest_memfd_is_revoked(importer))
				return 0;
			rc = mock_gmem_alloc_pages(gmem, i, end);
		}
		if (rc)
			return rc;
		if (i == first)
			iommufd_test_hold_at(MOCK_HOLD_GMEM_ATTACH);
		if (end != last && signal_pending(current))
			return -EINTR;
	}
	return 0;
}

static int mock_gmem_get_pfns(struct file *file, pgoff_t index, unsigned int nr,
			      unsigned long *pfns)
{
	struct mock_gmem *gmem = file->private_data;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct page *page = READ_ONCE(gmem->pages[index + i]);

		if (WARN_ON(!page))
			return -EIO;
		pfns[i] = page_to_pfn(page);
	}
	return 0;
}

static struct guest_memfd_provider mock_gmem_provider = {
	.fops = &mock_gmem_fops,
	.attach = mock_gmem_attach,
	.get_pfns = mock_gmem_get_pfns,
};

void mock_gmem_init(void)
{
	guest_memfd_register_provider(&mock_gmem_provider);
}

void mock_gmem_exit(void)
{
	guest_memfd_unregister_provider(&mock_gmem_provider);
}

/* Returns an fd */
int mock_gmem_get(struct iommu_test_cmd *cmd)
{
	unsigned long nr = cmd->gmem_get.length >> PAGE_SHIFT;
	struct mock_gmem *gmem;
	int fd;

	if (!nr || nr > 1 << MOCK_GMEM_ORDER ||
	    cmd->gmem_get.length % PAGE_SIZE)
		return -EINVAL;
	if (cmd->gmem_get.flags & ~MOCK_GMEM_FLAGS_ALL)
		return -EOPNOTSUPP;

	gmem = kvzalloc_flex(*gmem, pages, nr, GFP_KERNEL_ACCOUNT);
	if (!gmem)
		return -ENOMEM;
	gmem->nr = nr;
	gmem->flags = cmd->gmem_get.flags;
	gmem->poisoned = ULONG_MAX;
	guest_memfd_init_importers(&gmem->importers);
	init_rwsem(&gmem->invalidate_lock);
	mutex_init(&gmem->alloc_lock);

	if (gmem->flags & MOCK_GMEM_CONTIGUOUS) {
		struct page *page;
		unsigned long i;

		page = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO,
				   MOCK_GMEM_ORDER);
		if (!page) {
			kvfree(gmem);
			return -ENOMEM;
		}
		split_page(page, MOCK_GMEM_ORDER);
		for (i = 0; i < 1 << MOCK_GMEM_ORDER; i++) {
			if (i < nr)
				gmem->pages[i] = page + i;
			else
				__free_page(page + i);
		}
	}

	fd = anon_inode_getfd("[mock_gmem]", &mock_gmem_fops, gmem,
			      O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		mock_gmem_free(gmem, 0, nr - 1);
		kvfree(gmem);
	}
	return fd;
}

struct file *mock_gmem_file(int fd)
{
	struct file *file = fget(fd);

	if (!file)
		return ERR_PTR(-EBADF);
	if (file->f_op != &mock_gmem_fops) {
		fput(file);
		return ERR_PTR(-EOPNOTSUPP);
	}
	return file;
}

u64 mock_gmem_size(struct file *file)
{
	struct mock_gmem *gmem = file->private_data;

	return (u64)gmem->nr << PAGE_SHIFT;
}

/* Where it is now, 0 if there is no page */
phys_addr_t mock_gmem_phys(struct file *file, u64 offset)
{
	struct mock_gmem *gmem = file->private_data;
	struct page *page = READ_ONCE(gmem->pages[offset >> PAGE_SHIFT]);

	return page ? page_to_phys(page) + offset_in_page(offset) : 0;
}

static void mock_gmem_punch(struct mock_gmem *gmem, pgoff_t first, pgoff_t last)
{
	guard(rwsem_write)(&gmem->invalidate_lock);
	iommufd_test_hold_at(MOCK_HOLD_REVOKE_BEGIN);
	guest_memfd_revoke(&gmem->importers, first, last);
	iommufd_test_hold_at(MOCK_HOLD_REVOKE_END);
	guest_memfd_assert_revoked(&gmem->importers, first, last);
	mock_gmem_free(gmem, first, last);
}

/* What happens to the memory, by its owner or the hardware */
int mock_gmem_change(struct iommu_test_cmd *cmd)
{
	struct mock_gmem *gmem;
	pgoff_t first, last;
	struct file *file;
	u64 end;
	int rc = 0;

	file = mock_gmem_file(cmd->gmem_change.gmem_fd);
	if (IS_ERR(file))
		return PTR_ERR(file);
	gmem = file->private_data;

	if (check_add_overflow(cmd->gmem_change.offset, cmd->gmem_change.length,
			       &end) ||
	    end > mock_gmem_size(file) || !cmd->gmem_change.length ||
	    (cmd->gmem_change.offset | end) % PAGE_SIZE) {
		rc = -EINVAL;
		goto out_put;
	}
	first = cmd->gmem_change.offset >> PAGE_SHIFT;
	last = (end >> PAGE_SHIFT) - 1;

	switch (cmd->gmem_change.change) {
	case MOCK_GMEM_PUNCH:
		mock_gmem_punch(gmem, first, last);
		break;
	case MOCK_GMEM_POISON:
		scoped_guard(mutex, &gmem->alloc_lock)
			gmem->poisoned = first;
		break;
	default:
		rc = -EINVAL;
		break;
	}
out_put:
	fput(file);
	return rc;
}
