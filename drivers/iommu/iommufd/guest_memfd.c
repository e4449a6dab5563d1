// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfds in an IOAS: the memory of a guest, by file and offset
 *
 * Model: an iopt_pages of a guest_memfd imports a range of the file, see
 * virt/lib/guest_memfd.c. It holds a reference to the file and to no page.
 * Nothing is pinned and nothing is charged to locked_vm. The pages belong to
 * the guest, and each is charged to the memory cgroup of the task that
 * allocated it, as for any guest_memfd.
 *
 * The owner takes pages back when it punches a hole into the file, and when
 * private memory stops being private. Then the whole iopt_pages is revoked, in
 * all areas and domains, for ever. iommufd does not know which of the pages are
 * still valid; the user who maps again does. The areas keep their IOVAs until
 * they are unmapped. All of a revoked area reads as dirty, because the dirty
 * bits that nobody has read yet are lost, while most of the memory may still be
 * in the file.
 *
 * State and tracks are those of revocable.c. Guests are large, and their memory
 * comes in single pages. So mapping, unmapping and reading dirty bits go step
 * by step, see IOPT_GMEM_STEP. Between the steps of a mapping the mutex is
 * free, so that a revocation need not wait until all of the range is mapped.
 * iopt_track::mapped says how much of a track is mapped.
 *
 * Unlike for dma-bufs, there is no bound on what is mapped. Page tables and
 * tracks are charged to the process that maps. A revocation allocates nothing
 * and fills nothing. It takes as long as unmapping all mappings that it meets,
 * each of them as a whole and in all domains. For a small hole in large
 * mappings that is much longer than punching the hole. The following tasks wait
 * for that long: a task that takes memory out of this file, a task that
 * attaches to the file, and, when attributes of gfns change, a task that waits
 * for slots_lock of that VM. All of these tasks share the guest: a task that has
 * the file in order to map it could punch a hole as well.
 *
 * Locks, in this order:
 *
 *	iopt->domains_rwsem
 *	iopt->iova_rwsem
 *	guest_memfd_importers::lock	attach, detach, revoke callback
 *	iopt_pages::mutex		live, tracks
 *
 * The owner takes locks of its own outside of guest_memfd_importers::lock. So
 * code that holds the mutex must not wait for the owner, and must not take a
 * folio lock of a guest_memfd: it allocates no page of the file and faults in
 * none of the user's memory. Filling a domain needs the mutex only, as all
 * pages are there while they are live.
 *
 * Invariant: see revocable.c. A track whose mapping is still under way is
 * mapped up to iopt_track::mapped.
 */
#include <linux/guest_memfd.h>
#include <linux/iommu.h>
#include <linux/iova_bitmap.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "io_pagetable.h"
#include "iommufd_private.h"
#include "iommufd_test.h"
#include "selftest_gmem.h"

/*
 * How much is done at once, 262,144 IOPTEs at most. Steps end at multiples of
 * it, so that no IOPTE, which is not larger than what it is mapped by, belongs
 * to two of them.
 */
#ifdef CONFIG_IOMMUFD_TEST
/* The same, unless a test sets it */
#define IOPT_GMEM_STEP READ_ONCE(iommufd_test_gmem_step)
#else
#define IOPT_GMEM_STEP SZ_1G
#endif

/* Bytes from @iova to the end of its step, no more than @max */
static size_t iopt_gmem_step(unsigned long iova, size_t max)
{
	size_t step = IOPT_GMEM_STEP;

	return min_t(size_t, step - iova % step, max);
}

static void iopt_gmem_unmap(struct iopt_track *track, struct iopt_pages *pages)
{
	unsigned long iova = iopt_area_iova(track->area);

	lockdep_assert_held(&pages->mutex);

	while (track->mapped) {
		size_t len = iopt_gmem_step(iova, track->mapped);

		/* Returns when nothing of it is left in the IOTLB */
		WARN_ON(iommu_unmap(track->domain, iova, len) != len);
		iova += len;
		track->mapped -= len;
		cond_resched();
	}
}

