// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfd as a provider of memory for devices
 *
 * Model: virt/lib/guest_memfd.c says what importers are promised. KVM takes
 * memory from importers in two cases:
 *
 *  - A hole is punched into the file.
 *  - A gfn that is backed by private memory stops being private. The pages stay
 *    in the file, but from then on the guest shares other memory at that gfn.
 *    The guest was told that nobody else reaches memory that it does not share.
 *
 * If a gfn becomes private, no importer loses memory: the memory that was
 * shared is in a file or a mapping of its own.
 *
 * Importers are listed by inode, since the inode has the memory. Whether a
 * device may have the memory depends on the VM of the file by which the
 * importer attaches.
 *
 * Locks, in this order:
 *
 *	slots_lock			bindings, and attributes of gfns
 *	invalidate_lock of the mapping	pages leave the file
 *	guest_memfd_importers::lock	list of importers
 *
 * An attach first lists the importer, with invalidate_lock held shared. Then it
 * goes over the pages once, and allocates and zeroes those that are missing. It
 * takes the lock for a chunk of pages at a time, because the whole range can
 * take long, and a task that punches a hole waits for the lock uninterruptibly.
 * If a hole is punched after the importer was listed, the importer is told,
 * whether or not the attach has seen the pages. So at the end of the attach the
 * importer either has all pages, or is revoked and maps nothing. Memory can be
 * allocated with the lock held, as fallocate() does: no reclaim waits for the
 * lock, since nothing of a guest_memfd is reclaimed.
 *
 * An attach does not take slots_lock and does not look at attributes. An attach
 * that races with a change of attributes may come after the change, and then
 * keeps its memory.
 *
 * A folio's lock is taken to allocate and zero the folio, and not kept. Looking
 * up a PFN needs no folio lock: while an importer is listed its pages stay in
 * the mapping.
 *
 * Invariants: see virt/lib/guest_memfd.c.
 */
#include <linux/file.h>
#include <linux/guest_memfd_provider.h>
#include <linux/kvm_host.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

/* Private memory belongs to hardware that a device may not be able to ask */
bool __weak kvm_arch_gmem_allows_dma(struct kvm *kvm, bool is_private)
{
	return !is_private;
}

/* Of these pages some are missing */
static int kvm_gmem_alloc_pages(struct inode *inode, pgoff_t first,
				pgoff_t last)
{
	pgoff_t index = first;

	while (index <= last) {
		struct folio *folio;

		if (fatal_signal_pending(current))
			return -EINTR;

		folio = kvm_gmem_get_zeroed_folio(inode, index);
		if (IS_ERR(folio))
			return PTR_ERR(folio);

		index = folio_next_index(folio);
		folio_unlock(folio);
		folio_put(folio);
		cond_resched();
	}
	return 0;
}

/*
 * The first page from @index to @last that cannot be imported as it is, or
 * @last + 1. Folios are looked at without a reference: none leaves the file.
 */
static pgoff_t kvm_gmem_next_unready(struct inode *inode, pgoff_t index,
				     pgoff_t last)
{
	XA_STATE(xas, &inode->i_mapping->i_pages, index);
	struct folio *folio;

	rwsem_assert_held(&inode->i_mapping->invalidate_lock);

	guard(rcu)();
	for (; index <= last; index++) {
		do {
			folio = xas_next(&xas);
		} while (xas_retry(&xas, folio));

		if (!folio || xa_is_value(folio) ||
		    !folio_test_uptodate(folio) || folio_test_hwpoison(folio))
			break;
	}
	return index;
}

/*
 * Returns 1 if pages were missing, 0 if all of them were there already, which is
 * found out cheaply
 */
static int kvm_gmem_alloc_missing(struct inode *inode, pgoff_t first,
				  pgoff_t last)
{
	pgoff_t index = kvm_gmem_next_unready(inode, first, last);

	if (index > last)
		return 0;
	return kvm_gmem_alloc_pages(inode, index, last) ?: 1;
}

/* For so many pages nobody can punch a hole */
#define KVM_GMEM_ATTACH_CHUNK 1024

static int kvm_gmem_attach(struct guest_memfd_importer *importer)
{
	struct inode *inode = file_inode(importer->file);
	struct gmem_file *f = importer->file->private_data;
	struct address_space *mapping = inode->i_mapping;
	pgoff_t index = importer->range.start;
	pgoff_t last = importer->range.last;

	if (last >= i_size_read(inode) >> PAGE_SHIFT)
		return -EINVAL;
	/* All pages of a file are private, or none: the first one tells. */
	if (!kvm_arch_gmem_allows_dma(f->kvm,
				      kvm_gmem_is_private_mem(inode, index)))
		return -EOPNOTSUPP;

	/* Not between a revocation and the pages leaving the file */
	filemap_invalidate_lock_shared(mapping);
	guest_memfd_add_importer(&GMEM_I(inode)->importers, importer);
	filemap_invalidate_unlock_shared(mapping);

	while (index <= last) {
		pgoff_t end = min(last, index + KVM_GMEM_ATTACH_CHUNK - 1);
		int r;

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		filemap_invalidate_lock_shared(mapping);
		if (guest_memfd_is_revoked(importer)) {
			/* Nothing will be mapped, so what is missing may be */
			filemap_invalidate_unlock_shared(mapping);
			return 0;
		}
		r = kvm_gmem_alloc_missing(inode, index, end);
		filemap_invalidate_unlock_shared(mapping);
		if (r < 0)
			return r;

		/*
		 * Pages that were allocated stay, so a retry gets further.
		 * Without such progress a timer could end each attempt.
		 */
		if (r && end != last && signal_pending(current))
			return -EINTR;
		index = end + 1;
	}
	return 0;
}

