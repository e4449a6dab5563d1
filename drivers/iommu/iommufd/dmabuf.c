// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs in an IOAS: device memory that its exporter can take back
 *
 * Model: an iopt_pages of a dma-buf has an attachment to the buffer, the offset
 * in the buffer at which the pages begin, what may be done to it, and whether
 * it is live. It keeps no PFNs and no physical addresses:
 * dma_buf_map_attachment_iommu() asks the exporter and fills the domain. So
 * pinned_pfns, access_itree, domains_itree and storage_domain of these pages
 * and their areas stay empty, and there is no in-kernel access. Addresses are
 * read back from a domain in one case only: for a device without an IOMMU,
 * whose user has to know them.
 *
 * Whether the pages are live is what the exporter said last. A revocation
 * empties every domain. A restore fills the domains again if the mapping was
 * made with IOMMU_IOAS_MAP_RESTORE; without it a revocation is for ever. An
 * area that is not live keeps its IOVA and its place in every domain, and
 * nothing is mapped there.
 *
 * Memory that is private to a confidential guest is not mapped for devices.
 * Pages that can be restored are not live while any part that is to be mapped
 * is private. The exporter revokes and restores memory when it makes it private
 * or shared.
 *
 * Locks, in this order:
 *
 *	iopt->domains_rwsem
 *	iopt->iova_rwsem
 *	dma_resv of the buffer		exporter's state
 *	iopt_pages::mutex		live, tracks, charged items
 *
 * Filling a domain needs dma_resv, and waits for it interruptibly, because the
 * exporter may be busy with its device. Emptying a domain cannot fail and must
 * not wait for the exporter, so it takes the mutex only. The exporter's
 * callbacks are called with dma_resv held and take the mutex. They find every
 * domain by the tracks, so they need none of the outer locks. A revocation
 * cannot proceed without the mutex. So pages that are live under the mutex stay
 * live until the mutex is released.
 *
 * Invariants, whenever the mutex is free:
 *
 *  - If the pages are live, each iopt_track is mapped as a whole. Otherwise
 *    nothing of any track is mapped, and nothing of it is left in an IOTLB.
 *  - The attachment is charged the sum of the items of all areas. An area has
 *    the items of its tracks, and at least one.
 */
#include <linux/dma-buf.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/iommu.h>
#include <linux/memcontrol.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "io_pagetable.h"

static bool iopt_domain_is_noiommu(struct iommu_domain *domain)
{
	return IS_ENABLED(CONFIG_IOMMUFD_NOIOMMU) &&
	       domain->owner == &iommufd_noiommu_ops;
}

/*
 * Waits for the exporter, which can be busy with its device. A caller that gets an
 * error undoes what was done so far, so that the system call can be restarted.
 */
static int iopt_dmabuf_lock_resv(struct dma_buf *dmabuf)
{
	int rc;

	rc = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	return rc == -EINTR ? -ERESTARTSYS : rc;
}

static int iopt_dmabuf_lock(struct iopt_pages *pages)
{
	int rc;

	rc = iopt_dmabuf_lock_resv(pages->dmabuf.attach->dmabuf);
	if (rc)
		return rc;
	mutex_lock(&pages->mutex);
	return 0;
}

static void iopt_dmabuf_unlock(struct iopt_pages *pages)
{
	mutex_unlock(&pages->mutex);
	dma_resv_unlock(pages->dmabuf.attach->dmabuf->resv);
}

static void iopt_dmabuf_assert_locked(struct iopt_pages *pages)
{
	dma_resv_assert_held(pages->dmabuf.attach->dmabuf->resv);
	lockdep_assert_held(&pages->mutex);
}

static unsigned int iopt_dmabuf_map_flags(struct iopt_area *area)
{
	if (READ_ONCE(area->iopt->disable_large_pages))
		return DMA_BUF_IOMMU_SMALL_PAGES;
	return 0;
}

/* The rest is for the memory to say */
static int iopt_dmabuf_prot(struct iopt_area *area)
{
	return area->iommu_prot & (IOMMU_READ | IOMMU_WRITE);
}

static u64 iopt_dmabuf_area_offset(struct iopt_area *area,
				   struct iopt_pages *pages)
{
	return pages->dmabuf.start +
	       iopt_area_start_byte(area, iopt_area_iova(area));
}

