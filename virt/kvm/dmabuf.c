// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots backed by a dma-buf
 *
 * A memslot with KVM_MEM_DMABUF is a window onto a slice of a dma-buf, usually
 * a PCI BAR that vfio-pci exported.  There is no host virtual address, no VMA
 * and no struct page: the exporter says through the dma-buf physical
 * interconnect where the slice is and how it may be mapped, and takes it back
 * whenever it has to.
 *
 * The object is the binding, &struct kvm_dmabuf_binding, allocated when the
 * slot is created and freed with it.  kvm_memory_slot.dmabuf points to it from
 * every incarnation of the slot, that is from the copy marked INVALID as well.
 * The truth about the memory is binding->map: the ranges of the slice, or NULL
 * while the buffer is revoked.  There is no third state.  A page fault on a
 * revoked slot is an error to userspace or, if that asked for it, an emulated
 * access.  It is never a retry, and nothing in KVM waits for the memory to come
 * back.
 *
 * The life of a binding is four verbs, as for guest_memfd:
 *
 *  bind	takes the reference to the buffer, attaches, checks what can be
 *		checked.  The exporter's callbacks can come from here on, but
 *		have nothing to do yet.
 *  commit	after the architecture allocated the slot's metadata, which
 *		zapping needs: map the slice.  From here on the slot is revoked
 *		and restored along with the buffer, even before and after it is
 *		visible to vCPUs.
 *  get_pfn	what the page fault handlers use.
 *  unbind	detach, after which no callback runs, and free.
 *
 * Locks:
 *
 *  slots_lock > slots_arch_lock > dma_resv > mmu_lock
 *
 *  - binding->map is written under dma_resv *and* mmu_lock held for write, and
 *    read under mmu_lock or RCU.  Who reads it without mmu_lock has to have
 *    sampled mmu_invalidate_seq before, and to check it once mmu_lock is held,
 *    before the result is put into a page table.
 *  - binding->committed, ->revoked_map and ->siblings are protected by
 *    dma_resv.
 *  - kvm->dmabuf_bindings is protected by slots_lock.
 *  - binding->reach_start and ->reach_end are only widened by faults, which
 *    race with each other, and reset with mmu_lock held for write.
 *  - Everything else in a binding is constant.
 *  - The fault path takes no dma_resv, ever: vCPUs hold kvm->srcu, and exporters
 *    hold dma_resv while they wait for whatever they wait for.
 *  - dma_resv is never held over kvm_swap_active_memslots() or any other SRCU
 *    synchronization.  The callbacks are SRCU readers, as the mmu_notifier is.
 *
 * Invariants:
 *
 *  - While binding->map is NULL, no page table of the VM maps the slice, once
 *    mmu_lock was released with no invalidation in progress.
 *  - An invalidation is in progress only inside the invalidate callback.  Were
 *    one left in progress while the buffer is revoked, every fault of the VM
 *    could retry for as long as the device sleeps.
 *  - A gfn that is mapped is in the reach of its binding.
 *  - A binding holds a reference to the buffer, and nothing holds one to KVM:
 *    the VM can go away at any time and so can the device.
 */

#include <linux/bsearch.h>
#include <linux/dma-buf.h>
#include <linux/dma-buf-phys.h>
#include <linux/dma-resv.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/pfn.h>
#include <linux/slab.h>

#include <trace/events/kvm.h>

#include "kvm_mm.h"
#include "dmabuf.h"

/* One physically contiguous part of the slice. */
struct kvm_dmabuf_range {
	gfn_t start;		/* first page, counted from the slot's base_gfn */
	kvm_pfn_t pfn;		/* where that page is */
	u64 npages;
	u32 attrs;		/* DMA_BUF_PHYS_* */
};

/*
 * All parts of the slice in order and without gaps.  Built from what
 * dma_buf_phys_map() returned, to be searchable by page: a VMM may have made
 * the buffer of thousands of ranges.
 */
struct kvm_dmabuf_map {
	struct rcu_head rcu;
	unsigned int nr;
	struct kvm_dmabuf_range ranges[] __counted_by(nr);
};

