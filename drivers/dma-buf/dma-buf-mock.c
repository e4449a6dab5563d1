// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mock exporter: dma-bufs whose memory userspace takes away, moves and changes
 *
 * Exporters of revocable memory are drivers of devices.  A test of an importer
 * needs memory that moves, has ranges with different permissions, consists of
 * thousands of extents or cannot be mapped again.  Drivers seldom do that, and
 * need their device.  Here a misc device does all of it when told to by ioctl,
 * for tests of KVM, of iommufd and of dma-buf itself.  The commands are in
 * dma-buf-mock-uapi.h.
 *
 * Model:
 *
 *  - A &struct mock_owner is an open file of the device.  It has the role of
 *    the device that VFIO exports: when the file is released its buffers are
 *    revoked for ever.
 *  - A &struct mock_buf is a buffer.  Its memory is a &struct mock_layout:
 *    blocks of pages from the page allocator, and extents that are parts of
 *    them.  To move a buffer is to give it another layout, with other blocks.
 *  - A &struct mock_block that nobody may access is filled with a pattern,
 *    MOCK_PATTERN, and has its contents in a copy.  When its buffer has moved
 *    or was released, the block is in no layout any more.  It then stays in
 *    the quarantine, with the pattern in it, until the module is unloaded.  If
 *    the quarantine holds more than quarantine_mb, the oldest block is checked
 *    once more and freed.  So an importer that left a mapping behind damages
 *    the pattern and nothing else, and a reader sees the pattern.  Damaged
 *    patterns are counted.
 *  - A &struct mock_import is a device that imports one of the buffers by a
 *    scatterlist, because the machine may have no other.
 *
 * What importers were promised holds here, too: a buffer with a pinned
 * attachment does not move, and a buffer with a movable attachment is not
 * revoked.
 *
 * The memory has struct pages and is in the kernel's direct map, whatever the
 * attributes of the extents say; the attributes are for importers' page
 * tables.  On real hardware contents can be compared only if the importer's
 * mapping is coherent with the direct map.
 *
 * Locks:
 *
 *	owner->lock > buf->lock > dma_resv > quarantine.lock
 *	owner->imports_lock > dma_resv
 *
 *  - buf->lock serializes changes of the state of a buffer, and is held over
 *    waits for fences and for scatterlists to be unmapped.  The lock and these
 *    waits are interruptible or killable, except when the owner is released.
 *  - dma_resv protects everything in a buffer that importers can see: its
 *    layout, whether it is accessible, and the contents of its blocks.
 *  - owner->lock protects the list of the owner's buffers.  An owner lives as
 *    long as the file or any of its buffers.
 *  - owner->imports_lock protects the list of importers, and is held while they
 *    are used.  Its holder waits for nothing.
 *  - buf->fences has a spinlock of its own.  Fences are signaled with no other
 *    lock held, because the task that waits for them may hold all of the above.
 *
 * Invariants, with dma_resv held:
 *
 *  - A buffer is accessible, or it has been invalidated and nobody can map it.
 *  - No block of an accessible buffer has the pattern in it; all blocks of a
 *    drained buffer do.
 *  - The generation changes whenever an extent does, and is a former one only if
 *    the extents are those of that time.
 */

#include <linux/dma-buf.h>
#include <linux/dma-buf-extents.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/kvm_dmabuf_type.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "dma-buf-mock-uapi.h"

/* What memory is filled with that nobody may access. */
#define MOCK_PATTERN	0xa7

#define MOCK_ATTRS	(DMA_BUF_MOCK_READ | DMA_BUF_MOCK_WRITE | \
			 DMA_BUF_MOCK_MMIO | DMA_BUF_MOCK_WC | \
			 DMA_BUF_MOCK_CACHED | DMA_BUF_MOCK_PRIVATE)

static_assert(DMA_BUF_MOCK_READ == DMA_BUF_EXTENT_READ);
static_assert(DMA_BUF_MOCK_WRITE == DMA_BUF_EXTENT_WRITE);
static_assert(DMA_BUF_MOCK_MMIO == DMA_BUF_EXTENT_MMIO);
static_assert(DMA_BUF_MOCK_WC == DMA_BUF_EXTENT_WC);
static_assert(DMA_BUF_MOCK_CACHED == DMA_BUF_EXTENT_CACHED);
static_assert(DMA_BUF_MOCK_PRIVATE == DMA_BUF_EXTENT_PRIVATE);
static_assert((int)DMA_BUF_MOCK_PINNED == (int)DMA_BUF_MODEL_PINNED);
static_assert((int)DMA_BUF_MOCK_MOVABLE == (int)DMA_BUF_MODEL_MOVABLE);
static_assert((int)DMA_BUF_MOCK_REVOCABLE == (int)DMA_BUF_MODEL_REVOCABLE);
static_assert((int)DMA_BUF_MOCK_RESTORABLE == (int)DMA_BUF_MODEL_RESTORABLE);

struct mock_owner {
	struct kref kref;
	u64 id;
	struct mutex lock;	/* Protects bufs */
	struct list_head bufs;
	struct mutex imports_lock;	/* Protects imports */
	struct list_head imports;
	u32 next_import_id;
	struct dma_buf *held;	/* By mock_hold(), who waits for released */
	wait_queue_head_t released;
	atomic64_t nr_changed;
};

struct mock_block {
	struct list_head elm;	/* In the quarantine */
	u64 owner_id;
	struct page *page;
	unsigned int order;
	bool hidden;		/* Contents are in the copy, pages have the pattern */
	void *copy;
};

struct mock_extent {
	struct mock_block *block;
	u64 offset;		/* In the buffer */
	u32 first_page;		/* In the block */
	u32 nr_pages;
	u32 attrs;
};

struct mock_layout {
	u64 size;
	unsigned int nr_blocks;
	struct mock_block **blocks;
	unsigned int nr;
	struct mock_extent extents[] __counted_by(nr);
};

struct mock_fail {
	u32 nth;
	int error;
};

struct mock_buf {
	struct dma_buf *dmabuf;
	struct mock_owner *owner;
	struct list_head elm;	/* In owner->bufs */
	struct mutex lock;
	struct mock_layout *layout;
	u64 generation;
	bool accessible;
	bool drained;		/* Nobody has access, and the blocks are hidden */
	bool gone;		/* The owner is, it will not become accessible */
	unsigned int nr_pins;
	unsigned int nr_sgt;
	wait_queue_head_t sgt_unmapped;
	u64 nr_get_extent;
	u64 nr_get_layout;
	struct mock_fail fail[DMA_BUF_MOCK_NR_STEPS];
	spinlock_t fences_lock;	/* Protects fences */
	struct list_head fences;
	unsigned int nr_matches;
	struct dma_buf_match matches[DMA_BUF_MOCK_MAX_OFFERS];
};

struct mock_fence {
	struct dma_fence base;
	struct list_head elm;
};

struct mock_import {
	struct list_head elm;	/* In owner->imports */
	u32 id;
	struct dma_buf *dmabuf;
	struct pci_dev *pdev;	/* NULL: it is mock_device */
	struct dma_buf_attach_ops ops;
	struct dma_buf_attachment *attach;
	/* Protected by dma_resv: */
	struct sg_table *sgt;	/* NULL if it is not mapped */
	bool busy;		/* The fence is not signaled yet */
	bool invalidated;	/* To be unmapped when it is */
	struct dma_fence *fence;
};