static int iopt_dmabuf_count(struct iopt_area *area, struct iopt_pages *pages,
			     unsigned long pgsize_bitmap, u64 *items)
{
	struct dma_buf_attachment *attach = pages->dmabuf.attach;
	u64 offset = iopt_dmabuf_area_offset(area, pages);

	return dma_buf_iommu_count_items(attach, pgsize_bitmap,
					 iopt_area_iova(area), offset,
					 iopt_area_length(area),
					 iopt_dmabuf_prot(area),
					 iopt_dmabuf_map_flags(area), items);
}

static int iopt_dmabuf_map(struct iopt_track *track, struct iopt_pages *pages,
			   gfp_t gfp)
{
	struct dma_buf_attachment *attach = pages->dmabuf.attach;
	struct iopt_area *area = track->area;
	u64 offset = iopt_dmabuf_area_offset(area, pages);

	return dma_buf_map_attachment_iommu(attach, track->domain,
					    iopt_area_iova(area), offset,
					    iopt_area_length(area),
					    iopt_dmabuf_prot(area),
					    iopt_dmabuf_map_flags(area), gfp);
}

/*
 * The track has @items now. An area counts as one while it has no track: the
 * exporter visits every mapping, whatever there is to do. Cannot fail if @items
 * are not more than before.
 */
static int iopt_dmabuf_set_items(struct iopt_track *track,
				 struct iopt_pages *pages, u64 items)
{
	struct dma_buf_attachment *attach = pages->dmabuf.attach;
	struct iopt_area *area = track->area;
	u64 total = area->items - track->items + items;
	u64 before = max(area->items, 1ULL);
	u64 after = max(total, 1ULL);
	int rc;

	lockdep_assert_held(&pages->mutex);

	if (after > before) {
		rc = dma_buf_iommu_charge_items(attach, after - before);
		if (rc)
			return rc;
	} else if (after < before) {
		dma_buf_iommu_uncharge_items(attach, before - after);
	}
	area->items = total;
	track->items = items;
	return 0;
}

/*
 * A restore happens under the exporter's locks, so there is a bound on the page
 * table items that it writes. They are counted from the layout of the buffer,
 * which is known while it is revoked as well: what a live mapping refuses is
 * not let in while there is none, where it would spoil the restore of others.
 * What is not restored is one item, to be visited by the revocation.
 */
static int iopt_dmabuf_charge(struct iopt_track *track,
			      struct iopt_pages *pages)
{
	u64 items = 1;
	int rc;

	if (pages->dmabuf.restore) {
		rc = iopt_dmabuf_count(track->area, pages,
				       track->domain->pgsize_bitmap, &items);
		/* The memory is gone for ever, there will be no restore */
		if (rc == -ENODEV && !pages->dmabuf.rev.live)
			items = 1;
		else if (rc)
			return rc;
	}
	return iopt_dmabuf_set_items(track, pages, items);
}

static int iopt_dmabuf_fill_track(struct iopt_track *track,
				  struct iopt_pages *pages)
{
	int rc;

	rc = iopt_dmabuf_charge(track, pages);
	if (rc || !pages->dmabuf.rev.live)
		return rc;

	rc = iopt_dmabuf_map(track, pages, GFP_KERNEL_ACCOUNT);
	/*
	 * The hardware was faster: the memory is not accessible any more, and
	 * the revocation of it is on its way. Don't wait for that. Or a part is
	 * private, which is seen only when it is to be mapped.
	 */
	if (rc == -EAGAIN || (rc == -EACCES && pages->dmabuf.restore)) {
		iopt_revocable_revoke(&pages->dmabuf.rev);
		pages->dmabuf.attach->mapped = false;
		return 0;
	}
	return rc;
}

static int iopt_dmabuf_add(struct iopt_area *area, struct iopt_pages *pages,
			   struct iommu_domain *domain)
{
	struct iopt_track *track;
	int rc;

	iopt_dmabuf_assert_locked(pages);

	/*
	 * Nobody can revoke an address that userspace was told, so at least it
	 * is not told an address again.
	 */
	if (pages->dmabuf.restore && iopt_domain_is_noiommu(domain))
		return -EOPNOTSUPP;

