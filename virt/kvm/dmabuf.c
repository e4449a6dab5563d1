// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots backed by a dma-buf
 *
 * A memslot with KVM_MEM_DMABUF is a window onto a slice of a dma-buf, usually
 * a PCI BAR that vfio-pci exported.  There is no host virtual address, no VMA
 * and no struct page: KVM's mapping type, see virt/lib/kvm_dmabuf_table.c, makes
 * an opaque table of the slice, in which a page fault looks up its page.  The
 * pfn goes into the fault and from there into the page table, and nowhere else.
 * The exporter takes the memory back whenever it has to.
 *
 * The object is the binding, &struct kvm_dmabuf_binding, allocated when the
 * slot is created and freed with it.  kvm_memory_slot.dmabuf points to it from
 * every incarnation of the slot, that is from the copy marked INVALID as well.
 * The truth about the memory is binding->live: the table of the slice, or NULL
 * while the buffer is revoked.  There is no third state.  A page fault on a
 * revoked slot is an error to userspace or, if that asked for it, an emulated
 * access.  It is never a retry, and nothing in KVM waits for the memory to come
 * back.
 *
 * The life of a binding is three verbs, as for guest_memfd:
 *
 *  bind	takes the reference to the buffer, attaches, checks what can be
 *		checked, and makes the table.  From here on the slot is revoked
 *		and restored along with the buffer, even before and after it is
 *		visible to vCPUs.
 *  get_pfn	what the page fault handlers use.
 *  unbind	detach, after which no callback runs, and free.
 *
 * KVM imports with the models pinned and restorable.  It could not live with one
 * in which it would have to map again by itself: the fault path takes no
 * dma_resv.
 *
 * Locks:
 *
 *  slots_lock > dma_resv > mmu_lock
 *
 *  - binding->live is written under dma_resv *and* mmu_lock held for write, and
 *    read under mmu_lock or RCU.  Who reads it without mmu_lock has to have
 *    sampled mmu_invalidate_seq before, and to check it once mmu_lock is held,
 *    before the result is put into a page table.
 *  - binding->table, ->ready, ->tried and ->siblings are protected by dma_resv.
 *  - kvm->dmabuf_bindings is protected by slots_lock.
 *  - binding->reach_start and ->reach_end are only widened by faults, which
 *    race with each other, and reset with mmu_lock held for write.
 *  - binding->reach_pages, ->former_start and ->former_end are hints.  Faults
 *    write the first and read the others without a lock; the latter are written
 *    with mmu_lock held for write.
 *  - Everything else in a binding is constant.
 *  - The fault path takes no dma_resv, ever: vCPUs hold kvm->srcu, and exporters
 *    hold dma_resv while they wait for whatever they wait for.
 *  - dma_resv is not taken under slots_arch_lock, and is never held over
 *    kvm_swap_active_memslots() or any other SRCU synchronization.  The
 *    callbacks are SRCU readers, as the mmu_notifier is.
 *
 * Invariants:
 *
 *  - While binding->live is NULL, no page table of the VM maps the slice, once
 *    mmu_lock was released with no invalidation in progress.
 *  - An invalidation is in progress only inside the invalidate callback.  Were
 *    one left in progress while the buffer is revoked, every fault of the VM
 *    could retry for as long as the device sleeps.
 *  - A slot that is not installed is never zapped: nothing can have faulted on
 *    it, and the architecture may not have its metadata yet.
 *  - A gfn that is mapped is in the reach of its binding.
 *  - A gfn is mapped only while its attribute, of VMs that have private gfns,
 *    is what the memory is, private or shared.  The memory changes only while
 *    binding->live is NULL, and the attribute only in an invalidation of its own
 *    that zaps the gfn.  So what the page fault handler compares after it has
 *    sampled mmu_invalidate_seq is right when it maps.
 *  - A binding holds a reference to the buffer, and nothing holds one to KVM:
 *    the VM can go away at any time and so can the device.
 */

#include <linux/dma-buf.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/kvm_dmabuf_table.h>
#include <linux/kvm_dmabuf_type.h>
#include <linux/kvm_host.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include <trace/events/kvm.h>

#include "kvm_mm.h"
#include "dmabuf.h"