static struct {
	struct mutex lock;	/* Protects the rest */
	struct list_head blocks;
	u64 nr_pages;
} quarantine = {
	.lock = __MUTEX_INITIALIZER(quarantine.lock),
	.blocks = LIST_HEAD_INIT(quarantine.blocks),
};

static unsigned int quarantine_mb = 512;
module_param(quarantine_mb, uint, 0644);
MODULE_PARM_DESC(quarantine_mb, "How much memory is kept after it was moved away from or released, in MiB");

/* By all owners, those that are gone included. */
static atomic64_t nr_changed_total;
static atomic64_t next_owner_id;

static const struct dma_buf_ops mock_dma_buf_ops;

/*
 * Blocks
 */

static size_t mock_block_size(const struct mock_block *block)
{
	return PAGE_SIZE << block->order;
}

static void mock_block_free(struct mock_block *block)
{
	if (block->page)
		__free_pages(block->page, block->order);
	kvfree(block->copy);
	kfree(block);
}

static struct mock_block *mock_block_alloc(struct mock_owner *owner,
					   unsigned int order)
{
	struct mock_block *block;

	block = kzalloc_obj(*block);
	if (!block)
		return NULL;

	block->owner_id = owner->id;
	block->order = order;
	block->page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN, order);
	block->copy = kvmalloc(mock_block_size(block), GFP_KERNEL);
	if (!block->page || !block->copy) {
		mock_block_free(block);
		return NULL;
	}
	return block;
}

/* How many pages no longer have the pattern; they get it again. */
static u64 mock_block_check(struct mock_block *block)
{
	u64 nr_changed = 0;
	unsigned int i;

	for (i = 0; i < 1u << block->order; i++) {
		void *page = page_address(block->page) + i * PAGE_SIZE;

		if (!memchr_inv(page, MOCK_PATTERN, PAGE_SIZE))
			continue;
		memset(page, MOCK_PATTERN, PAGE_SIZE);
		nr_changed++;
	}
	atomic64_add(nr_changed, &nr_changed_total);
	return nr_changed;
}

/* Nobody has access from here on. */
static void mock_block_hide(struct mock_block *block)
{
	if (block->hidden)
		return;
	memcpy(block->copy, page_address(block->page), mock_block_size(block));
	memset(page_address(block->page), MOCK_PATTERN, mock_block_size(block));
	block->hidden = true;
}

/* Somebody may have access from here on.  Returns what mock_block_check() does. */
static u64 mock_block_show(struct mock_block *block)
{
	u64 nr_changed;

	if (!block->hidden)
		return 0;
	nr_changed = mock_block_check(block);
	memcpy(page_address(block->page), block->copy, mock_block_size(block));
	block->hidden = false;
	return nr_changed;
}

static void mock_block_quarantine(struct mock_block *block)
{
	mock_block_hide(block);
	kvfree(block->copy);
	block->copy = NULL;

	guard(mutex)(&quarantine.lock);
	list_add_tail(&block->elm, &quarantine.blocks);
	quarantine.nr_pages += 1ul << block->order;

	while (quarantine.nr_pages > ((u64)quarantine_mb << 20) / PAGE_SIZE) {
		block = list_first_entry(&quarantine.blocks, struct mock_block, elm);
		mock_block_check(block);
		list_del(&block->elm);
		quarantine.nr_pages -= 1ul << block->order;
		mock_block_free(block);
	}
}

/* Check what is there of one owner, or of all. */
static u64 mock_quarantine_check(const u64 *owner_id)
{
	struct mock_block *block;
	u64 nr_changed = 0;

	guard(mutex)(&quarantine.lock);
	list_for_each_entry(block, &quarantine.blocks, elm) {
		if (!owner_id || block->owner_id == *owner_id)
			nr_changed += mock_block_check(block);
		cond_resched();
	}
	return nr_changed;
}

static void mock_quarantine_empty(void)
{
	struct mock_block *block, *next;

	mock_quarantine_check(NULL);
	list_for_each_entry_safe(block, next, &quarantine.blocks, elm)
		mock_block_free(block);
	if (atomic64_read(&nr_changed_total))
		pr_err("%lld pages changed after they had been revoked\n",
		       atomic64_read(&nr_changed_total));
}

static int mock_get_changed_pages(char *buffer, const struct kernel_param *kp)
{
	mock_quarantine_check(NULL);
	return sysfs_emit(buffer, "%lld\n", atomic64_read(&nr_changed_total));
}

static const struct kernel_param_ops mock_changed_pages_ops = {
	.get = mock_get_changed_pages,
};
module_param_cb(changed_pages, &mock_changed_pages_ops, NULL, 0444);
MODULE_PARM_DESC(changed_pages, "Pages that changed after they had been revoked");

/*
 * Layouts
 */

static void mock_layout_free(struct mock_layout *layout,
			     void (*block_fn)(struct mock_block *block))
{
	unsigned int i;

	for (i = 0; i < layout->nr_blocks; i++)
		block_fn(layout->blocks[i]);
	kvfree(layout->blocks);
	kvfree(layout);
}

static bool mock_extent_valid(const struct dma_buf_mock_extent *extents,
			      unsigned int i)
{
	const struct dma_buf_mock_extent *extent = &extents[i];

	if (extent->order > MAX_PAGE_ORDER || extent->attrs & ~MOCK_ATTRS ||
	    extent->flags & ~DMA_BUF_MOCK_SAME_BLOCK || !extent->nr_pages ||
	    (u64)extent->first_page + extent->nr_pages > 1u << extent->order)
		return false;
	if (extent->flags & DMA_BUF_MOCK_SAME_BLOCK)
		return i && extent->order == extent[-1].order;
	return true;
}

/* The block of extents[i]; adds one where it does not share that before it. */
static struct mock_block *
mock_layout_block(struct mock_layout *layout, struct mock_owner *owner,
		  const struct dma_buf_mock_extent *extent)
{
	struct mock_block *block;

	if (extent->flags & DMA_BUF_MOCK_SAME_BLOCK)
		return layout->blocks[layout->nr_blocks - 1];

	block = mock_block_alloc(owner, extent->order);
	if (block)
		layout->blocks[layout->nr_blocks++] = block;
	return block;
}