	track = iopt_track_alloc(area, domain);
	if (!track)
		return -ENOMEM;

	rc = iopt_dmabuf_fill_track(track, pages);
	if (rc) {
		iopt_dmabuf_set_items(track, pages, 0);
		kfree(track);
		return rc;
	}
	iopt_track_add(&pages->dmabuf.rev, track);
	return 0;
}

static void iopt_dmabuf_remove(struct iopt_track *track,
			       struct iopt_pages *pages)
{
	lockdep_assert_held(&pages->mutex);

	if (pages->dmabuf.rev.live)
		iopt_track_unmap(track);
	iopt_dmabuf_set_items(track, pages, 0);
	iopt_track_del(track);
}

static void iopt_dmabuf_remove_all(struct iopt_area *area,
				   struct iopt_pages *pages)
{
	struct iopt_track *track, *tmp;

	list_for_each_entry_safe(track, tmp, &area->tracks, area_elm)
		iopt_dmabuf_remove(track, pages);
}

/**
 * iopt_dmabuf_fill_domain() - Put an area into a domain that is being added
 * @area: IOVA area to use
 * @pages: page supplier for the area
 * @domain: Domain to fill
 *
 * If the memory is revoked the domain stays empty, and is filled by the
 * restore, if there is one. What would be refused otherwise is refused anyway.
 *
 * Return: 0, or
 * -ERESTARTSYS: a signal came while waiting for the exporter
 * -EINTR: a fatal signal ended a wait for the device
 * -EDQUOT: the mappings would have more page table items than is allowed
 * -EINVAL: memory or IOVA are not aligned to the domain's smallest page
 * -EPERM: the memory does not allow it any more
 * -ENODEV: the exporter's memory is gone, the revocation is on its way
 * -EIO: the exporter broke its contract
 * -EOPNOTSUPP: no restore in a domain without an IOMMU
 * -ENOMEM, or what the IOMMU driver returns
 */
int iopt_dmabuf_fill_domain(struct iopt_area *area, struct iopt_pages *pages,
			    struct iommu_domain *domain)
{
	int rc;

	lockdep_assert_held_write(&area->iopt->domains_rwsem);

	rc = iopt_dmabuf_lock(pages);
	if (rc)
		return rc;
	rc = iopt_dmabuf_add(area, pages, domain);
	iopt_dmabuf_unlock(pages);
	return rc;
}

/**
 * iopt_dmabuf_unfill_domain() - Take an area out of a domain
 * @area: IOVA area to use
 * @pages: page supplier for the area
 * @domain: Domain to empty
 *
 * Undoes iopt_dmabuf_fill_domain(), or what iopt_dmabuf_fill_domains() did for
 * this domain. Doesn't wait for the exporter.
 */
void iopt_dmabuf_unfill_domain(struct iopt_area *area, struct iopt_pages *pages,
			       struct iommu_domain *domain)
{
	struct iopt_track *track;

	lockdep_assert_held_write(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	track = iopt_track_find(area, domain);
	if (WARN_ON(!track))
		return;
	iopt_dmabuf_remove(track, pages);
}

/*
 * An IOAS without a domain has nothing to fill. If it is not to use large pages
 * it is known what a domain would take all the same, so tell it early.
 */
static int iopt_dmabuf_check_small(struct iopt_area *area,
				   struct iopt_pages *pages)
{
	u64 items;
	int rc;

	if (!pages->dmabuf.restore || !area->iopt->disable_large_pages)
		return 0;

