// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots backed by a dma-buf
 *
 * Model: a memslot with KVM_MEM_DMABUF is a window onto a slice of a dma-buf,
 * usually a PCI BAR that vfio-pci exported.  There is no host virtual address,
 * no VMA and no struct page.  KVM's mapping type, see
 * virt/lib/kvm_dmabuf_table.c, makes an opaque table of the slice, in which a
 * page fault looks up its page.  The pfn goes into the fault and from there
 * into the page table, and nowhere else.  The exporter can take the memory
 * back at any time.
 *
 * There are two kinds of objects.  The import, &struct kvm_dmabuf_import,
 * exists once for all slots that a VM has of a buffer.  The binding, &struct
 * kvm_dmabuf_binding, ties a slot to its slice; it is allocated when the slot
 * is created and freed with it.  kvm_memory_slot.dmabuf points to the binding
 * from every copy of the slot, also from the one marked INVALID.
 *
 * import->live says whether the memory is there.  If it is set, the tables of
 * all bindings are valid.  If it is clear, the buffer is revoked.  There is
 * no third state.  A page fault on a revoked slot is an exit to userspace or,
 * if userspace asked for it, an emulated access.  It is never a retry, and
 * nothing in KVM waits for the memory to come back.
 *
 * The life of a binding has three steps, as for guest_memfd:
 *
 *	bind	takes a reference to the buffer and attaches, unless the VM
 *		has an import of it; checks what can be checked, and makes
 *		the table.  From here on the slot is revoked and restored
 *		with the buffer, even while it is not visible to vCPUs.
 *	get_pfn	is what the page fault handlers use.
 *	unbind	frees the table.  With the last binding it detaches, after
 *		which no callback runs.
 *
 * KVM imports with the models pinned and restorable.  It cannot use a model in
 * which it would have to map again by itself, because the fault path takes no
 * dma_resv.
 *
 * Locks:
 *
 *	slots_lock > dma_resv > mmu_lock
 *
 *  - import->live is cleared under dma_resv *and* mmu_lock held for write.  It
 *    is set under dma_resv, and read under mmu_lock or RCU.  A reader without
 *    mmu_lock must have sampled mmu_invalidate_seq before.  It must check
 *    mmu_invalidate_seq once mmu_lock is held, before the result is put into a
 *    page table.
 *  - binding->table is written under dma_resv, while import->live is clear or
 *    before the binding has joined the import.  It is read under RCU by
 *    readers that found import->live set.
 *  - import->generation and ->uniform are protected by dma_resv.
 *  - import->bindings is protected by dma_resv.  It changes only under
 *    slots_lock, or when the VM has no users.
 *  - kvm->dmabuf_imports is protected by slots_lock.
 *  - binding->reach_start and ->reach_end are widened by faults, which race
 *    with each other, and reset with mmu_lock held for write.
 *  - binding->reach_pages, ->former_start and ->former_end are hints.  Faults
 *    write the first and read the others without a lock.  The others are
 *    written with mmu_lock held for write.
 *  - Everything else in a binding and in an import is constant.
 *  - The fault path never takes dma_resv: vCPUs hold kvm->srcu, and exporters
 *    can hold dma_resv for as long as they wait for their hardware.
 *  - dma_resv is not taken under slots_arch_lock, and is never held over
 *    kvm_swap_active_memslots() or any other SRCU synchronization.  The
 *    callbacks are SRCU readers, as the mmu_notifier is.
 *
 * Invariants:
 *
 *  - While import->live is clear, no page table of the VM maps any of the
 *    slices, once mmu_lock was released with no invalidation in progress.
 *  - While import->live is set, the tables of all bindings are those of
 *    import->generation.
 *  - An invalidation is in progress only inside the invalidate callback.  If
 *    it were left in progress while the buffer is revoked, every fault of the
 *    VM could retry for as long as the device sleeps.
 *  - A slot that is not installed is never zapped: nothing can have faulted on
 *    it, and the architecture may not have its metadata yet.
 *  - A gfn that is mapped is in the reach of its binding.
 *  - In VMs that have private gfns, a gfn is mapped only while its attribute,
 *    private or shared, equals that of the memory.  The memory changes only
 *    while import->live is clear.  The attribute changes only in an
 *    invalidation of its own, which zaps the gfn.  So a comparison that the
 *    page fault handler makes after it has sampled mmu_invalidate_seq is right
 *    when it maps.
 *  - An import holds a reference to the buffer, and nothing holds a reference
 *    to KVM: both the VM and the device can go away at any time.
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