/* Drops the mutex. If the memory is revoked meanwhile nothing is mapped of it */
static int iopt_gmem_map(struct iopt_track *track, struct iopt_pages *pages)
{
	struct iopt_area *area = track->area;
	size_t length = iopt_area_length(area);
	int rc;

	lockdep_assert_held(&pages->mutex);

	while (pages->gmem.rev.live && track->mapped != length) {
		unsigned long iova = iopt_area_iova(area) + track->mapped;
		size_t len = iopt_gmem_step(iova, length - track->mapped);

		rc = guest_memfd_map_iommu(&pages->gmem.importer, track->domain,
					   iova,
					   iopt_area_start_byte(area, iova),
					   len, area->iommu_prot,
					   READ_ONCE(area->iopt->disable_large_pages),
					   GFP_KERNEL_ACCOUNT);
		if (rc)
			return rc;
		track->mapped += len;
		if (track->mapped == length)
			return 0;

		mutex_unlock(&pages->mutex);
		iommufd_test_hold_at(MOCK_HOLD_GMEM_STEP);
		cond_resched();
		mutex_lock(&pages->mutex);
	}
	return 0;
}

static void iopt_gmem_remove(struct iopt_track *track, struct iopt_pages *pages)
{
	iopt_gmem_unmap(track, pages);
	iopt_track_del(track);
}

static int iopt_gmem_add(struct iopt_area *area, struct iopt_pages *pages,
			 struct iommu_domain *domain)
{
	struct iopt_track *track;
	int rc;

	lockdep_assert_held(&pages->mutex);

	track = iopt_track_alloc(area, domain);
	if (!track)
		return -ENOMEM;

	/* First, for a revocation to find it */
	iopt_track_add(&pages->gmem.rev, track);
	rc = iopt_gmem_map(track, pages);
	if (rc)
		iopt_gmem_remove(track, pages);
	return rc;
}

static void iopt_gmem_remove_all(struct iopt_area *area,
				 struct iopt_pages *pages)
{
	struct iopt_track *track, *tmp;

	list_for_each_entry_safe(track, tmp, &area->tracks, area_elm)
		iopt_gmem_remove(track, pages);
}

/**
 * iopt_gmem_fill_domain() - Put an area into a domain that is being added
 * @area: IOVA area to use
 * @pages: page supplier for the area
 * @domain: Domain to fill
 *
 * Return: 0, or
 * -EINTR: a fatal signal is pending
 * -ENOMEM, or what the IOMMU driver returns
 */
int iopt_gmem_fill_domain(struct iopt_area *area, struct iopt_pages *pages,
			  struct iommu_domain *domain)
{
	lockdep_assert_held_write(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	return iopt_gmem_add(area, pages, domain);
}

/**
 * iopt_gmem_unfill_domain() - Take an area out of a domain
 * @area: IOVA area to use
 * @pages: page supplier for the area
 * @domain: Domain to empty
 */
void iopt_gmem_unfill_domain(struct iopt_area *area, struct iopt_pages *pages,
			     struct iommu_domain *domain)
{
	struct iopt_track *track;

