// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory in an IOAS that its owner can take back at any time
 *
 * Model: two kinds of areas have such memory: dma-bufs, see dmabuf.c, and
 * guest_memfds, see guest_memfd.c. Both use the same state, &struct
 * iopt_revocable of an iopt_pages. It says whether the memory is live, and has
 * a list of tracks that tell where the memory is mapped: one track for each
 * area in each domain, including copies and domains that come late.
 *
 * Both kinds keep no PFNs that have to be unpinned, so pinned_pfns,
 * access_itree, domains_itree and storage_domain stay empty. Both have no
 * in-kernel access and cannot be split. They differ in where the memory comes
 * from, and in what has to be locked to get it.
 *
 * Locks: iopt_pages::mutex protects all of it. A revocation cannot proceed
 * without the mutex. So pages that are live under the mutex stay live until the
 * mutex is released.
 *
 * Invariant, whenever the mutex is free: if the pages are live, each track is
 * mapped as a whole, except for a track of a guest_memfd whose mapping is still
 * under way. Otherwise nothing of any track is mapped, and nothing of it is
 * left in an IOTLB.
 */
#include <linux/slab.h>

#include "io_pagetable.h"

struct iopt_track *iopt_track_alloc(struct iopt_area *area,
				    struct iommu_domain *domain)
{
	struct iopt_track *track;

	track = kzalloc_obj(*track, GFP_KERNEL_ACCOUNT);
	if (!track)
		return NULL;
	track->area = area;
	track->domain = domain;
	return track;
}

void iopt_track_add(struct iopt_revocable *rev, struct iopt_track *track)
{
	list_add_tail(&track->pages_elm, &rev->tracks);
	list_add_tail(&track->area_elm, &track->area->tracks);
}

void iopt_track_del(struct iopt_track *track)
{
	list_del(&track->pages_elm);
	list_del(&track->area_elm);
	kfree(track);
}

void iopt_track_unmap(struct iopt_track *track)
{
	/* Returns when nothing of it is left in the IOTLB */
	iopt_area_unmap_domain(track->area, track->domain);
}

struct iopt_track *iopt_track_find(struct iopt_area *area,
				   struct iommu_domain *domain)
{
	struct iopt_track *track;

	list_for_each_entry(track, &area->tracks, area_elm)
		if (track->domain == domain)
			return track;
	return NULL;
}

void iopt_revocable_init(struct iopt_revocable *rev)
{
	rev->live = false;
	INIT_LIST_HEAD(&rev->tracks);
}

/* On return nobody reaches the memory any more */
void iopt_revocable_revoke(struct iopt_revocable *rev)
{
	struct iopt_track *track;

	if (!rev->live)
		return;

	list_for_each_entry(track, &rev->tracks, pages_elm)
		iopt_track_unmap(track);
	rev->live = false;
}

/**
 * iopt_revocable_fill_domain() - Put an area into a domain that is being added
 * @area: IOVA area to use
 * @pages: page supplier for the area, for which iopt_is_revocable() is true
 * @domain: Domain to fill
 *
 * If the memory is revoked the domain stays empty.
 *
 * Return: 0, or as iopt_dmabuf_fill_domain() and iopt_gmem_fill_domain()
 */
int iopt_revocable_fill_domain(struct iopt_area *area, struct iopt_pages *pages,
			       struct iommu_domain *domain)
{
	if (iopt_is_gmem(pages))
		return iopt_gmem_fill_domain(area, pages, domain);
	if (iopt_is_dmabuf(pages))
		return iopt_dmabuf_fill_domain(area, pages, domain);
	return -EOPNOTSUPP;
}

/**
 * iopt_revocable_unfill_domain() - Take an area out of a domain
 * @area: IOVA area to use
 * @pages: page supplier for the area, for which iopt_is_revocable() is true
 * @domain: Domain to empty
 *
 * Doesn't wait for whose memory it is.
 */
void iopt_revocable_unfill_domain(struct iopt_area *area,
				  struct iopt_pages *pages,
				  struct iommu_domain *domain)
{
	if (iopt_is_gmem(pages))
		iopt_gmem_unfill_domain(area, pages, domain);
	else if (iopt_is_dmabuf(pages))
		iopt_dmabuf_unfill_domain(area, pages, domain);
}

/**
 * iopt_revocable_fill_domains() - Put a new area into all domains of its IOAS
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 *
 * On failure all domains are left unchanged.
 *
 * Return: as iopt_revocable_fill_domain()
 */
int iopt_revocable_fill_domains(struct iopt_area *area,
				struct iopt_pages *pages)
{
	if (iopt_is_gmem(pages))
		return iopt_gmem_fill_domains(area, pages);
	if (iopt_is_dmabuf(pages))
		return iopt_dmabuf_fill_domains(area, pages);
	return -EOPNOTSUPP;
}

/**
 * iopt_revocable_unfill_domains() - Take an area out of all domains
 * @area: The area to act on
 * @pages: The pages associated with the area (area->pages is NULL)
 *
 * Doesn't wait for whose memory it is.
 */
void iopt_revocable_unfill_domains(struct iopt_area *area,
				   struct iopt_pages *pages)
{
	if (iopt_is_gmem(pages))
		iopt_gmem_unfill_domains(area, pages);
	else if (iopt_is_dmabuf(pages))
		iopt_dmabuf_unfill_domains(area, pages);
}

/**
 * iopt_revocable_release() - Let go of the memory
 * @pages: The pages, which no area uses any more
 */
void iopt_revocable_release(struct iopt_pages *pages)
{
	if (iopt_is_gmem(pages))
		iopt_gmem_release(pages);
	else if (iopt_is_dmabuf(pages))
		iopt_dmabuf_release(pages);
}
