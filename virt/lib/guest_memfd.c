// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of guest_memfds for devices
 *
 * Model: the memory of a guest_memfd belongs to the guest. Its owner punches
 * holes into the file at any time, and nobody may keep a page from being freed.
 * So an importer, which lets a device access the memory, takes no reference to
 * a page and pins none. It attaches to a range of the file. From then on all
 * pages of the range are in the file, and stay where they are, until the owner
 * takes one of them back. Before that happens the owner calls the importer;
 * when the call returns, the importer maps nothing of the range any more.
 *
 * Only guest_memfd_map_iommu() sees addresses, which it puts into an IOMMU
 * domain. The functions of providers are in a header that importers do not
 * include.
 *
 * Providers make the files. There are two, KVM and the mock of iommufd's tests,
 * and they come and go. So the registry of providers is in neither of them but
 * here. A provider is found by the file operations of its files. A file pins
 * the module of its file operations, so a provider exists for as long as an
 * importer holds its file.
 *
 * Locks, in this order:
 *
 *	locks of the owner, such as slots_lock and the file's invalidate_lock
 *	guest_memfd_importers::lock
 *	locks of the importer, which its revoke callback takes
 *
 * The registry's lock is a leaf, and held for a list walk only.
 *
 * Invariants:
 *
 *  - If an importer is listed and attached, all pages of its range are in the
 *    file. They are neither migrated nor reclaimed, nor evicted for being
 *    clean, as no memory of a guest_memfd is. A page that is poisoned stays,
 *    too.
 *  - If an importer is listed and still being attached, it maps nothing yet.
 *  - No page of a range leaves the file while an importer of the range is
 *    listed.
 *  - An importer that is revoked is not listed. It is told once.
 */
#include <linux/cleanup.h>
#include <linux/export.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/guest_memfd_provider.h>
#include <linux/interval_tree.h>
#include <linux/iommu.h>
#include <linux/pfn.h>
#include <linux/sched/signal.h>

static DEFINE_MUTEX(providers_lock);
static LIST_HEAD(providers);

/**
 * guest_memfd_register_provider - make the files of a provider known
 * @provider: with all but the node filled in
 */
void guest_memfd_register_provider(struct guest_memfd_provider *provider)
{
	guard(mutex)(&providers_lock);
	list_add_tail(&provider->node, &providers);
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_register_provider, "kvm,iommufd");

/**
 * guest_memfd_unregister_provider - undo guest_memfd_register_provider()
 * @provider: none of whose files exist any more
 */
void guest_memfd_unregister_provider(struct guest_memfd_provider *provider)
{
	guard(mutex)(&providers_lock);
	list_del(&provider->node);
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_unregister_provider, "kvm,iommufd");

/**
 * guest_memfd_init_importers - begin with no importers
 * @importers: of a new inode
 */
void guest_memfd_init_importers(struct guest_memfd_importers *importers)
{
	mutex_init(&importers->lock);
	importers->tree = RB_ROOT_CACHED;
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_init_importers, "kvm,iommufd");

/**
 * guest_memfd_add_importer - list an importer that a provider accepts
 * @importers: of the importer's file
 * @importer: from &guest_memfd_provider.attach. It can be revoked from here on
 *
 * Context: may sleep. No page of the importer's range that is taken out of the
 * file now is one that was revoked before: the provider has the lock that it
 * holds from guest_memfd_revoke() until the pages are out.
 */
void guest_memfd_add_importer(struct guest_memfd_importers *importers,
			      struct guest_memfd_importer *importer)
{
	guard(mutex)(&importers->lock);
	importer->importers = importers;
	interval_tree_insert(&importer->range, &importers->tree);
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_add_importer, "kvm,iommufd");

static void unlist(struct guest_memfd_importers *importers,
		   struct guest_memfd_importer *importer)
{
	lockdep_assert_held(&importers->lock);

	interval_tree_remove(&importer->range, &importers->tree);
	RB_CLEAR_NODE(&importer->range.rb);
}

/**
 * guest_memfd_is_revoked - has an importer been told to let go
 * @importer: that guest_memfd_add_importer() listed
 *
 * For &guest_memfd_provider.attach, which need not allocate what nobody will
 * map. The callback of the importer has ended.
 *
 * Context: may sleep.
 *
 * Return: true if it was revoked, it never becomes false again.
 */