struct kvm_dmabuf_binding {
	struct kvm *kvm;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	/* Whom a table is charged to, whoever restores the buffer */
	struct mem_cgroup *memcg;
	/* The slice, in bytes of the buffer */
	u64 offset;
	u64 size;
	/* Whose binding it is, see kvm_dmabuf_slot() */
	gfn_t base_gfn;
	u64 npages;
	u16 as_id;
	short slot_id;
	bool readonly;
	/* The table is true and about to be published */
	bool ready;
	/* Some sibling's callback has tried to restore it since it was revoked */
	bool tried;
	/* Where the memory is or, while the buffer is revoked, was */
	struct kvm_dmabuf_table *table;
	/* The table while the memory can be mapped, else NULL */
	struct kvm_dmabuf_table __rcu *live;
	/* Entry in kvm->dmabuf_bindings */
	struct hlist_node vm_node;
	/* The other bindings of the VM to the same buffer */
	struct list_head siblings;
	/* Gfns that may be mapped, see kvm_dmabuf_will_map() */
	gfn_t reach_start;
	gfn_t reach_end;
	/* How many they are if no fault came twice */
	u64 reach_pages;
	/* What the guest had when it was revoked, see kvm_dmabuf_had_mapped() */
	gfn_t former_start;
	gfn_t former_end;
};

static bool kvm_dmabuf_is_live(const struct kvm_dmabuf_binding *binding)
{
	dma_resv_assert_held(binding->dmabuf->resv);

	return rcu_access_pointer(binding->live);
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
		WRITE_ONCE(binding->reach_pages, 0);
	} else {
		binding->reach_start = binding->base_gfn;
		binding->reach_end = binding->base_gfn + binding->npages;
	}
}

/*
 * Take the table from faults that are to come.  All of the slot is being
 * invalidated, whatever there is of it to zap.
 */
static void kvm_dmabuf_hide(struct kvm_dmabuf_binding *binding)
{
	struct kvm *kvm = binding->kvm;

	binding->tried = false;

	/* It could not be restored the last time. */
	if (!kvm_dmabuf_is_live(binding))
		return;

	trace_kvm_dmabuf_revoke(binding->as_id, binding->slot_id,
				binding->base_gfn, binding->npages, 0);
	rcu_assign_pointer(binding->live, NULL);
	kvm->stat.generic.dmabuf_revocations++;
	kvm_mmu_invalidate_range_add(kvm, binding->base_gfn,
				     binding->base_gfn + binding->npages);
}

/*
 * A guest that had most of a range will want all of it back, and one that had some
 * pages here and there will not.
 */
static void kvm_dmabuf_remember(struct kvm_dmabuf_binding *binding,
				gfn_t start, gfn_t end)
{
	bool most = READ_ONCE(binding->reach_pages) >= (end - start) / 2;

	WRITE_ONCE(binding->former_start, most ? start : 0);
	WRITE_ONCE(binding->former_end, most ? end : 0);
}

/*
 * Returns whether the guest may have had something mapped.  @flush is set if TLBs
 * have to be flushed before the invalidation ends.
 */
static bool kvm_dmabuf_zap(struct kvm_dmabuf_binding *binding, bool *flush)
{
	struct kvm_gfn_range range = {
		.start = READ_ONCE(binding->reach_start),
		.end = READ_ONCE(binding->reach_end),
		.attr_filter = KVM_FILTER_SHARED | KVM_FILTER_PRIVATE,
		.may_block = true,
	};

	if (range.start < range.end)
		kvm_dmabuf_remember(binding, range.start, range.end);

	/* What faults add from here on is not mapped, they are stale. */
	kvm_dmabuf_reset_reach(binding);
	if (range.start >= range.end)
		return false;

	range.slot = kvm_dmabuf_slot(binding);
	if (!range.slot)
		return false;

	*flush |= kvm_arch_unmap_dmabuf(binding->kvm, &range);
	return true;
}

/*
 * The buffer's bindings to this VM, with mmu_lock held for write.  A fault that
 * read an old table is told by mmu_invalidate_seq to start over, and then finds
 * none.
 *
 * Zapping may drop mmu_lock to let others run.  Faults on the slots and on what
 * is between them retry while it does, which is as long as it takes to zap.
 */