	rc = iopt_dmabuf_lock(pages);
	if (rc)
		return rc;
	rc = iopt_dmabuf_count(area, pages, PAGE_SIZE, &items);
	if (rc == -ENODEV && !pages->dmabuf.rev.live)
		rc = 0;
	iopt_dmabuf_unlock(pages);
	return rc;
}

/**
 * iopt_dmabuf_fill_domains() - Put a new area into all domains of its IOAS
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 *
 * On failure all domains are left unchanged.
 *
 * Return: as iopt_dmabuf_fill_domain()
 */
int iopt_dmabuf_fill_domains(struct iopt_area *area, struct iopt_pages *pages)
{
	struct iommu_domain *domain;
	unsigned long index;
	int rc;

	lockdep_assert_held(&area->iopt->domains_rwsem);

	/* What an area counts without a domain, so before it has any */
	rc = dma_buf_iommu_charge_items(pages->dmabuf.attach, 1);
	if (rc)
		return rc;

	if (xa_empty(&area->iopt->domains)) {
		rc = iopt_dmabuf_check_small(area, pages);
		goto out;
	}

	rc = iopt_dmabuf_lock(pages);
	if (rc)
		goto out;
	xa_for_each(&area->iopt->domains, index, domain) {
		rc = iopt_dmabuf_add(area, pages, domain);
		if (rc) {
			iopt_dmabuf_remove_all(area, pages);
			break;
		}
	}
	iopt_dmabuf_unlock(pages);
out:
	if (rc)
		dma_buf_iommu_uncharge_items(pages->dmabuf.attach, 1);
	return rc;
}

/**
 * iopt_dmabuf_unfill_domains() - Take an area out of all domains
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 *
 * Doesn't wait for the exporter.
 */
void iopt_dmabuf_unfill_domains(struct iopt_area *area,
				struct iopt_pages *pages)
{
	lockdep_assert_held(&area->iopt->domains_rwsem);

	guard(mutex)(&pages->mutex);
	iopt_dmabuf_remove_all(area, pages);
	dma_buf_iommu_uncharge_items(pages->dmabuf.attach, 1);
}

/**
 * iopt_dmabuf_domain() - One of the domains that an area is in
 * @area: The area to act on
 *
 * For IOMMU_IOAS_NOIOMMU_GET_PA, the only ioctl that reads addresses back, from the
 * page table of a device that has no IOMMU. The caller holds the mutex of the
 * area's pages, and has checked that they are live.
 *
 * Return: a domain, or NULL if there is none.
 */
struct iommu_domain *iopt_dmabuf_domain(struct iopt_area *area)
{
	struct iopt_track *track;

	lockdep_assert_held(&area->pages->mutex);

	track = list_first_entry_or_null(&area->tracks, struct iopt_track,
					 area_elm);
	return track ? track->domain : NULL;
}

/*
 * Would a mapping be refused, now if @live, or ever? Every area of the pages,
 * copies included, may read, and may write if the pages are writable. So the
 * whole slice has to allow that.
 */
static int iopt_dmabuf_check(struct iopt_pages *pages, bool live)
{
	int prot = IOMMU_READ;

	if (pages->writable)
		prot |= IOMMU_WRITE;
	return dma_buf_iommu_check(pages->dmabuf.attach, pages->dmabuf.start,
				   pages->npages * PAGE_SIZE, prot, live);
}

/*
 * The exporter takes the memory back. Called for buffers that are not mapped
 * and for revocations of what is revoked already, too.
 */
static void iopt_dmabuf_invalidate(struct dma_buf_attachment *attach)
{
	struct iopt_pages *pages = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);

	guard(mutex)(&pages->mutex);
	iopt_revocable_revoke(&pages->dmabuf.rev);
}

static int iopt_dmabuf_map_all(struct iopt_pages *pages)
{
	/* A failure is reported, don't kill anybody to avoid it */
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL |
			  __GFP_NOWARN;
	struct iopt_track *track;
	int rc;

	iopt_dmabuf_assert_locked(pages);

	/*
	 * Is it back, and is it shared? One page tells, and mapping does the
	 * rest. Looking at all of the slice would not be bounded: a mapping
	 * without a domain is charged one item, however many parts it has.
	 */
	rc = dma_buf_iommu_check(pages->dmabuf.attach, pages->dmabuf.start,
				 PAGE_SIZE, IOMMU_READ, true);
	if (rc)
		return rc;

	/* It can have come back at another place, where other pages fit */
	list_for_each_entry(track, &pages->dmabuf.rev.tracks, pages_elm) {
		rc = iopt_dmabuf_charge(track, pages);
		if (rc)
			return rc;
	}

	list_for_each_entry(track, &pages->dmabuf.rev.tracks, pages_elm) {
		rc = iopt_dmabuf_map(track, pages, gfp);
		if (rc)
			goto err_unmap;
	}
	return 0;

err_unmap:
	list_for_each_entry_continue_reverse(track, &pages->dmabuf.rev.tracks,
					     pages_elm)
		iopt_track_unmap(track);
	return rc;
}