static int mock_layout_fill(struct mock_layout *layout, struct mock_owner *owner,
			    const struct dma_buf_mock_extent *extents)
{
	u64 nr_pages = 0;
	unsigned int i;

	for (i = 0; i < layout->nr; i++) {
		const struct dma_buf_mock_extent *extent = &extents[i];
		struct mock_block *block;

		if (!mock_extent_valid(extents, i))
			return -EINVAL;
		if (!(extent->flags & DMA_BUF_MOCK_SAME_BLOCK))
			nr_pages += 1u << extent->order;
		/* Each page is there twice, see mock_block_hide(). */
		if (nr_pages > totalram_pages() / 8)
			return -ENOMEM;

		block = mock_layout_block(layout, owner, extent);
		if (!block)
			return -ENOMEM;
		layout->extents[i] = (struct mock_extent) {
			.block = block,
			.offset = layout->size,
			.first_page = extent->first_page,
			.nr_pages = extent->nr_pages,
			.attrs = extent->attrs,
		};
		layout->size += (u64)extent->nr_pages << PAGE_SHIFT;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static struct mock_layout *mock_layout_create(struct mock_owner *owner,
					      u64 uextents, unsigned int nr)
{
	struct dma_buf_mock_extent *extents;
	struct mock_layout *layout;
	int ret = -ENOMEM;

	if (!nr || nr > DMA_BUF_MOCK_MAX_EXTENTS)
		return ERR_PTR(-EINVAL);

	extents = vmemdup_array_user(u64_to_user_ptr(uextents), nr, sizeof(*extents));
	if (IS_ERR(extents))
		return ERR_CAST(extents);

	layout = kvzalloc_flex(*layout, extents, nr, GFP_KERNEL);
	if (!layout)
		goto out;
	layout->nr = nr;
	layout->blocks = kvcalloc(nr, sizeof(*layout->blocks), GFP_KERNEL);
	if (layout->blocks)
		ret = mock_layout_fill(layout, owner, extents);
	if (ret)
		mock_layout_free(layout, mock_block_free);
out:
	kvfree(extents);
	return ret ? ERR_PTR(ret) : layout;
}

static void mock_layout_hide(struct mock_layout *layout)
{
	unsigned int i;

	for (i = 0; i < layout->nr_blocks; i++)
		mock_block_hide(layout->blocks[i]);
}

static u64 mock_layout_show(struct mock_layout *layout)
{
	u64 nr_changed = 0;
	unsigned int i;

	for (i = 0; i < layout->nr_blocks; i++)
		nr_changed += mock_block_show(layout->blocks[i]);
	return nr_changed;
}

static u64 mock_layout_check(struct mock_layout *layout)
{
	u64 nr_changed = 0;
	unsigned int i;

	for (i = 0; i < layout->nr_blocks; i++)
		if (layout->blocks[i]->hidden)
			nr_changed += mock_block_check(layout->blocks[i]);
	return nr_changed;
}

static struct mock_extent *mock_layout_find(struct mock_layout *layout, u64 offset)
{
	unsigned int lo = 0, hi = layout->nr;

	/* The last extent that does not begin behind offset. */
	while (hi - lo > 1) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (layout->extents[mid].offset <= offset)
			lo = mid;
		else
			hi = mid;
	}
	return &layout->extents[lo];
}

static phys_addr_t mock_extent_phys(const struct mock_extent *extent)
{
	return page_to_phys(extent->block->page) +
	       ((phys_addr_t)extent->first_page << PAGE_SHIFT);
}

/* Where the contents at @offset are, and how many bytes are there in a row. */
static void *mock_layout_contents(struct mock_layout *layout, u64 offset, u64 *len)
{
	struct mock_extent *extent = mock_layout_find(layout, offset);
	struct mock_block *block = extent->block;
	void *contents = block->hidden ? block->copy : page_address(block->page);
	u64 skip = offset - extent->offset;

	*len = ((u64)extent->nr_pages << PAGE_SHIFT) - skip;
	return contents + ((u64)extent->first_page << PAGE_SHIFT) + skip;
}

static void mock_layout_copy(struct mock_layout *to, struct mock_layout *from)
{
	u64 offset, len, from_len;

	for (offset = 0; offset < to->size; offset += len) {
		void *src = mock_layout_contents(from, offset, &from_len);
		void *dst = mock_layout_contents(to, offset, &len);

		len = min(len, from_len);
		memcpy(dst, src, len);
	}
}

/*
 * Owners
 */

static void mock_owner_free(struct kref *kref)
{
	struct mock_owner *owner = container_of(kref, struct mock_owner, kref);

	mutex_destroy(&owner->lock);
	mutex_destroy(&owner->imports_lock);
	kfree(owner);
}

static void mock_owner_put(struct mock_owner *owner)
{
	kref_put(&owner->kref, mock_owner_free);
}

static void mock_add_changed(struct mock_buf *buf, u64 nr_changed)
{
	atomic64_add(nr_changed, &buf->owner->nr_changed);
}

/*
 * What importers call
 */

/* Whether this is the time for a step to fail, and how. */
static int mock_fail_step(struct mock_buf *buf, unsigned int step)
{
	struct mock_fail *fail = &buf->fail[step];

	dma_resv_assert_held(buf->dmabuf->resv);

	if (!fail->nth || --fail->nth)
		return 0;
	return fail->error;
}

static void mock_tell_extent(struct mock_buf *buf, u64 offset,
			     struct dma_buf_extent *extent)
{
	struct mock_extent *found = mock_layout_find(buf->layout, offset);

	*extent = (struct dma_buf_extent) {
		.phys = mock_extent_phys(found),
		.offset = found->offset,
		.len = (u64)found->nr_pages << PAGE_SHIFT,
		.attrs = found->attrs,
	};
}

static int mock_get_extent(struct dma_buf *dmabuf, u64 offset,
			   struct dma_buf_extent *extent)
{
	struct mock_buf *buf = dmabuf->priv;
	int ret;

	buf->nr_get_extent++;
	if (buf->gone)
		return -ENODEV;
	if (!buf->accessible)
		return -EAGAIN;

	ret = mock_fail_step(buf, DMA_BUF_MOCK_GET_EXTENT);
	if (!ret)
		mock_tell_extent(buf, offset, extent);
	return ret;
}

static int mock_get_layout(struct dma_buf *dmabuf, u64 offset,
			   struct dma_buf_extent *extent)
{
	struct mock_buf *buf = dmabuf->priv;
	int ret;

	buf->nr_get_layout++;
	if (buf->gone)
		return -ENODEV;

	ret = mock_fail_step(buf, DMA_BUF_MOCK_GET_LAYOUT);
	if (!ret)
		mock_tell_extent(buf, offset, extent);
	return ret;
}

static u64 mock_layout_generation(struct dma_buf *dmabuf)
{
	struct mock_buf *buf = dmabuf->priv;

	return buf->generation;
}

static const struct dma_buf_extent_ops mock_extent_ops = {
	.get_extent = mock_get_extent,
	.get_layout = mock_get_layout,
	.layout_generation = mock_layout_generation,
};

static int mock_pin(struct dma_buf_attachment *attach)
{
	struct mock_buf *buf = attach->dmabuf->priv;

	if (buf->gone)
		return -ENODEV;
	buf->nr_pins++;
	return 0;
}

static void mock_unpin(struct dma_buf_attachment *attach)
{
	struct mock_buf *buf = attach->dmabuf->priv;

	buf->nr_pins--;
}

static struct sg_table *mock_make_sgt(struct mock_layout *layout)
{
	struct scatterlist *sg;
	struct sg_table *sgt;
	unsigned int i;
	int ret;

	sgt = kzalloc_obj(*sgt);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	ret = sg_alloc_table(sgt, layout->nr, GFP_KERNEL);
	if (ret) {
		kfree(sgt);
		return ERR_PTR(ret);
	}
	for_each_sgtable_sg(sgt, sg, i) {
		struct mock_extent *extent = &layout->extents[i];

		sg_set_page(sg, extent->block->page + extent->first_page,
			    extent->nr_pages << PAGE_SHIFT, 0);
	}
	return sgt;
}

static bool mock_layout_is_private(struct mock_layout *layout)
{
	unsigned int i;

	for (i = 0; i < layout->nr; i++)
		if (layout->extents[i].attrs & DMA_BUF_MOCK_PRIVATE)
			return true;
	return false;
}

static struct sg_table *mock_map(struct dma_buf_attachment *attach,
				 enum dma_data_direction dir)
{
	struct mock_buf *buf = attach->dmabuf->priv;
	struct sg_table *sgt;
	int ret;

	dma_resv_assert_held(buf->dmabuf->resv);

	if (!buf->accessible)
		return ERR_PTR(-ENODEV);
	if (mock_layout_is_private(buf->layout))
		return ERR_PTR(-EACCES);
	ret = mock_fail_step(buf, DMA_BUF_MOCK_MAP_SGT);
	if (ret)
		return ERR_PTR(ret);

	sgt = mock_make_sgt(buf->layout);
	if (IS_ERR(sgt))
		return sgt;
	ret = dma_map_sgtable(attach->dev, sgt, dir, 0);
	if (ret) {
		sg_free_table(sgt);
		kfree(sgt);
		return ERR_PTR(ret);
	}
	buf->nr_sgt++;
	return sgt;
}

static void mock_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
	struct mock_buf *buf = attach->dmabuf->priv;

	dma_resv_assert_held(buf->dmabuf->resv);

	dma_unmap_sgtable(attach->dev, sgt, dir, 0);
	sg_free_table(sgt);
	kfree(sgt);
	if (!--buf->nr_sgt)
		wake_up_all(&buf->sgt_unmapped);
}