struct kvm_dmabuf_binding {
	struct kvm *kvm;
	struct dma_buf *dmabuf;
	struct dma_buf_phys_attachment *attach;
	/* The slice, in bytes of the buffer */
	u64 offset;
	u64 size;
	/* Whose binding it is, see kvm_dmabuf_slot() */
	gfn_t base_gfn;
	u64 npages;
	u16 as_id;
	short slot_id;
	bool readonly;
	/* The slot's metadata exist, the slice may be mapped */
	bool committed;
	struct kvm_dmabuf_map __rcu *map;
	/* What map was before the buffer was revoked, likely to be so again */
	struct kvm_dmabuf_map *revoked_map;
	/* Entry in kvm->dmabuf_bindings, if committed */
	struct hlist_node vm_node;
	/* The other committed bindings of the VM to the same buffer */
	struct list_head siblings;
	/* Gfns that may be mapped, see kvm_dmabuf_will_map() */
	gfn_t reach_start;
	gfn_t reach_end;
};

static int kvm_dmabuf_cmp_page(const void *key, const void *elt)
{
	const struct kvm_dmabuf_range *range = elt;
	gfn_t page = *(const gfn_t *)key;

	if (page < range->start)
		return -1;
	return page >= range->start + range->npages;
}

static const struct kvm_dmabuf_range *
kvm_dmabuf_find_range(const struct kvm_dmabuf_map *map, gfn_t page)
{
	/* What is not cut by a hole has one. */
	if (page < map->ranges[0].npages)
		return &map->ranges[0];

	return bsearch(&page, map->ranges, map->nr, sizeof(map->ranges[0]),
		       kvm_dmabuf_cmp_page);
}

static struct kvm_dmabuf_map *
kvm_dmabuf_make_map(const struct dma_buf_phys_ranges *ranges)
{
	struct kvm_dmabuf_map *map;
	gfn_t start = 0;
	unsigned int i;

	map = kvzalloc_flex(*map, ranges, ranges->nr, GFP_KERNEL_ACCOUNT);
	if (!map)
		return NULL;
	map->nr = ranges->nr;

	/* The granule that was negotiated makes every range whole pages. */
	for (i = 0; i < ranges->nr; i++) {
		map->ranges[i] = (struct kvm_dmabuf_range) {
			.start = start,
			.pfn = PHYS_PFN(ranges->ranges[i].addr),
			.npages = ranges->ranges[i].len >> PAGE_SHIFT,
			.attrs = ranges->ranges[i].attrs,
		};
		start += map->ranges[i].npages;
	}
	return map;
}

/* Whether kvm_dmabuf_make_map() would make the same of these ranges. */
static bool kvm_dmabuf_map_is(const struct kvm_dmabuf_map *map,
			      const struct dma_buf_phys_ranges *ranges)
{
	unsigned int i;

	if (map->nr != ranges->nr)
		return false;

	for (i = 0; i < map->nr; i++)
		if (map->ranges[i].pfn != PHYS_PFN(ranges->ranges[i].addr) ||
		    map->ranges[i].npages != ranges->ranges[i].len >> PAGE_SHIFT ||
		    map->ranges[i].attrs != ranges->ranges[i].attrs)
			return false;

	return true;
}

/*
 * A slot that can never be accessed as its creator asked is refused.  A buffer
 * that is revoked when the slot is made, and turns out like that later, cannot
 * be refused any more; get_pfn copes.
 */
static int kvm_dmabuf_check_map(const struct kvm_dmabuf_binding *binding,
				const struct kvm_dmabuf_map *map)
{
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		if (!(map->ranges[i].attrs & DMA_BUF_PHYS_READ))
			return -EPERM;
		if (!binding->readonly &&
		    !(map->ranges[i].attrs & DMA_BUF_PHYS_WRITE))
			return -EPERM;
	}
	return 0;
}

/*
 * Map the slice, and build what the fault path reads.  Not published yet.  Most
 * memory comes back to where it was, and then so does the old map, which stale
 * faults may be reading still.  Errors are those of dma_buf_phys_map().
 */
static int kvm_dmabuf_map_slice(struct kvm_dmabuf_binding *binding,
				struct kvm_dmabuf_map **map)
{
	struct dma_buf_phys_ranges *ranges;
	int r;

	r = dma_buf_phys_map(binding->attach, binding->offset, binding->size,
			     &ranges);
	if (r)
		return r;

	*map = binding->revoked_map;
	if (*map && kvm_dmabuf_map_is(*map, ranges)) {
		binding->revoked_map = NULL;
	} else {
		*map = kvm_dmabuf_make_map(ranges);
		if (!*map) {
			dma_buf_phys_unmap(binding->attach);
			r = -ENOMEM;
		}
	}
	dma_buf_phys_free_ranges(ranges);