/*
 * The memory is back: map it into every domain in which it was and into those that
 * were added since, or into none of them. Any task can be the caller, so the memory
 * for page tables is charged to the process that made the mapping.
 */
static int iopt_dmabuf_restored(struct dma_buf_attachment *attach)
{
	struct iopt_pages *pages = attach->importer_priv;
	struct mem_cgroup *old_memcg;
	int rc;

	dma_resv_assert_held(attach->dmabuf->resv);

	guard(mutex)(&pages->mutex);
	/* iopt_dmabuf_attach() was refused, and detaches next */
	if (!pages->dmabuf.attach || pages->dmabuf.rev.live)
		return 0;

	old_memcg = set_active_memcg(pages->dmabuf.memcg);
	rc = iopt_dmabuf_map_all(pages);
	set_active_memcg(old_memcg);
	if (!rc)
		pages->dmabuf.rev.live = true;
	/* Back, but private. Nothing failed, and it comes back once more */
	if (rc == -EACCES) {
		attach->mapped = false;
		rc = 0;
	}
	return rc;
}

static const struct dma_buf_attach_ops iopt_dmabuf_revocable_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = iopt_dmabuf_invalidate,
};

static const struct dma_buf_match iopt_dmabuf_revocable_matches[] = {
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_REVOCABLE,
	  .private = true },
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_PINNED,
	  .private = true },
};

static const struct dma_buf_attach_ops iopt_dmabuf_restorable_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = iopt_dmabuf_invalidate,
	.mappings_restored = iopt_dmabuf_restored,
};

/* Not revocable: a user that asked for a restore must not silently go without */
static const struct dma_buf_match iopt_dmabuf_restorable_matches[] = {
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_RESTORABLE,
	  .private = true },
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_PINNED,
	  .private = true },
};

static struct dma_buf_attachment *
iopt_dmabuf_mapping_attach(struct iopt_pages *pages, struct dma_buf *dmabuf)
{
	const struct dma_buf_match *matches = iopt_dmabuf_revocable_matches;
	unsigned int nr = ARRAY_SIZE(iopt_dmabuf_revocable_matches);
	const struct dma_buf_attach_ops *ops = &iopt_dmabuf_revocable_ops;

	if (pages->dmabuf.restore) {
		matches = iopt_dmabuf_restorable_matches;
		nr = ARRAY_SIZE(iopt_dmabuf_restorable_matches);
		ops = &iopt_dmabuf_restorable_ops;
	}
	return dma_buf_mapping_attach_locked(dmabuf, matches, nr, ops, pages);
}

/* The first look at the memory. Revoked is fine if it can be restored */
static int iopt_dmabuf_begin(struct iopt_pages *pages)
{
	int rc;

	iopt_dmabuf_assert_locked(pages);

	rc = iopt_dmabuf_check(pages, false);
	if (rc)
		return rc;

	rc = iopt_dmabuf_check(pages, true);
	if (rc == -EACCES && pages->dmabuf.restore)
		return 0;
	if (rc == -EAGAIN)
		return pages->dmabuf.restore ? 0 : -ENODEV;
	if (!rc)
		pages->dmabuf.rev.live = true;
	return rc;
}

static int iopt_dmabuf_attach(struct iopt_pages *pages, struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attach;
	int rc;

	rc = iopt_dmabuf_lock_resv(dmabuf);
	if (rc)
		return rc;
	attach = iopt_dmabuf_mapping_attach(pages, dmabuf);
	if (IS_ERR(attach)) {
		dma_resv_unlock(dmabuf->resv);
		return PTR_ERR(attach);
	}
	/* This also teaches lockdep that the mutex goes inside */
	mutex_lock(&pages->mutex);
	pages->dmabuf.attach = attach;
	rc = iopt_dmabuf_begin(pages);
	if (rc)
		pages->dmabuf.attach = NULL;
	mutex_unlock(&pages->mutex);
	dma_resv_unlock(dmabuf->resv);

	/* On success iopt_release_pages() will detach and put the dmabuf. */
	if (rc)
		dma_buf_detach(dmabuf, attach);
	return rc;
}