/* There are no importers any more. */
static void mock_release(struct dma_buf *dmabuf)
{
	struct mock_buf *buf = dmabuf->priv;
	struct mock_owner *owner = buf->owner;

	scoped_guard(mutex, &owner->lock)
		list_del(&buf->elm);

	mock_add_changed(buf, mock_layout_check(buf->layout));
	mock_layout_free(buf->layout, mock_block_quarantine);
	mutex_destroy(&buf->lock);
	kfree(buf);
	mock_owner_put(owner);
}

static const struct dma_buf_ops mock_dma_buf_ops = {
	.pin = mock_pin,
	.unpin = mock_unpin,
	.map_dma_buf = mock_map,
	.unmap_dma_buf = mock_unmap,
	.release = mock_release,
};

/*
 * Fences
 */

static const char *mock_fence_get_name(struct dma_fence *fence)
{
	return "dma-buf-mock";
}

static const struct dma_fence_ops mock_fence_ops = {
	.get_driver_name = mock_fence_get_name,
	.get_timeline_name = mock_fence_get_name,
};

/* Each is in a context of its own: they are not signaled in any order. */
static void mock_fence_init(struct dma_fence *fence)
{
	dma_fence_init(fence, &mock_fence_ops, NULL, dma_fence_context_alloc(1), 1);
}

static int mock_add_fence(struct mock_buf *buf)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	struct mock_fence *fence;
	int ret;

	fence = kzalloc_obj(*fence);
	if (!fence)
		return -ENOMEM;
	mock_fence_init(&fence->base);

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		goto err_put;
	ret = dma_resv_reserve_fences(resv, 1);
	if (ret)
		goto err_unlock;
	dma_resv_add_fence(resv, &fence->base, DMA_RESV_USAGE_BOOKKEEP);
	spin_lock(&buf->fences_lock);
	list_add_tail(&fence->elm, &buf->fences);
	spin_unlock(&buf->fences_lock);
	dma_resv_unlock(resv);
	return 0;

err_unlock:
	dma_resv_unlock(resv);
err_put:
	dma_fence_signal(&fence->base);
	dma_fence_put(&fence->base);
	return ret;
}

static unsigned int mock_signal_fences(struct mock_buf *buf)
{
	struct mock_fence *fence, *next;
	unsigned int nr = 0;
	LIST_HEAD(fences);

	spin_lock(&buf->fences_lock);
	list_splice_init(&buf->fences, &fences);
	spin_unlock(&buf->fences_lock);

	list_for_each_entry_safe(fence, next, &fences, elm) {
		list_del(&fence->elm);
		dma_fence_signal(&fence->base);
		dma_fence_put(&fence->base);
		nr++;
	}
	return nr;
}

/*
 * An importer
 */

static struct platform_device *mock_device;

static void mock_import_unmap(struct mock_import *import)
{
	dma_resv_assert_held(import->dmabuf->resv);

	if (import->sgt)
		dma_buf_unmap_attachment(import->attach, import->sgt, DMA_BIDIRECTIONAL);
	import->sgt = NULL;
}

static void mock_import_invalidate(struct dma_buf_attachment *attach)
{
	struct mock_import *import = attach->importer_priv;

	import->invalidated = true;
	if (!import->busy)
		mock_import_unmap(import);
}

/* With dma_resv held. */
static int mock_import_map(struct mock_import *import)
{
	struct dma_resv *resv = import->dmabuf->resv;
	struct sg_table *sgt;
	int ret;

	ret = dma_resv_reserve_fences(resv, 1);
	if (ret)
		return ret;
	sgt = dma_buf_map_attachment(import->attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);

	import->sgt = sgt;
	import->invalidated = false;
	if (import->fence) {
		import->busy = true;
		dma_resv_add_fence(resv, import->fence, DMA_RESV_USAGE_BOOKKEEP);
	}
	return 0;
}

static int mock_import_attach(struct mock_import *import)
{
	struct device *dev = import->pdev ? &import->pdev->dev : &mock_device->dev;
	int ret;

	import->attach = dma_buf_dynamic_attach(import->dmabuf, dev, &import->ops,
						import);
	if (IS_ERR(import->attach))
		return PTR_ERR(import->attach);

	dma_resv_lock(import->dmabuf->resv, NULL);
	ret = mock_import_map(import);
	dma_resv_unlock(import->dmabuf->resv);
	if (ret)
		dma_buf_detach(import->dmabuf, import->attach);
	return ret;
}

/* Whoever waits for the fence may hold dma_resv. */
static void mock_import_idle(struct mock_import *import)
{
	if (import->fence)
		dma_fence_signal(import->fence);

	dma_resv_lock(import->dmabuf->resv, NULL);
	import->busy = false;
	if (import->invalidated)
		mock_import_unmap(import);
	dma_resv_unlock(import->dmabuf->resv);
}

static void mock_import_free(struct mock_import *import)
{
	if (import->fence)
		dma_fence_put(import->fence);
	dma_buf_put(import->dmabuf);
	pci_dev_put(import->pdev);
	kfree(import);
}

static void mock_import_end(struct mock_import *import)
{
	mock_import_idle(import);
	dma_resv_lock(import->dmabuf->resv, NULL);
	mock_import_unmap(import);
	dma_resv_unlock(import->dmabuf->resv);
	dma_buf_detach(import->dmabuf, import->attach);
	mock_import_free(import);
}

/* Exporters of device memory want a PCI device. What has a driver is not free. */
static struct pci_dev *mock_import_pci_device(u32 addr)
{
	struct pci_dev *pdev;

	pdev = pci_get_domain_bus_and_slot(addr >> 16, (addr >> 8) & 0xff, addr & 0xff);
	if (!pdev)
		return ERR_PTR(-ENXIO);
	if (READ_ONCE(pdev->dev.driver)) {
		pci_dev_put(pdev);
		return ERR_PTR(-EBUSY);
	}
	return pdev;
}