	return r;
}

static void kvm_dmabuf_publish(struct kvm_dmabuf_binding *binding,
			       struct kvm_dmabuf_map *map)
{
	struct kvm *kvm = binding->kvm;

	dma_resv_assert_held(binding->dmabuf->resv);

	KVM_MMU_LOCK(kvm);
	rcu_assign_pointer(binding->map, map);
	KVM_MMU_UNLOCK(kvm);

	/* It was another one, if it is still here. */
	kvfree_rcu(binding->revoked_map, rcu);
	binding->revoked_map = NULL;
}

/*
 * The incarnation of the binding's slot that is installed now, or NULL when
 * there is none, before creation and after deletion.  mmu_lock orders this
 * against faults: a fault that put an entry into a page table before mmu_lock
 * was taken saw the slot in the memslots, so the caller does, too.
 */
static struct kvm_memory_slot *
kvm_dmabuf_slot(const struct kvm_dmabuf_binding *binding)
{
	struct kvm_memslots *slots = __kvm_memslots(binding->kvm, binding->as_id);
	struct kvm_memory_slot *slot = id_to_memslot(slots, binding->slot_id);

	if (!slot || !kvm_slot_is_dmabuf(slot) || slot->dmabuf != binding)
		return NULL;
	return slot;
}

static void kvm_dmabuf_reset_reach(struct kvm_dmabuf_binding *binding)
{
	if (KVM_ARCH_TELLS_DMABUF_REACH) {
		WRITE_ONCE(binding->reach_start, ~0ull);
		WRITE_ONCE(binding->reach_end, 0);
	} else {
		binding->reach_start = binding->base_gfn;
		binding->reach_end = binding->base_gfn + binding->npages;
	}
}

/* With mmu_lock released and nothing mapped any more. */
static void kvm_dmabuf_revoked(struct kvm_dmabuf_binding *binding)
{
	if (!binding->attach->mapped)
		return;

	trace_kvm_dmabuf_revoke(binding->as_id, binding->slot_id,
				binding->base_gfn, binding->npages, 0);
	dma_buf_phys_unmap(binding->attach);
}

/*
 * Take the map from faults that are to come.  All of the slot is being
 * invalidated, whatever there is of it to zap.
 */
static void kvm_dmabuf_hide(struct kvm_dmabuf_binding *binding)
{
	struct kvm *kvm = binding->kvm;

	/* It could not be restored the last time. */
	if (!binding->attach->mapped)
		return;

	binding->revoked_map = rcu_replace_pointer(binding->map, NULL,
						   lockdep_is_held(&kvm->mmu_lock));
	kvm->stat.generic.dmabuf_revocations++;
	kvm_mmu_invalidate_range_add(kvm, binding->base_gfn,
				     binding->base_gfn + binding->npages);
}

/* With no more pages to zap, do not look after each whether to drop mmu_lock. */
#define KVM_DMABUF_ZAP_AT_ONCE	512

/* Returns whether TLBs have to be flushed before the invalidation ends. */
static bool kvm_dmabuf_zap(struct kvm_dmabuf_binding *binding)
{
	struct kvm_gfn_range range = {
		.start = READ_ONCE(binding->reach_start),
		.end = READ_ONCE(binding->reach_end),
		.attr_filter = KVM_FILTER_SHARED | KVM_FILTER_PRIVATE,
	};

	/* What faults add from here on is not mapped, they are stale. */
	kvm_dmabuf_reset_reach(binding);
	if (range.start >= range.end)
		return false;

	/* Where the reach is not told there may be more to zap than that. */
	range.may_block = !KVM_ARCH_TELLS_DMABUF_REACH ||
			  range.end - range.start > KVM_DMABUF_ZAP_AT_ONCE ||
			  !list_empty(&binding->siblings);
	range.slot = kvm_dmabuf_slot(binding);
	return range.slot && kvm_mmu_unmap_gfn_range(binding->kvm, &range);
}

/*
 * The buffer's bindings to this VM, with mmu_lock held for write.  A fault that
 * read an old map is told by mmu_invalidate_seq to start over, and then finds
 * none.
 *
 * Zapping may drop mmu_lock to let others run.  Faults on the slots and on what
 * is between them retry while it does, which is as long as it takes to zap.
 */