/**
 * iopt_alloc_dmabuf_pages() - Make the pages of a slice of a dma-buf
 * @dmabuf: The buffer. On success its reference belongs to the pages.
 * @start_byte: Offset of the slice in the first page
 * @start: Offset of the slice in the buffer
 * @length: Length of the slice in bytes, @start + @length does not overflow
 * @writable: An area of the pages may be writable
 * @restore: Map again when the exporter restores the memory
 *
 * Return: the pages, or
 * -EINVAL: the slice is not in the buffer
 * -EPERM: the file or the memory does not allow reading, or writing
 * -EOPNOTSUPP: the exporter cannot do this, see dma_buf_mapping_attach_locked()
 * -ENODEV: the memory is revoked and @restore is false, or it is gone
 * -EACCES: a part of it is private and @restore is false
 * -ERESTARTSYS: a signal came while waiting for the exporter
 * -EINTR: a fatal signal ended a wait for the device
 * -EIO: the exporter broke its contract
 * -ENOMEM
 */
struct iopt_pages *iopt_alloc_dmabuf_pages(struct dma_buf *dmabuf,
					   unsigned long start_byte,
					   unsigned long start,
					   unsigned long length, bool writable,
					   bool restore)
{
	static struct lock_class_key pages_dmabuf_mutex_key;
	struct iopt_pages *pages;
	int rc;

	if (dmabuf->size <= start + length - 1)
		return ERR_PTR(-EINVAL);

	/*
	 * As for mmap(), the file decides what its holder may do, and has to be
	 * readable in any case: a copy may read, whatever this mapping may.
	 */
	if (!(dmabuf->file->f_mode & FMODE_READ) ||
	    (writable && !(dmabuf->file->f_mode & FMODE_WRITE)))
		return ERR_PTR(-EPERM);

	pages = iopt_alloc_pages(start_byte, length, writable);
	if (IS_ERR(pages))
		return pages;

	/*
	 * The mmap_lock can be held when obtaining the dmabuf reservation lock
	 * which creates a locking cycle with the pages mutex which is held
	 * while obtaining the mmap_lock. This locking path is not present for
	 * IOPT_ADDRESS_DMABUF so split the lock class.
	 */
	lockdep_set_class(&pages->mutex, &pages_dmabuf_mutex_key);

	/* dmabuf does not use pinned page accounting. */
	pages->account_mode = IOPT_PAGES_ACCOUNT_NONE;
	pages->type = IOPT_ADDRESS_DMABUF;
	pages->dmabuf.start = start - start_byte;
	pages->dmabuf.restore = restore;
	pages->dmabuf.memcg = get_mem_cgroup_from_mm(current->mm);
	iopt_revocable_init(&pages->dmabuf.rev);

	rc = iopt_dmabuf_attach(pages, dmabuf);
	if (rc) {
		iopt_put_pages(pages);
		return ERR_PTR(rc);
	}
	return pages;
}

/**
 * iopt_dmabuf_release() - Let go of the buffer
 * @pages: The pages, which no area uses any more
 */
void iopt_dmabuf_release(struct iopt_pages *pages)
{
	struct dma_buf_attachment *attach = pages->dmabuf.attach;

	WARN_ON(!list_empty(&pages->dmabuf.rev.tracks));
	/* Not set if iopt_alloc_dmabuf_pages() failed */
	if (attach) {
		struct dma_buf *dmabuf = attach->dmabuf;

		/* No callback follows */
		dma_buf_detach(dmabuf, attach);
		dma_buf_put(dmabuf);
	}
	mem_cgroup_put(pages->dmabuf.memcg);
}

/**
 * iopt_dmabuf_change_process() - The current process takes over
 * @pages: The pages of a dma-buf
 *
 * What restores take from now on is charged to it.
 */
void iopt_dmabuf_change_process(struct iopt_pages *pages)
{
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(current->mm);

	scoped_guard(mutex, &pages->mutex)
		swap(memcg, pages->dmabuf.memcg);
	mem_cgroup_put(memcg);
}