static void kvm_dmabuf_invalidate_locked(struct kvm_dmabuf_binding *first)
{
	struct kvm_dmabuf_binding *binding = first;
	bool zapped = false, flush = false;
	struct kvm *kvm = first->kvm;

	kvm_mmu_invalidate_start(kvm);
	do {
		kvm_dmabuf_hide(binding);
		binding = list_next_entry(binding, siblings);
	} while (binding != first);

	do {
		zapped |= kvm_dmabuf_zap(binding, &flush);
		binding = list_next_entry(binding, siblings);
	} while (binding != first);
	if (zapped)
		flush |= kvm_arch_finish_unmap_dmabuf(kvm);
	if (flush)
		kvm_flush_remote_tlbs(kvm);

	/*
	 * Who samples the mmu_invalidate_seq that is about to be written must
	 * not see an old table, nor widen a reach that was not yet reset.  Pairs
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
static void kvm_dmabuf_invalidate(struct dma_buf_attachment *attach)
{
	struct kvm_dmabuf_binding *binding = attach->importer_priv;
	struct kvm *kvm = binding->kvm;
	int idx;

	dma_resv_assert_held(binding->dmabuf->resv);

	if (!kvm_dmabuf_is_live(binding))
		return;

	idx = srcu_read_lock(&kvm->srcu);
	KVM_MMU_LOCK(kvm);
	kvm_dmabuf_invalidate_locked(binding);
	KVM_MMU_UNLOCK(kvm);
	srcu_read_unlock(&kvm->srcu, idx);

	/*
	 * The exporter's next user must not find its memory overwritten by what
	 * a guest with encrypted memory left in the caches.  As in the callback
	 * of mmu_notifier this is slow and wants no mmu_lock.
	 */
	kvm_arch_guest_memory_reclaimed(kvm);
}

/*
 * See to it that the table is true.  For memory that comes back to where it was
 * this takes no time, allocates nothing and cannot fail.  Otherwise it is paid for
 * by who made the slot.  The exporter may hold up others: do not kill a process
 * for the memory.
 */
static int kvm_dmabuf_prepare(struct kvm_dmabuf_binding *binding)
{
	struct mem_cgroup *old_memcg = set_active_memcg(binding->memcg);
	int r;

	r = kvm_dmabuf_table_map(binding->attach, binding->offset,
				 binding->size,
				 GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL,
				 &binding->table);
	set_active_memcg(old_memcg);

	binding->ready = !r;
	return r;
}

/*
 * Let faults find the tables of those of the VM's bindings to the buffer that are
 * ready.
 */
static void kvm_dmabuf_publish(struct kvm_dmabuf_binding *first)
{
	struct kvm_dmabuf_binding *binding = first;
	struct kvm *kvm = first->kvm;

	dma_resv_assert_held(first->dmabuf->resv);

	KVM_MMU_LOCK(kvm);
	do {
		if (binding->ready)
			rcu_assign_pointer(binding->live, binding->table);
		binding->ready = false;
		binding = list_next_entry(binding, siblings);
	} while (binding != first);
	KVM_MMU_UNLOCK(kvm);
}

static int kvm_dmabuf_restore_one(struct kvm_dmabuf_binding *binding)
{
	int r = kvm_dmabuf_prepare(binding);

	trace_kvm_dmabuf_restore(binding->as_id, binding->slot_id,
				 binding->base_gfn, binding->npages, r);
	return r;
}

/*
 * The memory is back, perhaps elsewhere.  Nothing is mapped into the guest, it
 * faults in again.  The first slot of a VM takes all of them along, as in
 * kvm_dmabuf_invalidate().  What fails stays revoked; a sibling that fails here
 * gets to say so when it is called itself, and tries once more.
 */
static int kvm_dmabuf_restore(struct dma_buf_attachment *attach)
{
	struct kvm_dmabuf_binding *first = attach->importer_priv;
	struct kvm_dmabuf_binding *binding;
	int r;

	dma_resv_assert_held(first->dmabuf->resv);

	if (kvm_dmabuf_is_live(first))
		return 0;

	first->tried = true;
	r = kvm_dmabuf_restore_one(first);

	list_for_each_entry(binding, &first->siblings, siblings) {
		if (binding->tried || kvm_dmabuf_is_live(binding))
			continue;
		/* As between importers: what is left counts as not restored. */
		if (fatal_signal_pending(current))
			break;
		binding->tried = true;
		kvm_dmabuf_restore_one(binding);
	}
	kvm_dmabuf_publish(first);

	return r;
}

static const struct dma_buf_attach_ops kvm_dmabuf_attach_ops = {
	.invalidate_mappings = kvm_dmabuf_invalidate,
	.mappings_restored = kvm_dmabuf_restore,
};

static const struct dma_buf_match kvm_dmabuf_matches[] = {
	{ .type = &kvm_dmabuf_type, .model = DMA_BUF_MODEL_PINNED,
	  .private = true },
	{ .type = &kvm_dmabuf_type, .model = DMA_BUF_MODEL_RESTORABLE,
	  .private = true },
};

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
 * Publishing happens also if the buffer is revoked: it takes mmu_lock inside
 * dma_resv, and so tells lockdep the order before the first revocation does.
 */