static void kvm_dmabuf_invalidate_locked(struct kvm_dmabuf_binding *first)
{
	struct kvm_dmabuf_binding *binding = first;
	struct kvm *kvm = first->kvm;
	bool flush = false;

	kvm_mmu_invalidate_start(kvm);
	do {
		kvm_dmabuf_hide(binding);
		binding = list_next_entry(binding, siblings);
	} while (binding != first);

	do {
		flush |= kvm_dmabuf_zap(binding);
		binding = list_next_entry(binding, siblings);
	} while (binding != first);
	if (flush)
		kvm_flush_remote_tlbs(kvm);

	/*
	 * Who samples the mmu_invalidate_seq that is about to be written must
	 * not see an old map, nor widen a reach that was not yet reset.  Pairs
	 * with the smp_rmb() after sampling it in the page fault handlers.
	 */
	smp_wmb();
	kvm_mmu_invalidate_end(kvm);
}

/*
 * The exporter takes the memory back, from all importers one after another.  The
 * first slot of a VM that it gets to takes all of them along, which flushes TLBs
 * and takes mmu_lock once.
 */
static void kvm_dmabuf_invalidate(struct dma_buf_phys_attachment *attach)
{
	struct kvm_dmabuf_binding *first = attach->priv, *binding = first;
	struct kvm *kvm = first->kvm;
	int idx;

	dma_resv_assert_held(first->dmabuf->resv);

	idx = srcu_read_lock(&kvm->srcu);
	KVM_MMU_LOCK(kvm);
	kvm_dmabuf_invalidate_locked(first);
	KVM_MMU_UNLOCK(kvm);
	srcu_read_unlock(&kvm->srcu, idx);

	do {
		kvm_dmabuf_revoked(binding);
		binding = list_next_entry(binding, siblings);
	} while (binding != first);
}

/*
 * The memory is back, perhaps elsewhere.  Nothing is mapped into the guest, it
 * faults in again.  If this fails the slot stays revoked.
 */
static int kvm_dmabuf_restore(struct dma_buf_phys_attachment *attach)
{
	struct kvm_dmabuf_binding *binding = attach->priv;
	struct kvm_dmabuf_map *map;
	int r;

	dma_resv_assert_held(binding->dmabuf->resv);

	/* Commit is still to come, and will find the buffer restored. */
	if (!binding->committed)
		return 0;

	r = kvm_dmabuf_map_slice(binding, &map);
	if (!r)
		kvm_dmabuf_publish(binding, map);

	trace_kvm_dmabuf_restore(binding->as_id, binding->slot_id,
				 binding->base_gfn, binding->npages, r);
	return r;
}

/*
 * DMA_BUF_PHYS_PRIVATE is not among the attributes: only a VM type that knows
 * how to accept private MMIO could honour it.
 */
#define KVM_DMABUF_ATTRS (DMA_BUF_PHYS_READ | DMA_BUF_PHYS_WRITE | \
			  DMA_BUF_PHYS_MMIO | DMA_BUF_PHYS_WC | \
			  DMA_BUF_PHYS_NO_HOST)

#define KVM_DMABUF_IMPORTER(_attrs) {					\
	.name = "kvm",							\
	.caps = {							\
		.spaces = DMA_BUF_PHYS_SPACE_CPU,			\
		.models = DMA_BUF_PHYS_DYNAMIC | DMA_BUF_PHYS_REVOCABLE | \
			  DMA_BUF_PHYS_PINNED,				\
		.attrs = (_attrs),					\
		.granule = PAGE_SIZE,					\
	},								\
	.invalidate = kvm_dmabuf_invalidate,				\
	.restore = kvm_dmabuf_restore,					\
}

static const struct dma_buf_phys_importer kvm_dmabuf_importer =
	KVM_DMABUF_IMPORTER(KVM_DMABUF_ATTRS | DMA_BUF_PHYS_CACHED);

/* For VMs that cannot map device memory cacheable. */
static const struct dma_buf_phys_importer kvm_dmabuf_importer_uncached =
	KVM_DMABUF_IMPORTER(KVM_DMABUF_ATTRS);

/**
 * kvm_dmabuf_supported_flags - what KVM_CAP_DMABUF_MEM says
 * @kvm: the VM, or NULL for one of the default type
 *
 * Return: the flags that a slot of a dma-buf can have, KVM_MEM_DMABUF among them,
 * or 0 if there can be no such slot.
 */