/* Takes over the reference to @dmabuf, if it succeeds. */
static struct mock_import *mock_import_create(struct dma_buf *dmabuf,
					      const struct dma_buf_mock_import *args)
{
	struct mock_import *import;
	int ret = -ENOMEM;

	import = kzalloc_obj(*import);
	if (!import)
		return ERR_PTR(-ENOMEM);

	import->dmabuf = dmabuf;
	import->ops.allow_peer2peer = true;
	import->ops.invalidate_mappings = mock_import_invalidate;
	import->ops.models = args->models;
	if (args->flags & DMA_BUF_MOCK_BUSY) {
		import->fence = kzalloc_obj(*import->fence);
		if (!import->fence)
			goto err_free;
		mock_fence_init(import->fence);
	}
	if (args->flags & DMA_BUF_MOCK_PCI) {
		import->pdev = mock_import_pci_device(args->pci_device);
		if (IS_ERR(import->pdev)) {
			ret = PTR_ERR(import->pdev);
			goto err_fence;
		}
	}

	ret = mock_import_attach(import);
	if (ret)
		goto err_pci;
	return import;

err_pci:
	pci_dev_put(import->pdev);
err_fence:
	if (import->fence) {
		dma_fence_signal(import->fence);
		dma_fence_put(import->fence);
	}
err_free:
	kfree(import);
	return ERR_PTR(ret);
}

static struct mock_import *mock_import_find(struct mock_owner *owner, u32 id)
{
	struct mock_import *import;

	lockdep_assert_held(&owner->imports_lock);

	list_for_each_entry(import, &owner->imports, elm)
		if (import->id == id)
			return import;
	return NULL;
}

static void mock_imports_end(struct mock_owner *owner)
{
	struct mock_import *import, *next;

	guard(mutex)(&owner->imports_lock);
	list_for_each_entry_safe(import, next, &owner->imports, elm) {
		list_del(&import->elm);
		mock_import_end(import);
	}
}

static int __init mock_device_create(void)
{
	int ret;

	mock_device = platform_device_register_simple("dma-buf-mock", PLATFORM_DEVID_NONE,
						      NULL, 0);
	if (IS_ERR(mock_device))
		return PTR_ERR(mock_device);

	/* An extent is one segment, however large it is. */
	dma_set_max_seg_size(&mock_device->dev, UINT_MAX);
	ret = dma_coerce_mask_and_coherent(&mock_device->dev, DMA_BIT_MASK(64));
	if (ret)
		platform_device_unregister(mock_device);

	return ret;
}

/*
 * State changes
 */

/* Whether importers were promised that this does not happen. */
static int mock_may_take_away(struct mock_buf *buf, bool move)
{
	struct dma_buf_attachment *attach;

	dma_resv_assert_held(buf->dmabuf->resv);

	if (move && buf->nr_pins)
		return -EBUSY;
	list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
		switch (attach->match->model) {
		case DMA_BUF_MODEL_PINNED:
			return -EBUSY;
		case DMA_BUF_MODEL_MOVABLE:
			if (!move)
				return -EBUSY;
			break;
		default:
			break;
		}
	}
	return 0;
}

static int mock_wait_unmapped(struct mock_buf *buf, bool killable)
{
	if (killable)
		return wait_event_killable(buf->sgt_unmapped, !READ_ONCE(buf->nr_sgt));
	wait_event(buf->sgt_unmapped, !READ_ONCE(buf->nr_sgt));
	return 0;
}

static int mock_wait_fences(struct mock_buf *buf, bool interruptible)
{
	long ret = dma_resv_wait_timeout(buf->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP,
					 interruptible, MAX_SCHEDULE_TIMEOUT);

	return ret < 0 ? -EINTR : 0;
}

/*
 * The buffer was revoked: wait until nobody has access and hide the contents.
 * If that is cut short by a signal it is still to do.
 */
static int mock_drain(struct mock_buf *buf, bool interruptible)
{
	int ret;

	lockdep_assert_held(&buf->lock);

	if (buf->accessible || buf->drained)
		return 0;

	ret = mock_wait_fences(buf, interruptible);
	if (!ret)
		ret = mock_wait_unmapped(buf, interruptible);
	if (ret)
		return -EINTR;

	dma_resv_lock(buf->dmabuf->resv, NULL);
	mock_layout_hide(buf->layout);
	buf->drained = true;
	dma_resv_unlock(buf->dmabuf->resv);
	return 0;
}

static int mock_revoke(struct mock_buf *buf)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	if (buf->accessible) {
		ret = mock_may_take_away(buf, false);
		if (!ret) {
			buf->accessible = false;
			dma_buf_invalidate_mappings(buf->dmabuf);
		}
	}
	dma_resv_unlock(resv);

	return ret ?: mock_drain(buf, true);
}

/* Returns a negative errno, or how many importers could not be told. */
static int mock_restore(struct mock_buf *buf)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	ret = mock_fail_step(buf, DMA_BUF_MOCK_FAIL_RESTORE);
	if (!ret) {
		mock_add_changed(buf, mock_layout_show(buf->layout));
		buf->accessible = true;
		buf->drained = false;
		ret = dma_buf_mappings_restored(buf->dmabuf);
	}
	dma_resv_unlock(resv);
	return ret;
}

/*
 * Make the importers unmap an accessible buffer that is about to change.  The
 * caller holds dma_resv from here until it has changed the buffer.  Importers
 * with the movable model wait for dma_resv, and map again.
 */
static int mock_begin_move(struct mock_buf *buf)
{
	int ret;

	dma_resv_assert_held(buf->dmabuf->resv);

	if (!buf->accessible)
		return 0;
	ret = mock_may_take_away(buf, true);
	if (ret)
		return ret;

	buf->accessible = false;
	dma_buf_invalidate_mappings(buf->dmabuf);
	ret = mock_wait_fences(buf, true);
	buf->accessible = true;
	if (ret)
		dma_buf_mappings_restored(buf->dmabuf);
	return ret;
}

static unsigned int mock_end_move(struct mock_buf *buf)
{
	buf->generation++;
	if (!buf->accessible)
		return 0;
	return dma_buf_mappings_restored(buf->dmabuf);
}

/* On success *layout is the old one.  Returns as mock_restore(). */
static int mock_move(struct mock_buf *buf, struct mock_layout **layout)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	int ret;

	/* The contents of a buffer that is revoked are not to change any more. */
	ret = mock_drain(buf, true);
	if (ret)
		return ret;
	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;

	ret = mock_begin_move(buf);
	if (!ret) {
		if (!buf->accessible)
			mock_layout_hide(*layout);
		mock_layout_copy(*layout, buf->layout);
		mock_add_changed(buf, mock_layout_check(buf->layout));
		swap(buf->layout, *layout);
		mock_layout_hide(*layout);
		ret = mock_end_move(buf);
	}
	dma_resv_unlock(resv);
	return ret;
}

/* Importers were told, and devices are idle.  They may not have unmapped yet. */
static int mock_may_change_attrs(struct mock_buf *buf, unsigned int first,
				 unsigned int nr, u32 attrs)
{
	unsigned int i;

	if (!buf->nr_sgt)
		return 0;
	for (i = first; i < first + nr; i++)
		if ((buf->layout->extents[i].attrs ^ attrs) & DMA_BUF_MOCK_PRIVATE)
			return -EBUSY;
	return 0;
}