	lockdep_assert_held_write(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	track = iopt_track_find(area, domain);
	if (!WARN_ON(!track))
		iopt_gmem_remove(track, pages);
}

/**
 * iopt_gmem_fill_domains() - Put a new area into all domains of its IOAS
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 *
 * On failure all domains are left unchanged.
 *
 * Return: as iopt_gmem_fill_domain()
 */
int iopt_gmem_fill_domains(struct iopt_area *area, struct iopt_pages *pages)
{
	struct iommu_domain *domain;
	unsigned long index;
	int rc;

	lockdep_assert_held(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	xa_for_each(&area->iopt->domains, index, domain) {
		rc = iopt_gmem_add(area, pages, domain);
		if (rc) {
			iopt_gmem_remove_all(area, pages);
			return rc;
		}
	}
	return 0;
}

/**
 * iopt_gmem_unfill_domains() - Take an area out of all domains
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 */
void iopt_gmem_unfill_domains(struct iopt_area *area, struct iopt_pages *pages)
{
	lockdep_assert_held(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	iopt_gmem_remove_all(area, pages);
}

/**
 * iopt_gmem_read_dirty() - Read and clear the dirty bits of an area
 * @area: The area to act on
 * @domain: Domain that tracks dirty pages
 * @iova: Where to begin in the area
 * @length: Number of bytes in the area
 * @flags: As for iommu_dirty_ops::read_and_clear_dirty
 * @dirty: Where to record, its bitmap may be NULL
 *
 * A revocation must not free page tables that are being read, so this holds the
 * mutex. The user's bitmap is faulted in before that, part by part, and what does
 * not fit in a part is recorded when the mutex is free again.
 *
 * The dirty bits of an area go with its IOPTEs, while most of what was mapped may
 * still be in the file. So all of a revoked area is dirty, until it is unmapped.
 *
 * The caller has the iova_rwsem.
 *
 * Return: 0, -EFAULT if the bitmap cannot be written, or what the driver returns
 */
int iopt_gmem_read_dirty(struct iopt_area *area, struct iommu_domain *domain,
			 unsigned long iova, size_t length, unsigned long flags,
			 struct iommu_dirty_bitmap *dirty)
{
	const struct iommu_dirty_ops *ops = domain->dirty_ops;
	size_t align = area->iopt->iova_alignment;
	struct iopt_pages *pages = area->pages;
	int rc = 0;

	lockdep_assert_held(&area->iopt->iova_rwsem);

	while (!rc && length) {
		size_t part = iopt_gmem_step(iova, length);

		if (dirty->bitmap) {
			size_t pinned = iova_bitmap_pin(dirty->bitmap, iova);

			if (!pinned)
				return -EFAULT;
			/* Whole pages, for what drivers can walk */
			part = clamp(round_down(pinned, align), align, part);
		}

		mutex_lock(&pages->mutex);
		if (pages->gmem.rev.live)
			rc = ops->read_and_clear_dirty(domain, iova, part,
						       flags, dirty);
		else if (dirty->bitmap)
			iova_bitmap_set(dirty->bitmap, iova, part);
		mutex_unlock(&pages->mutex);

		if (dirty->bitmap)
			iova_bitmap_unpin(dirty->bitmap);
		iova += part;
		length -= part;
	}
	return rc;
}

/* On return nothing of the pages is mapped, and nothing will ever be */
static void iopt_gmem_revoke(struct guest_memfd_importer *importer)
{
	struct iopt_pages *pages =
		container_of(importer, struct iopt_pages, gmem.importer);

	struct iopt_revocable *rev = &pages->gmem.rev;
	struct iopt_track *track;

	guard(mutex)(&pages->mutex);
	list_for_each_entry(track, &rev->tracks, pages_elm)
		iopt_gmem_unmap(track, pages);
	rev->live = false;
}

static const struct guest_memfd_importer_ops iopt_gmem_importer_ops = {
	.revoke = iopt_gmem_revoke,
};

/**
 * iopt_alloc_gmem_pages() - Make the pages of a slice of a guest_memfd
 * @file: Any file, to which the caller has a reference
 * @start_byte: Offset of the slice in the first page
 * @start: Offset of the slice in the file
 * @length: Length of the slice in bytes, @start + @length does not overflow
 * @writable: An area of the pages may be writable
 *
 * Return: the pages, NULL if @file is not a guest_memfd, or
 * -EINVAL: the slice is not in the file
 * -EOPNOTSUPP: the memory is private to a guest that devices cannot share it with
 * -EHWPOISON: a page has a hardware error
 * -EINTR: a signal came while the memory was being allocated
 * -ENOMEM
 */
struct iopt_pages *iopt_alloc_gmem_pages(struct file *file,
					 unsigned long start_byte,
					 unsigned long start,
					 unsigned long length, bool writable)
{
	static struct lock_class_key pages_gmem_mutex_key;
	const struct guest_memfd_provider *provider;
	struct iopt_pages *pages;
	pgoff_t first;
	int rc;

	provider = guest_memfd_provider(file);
	if (!provider)
		return NULL;

	pages = iopt_alloc_pages(start_byte, length, writable);
	if (IS_ERR(pages))
		return pages;

	/*
	 * Taken under the locks of the guest_memfd's owner, while other pages
	 * have the mmap_lock inside of theirs.
	 */
	lockdep_set_class(&pages->mutex, &pages_gmem_mutex_key);

	pages->account_mode = IOPT_PAGES_ACCOUNT_NONE;
	pages->type = IOPT_ADDRESS_GMEM;
	iopt_revocable_init(&pages->gmem.rev);

	/* A revocation can come before this returns */
	pages->gmem.rev.live = true;
	first = start / PAGE_SIZE;
	rc = guest_memfd_attach(&pages->gmem.importer, provider, file, first,
				first + pages->npages - 1,
				&iopt_gmem_importer_ops);
	if (rc) {
		iopt_put_pages(pages);
		return ERR_PTR(rc);
	}
	/* iopt_release_pages() will detach */
	pages->gmem.attached = true;
	return pages;
}

/**
 * iopt_gmem_release() - Let go of the file
 * @pages: The pages, which no area uses any more
 */
void iopt_gmem_release(struct iopt_pages *pages)
{
	WARN_ON(!list_empty(&pages->gmem.rev.tracks));
	if (pages->gmem.attached)
		guest_memfd_detach(&pages->gmem.importer);
}