u32 kvm_dmabuf_supported_flags(struct kvm *kvm)
{
	bool emulates = IS_ENABLED(CONFIG_HAVE_KVM_READONLY_MEM);
	u32 flags = KVM_MEM_DMABUF;

	if (!kvm_arch_supports_dmabuf(kvm))
		return 0;

	/* Both take a guest whose loads and stores KVM can emulate. */
	if (kvm)
		emulates = kvm_arch_has_readonly_mem(kvm);
	if (emulates)
		flags |= KVM_MEM_READONLY | KVM_MEM_REVOKED_MMIO;

	return flags;
}

static int kvm_dmabuf_check_file(const struct kvm_memory_slot *slot,
				 const struct dma_buf *dmabuf, u64 offset)
{
	u64 size = (u64)slot->npages << PAGE_SHIFT;

	if (!PAGE_ALIGNED(offset) || offset >= dmabuf->size ||
	    size > dmabuf->size - offset)
		return -EINVAL;
	if (!(dmabuf->file->f_mode & FMODE_READ))
		return -EPERM;
	if (!(slot->flags & KVM_MEM_READONLY) &&
	    !(dmabuf->file->f_mode & FMODE_WRITE))
		return -EPERM;
	return 0;
}

/**
 * kvm_dmabuf_bind - make a slot that is being created one of a dma-buf
 * @kvm: the VM
 * @slot: the new slot, not installed, its gfns, size, id and flags set
 * @fd: of the dma-buf
 * @offset: where in the buffer the slot begins, in bytes
 *
 * On success @slot owns the binding, until kvm_dmabuf_unbind().
 *
 * Context: slots_lock held, no lock ordered behind it.
 *
 * Return: 0, or a negative errno with nothing changed:
 *
 * * -EBADF - @fd is not open
 * * -EINVAL - @fd is not a dma-buf, or the slice is unaligned or not inside it
 * * -EPERM - @fd was not opened for reading, or not for writing and @slot is
 *   not read-only
 * * -EOPNOTSUPP - this type of VM cannot take dma-bufs, or the exporter and KVM
 *   have no common ground
 * * -ENOMEM - out of memory
 */
int kvm_dmabuf_bind(struct kvm *kvm, struct kvm_memory_slot *slot, int fd,
		    u64 offset)
{
	const struct dma_buf_phys_importer *importer;
	struct kvm_dmabuf_binding *binding;
	int r;

	lockdep_assert_held(&kvm->slots_lock);

	if (!kvm_dmabuf_supported_flags(kvm))
		return -EOPNOTSUPP;

	binding = kzalloc_obj(*binding, GFP_KERNEL_ACCOUNT);
	if (!binding)
		return -ENOMEM;

	binding->dmabuf = dma_buf_get(fd);
	if (IS_ERR(binding->dmabuf)) {
		r = PTR_ERR(binding->dmabuf);
		goto err_free;
	}

	r = kvm_dmabuf_check_file(slot, binding->dmabuf, offset);
	if (r)
		goto err_put;

	binding->kvm = kvm;
	binding->offset = offset;
	binding->size = (u64)slot->npages << PAGE_SHIFT;
	binding->base_gfn = slot->base_gfn;
	binding->npages = slot->npages;
	binding->as_id = slot->as_id;
	binding->slot_id = slot->id;
	binding->readonly = slot->flags & KVM_MEM_READONLY;
	INIT_LIST_HEAD(&binding->siblings);
	kvm_dmabuf_reset_reach(binding);

	importer = kvm_arch_supports_cached_dmabuf(kvm) ?
		   &kvm_dmabuf_importer : &kvm_dmabuf_importer_uncached;
	binding->attach = dma_buf_phys_attach(binding->dmabuf, importer, binding);
	if (IS_ERR(binding->attach)) {
		r = PTR_ERR(binding->attach);
		goto err_put;
	}

	slot->dmabuf = binding;
	return 0;

err_put:
	dma_buf_put(binding->dmabuf);
err_free:
	kfree(binding);
	return r;
}