static int mock_set_attrs(struct mock_buf *buf, unsigned int first,
			  unsigned int nr, u32 attrs, bool back)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	unsigned int i;
	int ret, nr_errors;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;

	if (first >= buf->layout->nr || nr > buf->layout->nr - first)
		ret = -EINVAL;
	else
		ret = mock_begin_move(buf);
	if (!ret) {
		ret = mock_may_change_attrs(buf, first, nr, attrs);
		for (i = first; !ret && i < first + nr; i++)
			buf->layout->extents[i].attrs = attrs;
		/* The last change counts as one, and so does this one. */
		if (!ret && back)
			buf->generation -= 2;
		nr_errors = mock_end_move(buf);
		ret = ret ?: nr_errors;
	}
	dma_resv_unlock(resv);
	return ret;
}

/*
 * The owner is gone, whatever it promised.  Importers that were promised that the
 * memory stays cannot be waited for, and have the memory until they detach.
 */
static void mock_revoke_for_ever(struct mock_buf *buf)
{
	bool drain;

	mock_signal_fences(buf);

	mutex_lock(&buf->lock);
	dma_resv_lock(buf->dmabuf->resv, NULL);
	buf->gone = true;
	drain = !mock_may_take_away(buf, false);
	if (buf->accessible) {
		buf->accessible = false;
		dma_buf_invalidate_mappings(buf->dmabuf);
	}
	dma_resv_unlock(buf->dmabuf->resv);
	if (drain)
		mock_drain(buf, false);
	mutex_unlock(&buf->lock);
}

/*
 * Creation
 */

static const struct dma_buf_mapping_type *mock_type(u32 type)
{
	switch (type) {
	case DMA_BUF_MOCK_SGT:
		return &dma_buf_type_sgt;
#if IS_ENABLED(CONFIG_DMA_SHARED_BUFFER_IOMMU)
	case DMA_BUF_MOCK_IOMMU:
		return &dma_buf_type_iommu;
#endif
#if IS_ENABLED(CONFIG_KVM_DMABUF_TYPE)
	case DMA_BUF_MOCK_KVM:
		return &kvm_dmabuf_type;
#endif
	default:
		return NULL;
	}
}

static int mock_set_offers(struct mock_buf *buf, u64 uoffers, unsigned int nr)
{
	struct dma_buf_mock_offer offers[DMA_BUF_MOCK_MAX_OFFERS];
	unsigned int i;

	if (!nr || nr > ARRAY_SIZE(offers))
		return -EINVAL;
	if (copy_from_user(offers, u64_to_user_ptr(uoffers), nr * sizeof(offers[0])))
		return -EFAULT;

	for (i = 0; i < nr; i++) {
		if (offers[i].type > DMA_BUF_MOCK_KVM ||
		    offers[i].model > DMA_BUF_MOCK_RESTORABLE)
			return -EINVAL;
		buf->matches[i].type = mock_type(offers[i].type);
		buf->matches[i].model = offers[i].model;
		if (!buf->matches[i].type)
			return -EOPNOTSUPP;
		buf->matches[i].private = buf->matches[i].type->extents;
	}
	buf->nr_matches = nr;
	return 0;
}

static struct mock_buf *mock_buf_alloc(struct mock_owner *owner,
				       const struct dma_buf_mock_create *args)
{
	struct mock_buf *buf;
	int ret;

	buf = kzalloc_obj(*buf);
	if (!buf)
		return ERR_PTR(-ENOMEM);

	mutex_init(&buf->lock);
	init_waitqueue_head(&buf->sgt_unmapped);
	spin_lock_init(&buf->fences_lock);
	INIT_LIST_HEAD(&buf->fences);
	buf->owner = owner;
	buf->accessible = true;

	ret = mock_set_offers(buf, args->offers, args->nr_offers);
	if (ret)
		goto err_free;
	buf->layout = mock_layout_create(owner, args->extents, args->nr_extents);
	if (IS_ERR(buf->layout)) {
		ret = PTR_ERR(buf->layout);
		goto err_free;
	}
	return buf;

err_free:
	kfree(buf);
	return ERR_PTR(ret);
}

/* After this mock_release() is what frees the buffer. */
static int mock_buf_export(struct mock_buf *buf, u32 flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct mock_owner *owner = buf->owner;

	info.ops = &mock_dma_buf_ops;
	info.size = buf->layout->size;
	info.flags = flags;
	info.priv = buf;
	info.matches = buf->matches;
	info.nr_matches = buf->nr_matches;
	info.extent_ops = &mock_extent_ops;
	buf->dmabuf = dma_buf_export(&info);
	if (IS_ERR(buf->dmabuf))
		return PTR_ERR(buf->dmabuf);

	kref_get(&owner->kref);
	scoped_guard(mutex, &owner->lock)
		list_add_tail(&buf->elm, &owner->bufs);
	return 0;
}

static int mock_create(struct mock_owner *owner, struct dma_buf_mock_create *args)
{
	struct mock_buf *buf;
	int ret;

	if (args->flags & ~(O_ACCMODE | O_CLOEXEC) ||
	    (args->flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;

	buf = mock_buf_alloc(owner, args);
	if (IS_ERR(buf))
		return PTR_ERR(buf);

	ret = mock_buf_export(buf, args->flags);
	if (ret) {
		mock_layout_free(buf->layout, mock_block_free);
		kfree(buf);
		return ret;
	}

	ret = dma_buf_fd(buf->dmabuf, args->flags);
	if (ret < 0) {
		dma_buf_put(buf->dmabuf);
		return ret;
	}
	args->fd = ret;
	return 0;
}

/*
 * Commands
 */

static struct mock_buf *mock_buf_get(struct mock_owner *owner, int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);
	struct mock_buf *buf;

	if (IS_ERR(dmabuf))
		return ERR_CAST(dmabuf);

	buf = dmabuf->ops == &mock_dma_buf_ops ? dmabuf->priv : NULL;
	if (!buf || buf->owner != owner) {
		dma_buf_put(dmabuf);
		return ERR_PTR(-EINVAL);
	}
	return buf;
}

static void mock_buf_put(struct mock_buf *buf)
{
	dma_buf_put(buf->dmabuf);
}

static int mock_cmd_create(struct mock_owner *owner, void *arg)
{
	return mock_create(owner, arg);
}

static int mock_cmd_revoke(struct mock_buf *buf, void *arg)
{
	return mock_revoke(buf);
}

/* What the functions that change a buffer return, for userspace. */
static int mock_result(int ret, __u32 *nr_not_restored)
{
	if (ret < 0)
		return ret;
	*nr_not_restored = ret;
	return 0;
}

static int mock_cmd_restore(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_revoke *args = arg;

	return mock_result(mock_restore(buf), &args->nr_not_restored);
}

static int mock_cmd_move(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_move *args = arg;
	struct mock_layout *layout;
	int ret;

	if (args->__reserved)
		return -EINVAL;
	layout = mock_layout_create(buf->owner, args->extents, args->nr_extents);
	if (IS_ERR(layout))
		return PTR_ERR(layout);
	if (layout->size != buf->dmabuf->size) {
		mock_layout_free(layout, mock_block_free);
		return -EINVAL;
	}

	ret = mock_move(buf, &layout);
	/* The old one now, if it worked. */
	mock_layout_free(layout, ret < 0 ? mock_block_free : mock_block_quarantine);
	return mock_result(ret, &args->nr_not_restored);
}

static int mock_cmd_attrs(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_attrs *args = arg;
	int ret;

	if (args->attrs & ~MOCK_ATTRS || args->flags & ~DMA_BUF_MOCK_ATTRS_BACK)
		return -EINVAL;
	ret = mock_set_attrs(buf, args->first, args->nr_extents, args->attrs,
			     args->flags & DMA_BUF_MOCK_ATTRS_BACK);
	return mock_result(ret, &args->nr_not_restored);
}

/* A run of words that is contiguous, under dma_resv: no more than a page. */
static int mock_access(struct mock_buf *buf, u64 offset, u64 *words,
		       unsigned int *len, bool write)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	u64 *contents, there;
	unsigned int i;
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	contents = mock_layout_contents(buf->layout, offset, &there);
	*len = min(*len, there);
	for (i = 0; i < *len / sizeof(u64); i++) {
		if (write)
			WRITE_ONCE(contents[i], words[i]);
		else
			words[i] = READ_ONCE(contents[i]);
	}
	dma_resv_unlock(resv);
	return 0;
}