/**
 * iopt_dmabuf_iova_phase() - Where an IOVA should be to use large pages
 * @pages: The pages of a dma-buf
 * @start_byte: Start of the slice in the pages
 * @length: Length of the slice in bytes, not 0
 * @phase: Returns what the IOVA should be congruent to, modulo any page size
 *	that fits into the slice. Higher bits mean nothing.
 *
 * A buffer can be in several places, and an IOVA can only be congruent to one
 * of them. The middle of the slice is in its longest contiguous part if there
 * is one that is longer than half of it.
 *
 * The buffer may change before the IOVA is used, which then is a bad one.
 *
 * Return: 0, or -ERESTARTSYS if a signal came while waiting for the exporter
 */
int iopt_dmabuf_iova_phase(struct iopt_pages *pages, unsigned long start_byte,
			   unsigned long length, unsigned long *phase)
{
	struct dma_buf_attachment *attach = pages->dmabuf.attach;
	unsigned long middle;
	u64 skew;
	int rc;

	middle = ALIGN_DOWN(start_byte + length / 2, PAGE_SIZE);

	rc = iopt_dmabuf_lock_resv(attach->dmabuf);
	if (rc)
		return rc;
	rc = dma_buf_iommu_congruence(attach, pages->dmabuf.start + middle,
				      1ULL << __fls(max(length, PAGE_SIZE)),
				      &skew);
	dma_resv_unlock(attach->dmabuf->resv);

	/* What is gone for ever can be anywhere */
	if (rc)
		skew = pages->dmabuf.start + middle;
	*phase = (unsigned long)skew + start_byte - middle;
	return 0;
}

/*
 * Every page size that some domain can use. Without a domain yet, guess that
 * IOMMUs have the page sizes of the CPU.
 */
static unsigned long iopt_pgsize_bitmap(struct io_pagetable *iopt)
{
	struct iommu_domain *domain;
	unsigned long pgsizes = 0;
	unsigned long index;

	/* Adding and removing domains takes it for write */
	lockdep_assert_held(&iopt->iova_rwsem);

	if (iopt->disable_large_pages)
		return PAGE_SIZE;
	if (xa_empty(&iopt->domains))
		return PAGE_SIZE | PMD_SIZE | PUD_SIZE;

	xa_for_each(&iopt->domains, index, domain)
		pgsizes |= domain->pgsize_bitmap;
	return pgsizes;
}

/**
 * iopt_dmabuf_alloc_iova() - Find a block of IOVA for large pages
 * @iopt: io_pagetable to look in
 * @iova: Returns the start of the block
 * @phase: From iopt_dmabuf_iova_phase()
 * @length: Length of the block in bytes
 *
 * Congruent to the phase modulo the largest IOMMU page that fits, or the
 * largest for which there still is room. 1 GiB is the largest for which the
 * phase is known. The caller has the iova_rwsem.
 *
 * Return: 0, or
 * -EINVAL: the slice is not aligned to the IOMMU's smallest page
 * -EOVERFLOW: bad length
 * -ENOSPC: no room for it
 */
int iopt_dmabuf_alloc_iova(struct io_pagetable *iopt, unsigned long *iova,
			   unsigned long phase, unsigned long length)
{
	unsigned long pgsizes;

	if (length == 0 || length >= ULONG_MAX / 2)
		return -EOVERFLOW;

	/* The offset within the page is the user's choice */
	if (phase & (iopt->iova_alignment - 1))
		return -EINVAL;

	/* At least PAGE_SIZE, so never less than the iova_alignment */
	pgsizes = iopt_pgsize_bitmap(iopt) & ~(PAGE_SIZE - 1);
	while (pgsizes) {
		unsigned long pgsize = 1UL << __fls(pgsizes);
		int rc;

		pgsizes &= ~pgsize;
		if (pgsize > length || pgsize > SZ_1G)
			continue;

		rc = iopt_alloc_iova_aligned(iopt, iova, length, pgsize,
					     phase & (pgsize - 1));
		if (rc != -ENOSPC)
			return rc;
	}
	return iopt_alloc_iova_aligned(iopt, iova, length, PAGE_SIZE,
				       phase & (PAGE_SIZE - 1));
}