/* Join those of the VM's bindings that are revoked along with this one. */
static void kvm_dmabuf_link(struct kvm_dmabuf_binding *binding)
{
	struct kvm *kvm = binding->kvm;
	struct kvm_dmabuf_binding *other;

	lockdep_assert_held(&kvm->slots_lock);
	dma_resv_assert_held(binding->dmabuf->resv);

	hlist_for_each_entry(other, &kvm->dmabuf_bindings, vm_node) {
		if (other->dmabuf == binding->dmabuf) {
			list_add_tail(&binding->siblings, &other->siblings);
			break;
		}
	}
	hlist_add_head(&binding->vm_node, &kvm->dmabuf_bindings);
}

/* Nobody else has slots_lock, or the VM has no users. */
static void kvm_dmabuf_unlink(struct kvm_dmabuf_binding *binding)
{
	dma_resv_lock(binding->dmabuf->resv, NULL);
	hlist_del_init(&binding->vm_node);
	list_del_init(&binding->siblings);
	dma_resv_unlock(binding->dmabuf->resv);
}

/*
 * Committing a buffer that is revoked now succeeds, without a map.  Publishing
 * happens in either case: it takes mmu_lock inside dma_resv, and so tells
 * lockdep the order before the first revocation does.
 */
static int kvm_dmabuf_commit_locked(struct kvm_dmabuf_binding *binding)
{
	struct kvm_dmabuf_map *map = NULL;
	int r;

	r = kvm_dmabuf_map_slice(binding, &map);
	if (r && r != -EAGAIN)
		return r;

	if (map) {
		r = kvm_dmabuf_check_map(binding, map);
		if (r) {
			dma_buf_phys_unmap(binding->attach);
			kvfree_rcu(map, rcu);
			return r;
		}
	}

	kvm_dmabuf_publish(binding, map);
	binding->committed = true;
	kvm_dmabuf_link(binding);
	return 0;
}

/**
 * kvm_dmabuf_commit - map the slice, now that the slot can be zapped
 * @kvm: the VM
 * @slot: the slot that was bound, with its architecture's metadata, about to be
 *	installed
 *
 * Context: slots_lock and slots_arch_lock held; takes dma_resv.
 *
 * Return: 0, also if the buffer is revoked now, or a negative errno:
 *
 * * -EPERM - a range of the slice cannot be read, or not be written and @slot
 *   is not read-only
 * * -ENODEV - the buffer's owner is gone
 * * -EIO, -EOVERFLOW, -ENOMEM - see dma_buf_phys_map()
 */
int kvm_dmabuf_commit(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_dmabuf_binding *binding = slot->dmabuf;
	int r;

	lockdep_assert_held(&kvm->slots_lock);
	lockdep_assert_held(&kvm->slots_arch_lock);

	dma_resv_lock(binding->dmabuf->resv, NULL);
	r = kvm_dmabuf_commit_locked(binding);
	dma_resv_unlock(binding->dmabuf->resv);

	trace_kvm_dmabuf_bind(slot->as_id, slot->id, slot->base_gfn,
			      slot->npages, r);
	return r;
}

/**
 * kvm_dmabuf_unbind - let go of the buffer
 * @slot: not installed any more, or of a VM that is being destroyed; one that
 *	is not bound is left as it is
 *
 * The slot's pages were zapped, and nobody faults on it: either SRCU was
 * synchronized since the slot could be found, or there are no vCPUs.
 *
 * Context: may sleep, takes dma_resv.
 */
void kvm_dmabuf_unbind(struct kvm_memory_slot *slot)
{
	struct kvm_dmabuf_binding *binding = slot->dmabuf;
	struct kvm_dmabuf_map *map;

	if (!binding)
		return;

	slot->dmabuf = NULL;
	kvm_dmabuf_unlink(binding);
	dma_buf_phys_detach(binding->attach);
	trace_kvm_dmabuf_unbind(binding->as_id, binding->slot_id,
				binding->base_gfn, binding->npages, 0);
	dma_buf_put(binding->dmabuf);

	map = rcu_dereference_protected(binding->map, true);
	kvfree_rcu(map, rcu);
	kvfree_rcu(binding->revoked_map, rcu);
	kfree(binding);
}

/**
 * kvm_dmabuf_unbind_all - unbind every slot of a VM that is being destroyed
 * @kvm: the VM, without users
 *
 * The exporters' callbacks use the VM's memslots and page tables, so they have
 * to be shut up before either is torn down.
 *
 * Context: may sleep, takes dma_resv.
 */