static int mock_access_user(struct mock_buf *buf, u64 offset, unsigned int len,
			    void __user *data, void *page, bool write)
{
	unsigned int nr;
	int ret;

	for (; len; len -= nr, offset += nr, data += nr) {
		nr = min(len, PAGE_SIZE);
		if (write && copy_from_user(page, data, nr))
			return -EFAULT;
		ret = mock_access(buf, offset, page, &nr, write);
		if (ret)
			return ret;
		if (!write && copy_to_user(data, page, nr))
			return -EFAULT;
	}
	return 0;
}

static int mock_peek_poke(struct mock_buf *buf,
			  const struct dma_buf_mock_data *args, bool write)
{
	void *page;
	int ret;

	if (!IS_ALIGNED(args->offset | args->len, sizeof(u64)) ||
	    args->offset > buf->dmabuf->size ||
	    args->len > buf->dmabuf->size - args->offset)
		return -EINVAL;

	page = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	ret = mock_access_user(buf, args->offset, args->len,
			       u64_to_user_ptr(args->data), page, write);
	kfree(page);
	return ret;
}

static int mock_cmd_peek(struct mock_buf *buf, void *arg)
{
	return mock_peek_poke(buf, arg, false);
}

static int mock_cmd_poke(struct mock_buf *buf, void *arg)
{
	return mock_peek_poke(buf, arg, true);
}

static int mock_cmd_fail(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_fail *args = arg;

	if (args->step >= DMA_BUF_MOCK_NR_STEPS || args->error > MAX_ERRNO ||
	    (args->nth && !args->error))
		return -EINVAL;

	buf->fail[args->step] = (struct mock_fail) {
		.nth = args->nth,
		.error = -(int)args->error,
	};
	return 0;
}

static int mock_cmd_fence(struct mock_buf *buf, void *arg)
{
	return mock_add_fence(buf);
}

static int mock_cmd_signal(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_fence *args = arg;

	args->nr_signaled = mock_signal_fences(buf);
	return 0;
}

static int mock_cmd_status(struct mock_buf *buf, void *arg)
{
	struct dma_buf_mock_status *args = arg;

	args->flags = (buf->accessible ? DMA_BUF_MOCK_ACCESSIBLE : 0) |
		      (buf->drained ? DMA_BUF_MOCK_DRAINED : 0);
	args->nr_attachments = list_count_nodes(&buf->dmabuf->attachments);
	args->nr_not_restored = dma_buf_restore_errors(buf->dmabuf);
	args->nr_sgt = buf->nr_sgt;
	args->nr_extents = buf->layout->nr;
	args->nr_get_extent = buf->nr_get_extent;
	args->nr_get_layout = buf->nr_get_layout;
	args->generation = buf->generation;
	return 0;
}