static int kvm_dmabuf_map_slice(struct kvm_dmabuf_binding *binding)
{
	int r;

	dma_resv_assert_held(binding->dmabuf->resv);

	r = kvm_dmabuf_prepare(binding);
	if (r && r != -EAGAIN)
		return r;

	r = kvm_dmabuf_table_check(binding->table, !binding->readonly,
				   kvm_arch_supports_cached_dmabuf(binding->kvm));
	if (r)
		return r;

	kvm_dmabuf_link(binding);
	kvm_dmabuf_publish(binding);
	return 0;
}

/*
 * The exporter can hold dma_resv for as long as its device takes: let a signal end
 * the wait.
 */
static int kvm_dmabuf_attach(struct kvm_dmabuf_binding *binding)
{
	struct dma_buf *dmabuf = binding->dmabuf;
	int r;

	r = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (r)
		return r;

	binding->attach = dma_buf_mapping_attach_locked(dmabuf,
							kvm_dmabuf_matches,
							ARRAY_SIZE(kvm_dmabuf_matches),
							&kvm_dmabuf_attach_ops,
							binding);
	if (IS_ERR(binding->attach)) {
		dma_resv_unlock(dmabuf->resv);
		return PTR_ERR(binding->attach);
	}
	r = kvm_dmabuf_map_slice(binding);
	dma_resv_unlock(dmabuf->resv);

	if (r)
		dma_buf_detach(dmabuf, binding->attach);
	return r;
}

static void kvm_dmabuf_free(struct kvm_dmabuf_binding *binding)
{
	kvm_dmabuf_table_free(binding->table);
	mem_cgroup_put(binding->memcg);
	dma_buf_put(binding->dmabuf);
	kfree(binding);
}

static struct kvm_dmabuf_binding *
kvm_dmabuf_alloc(struct kvm *kvm, const struct kvm_memory_slot *slot, int fd,
		 u64 offset)
{
	struct kvm_dmabuf_binding *binding;
	struct dma_buf *dmabuf;

	dmabuf = dma_buf_get(fd);
	if (IS_ERR(dmabuf))
		return ERR_CAST(dmabuf);

	binding = kzalloc_obj(*binding, GFP_KERNEL_ACCOUNT);
	if (!binding) {
		dma_buf_put(dmabuf);
		return ERR_PTR(-ENOMEM);
	}

	binding->kvm = kvm;
	binding->dmabuf = dmabuf;
	binding->memcg = get_mem_cgroup_from_mm(current->mm);
	binding->offset = offset;
	binding->size = (u64)slot->npages << PAGE_SHIFT;
	binding->base_gfn = slot->base_gfn;
	binding->npages = slot->npages;
	binding->as_id = slot->as_id;
	binding->slot_id = slot->id;
	binding->readonly = slot->flags & KVM_MEM_READONLY;
	INIT_LIST_HEAD(&binding->siblings);
	kvm_dmabuf_reset_reach(binding);
	return binding;
}

/**
 * kvm_dmabuf_bind - make a slot that is being created one of a dma-buf
 * @kvm: the VM
 * @slot: the new slot, not installed, its gfns, size, id and flags set
 * @fd: of the dma-buf
 * @offset: where in the buffer the slot begins, in bytes
 *
 * On success @slot owns the binding, until kvm_dmabuf_unbind(), and is revoked
 * and restored with the buffer.  Binding to a buffer that is revoked now
 * succeeds.
 *
 * Context: slots_lock held, not slots_arch_lock; takes dma_resv.
 *
 * Return: 0, or a negative errno with nothing changed:
 *
 * * -EBADF - @fd is not open
 * * -EINVAL - @fd is not a dma-buf, or the slice is unaligned or not inside it
 * * -EPERM - @fd was not opened for reading, or not for writing and @slot is
 *   not read-only; or the same is true of a part of the slice
 * * -EOPNOTSUPP - this type of VM cannot take dma-bufs, or not those that have to
 *   be mapped cacheable, or the exporter and KVM have no common ground
 * * -ENODEV - the buffer's owner is gone
 * * -EINTR - a signal ended the wait for the exporter, which is busy, or for its
 *   device
 * * -EIO - the exporter violates its contract
 * * -EOVERFLOW - the slice is in too many pieces
 * * -ENOMEM - out of memory
 */