static int kvm_gmem_get_pfns(struct file *file, pgoff_t index, unsigned int nr,
			     unsigned long *pfns)
{
	XA_STATE(xas, &file->f_mapping->i_pages, index);
	struct folio *folio;
	unsigned int i;

	guard(rcu)();
	for (i = 0; i < nr; i++) {
		do {
			folio = xas_next(&xas);
		} while (xas_retry(&xas, folio));

		if (WARN_ON_ONCE(!folio || xa_is_value(folio)))
			return -EIO;
		pfns[i] = folio_file_pfn(folio, index + i);
	}
	return 0;
}

static struct guest_memfd_provider kvm_gmem_provider = {
	.attach = kvm_gmem_attach,
	.get_pfns = kvm_gmem_get_pfns,
};

/* The module that owns the file operations calls kvm_gmem_import_exit() */
void kvm_gmem_import_init(const struct file_operations *fops)
{
	kvm_gmem_provider.fops = fops;
	guest_memfd_register_provider(&kvm_gmem_provider);
}

void kvm_gmem_import_exit(void)
{
	guest_memfd_unregister_provider(&kvm_gmem_provider);
}

void kvm_gmem_init_importers(struct inode *inode)
{
	guest_memfd_init_importers(&GMEM_I(inode)->importers);
}

/* Pages of [start, end) are about to leave the file */
void kvm_gmem_revoke(struct inode *inode, pgoff_t start, pgoff_t end)
{
	rwsem_assert_held_write(&inode->i_mapping->invalidate_lock);

	guest_memfd_revoke(&GMEM_I(inode)->importers, start, end - 1);
}

/* They do so now */
void kvm_gmem_assert_revoked(struct inode *inode, pgoff_t start, pgoff_t end)
{
	rwsem_assert_held_write(&inode->i_mapping->invalidate_lock);

	guest_memfd_assert_revoked(&GMEM_I(inode)->importers, start, end - 1);
}

#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
static void kvm_gmem_revoke_gfns(struct guest_memfd_importers *importers,
				 struct kvm_memory_slot *slot, gfn_t start,
				 gfn_t end)
{
	pgoff_t first = start - slot->base_gfn + slot->gmem.pgoff;

	guest_memfd_revoke(importers, first, first + (end - start) - 1);
}

/* Gfns of [start, end), all of the slot, are about to be shared */
static void kvm_gmem_revoke_slot(struct kvm *kvm, struct kvm_memory_slot *slot,
				 gfn_t start, gfn_t end)
{
	struct guest_memfd_importers *importers;
	gfn_t run_start = start, run_end = start;
	unsigned long gfn;
	void *entry;

	if (!kvm_slot_has_gmem(slot))
		return;

	/* If it is being closed nobody imports, as importers have the file */
	struct file *file __free(fput) = get_file_active(&slot->gmem.file);

	/*
	 * As in kvm_gmem_attach(), the first page tells.  If a page can become
	 * shared in its place, an importer has to lose it in both directions.
	 */
	if (!file ||
	    !kvm_gmem_is_private_mem(file_inode(file), slot->gmem.pgoff))
		return;

	/* An attach from here on races with the change of attributes */
	importers = &GMEM_I(file_inode(file))->importers;
	if (RB_EMPTY_ROOT(&importers->tree.rb_root))
		return;

	/* Only what is private now, run by run */
	xa_for_each_range(&kvm->mem_attr_array, gfn, entry, start, end - 1) {
		if (!(xa_to_value(entry) & KVM_MEMORY_ATTRIBUTE_PRIVATE))
			continue;
		if (gfn != run_end) {
			if (run_start != run_end)
				kvm_gmem_revoke_gfns(importers, slot, run_start,
						     run_end);
			run_start = gfn;
		}
		run_end = gfn + 1;
		cond_resched();
	}
	if (run_start != run_end)
		kvm_gmem_revoke_gfns(importers, slot, run_start, run_end);
}

/* Whatever of [start, end) is private is about to be shared */
void kvm_gmem_revoke_private(struct kvm *kvm, gfn_t start, gfn_t end)
{
	struct kvm_memslot_iter iter;
	int i;

	lockdep_assert_held(&kvm->slots_lock);

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++) {
		kvm_for_each_memslot_in_gfn_range(&iter, __kvm_memslots(kvm, i),
						  start, end) {
			struct kvm_memory_slot *slot = iter.slot;

			kvm_gmem_revoke_slot(kvm, slot,
					     max(start, slot->base_gfn),
					     min(end, slot->base_gfn +
						      slot->npages));
		}
	}
}
#else
void kvm_gmem_revoke_private(struct kvm *kvm, gfn_t start, gfn_t end)
{
}
#endif