void kvm_dmabuf_unbind_all(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int i, bkt;

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i))
			kvm_dmabuf_unbind(slot);
}

/*
 * The largest naturally aligned block that contains @page, within which gfn and
 * pfn advance together, and that stays inside the range.
 */
static unsigned int
kvm_dmabuf_max_order(const struct kvm_dmabuf_range *range, gfn_t base_gfn,
		     gfn_t page)
{
	gfn_t gfn = base_gfn + page;
	gfn_t start = base_gfn + range->start;
	gfn_t skew = start ^ range->pfn;
	unsigned int order = ilog2(range->npages);

	if (skew)
		order = min_t(unsigned int, order, __ffs64(skew));

	for (; order; order--) {
		gfn_t first = ALIGN_DOWN(gfn, BIT_ULL(order));

		if (first >= start &&
		    first + BIT_ULL(order) <= start + range->npages)
			break;
	}
	return order;
}

/**
 * kvm_dmabuf_get_pfn - where a guest page of a dma-buf slot is
 * @kvm: the VM
 * @slot: a slot for which kvm_slot_is_dmabuf() is true
 * @gfn: the page, in @slot
 * @page: filled in on success
 *
 * What is returned is true for as long as the caller holds mmu_lock.  If it
 * does not, it has to have sampled mmu_invalidate_seq before the call, and check
 * it with mmu_lock held before it uses the result.
 *
 * Context: any; kvm->srcu or mmu_lock held.  Takes no lock.
 *
 * Return: 0, or -EFAULT if the buffer is revoked.
 */
int kvm_dmabuf_get_pfn(struct kvm *kvm, const struct kvm_memory_slot *slot,
		       gfn_t gfn, struct kvm_dmabuf_page *page)
{
	const struct kvm_dmabuf_binding *binding = slot->dmabuf;
	const struct kvm_dmabuf_range *range;
	const struct kvm_dmabuf_map *map;
	gfn_t index = gfn - slot->base_gfn;

	guard(rcu)();

	map = rcu_dereference(binding->map);
	if (!map)
		return -EFAULT;

	range = kvm_dmabuf_find_range(map, index);
	if (KVM_BUG_ON(!range, kvm))
		return -EFAULT;

	page->pfn = range->pfn + (index - range->start);
	page->nr = range->npages - (index - range->start);
	page->max_order = kvm_dmabuf_max_order(range, slot->base_gfn, index);
	page->mmio = range->attrs & DMA_BUF_PHYS_MMIO;
	page->cached = range->attrs & DMA_BUF_PHYS_CACHED;
	page->wc = range->attrs & DMA_BUF_PHYS_WC;
	page->readable = range->attrs & DMA_BUF_PHYS_READ;
	page->writable = !binding->readonly &&
			 (range->attrs & DMA_BUF_PHYS_WRITE);
	return 0;
}

/**
 * kvm_dmabuf_will_map - tell what a fault is about to map
 * @slot: a slot for which kvm_slot_is_dmabuf() is true
 * @start: first gfn of the largest leaf that the fault may result in
 * @end: behind its last gfn, or behind that of several leaves
 *
 * A revocation zaps nothing but what lies between the lowest and the highest gfn
 * that it was told of, which makes it cheap where little of a large slot is
 * mapped.  To be called by architectures that define KVM_ARCH_TELLS_DMABUF_REACH
 * before anything that kvm_dmabuf_get_pfn() told is mapped, and under the same
 * condition: mmu_lock is held, or mmu_invalidate_seq was sampled before.
 *
 * Context: any; kvm->srcu or mmu_lock held.  Takes no lock.
 *
 * Return: true if @start is right behind the highest gfn until now, so that the
 * guest may be going through the slot.
 */
bool kvm_dmabuf_will_map(const struct kvm_memory_slot *slot, gfn_t start,
			 gfn_t end)
{
	struct kvm_dmabuf_binding *binding = slot->dmabuf;
	gfn_t old_start = READ_ONCE(binding->reach_start);
	gfn_t old_end = READ_ONCE(binding->reach_end);
	bool next = old_end && start == old_end;

	while (start < old_start &&
	       !try_cmpxchg64(&binding->reach_start, &old_start, start))
		;
	while (end > old_end &&
	       !try_cmpxchg64(&binding->reach_end, &old_end, end))
		;
	return next;
}

MODULE_IMPORT_NS("DMA_BUF");