/* What the slots of one VM that are of one buffer have in common. */
struct kvm_dmabuf_import {
	struct kvm *kvm;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	/* Entry in kvm->dmabuf_imports */
	struct hlist_node vm_node;
	/* By address space and gfn */
	struct list_head bindings;
	/* The layout's, when all tables were found to be true */
	u64 generation;
	/* And they still are of that one */
	bool uniform;
	/* Faults can use the tables */
	bool live;
};

struct kvm_dmabuf_binding {
	struct kvm_dmabuf_import *import;
	/* Entry in import->bindings */
	struct list_head node;
	/* Where the memory is or, while the buffer is revoked, was */
	struct kvm_dmabuf_table __rcu *table;
	/* Is charged for a table, whichever task restores the buffer */
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
	/* Gfns that may be mapped, see kvm_dmabuf_will_map() */
	gfn_t reach_start;
	gfn_t reach_end;
	/* How many they are if no fault came twice */
	u64 reach_pages;
	/* What the guest had when it was revoked, see kvm_dmabuf_had_mapped() */
	gfn_t former_start;
	gfn_t former_end;
};

/*
 * The incarnation of the binding's slot that is installed now, or NULL when
 * there is none, before creation and after deletion.  mmu_lock orders this
 * against faults: a fault that put an entry into a page table before mmu_lock
 * was taken saw the slot in the memslots, so the caller does, too.
 */