bool guest_memfd_is_revoked(struct guest_memfd_importer *importer)
{
	guard(mutex)(&importer->importers->lock);
	return RB_EMPTY_NODE(&importer->range.rb);
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_is_revoked, "kvm,iommufd");

/**
 * guest_memfd_revoke - take pages back from importers
 * @importers: of the file
 * @first: the first page that the owner takes back
 * @last: the last one
 *
 * An importer loses the whole of its range, as soon as one page of it is taken
 * back, and does not get it again.
 *
 * Context: may sleep. The owner sees to it that no page comes to be mapped by an
 * importer that attaches before the pages are out of the file.
 */
void guest_memfd_revoke(struct guest_memfd_importers *importers, pgoff_t first,
			pgoff_t last)
{
	struct guest_memfd_importer *importer;
	struct interval_tree_node *node;

	guard(mutex)(&importers->lock);
	while ((node = interval_tree_iter_first(&importers->tree, first,
						last))) {
		importer = container_of(node, struct guest_memfd_importer,
					range);
		unlist(importers, importer);
		importer->ops->revoke(importer);
		cond_resched();
	}
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_revoke, "kvm,iommufd");

/**
 * guest_memfd_assert_revoked - nobody imports these pages
 * @importers: of the file
 * @first: the first page
 * @last: the last one
 *
 * For providers that are about to take pages out of a file, to see that they
 * were revoked. Only checked with CONFIG_DEBUG_VM.
 *
 * Context: may sleep. No importer can come to be listed.
 */
void guest_memfd_assert_revoked(struct guest_memfd_importers *importers,
				pgoff_t first, pgoff_t last)
{
	if (!IS_ENABLED(CONFIG_DEBUG_VM))
		return;

	guard(mutex)(&importers->lock);
	WARN_ON_ONCE(interval_tree_iter_first(&importers->tree, first, last));
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_assert_revoked, "kvm,iommufd");

/**
 * guest_memfd_provider - whose a file is
 * @file: any file, to which the caller has a reference
 *
 * Return: the provider, for as long as the caller has the file, or NULL if it is
 * not a guest_memfd.
 */
const struct guest_memfd_provider *guest_memfd_provider(struct file *file)
{
	struct guest_memfd_provider *provider;

	guard(mutex)(&providers_lock);
	list_for_each_entry(provider, &providers, node)
		if (provider->fops == file->f_op)
			return provider;
	return NULL;
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_provider, "iommufd");

/**
 * guest_memfd_attach - import a range of a guest_memfd
 * @importer: filled in by this function
 * @provider: from guest_memfd_provider()
 * @file: of the provider. Another reference is taken
 * @first: the first page
 * @last: the last page
 * @ops: of the importer, whose callback can come before this returns
 *
 * Every page of the range is allocated and zeroed if it was not there yet. A page
 * that is taken back meanwhile revokes the importer, which is no error.
 * Whether a guest uses the memory, and as what, is not looked at: pages need not
 * belong to a guest physical address, now or ever.
 *
 * Context: takes the locks of the owner, may sleep.
 *
 * Return: 0 - there is a guest_memfd_detach() to do - or a negative errno:
 *
 * * -EINVAL - the range is not in the file
 * * -EOPNOTSUPP - the memory is private to a guest that a device cannot share it
 *   with
 * * -EHWPOISON - a page has a hardware error
 * * -EINTR - a signal is pending. If it is not fatal, something was allocated, so a
 *   retry gets further
 * * -ENOMEM - out of memory
 */
int guest_memfd_attach(struct guest_memfd_importer *importer,
		       const struct guest_memfd_provider *provider,
		       struct file *file, pgoff_t first, pgoff_t last,
		       const struct guest_memfd_importer_ops *ops)
{
	int ret;

	importer->ops = ops;
	importer->file = get_file(file);
	importer->provider = provider;
	importer->range.start = first;
	importer->range.last = last;
	RB_CLEAR_NODE(&importer->range.rb);
	importer->importers = NULL;

	ret = provider->attach(importer);
	if (ret)
		guest_memfd_detach(importer);
	return ret;
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_attach, "iommufd");