int kvm_dmabuf_bind(struct kvm *kvm, struct kvm_memory_slot *slot, int fd,
		    u64 offset)
{
	struct kvm_dmabuf_binding *binding;
	int r;

	lockdep_assert_held(&kvm->slots_lock);
	lockdep_assert_not_held(&kvm->slots_arch_lock);

	if (!kvm_dmabuf_supported_flags(kvm))
		return -EOPNOTSUPP;

	binding = kvm_dmabuf_alloc(kvm, slot, fd, offset);
	if (IS_ERR(binding))
		return PTR_ERR(binding);

	r = kvm_dmabuf_check_file(slot, binding->dmabuf, offset);
	if (!r)
		r = kvm_dmabuf_attach(binding);

	trace_kvm_dmabuf_bind(slot->as_id, slot->id, slot->base_gfn,
			      slot->npages, r);
	if (r) {
		kvm_dmabuf_free(binding);
		return r;
	}

	slot->dmabuf = binding;
	return 0;
}

/**
 * kvm_dmabuf_unbind - let go of the buffer
 * @slot: not installed, or not any more, or of a VM that is being destroyed; one
 *	that is not bound is left as it is
 *
 * The slot's pages were zapped, and nobody faults on it: it was never installed,
 * or SRCU was synchronized since it could be found, or there are no vCPUs.
 *
 * Context: may sleep, takes dma_resv; not under slots_arch_lock.
 */
void kvm_dmabuf_unbind(struct kvm_memory_slot *slot)
{
	struct kvm_dmabuf_binding *binding = slot->dmabuf;

	if (!binding)
		return;

	lockdep_assert_not_held(&binding->kvm->slots_arch_lock);

	slot->dmabuf = NULL;
	kvm_dmabuf_unlink(binding);
	dma_buf_detach(binding->dmabuf, binding->attach);
	trace_kvm_dmabuf_unbind(binding->as_id, binding->slot_id,
				binding->base_gfn, binding->npages, 0);
	kvm_dmabuf_free(binding);
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
 * Return: 0, or -EFAULT if the buffer is revoked, or was since the caller sampled
 * mmu_invalidate_seq.
 */
int kvm_dmabuf_get_pfn(struct kvm *kvm, const struct kvm_memory_slot *slot,
		       gfn_t gfn, struct kvm_dmabuf_page *page)
{
	const struct kvm_dmabuf_binding *binding = slot->dmabuf;
	const struct kvm_dmabuf_table *table;
	int r;

	guard(rcu)();

	table = rcu_dereference(binding->live);
	if (!table)
		return -EFAULT;

	r = kvm_dmabuf_table_lookup(table, slot->base_gfn, gfn, page);
	if (r) {
		/* It moved since.  What is left can only be a bug. */
		KVM_BUG_ON(r != -EAGAIN, kvm);
		return -EFAULT;
	}

	page->writable &= !binding->readonly;
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
 * guest may be going through the slot, or if kvm_dmabuf_had_mapped() knows that the
 * guest had its neighbours.
 */
bool kvm_dmabuf_will_map(const struct kvm_memory_slot *slot, gfn_t start,
			 gfn_t end)
{
	struct kvm_dmabuf_binding *binding = slot->dmabuf;
	gfn_t old_start = READ_ONCE(binding->reach_start);
	gfn_t old_end = READ_ONCE(binding->reach_end);
	bool ahead = (old_end && start == old_end) ||
		     (start >= READ_ONCE(binding->former_start) &&
		      start < READ_ONCE(binding->former_end));

	/* Two faults at the same time may be counted as one. */
	WRITE_ONCE(binding->reach_pages,
		   READ_ONCE(binding->reach_pages) + end - start);

	while (start < old_start &&
	       !try_cmpxchg64(&binding->reach_start, &old_start, start))
		;
	while (end > old_end &&
	       !try_cmpxchg64(&binding->reach_end, &old_end, end))
		;
	return ahead;
}

/**
 * kvm_dmabuf_had_mapped - tell what a guest had mapped before a revocation
 * @slot: a slot for which kvm_slot_is_dmabuf() is true
 * @gfn: what it maps now
 * @start: set to the first gfn of a range around @gfn
 * @end: set to the gfn behind its last one
 *
 * A hint, from kvm_dmabuf_will_map(): the guest had at least half of the range when
 * the buffer was last revoked, and is likely to come back for it.
 *
 * Context: any; kvm->srcu or mmu_lock held.  Takes no lock.
 *
 * Return: true if there is such a range.
 */
bool kvm_dmabuf_had_mapped(const struct kvm_memory_slot *slot, gfn_t gfn,
			   gfn_t *start, gfn_t *end)
{
	const struct kvm_dmabuf_binding *binding = slot->dmabuf;

	*start = READ_ONCE(binding->former_start);
	*end = READ_ONCE(binding->former_end);

	return gfn >= *start && gfn < *end;
}

MODULE_IMPORT_NS("DMA_BUF");