/* An exporter that is busy, under dma_resv as exporters are. */
static int mock_hold(struct mock_owner *owner, struct dma_buf *dmabuf)
{
	int ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	if (cmpxchg(&owner->held, NULL, dmabuf)) {
		ret = -EBUSY;
	} else {
		ret = wait_event_interruptible(owner->released,
					       READ_ONCE(owner->held) != dmabuf);
		/* Unless it was released, and another one is held by now */
		cmpxchg(&owner->held, dmabuf, NULL);
	}
	dma_resv_unlock(dmabuf->resv);
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

static int mock_cmd_hold(struct mock_owner *owner, void *arg)
{
	struct dma_buf_mock_hold *args = arg;
	struct dma_buf *dmabuf;
	int ret = 0;

	if (args->action > DMA_BUF_MOCK_HOLD_RELEASE)
		return -EINVAL;
	dmabuf = dma_buf_get(args->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	if (args->action == DMA_BUF_MOCK_HOLD_LOCK) {
		ret = mock_hold(owner, dmabuf);
	} else if (READ_ONCE(owner->held) != dmabuf) {
		ret = -ENOENT;
	} else if (args->action == DMA_BUF_MOCK_HOLD_RELEASE) {
		WRITE_ONCE(owner->held, NULL);
		wake_up_all(&owner->released);
	}
	dma_buf_put(dmabuf);
	return ret;
}

/* Check the blocks of a buffer that is on the owner's list. */
static void mock_check_buf(struct mock_buf *buf)
{
	/* Without a file there is no importer, and release is to come. */
	if (!get_file_active(&buf->dmabuf->file))
		return;

	dma_resv_lock(buf->dmabuf->resv, NULL);
	mock_add_changed(buf, mock_layout_check(buf->layout));
	dma_resv_unlock(buf->dmabuf->resv);
	dma_buf_put(buf->dmabuf);
}

static int mock_cmd_check(struct mock_owner *owner, void *arg)
{
	struct dma_buf_mock_check *args = arg;
	struct mock_buf *buf;

	if (args->__reserved)
		return -EINVAL;

	args->nr_buffers = 0;
	scoped_guard(mutex, &owner->lock) {
		list_for_each_entry(buf, &owner->bufs, elm) {
			mock_check_buf(buf);
			args->nr_buffers++;
		}
	}
	atomic64_add(mock_quarantine_check(&owner->id), &owner->nr_changed);
	args->nr_changed = atomic64_read(&owner->nr_changed);
	args->nr_quarantined = READ_ONCE(quarantine.nr_pages);
	return 0;
}

static int mock_cmd_import(struct mock_owner *owner, void *arg)
{
	const u32 models = BIT(DMA_BUF_MOCK_PINNED) | BIT(DMA_BUF_MOCK_MOVABLE) |
			   BIT(DMA_BUF_MOCK_REVOCABLE);
	struct dma_buf_mock_import *args = arg;
	struct mock_import *import;
	struct dma_buf *dmabuf;

	if (args->flags & ~(DMA_BUF_MOCK_BUSY | DMA_BUF_MOCK_PCI) ||
	    args->models & ~models ||
	    (args->pci_device && !(args->flags & DMA_BUF_MOCK_PCI)))
		return -EINVAL;
	/* Anybody's: devices do not care whose memory it is. */
	dmabuf = dma_buf_get(args->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	import = mock_import_create(dmabuf, args);
	if (IS_ERR(import)) {
		dma_buf_put(dmabuf);
		return PTR_ERR(import);
	}

	guard(mutex)(&owner->imports_lock);
	import->id = ++owner->next_import_id;
	list_add_tail(&import->elm, &owner->imports);
	args->id = import->id;
	args->mapped = 1;
	return 0;
}

static int mock_cmd_idle(struct mock_owner *owner, void *arg)
{
	struct dma_buf_mock_import *args = arg;
	struct mock_import *import;

	guard(mutex)(&owner->imports_lock);
	import = mock_import_find(owner, args->id);
	if (!import)
		return -ENOENT;
	mock_import_idle(import);
	args->mapped = !!READ_ONCE(import->sgt);
	return 0;
}

static int mock_cmd_unimport(struct mock_owner *owner, void *arg)
{
	struct dma_buf_mock_import *args = arg;
	struct mock_import *import;

	guard(mutex)(&owner->imports_lock);
	import = mock_import_find(owner, args->id);
	if (!import)
		return -ENOENT;
	list_del(&import->elm);
	mock_import_end(import);
	args->mapped = 0;
	return 0;
}

/* What a command on a buffer is called with */
enum mock_lock {
	MOCK_UNLOCKED,
	MOCK_BUF_LOCK,
	MOCK_DMA_RESV,
};

static const struct mock_cmd {
	unsigned int cmd;
	/* On the owner, or on one of its buffers */
	int (*fn)(struct mock_owner *owner, void *arg);
	int (*buf_fn)(struct mock_buf *buf, void *arg);
	enum mock_lock lock;
} mock_cmds[] = {
	{ DMA_BUF_MOCK_CREATE, mock_cmd_create },
	{ DMA_BUF_MOCK_REVOKE, NULL, mock_cmd_revoke, MOCK_BUF_LOCK },
	{ DMA_BUF_MOCK_RESTORE, NULL, mock_cmd_restore, MOCK_BUF_LOCK },
	{ DMA_BUF_MOCK_MOVE, NULL, mock_cmd_move, MOCK_BUF_LOCK },
	{ DMA_BUF_MOCK_ATTRS, NULL, mock_cmd_attrs, MOCK_BUF_LOCK },
	{ DMA_BUF_MOCK_PEEK, NULL, mock_cmd_peek, MOCK_UNLOCKED },
	{ DMA_BUF_MOCK_POKE, NULL, mock_cmd_poke, MOCK_UNLOCKED },
	{ DMA_BUF_MOCK_FAIL, NULL, mock_cmd_fail, MOCK_DMA_RESV },
	{ DMA_BUF_MOCK_FENCE, NULL, mock_cmd_fence, MOCK_UNLOCKED },
	{ DMA_BUF_MOCK_SIGNAL, NULL, mock_cmd_signal, MOCK_UNLOCKED },
	{ DMA_BUF_MOCK_STATUS, NULL, mock_cmd_status, MOCK_DMA_RESV },
	{ DMA_BUF_MOCK_HOLD, mock_cmd_hold },
	{ DMA_BUF_MOCK_CHECK, mock_cmd_check },
	{ DMA_BUF_MOCK_IMPORT, mock_cmd_import },
	{ DMA_BUF_MOCK_IDLE, mock_cmd_idle },
	{ DMA_BUF_MOCK_UNIMPORT, mock_cmd_unimport },
};

union mock_args {
	__s32 fd;	/* Comes first in those that have one */
	struct dma_buf_mock_create create;
	struct dma_buf_mock_revoke revoke;
	struct dma_buf_mock_move move;
	struct dma_buf_mock_attrs attrs;
	struct dma_buf_mock_data data;
	struct dma_buf_mock_fail fail;
	struct dma_buf_mock_fence fence;
	struct dma_buf_mock_hold hold;
	struct dma_buf_mock_status status;
	struct dma_buf_mock_check check;
	struct dma_buf_mock_import import;
};

static int mock_call_locked(const struct mock_cmd *cmd, struct mock_buf *buf,
			    void *arg)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	int ret;

	switch (cmd->lock) {
	case MOCK_BUF_LOCK:
		ret = mutex_lock_interruptible(&buf->lock);
		if (ret)
			return ret;
		ret = cmd->buf_fn(buf, arg);
		mutex_unlock(&buf->lock);
		return ret;
	case MOCK_DMA_RESV:
		ret = dma_resv_lock_interruptible(resv, NULL);
		if (ret)
			return ret;
		ret = cmd->buf_fn(buf, arg);
		dma_resv_unlock(resv);
		return ret;
	default:
		return cmd->buf_fn(buf, arg);
	}
}

static int mock_call(const struct mock_cmd *cmd, struct mock_owner *owner,
		     union mock_args *args)
{
	struct mock_buf *buf;
	int ret;

	if (cmd->fn)
		return cmd->fn(owner, args);

	buf = mock_buf_get(owner, args->fd);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	ret = mock_call_locked(cmd, buf, args);
	mock_buf_put(buf);
	return ret;
}

static long mock_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct mock_owner *owner = file->private_data;
	void __user *uargs = (void __user *)arg;
	union mock_args args;
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(mock_cmds) && mock_cmds[i].cmd != cmd; i++)
		;
	if (i == ARRAY_SIZE(mock_cmds))
		return -ENOTTY;

	if (copy_from_user(&args, uargs, _IOC_SIZE(cmd)))
		return -EFAULT;
	ret = mock_call(&mock_cmds[i], owner, &args);
	if (!ret && _IOC_DIR(cmd) & _IOC_READ &&
	    copy_to_user(uargs, &args, _IOC_SIZE(cmd)))
		ret = -EFAULT;
	return ret;
}

static int mock_open(struct inode *inode, struct file *file)
{
	struct mock_owner *owner;

	owner = kzalloc_obj(*owner);
	if (!owner)
		return -ENOMEM;
	kref_init(&owner->kref);
	mutex_init(&owner->lock);
	INIT_LIST_HEAD(&owner->bufs);
	init_waitqueue_head(&owner->released);
	mutex_init(&owner->imports_lock);
	INIT_LIST_HEAD(&owner->imports);
	owner->id = atomic64_inc_return(&next_owner_id);
	file->private_data = owner;
	return 0;
}

static int mock_close(struct inode *inode, struct file *file)
{
	struct mock_owner *owner = file->private_data;
	struct mock_buf *buf;

	mock_imports_end(owner);

	mutex_lock(&owner->lock);
	list_for_each_entry(buf, &owner->bufs, elm) {
		if (!get_file_active(&buf->dmabuf->file))
			continue;
		mock_revoke_for_ever(buf);
		dma_buf_put(buf->dmabuf);
	}
	mutex_unlock(&owner->lock);
	mock_owner_put(owner);
	return 0;
}

static const struct file_operations mock_fops = {
	.owner = THIS_MODULE,
	.open = mock_open,
	.release = mock_close,
	.unlocked_ioctl = mock_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice mock_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dma-buf-mock",
	.fops = &mock_fops,
	.mode = 0600,
};

static int __init mock_init(void)
{
	int ret;

	/* Who can open the device decides when fences are signaled. */
	add_taint(TAINT_TEST, LOCKDEP_STILL_OK);

	ret = mock_device_create();
	if (ret)
		return ret;
	ret = misc_register(&mock_misc);
	if (ret)
		platform_device_unregister(mock_device);
	return ret;
}
module_init(mock_init);

static void __exit mock_exit(void)
{
	misc_deregister(&mock_misc);
	platform_device_unregister(mock_device);
	mock_quarantine_empty();
}
module_exit(mock_exit);

MODULE_DESCRIPTION("Mock exporter of dma-bufs for tests");
MODULE_IMPORT_NS("DMA_BUF");
MODULE_LICENSE("GPL");