/**
 * guest_memfd_detach - undo guest_memfd_attach()
 * @importer: that maps nothing of its range any more
 *
 * A revocation that is under way has ended on return. The pages stay in the
 * file.
 *
 * Context: may sleep.
 */
void guest_memfd_detach(struct guest_memfd_importer *importer)
{
	struct guest_memfd_importers *importers = importer->importers;

	if (importers) {
		guard(mutex)(&importers->lock);
		if (!RB_EMPTY_NODE(&importer->range.rb))
			unlist(importers, importer);
	}
	fput(importer->file);
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_detach, "iommufd");

/* What is contiguous and not mapped yet */
struct run {
	struct iommu_domain *domain;
	unsigned long iova;
	phys_addr_t phys;
	size_t len;
	int prot;
	gfp_t gfp;
};

static int map_run(struct run *run)
{
	int ret;

	if (!run->len)
		return 0;
	ret = iommu_map_nosync(run->domain, run->iova, run->phys, run->len,
			       run->prot, run->gfp);
	if (ret)
		return ret;
	run->iova += run->len;
	run->len = 0;
	return 0;
}

static int map_pages(struct run *run, struct guest_memfd_importer *importer,
		     u64 offset, size_t len, bool small_pages)
{
	unsigned long pfns[32];
	int ret;

	while (len) {
		pgoff_t index = importer->range.start + (offset >> PAGE_SHIFT);
		size_t skip = offset_in_page(offset);
		unsigned int i, nr;

		if (fatal_signal_pending(current))
			return -EINTR;

		nr = min(DIV_ROUND_UP(skip + len, PAGE_SIZE), ARRAY_SIZE(pfns));
		ret = importer->provider->get_pfns(importer->file, index, nr,
						   pfns);
		if (ret)
			return ret;

		for (i = 0; i < nr; i++) {
			phys_addr_t phys = PFN_PHYS(pfns[i]) + skip;
			size_t part = min(PAGE_SIZE - skip, len);

			if (small_pages || phys != run->phys + run->len) {
				ret = map_run(run);
				if (ret)
					return ret;
				run->phys = phys;
			}
			run->len += part;
			offset += part;
			len -= part;
			skip = 0;
		}
		cond_resched();
	}
	return map_run(run);
}

/**
 * guest_memfd_map_iommu - map a part of an importer's range into a domain
 * @importer: that is attached and not revoked
 * @domain: a paging domain
 * @iova: where in @domain, nothing is mapped there yet
 * @offset: where the part begins in the importer's range, in bytes
 * @len: its length in bytes
 * @prot: as for iommu_map()
 * @small_pages: map page by page, instead of what is contiguous at once
 * @gfp: for the page table
 *
 * @iova, @offset and @len are multiples of the domain's smallest page size. All
 * of the part is mapped, or nothing.
 *
 * This is what sees the physical addresses. They go into the domain, and are not
 * kept: the importer unmaps with iommu_unmap(), by IOVA.
 *
 * Context: the caller holds the lock that its revoke callback takes, so that
 * the pages stay until the callback has unmapped them. May sleep.
 *
 * Return: 0, or a negative errno:
 *
 * * -EINTR - a fatal signal is pending
 * * -EIO - the provider has lost a page
 * * -ENOMEM, -EADDRINUSE and others - from iommu_map()
 */
int guest_memfd_map_iommu(struct guest_memfd_importer *importer,
			  struct iommu_domain *domain, unsigned long iova,
			  u64 offset, size_t len, int prot, bool small_pages,
			  gfp_t gfp)
{
	struct run run = {
		.domain = domain,
		.iova = iova,
		.prot = prot,
		.gfp = gfp,
	};
	int ret;

	ret = map_pages(&run, importer, offset, len, small_pages);
	if (!ret)
		ret = iommu_sync_map(domain, iova, len);
	if (ret && run.iova != iova)
		iommu_unmap(domain, iova, run.iova - iova);
	return ret;
}
EXPORT_SYMBOL_FOR_MODULES(guest_memfd_map_iommu, "iommufd");