static struct kvm_memory_slot *
kvm_dmabuf_slot(const struct kvm_dmabuf_binding *binding)
{
	struct kvm_memslots *slots = __kvm_memslots(binding->import->kvm,
						    binding->as_id);
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
 * Take the tables from faults that are to come.  All of the slots is being
 * invalidated, whatever there is of it to zap.
 */
static void kvm_dmabuf_hide(struct kvm_dmabuf_import *import)
{
	struct kvm_dmabuf_binding *binding;
	struct kvm *kvm = import->kvm;

	WRITE_ONCE(import->live, false);

	list_for_each_entry(binding, &import->bindings, node) {
		trace_kvm_dmabuf_revoke(binding->as_id, binding->slot_id,
					binding->base_gfn, binding->npages, 0);
		kvm->stat.generic.dmabuf_revocations++;
		kvm_mmu_invalidate_range_add(kvm, binding->base_gfn,
					     binding->base_gfn + binding->npages);
	}
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

/* Take what is mapped at most.  Returns false if that is nothing. */
static bool kvm_dmabuf_take_reach(struct kvm_dmabuf_binding *binding,
				  gfn_t *start, gfn_t *end)
{
	*start = READ_ONCE(binding->reach_start);
	*end = READ_ONCE(binding->reach_end);

	if (*start < *end)
		kvm_dmabuf_remember(binding, *start, *end);

	/* What faults add from here on is not mapped, they are stale. */
	kvm_dmabuf_reset_reach(binding);
	return *start < *end;
}

/*
 * Reaches that are right behind each other are zapped in one go, where the architecture
 * can: a walk from the root takes longer than most of what it finds.  One over what is
 * not mapped between two reaches would take longer still.
 *
 * Returns whether the guest may have had something mapped.  @flush is set if TLBs
 * have to be flushed before the invalidation ends; they were before mmu_lock was
 * dropped.
 */
static bool kvm_dmabuf_zap(struct kvm_dmabuf_import *import, bool *flush)
{
	struct kvm_gfn_range range = {
		.attr_filter = KVM_FILTER_SHARED | KVM_FILTER_PRIVATE,
		.may_block = true,
	};
	bool together = kvm_arch_unmaps_dmabuf_slots(import->kvm);
	struct kvm_dmabuf_binding *binding;
	struct kvm_memory_slot *slot;
	bool zapped = false;
	gfn_t start, end;

	list_for_each_entry(binding, &import->bindings, node) {
		if (!kvm_dmabuf_take_reach(binding, &start, &end))
			continue;

		if (range.slot && !(together && start == range.end &&
				    binding->as_id == range.slot->as_id)) {
			*flush = kvm_arch_unmap_dmabuf(import->kvm, &range, *flush);
			range.slot = NULL;
		}

		slot = kvm_dmabuf_slot(binding);
		if (!slot)
			continue;

		if (!range.slot) {
			range.slot = slot;
			range.start = start;
		}
		range.end = end;
		zapped = true;
	}

	if (range.slot)
		*flush = kvm_arch_unmap_dmabuf(import->kvm, &range, *flush);
	return zapped;
}

/*
 * With mmu_lock held for write.  A fault that read an old table is told by
 * mmu_invalidate_seq to start over, and then finds none.
 *
 * Zapping may drop mmu_lock to let others run.  Faults on the slots and on what
 * is between them retry while it does, which is as long as it takes to zap.
 */
static void kvm_dmabuf_invalidate_locked(struct kvm_dmabuf_import *import)
{
	struct kvm *kvm = import->kvm;
	bool flush = false;

	kvm_mmu_invalidate_start(kvm);
	kvm_dmabuf_hide(import);

	if (kvm_dmabuf_zap(import, &flush))
		flush |= kvm_arch_finish_unmap_dmabuf(kvm);
	if (flush)
		kvm_flush_remote_tlbs(kvm);

	/*
	 * A page fault that samples the mmu_invalidate_seq that is about to be
	 * written must not see an old table, nor widen a reach that was not yet
	 * reset.  Pairs with the smp_rmb() after sampling it in the page fault
	 * handlers.
	 */
	smp_wmb();
	kvm_mmu_invalidate_end(kvm);
}

/*
 * The exporter takes the memory back, from all importers one after another.  All
 * slots that the VM has of the buffer are one of them, which flushes TLBs and takes
 * mmu_lock once.
 */
static void kvm_dmabuf_invalidate(struct dma_buf_attachment *attach)
{
	struct kvm_dmabuf_import *import = attach->importer_priv;
	struct kvm *kvm = import->kvm;
	int idx;

	dma_resv_assert_held(import->dmabuf->resv);

	/* The last binding may have left, see kvm_dmabuf_leave(). */
	if (!import->live || list_empty(&import->bindings))
		return;

	idx = srcu_read_lock(&kvm->srcu);
	KVM_MMU_LOCK(kvm);
	kvm_dmabuf_invalidate_locked(import);
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
 * Make the table valid.  If the memory has moved, this can allocate.  The allocation
 * is charged to the process that made the slot.  The exporter may hold locks that
 * others wait for, so the allocation must not invoke the OOM killer.
 */
static int kvm_dmabuf_update(struct kvm_dmabuf_import *import,
			     struct kvm_dmabuf_binding *binding)
{
	struct mem_cgroup *old_memcg = set_active_memcg(binding->memcg);
	int r;

	r = kvm_dmabuf_table_update(import->attach, binding->offset,
				    binding->size,
				    GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL,
				    &binding->table);
	set_active_memcg(old_memcg);
	return r;
}

static int kvm_dmabuf_update_all(struct kvm_dmabuf_import *import)
{
	struct kvm_dmabuf_binding *binding;
	int r;

	dma_resv_assert_held(import->dmabuf->resv);

	list_for_each_entry(binding, &import->bindings, node) {
		/* The exporter's locks are held. */
		if (fatal_signal_pending(current))
			return -EINTR;

		r = kvm_dmabuf_update(import, binding);
		if (r)
			return r;
	}
	return 0;
}

/*
 * Map all slots of a buffer that can be mapped or, if that fails, none.  Of memory
 * that is where it was all tables are true, however many there are: nothing is
 * allocated and nothing can fail.
 */
static int kvm_dmabuf_map_all(struct kvm_dmabuf_import *import)
{
	u64 generation = kvm_dmabuf_generation(import->attach);
	int r;

	dma_resv_assert_held(import->dmabuf->resv);

	if (!import->uniform || generation != import->generation) {
		/* Were it to fail, some would be, and some not. */
		import->uniform = false;
		r = kvm_dmabuf_update_all(import);
		if (r)
			return r;
		import->generation = generation;
		import->uniform = true;
	}

	/*
	 * A reader that finds it set sees the tables.  mmu_lock is not needed: a
	 * page fault that would map the memory from before the revocation is
	 * stale by mmu_invalidate_seq.
	 * Pairs with the smp_load_acquire() in kvm_dmabuf_get_pfn().
	 */
	smp_store_release(&import->live, true);
	import->attach->mapped = true;
	/* A slot that joins takes those along that could not be restored. */
	import->attach->restore_error = 0;
	return 0;
}

/*
 * The memory is back, perhaps elsewhere.  Nothing is mapped into the guest, it
 * faults in again.
 */
static int kvm_dmabuf_restore(struct dma_buf_attachment *attach)
{
	struct kvm_dmabuf_import *import = attach->importer_priv;
	struct kvm_dmabuf_binding *binding;
	int r;

	dma_resv_assert_held(import->dmabuf->resv);

	if (import->live)
		return 0;

	r = kvm_dmabuf_map_all(import);

	if (trace_kvm_dmabuf_restore_enabled())
		list_for_each_entry(binding, &import->bindings, node)
			trace_kvm_dmabuf_restore(binding->as_id,
						 binding->slot_id,
						 binding->base_gfn,
						 binding->npages, r);
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

/* Sorted, see kvm_dmabuf_zap().  A new one is behind the others as a rule. */
static void kvm_dmabuf_insert(struct kvm_dmabuf_import *import,
			      struct kvm_dmabuf_binding *binding)
{
	struct kvm_dmabuf_binding *before;

	list_for_each_entry_reverse(before, &import->bindings, node)
		if (before->as_id < binding->as_id ||
		    (before->as_id == binding->as_id &&
		     before->base_gfn < binding->base_gfn))
			break;

	list_add(&binding->node, &before->node);
}

/*
 * Make the table, and join the import.  That may be revoked though the buffer is not,
 * if it could not be restored.  With dma_resv held.
 */
static int kvm_dmabuf_join(struct kvm_dmabuf_import *import,
			   struct kvm_dmabuf_binding *binding)
{
	struct kvm *kvm = import->kvm;
	int r;

	lockdep_assert_held(&kvm->slots_lock);
	dma_resv_assert_held(import->dmabuf->resv);

	/* A revocation is to come: tell lockdep the order before it does. */
	might_lock(&kvm->mmu_lock);

	r = kvm_dmabuf_update(import, binding);
	if (r)
		return r;

	r = kvm_dmabuf_table_check(rcu_access_pointer(binding->table),
				   !binding->readonly,
				   kvm_arch_supports_cached_dmabuf(kvm));
	if (r)
		return r;

	binding->import = import;
	kvm_dmabuf_insert(import, binding);
	if (import->live)
		return 0;

	/* The memory may have moved since the others' tables were made. */
	import->uniform = false;

	/* Revoked, or what failed was another slot: it is not this one's fault. */
	r = kvm_dmabuf_can_map(import->attach);
	if (!r)
		r = kvm_dmabuf_map_all(import);
	if (r == -EAGAIN || !list_is_singular(&import->bindings))
		return 0;
	if (r)
		list_del(&binding->node);
	return r;
}

/*
 * The exporter can hold dma_resv for as long as its device takes: let a signal end
 * the wait.
 */
static int kvm_dmabuf_join_import(struct kvm_dmabuf_import *import,
				  struct kvm_dmabuf_binding *binding)
{
	struct dma_resv *resv = import->dmabuf->resv;
	int r;

	r = dma_resv_lock_interruptible(resv, NULL);
	if (r)
		return r;

	r = kvm_dmabuf_join(import, binding);
	dma_resv_unlock(resv);
	return r;
}

/* As kvm_dmabuf_join_import(), but there is nothing to join yet. */
static int kvm_dmabuf_attach(struct kvm_dmabuf_import *import,
			     struct kvm_dmabuf_binding *binding)
{
	struct dma_buf *dmabuf = import->dmabuf;
	int r;

	r = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (r)
		return r;

	import->attach = dma_buf_mapping_attach_locked(dmabuf,
						       kvm_dmabuf_matches,
						       ARRAY_SIZE(kvm_dmabuf_matches),
						       &kvm_dmabuf_attach_ops,
						       import);
	if (IS_ERR(import->attach)) {
		dma_resv_unlock(dmabuf->resv);
		return PTR_ERR(import->attach);
	}
	r = kvm_dmabuf_join(import, binding);
	dma_resv_unlock(dmabuf->resv);

	if (r)
		dma_buf_detach(dmabuf, import->attach);
	return r;
}

/* Takes the reference to @dmabuf, if it succeeds. */
static int kvm_dmabuf_import(struct kvm *kvm, struct dma_buf *dmabuf,
			     struct kvm_dmabuf_binding *binding)
{
	struct kvm_dmabuf_import *import;
	int r;

	hlist_for_each_entry(import, &kvm->dmabuf_imports, vm_node) {
		if (import->dmabuf != dmabuf)
			continue;

		r = kvm_dmabuf_join_import(import, binding);
		if (!r)
			dma_buf_put(dmabuf);
		return r;
	}

	import = kzalloc_obj(*import, GFP_KERNEL_ACCOUNT);
	if (!import)
		return -ENOMEM;

	import->kvm = kvm;
	import->dmabuf = dmabuf;
	INIT_LIST_HEAD(&import->bindings);
	r = kvm_dmabuf_attach(import, binding);
	if (r) {
		kfree(import);
		return r;
	}
	hlist_add_head(&import->vm_node, &kvm->dmabuf_imports);
	return 0;
}

/* The caller has slots_lock, or the VM has no users. */
static void kvm_dmabuf_leave(struct kvm_dmabuf_binding *binding)
{
	struct kvm_dmabuf_import *import = binding->import;

	lockdep_assert_once(lockdep_is_held(&import->kvm->slots_lock) ||
			    !refcount_read(&import->kvm->users_count));

	dma_resv_lock(import->dmabuf->resv, NULL);
	list_del(&binding->node);
	dma_resv_unlock(import->dmabuf->resv);

	if (!list_empty(&import->bindings))
		return;

	hlist_del(&import->vm_node);
	dma_buf_detach(import->dmabuf, import->attach);
	dma_buf_put(import->dmabuf);
	kfree(import);
}

static void kvm_dmabuf_free(struct kvm_dmabuf_binding *binding)
{
	kvm_dmabuf_table_free(rcu_access_pointer(binding->table));
	mem_cgroup_put(binding->memcg);
	kfree(binding);
}

static struct kvm_dmabuf_binding *
kvm_dmabuf_alloc(const struct kvm_memory_slot *slot, u64 offset)
{
	struct kvm_dmabuf_binding *binding;

	binding = kzalloc_obj(*binding, GFP_KERNEL_ACCOUNT);
	if (!binding)
		return NULL;

	binding->memcg = get_mem_cgroup_from_mm(current->mm);
	binding->offset = offset;
	binding->size = (u64)slot->npages << PAGE_SHIFT;
	binding->base_gfn = slot->base_gfn;
	binding->npages = slot->npages;
	binding->as_id = slot->as_id;
	binding->slot_id = slot->id;
	binding->readonly = slot->flags & KVM_MEM_READONLY;
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
	struct dma_buf *dmabuf;
	int r;

	lockdep_assert_held(&kvm->slots_lock);
	lockdep_assert_not_held(&kvm->slots_arch_lock);

	if (!kvm_dmabuf_supported_flags(kvm))
		return -EOPNOTSUPP;

	dmabuf = dma_buf_get(fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	binding = kvm_dmabuf_alloc(slot, offset);
	if (!binding) {
		dma_buf_put(dmabuf);
		return -ENOMEM;
	}

	r = kvm_dmabuf_check_file(slot, dmabuf, offset);
	if (!r)
		r = kvm_dmabuf_import(kvm, dmabuf, binding);

	trace_kvm_dmabuf_bind(slot->as_id, slot->id, slot->base_gfn,
			      slot->npages, r);
	if (r) {
		dma_buf_put(dmabuf);
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

	lockdep_assert_not_held(&binding->import->kvm->slots_arch_lock);

	slot->dmabuf = NULL;
	kvm_dmabuf_leave(binding);
	trace_kvm_dmabuf_unbind(binding->as_id, binding->slot_id,
				binding->base_gfn, binding->npages, 0);
	kvm_dmabuf_free(binding);
}

/**
 * kvm_dmabuf_unbind_all - unbind every slot of a VM that is being destroyed
 * @kvm: the VM, without users
 *
 * The exporters' callbacks use the VM's memslots and page tables.  They can still
 * come after kvm_arch_flush_shadow_all(), so what unmaps has to cope, with mmu_lock
 * held, with page tables that are gone.  They must not come after
 * kvm_arch_destroy_vm(), and none comes once this function has returned.
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

	/* Pairs with the smp_store_release() in kvm_dmabuf_map_all(). */
	if (!smp_load_acquire(&binding->import->live))
		return -EFAULT;

	table = rcu_dereference(binding->table);
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
