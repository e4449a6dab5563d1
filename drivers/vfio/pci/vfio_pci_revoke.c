// SPDX-License-Identifier: GPL-2.0-only
/*
 * When the dma-bufs of a device can be accessed
 *
 * Model: a device keeps the right to take the memory of its dma-bufs away.  It
 * does so for causes, &enum vfio_pci_cause.  The causes of the device,
 * revocation.causes, apply to all of its dma-bufs.  A dma-buf has some causes
 * of its own.  A dma-buf is accessible while it has no cause:
 *
 *	begins with				cause		ends with
 *	PCI_COMMAND_MEMORY cleared, or lost	DECODE, LOST	set, and decoded
 *	D1 to D3, LOW_POWER_ENTRY		D3, PM_ENTRY	D0, exit, wakeup
 *	reset begins				RESET		reset ends
 *	reset ends, driver needs time		NOT_READY	driver is ready
 *	error, link cut off			ERROR, LOST	resume, or failure
 *	DMA_BUF_STATE, revoked			USER		DMA_BUF_STATE, ok
 *	DMA_BUF_PRIVATE begins			CONVERT		memory has changed
 *	device closed				CLOSED		never
 *
 * Causes are levels, not counts.  vfio_pci_causes() returns the causes of the
 * device that hold now.  A path that is about to change the device does this:
 *
 *	take memory_lock for write
 *	vfio_pci_revoke_begin(cause)
 *	change the device
 *	vfio_pci_revoke_end()
 *	drop memory_lock
 *
 * vfio_pci_revoke_begin() sets the cause and returns when no importer reaches
 * the memory any more.  vfio_pci_revoke_end() looks which causes hold.  In
 * between the path counts as busy, and no other path looks at the causes: the
 * busy path does so at its end, for all of them.
 *
 * Resets by the PCI core cannot wait for memory_lock, because config space is
 * blocked during a reset, and the holder of memory_lock may wait for config
 * space.  They take dmabufs_lock only, and look at the causes at their end
 * unless a path is busy.
 *
 * Errors are reported with pci_bus_sem held.  So error_detected takes a leaf
 * spinlock, marks the device as cut off, and queues work.  The exporter's
 * callbacks look at the mark and refuse from then on.  The work revokes what
 * is mapped or restored at that moment, and tells the user.  error_detected
 * waits for the work, for a bounded time and with no locks but the caller's,
 * because AER resets the link next.  With DPC the link is down before
 * error_detected is called, so there the hardware changes first.
 *
 * The mark ends with resume or with a permanent failure.  Where the end of an
 * error is not reported (CONFIG_VFIO_PCI_DMABUF_RECOVERY is off), no device is
 * marked, and the user ends the revocation by setting the device up.
 *
 * VFs lose their memory when their PF is reset.  If VFIO drives the PF,
 * vfio_pci_in_reset() is true for its VFs as well.
 *
 * Locks:
 *
 *	memory_lock > dmabufs_lock > dma_resv > revocation.error_lock
 *	vfs_lock of a PF > dmabufs_lock of a VF
 *
 * Code that holds dmabufs_lock must not wait for memory_lock, for config space
 * or for importers' devices.  A holder may read registers, because a reset by
 * the PCI core takes dmabufs_lock before it begins.  vconfig, the power state
 * and pm_runtime_engaged are changed under memory_lock by busy paths only.  So
 * they are stable under memory_lock and, if no path is busy, also under
 * dmabufs_lock.  There is one exception: a device in low power is brought to D0
 * on its way to sleep by a path that is not busy.  PM_ENTRY holds all the while.
 *
 * Scatterlist importers can go on with DMA for a bounded time after they were
 * told.  A path that changes the hardware waits for that ("drains") with
 * dmabufs_lock and dma_resv dropped.  If a dma-buf is restored before it is
 * drained, there is nothing left to wait for.
 *
 * Invariants:
 *
 *  - Under dmabufs_lock, priv->causes is revocation.causes | priv->own_causes.
 *  - While priv->causes is not 0, importers that are no device hold no
 *    mapping.  There is one exception: vfio_pci_dma_buf_wait_ready() lets an
 *    importer map when the last cause has ended in revocation.causes, shortly
 *    before the holder of dmabufs_lock sets priv->causes to 0.
 *  - If no path is busy, error_work is not queued, and there are dma-bufs, then
 *    revocation.causes is what vfio_pci_causes() returns, with NOT_READY.
 */
#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/dma-resv.h>
#include <linux/eventfd.h>
#include <linux/pci.h>
#include <linux/vfio_pci_core.h>

#include "vfio_pci_priv.h"

/* A reset by the PCI core waits no longer than this for importers */
#define VFIO_PCI_RESET_DRAIN_MS	2000
/* How often a wait looks for a fatal signal */
#define VFIO_PCI_DRAIN_SLICE_MS	100
/* An error's report waits no longer than this until importers were told */
#define VFIO_PCI_ERROR_WAIT_MS	1000
/* How often a driver is asked whether its device is ready after a reset */
#define VFIO_PCI_READY_POLL_MS	15

/* Events of error recovery, for error_work */
#define VFIO_PCI_ERROR_LOST	BIT(0)
#define VFIO_PCI_ERROR_OVER	BIT(1)
#define VFIO_PCI_ERROR_SIGNAL	BIT(2)

static u32 vfio_pci_causes_for_user(u32 causes)
{
	static const struct {
		u32 cause;
		u32 user;
	} map[] = {
		{ VFIO_PCI_CAUSE_DECODE | VFIO_PCI_CAUSE_LOST,
		  VFIO_DMA_BUF_CAUSE_DECODE },
		{ VFIO_PCI_CAUSE_D3 | VFIO_PCI_CAUSE_D1_D2 |
		  VFIO_PCI_CAUSE_PM_ENTRY,
		  VFIO_DMA_BUF_CAUSE_LOW_POWER },
		{ VFIO_PCI_CAUSE_RESET | VFIO_PCI_CAUSE_NOT_READY,
		  VFIO_DMA_BUF_CAUSE_RESET },
		{ VFIO_PCI_CAUSE_ERROR, VFIO_DMA_BUF_CAUSE_ERROR },
		{ VFIO_PCI_CAUSE_USER, VFIO_DMA_BUF_CAUSE_USER },
		{ VFIO_PCI_CAUSE_CLOSED, VFIO_DMA_BUF_CAUSE_CLOSED },
		{ VFIO_PCI_CAUSE_CONVERT, VFIO_DMA_BUF_CAUSE_CONVERT },
	};
	u32 user = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(map); i++)
		if (causes & map[i].cause)
			user |= map[i].user;

	return user;
}

/* A reset of a PF is one of its VFs. */
static bool vfio_pci_in_reset(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_core_device *pf = vdev->sriov_pf_core_dev;

	return READ_ONCE(vdev->revocation.resets) ||
	       (pf && READ_ONCE(pf->revocation.resets));
}

/**
 * vfio_pci_revoke_causes - what vfio_pci_causes() does not see in the device
 * @vdev: the device
 *
 * Context: any; the answer lasts under dmabufs_lock only, and for
 * %VFIO_PCI_CAUSE_ERROR not even there.
 *
 * Return: a mask of &enum vfio_pci_cause
 */
u32 vfio_pci_revoke_causes(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;
	u32 causes = 0;

	if (vfio_pci_in_reset(vdev))
		causes |= VFIO_PCI_CAUSE_RESET;
	if (READ_ONCE(rev->lost))
		causes |= VFIO_PCI_CAUSE_LOST;
	if (READ_ONCE(rev->cut_off))
		causes |= VFIO_PCI_CAUSE_ERROR;

	return causes;
}

static void vfio_pci_dma_buf_notify(struct vfio_pci_dma_buf *priv)
{
	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	if (priv->event)
		eventfd_signal(priv->event);
}

/* Is there anybody to wait for?  Importers have been told. */
static bool vfio_pci_dma_buf_in_use(struct vfio_pci_dma_buf *priv)
{
	struct dma_resv *resv = priv->dmabuf->resv;

	dma_resv_assert_held(resv);

	return priv->nr_mapped ||
	       !dma_resv_test_signaled(resv, DMA_RESV_USAGE_BOOKKEEP);
}

/* Importers map as soon as they are told that they can: causes change first. */
static void vfio_pci_dma_buf_set_causes(struct vfio_pci_dma_buf *priv,
					u32 causes)
{
	struct dma_buf *dmabuf = priv->dmabuf;
	bool was = priv->causes;

	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	dma_resv_lock(dmabuf->resv, NULL);
	WRITE_ONCE(priv->causes, causes);
	if (!was) {
		dma_buf_invalidate_mappings(dmabuf);
		priv->revocations++;
		priv->undrained = vfio_pci_dma_buf_in_use(priv);
	} else if (!causes) {
		dma_buf_mappings_restored(dmabuf);
	}
	dma_resv_unlock(dmabuf->resv);
}

static void vfio_pci_dma_buf_apply(struct vfio_pci_dma_buf *priv)
{
	u32 causes, old = priv->causes;

	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	causes = priv->vdev->revocation.causes | priv->own_causes;
	if (causes == old)
		return;

	vfio_pci_dma_buf_set_causes(priv, causes);
	if (!causes && wq_has_sleeper(&priv->wait))
		wake_up_all(&priv->wait);
	/* Most have no eventfd: don't compare for them. */
	if (priv->event &&
	    vfio_pci_causes_for_user(causes) != vfio_pci_causes_for_user(old))
		vfio_pci_dma_buf_notify(priv);
}

/*
 * From now on the device has these causes.  vfio_pci_dma_buf_wait_ready() sees them
 * at once.
 */
static void vfio_pci_revoke_apply(struct vfio_pci_core_device *vdev, u32 causes)
{
	struct vfio_pci_dma_buf *priv;

	lockdep_assert_held(&vdev->dmabufs_lock);

	WRITE_ONCE(vdev->revocation.causes, causes);
	list_for_each_entry(priv, &vdev->dmabufs, dmabufs_elm)
		vfio_pci_dma_buf_apply(priv);
}

/*
 * The memory of VFs is decoded by their PF.  If that is being reset right now it
 * may answer with ones, and nothing is decoded.
 */
static bool vfio_pci_vf_decoded(struct pci_dev *vf)
{
	struct pci_dev *pf = pci_physfn(vf);
	u16 pos, ctrl = 0;

	pos = pci_find_ext_capability(pf, PCI_EXT_CAP_ID_SRIOV);
	if (pos)
		pci_read_config_word(pf, pos + PCI_SRIOV_CTRL, &ctrl);

	return !PCI_POSSIBLE_ERROR(ctrl) && (ctrl & PCI_SRIOV_CTRL_VFE) &&
	       (ctrl & PCI_SRIOV_CTRL_MSE);
}

/*
 * A reset of the link makes resizable BARs small again.  A BAR that is smaller
 * than what the host has assigned decodes a part only.
 */
VISIBLE_IF_KUNIT bool vfio_pci_rebar_intact(struct pci_dev *pdev)
{
	unsigned int pos, nbars, i;
	u32 ctrl;

	pos = pdev->rebar_cap;
	if (!pos)
		return true;

	pci_read_config_dword(pdev, pos + PCI_REBAR_CTRL, &ctrl);
	nbars = FIELD_GET(PCI_REBAR_CTRL_NBAR_MASK, ctrl);
	for (i = 0; i < nbars; i++, pos += 8) {
		unsigned int bar;
		u64 size;

		pci_read_config_dword(pdev, pos + PCI_REBAR_CTRL, &ctrl);
		bar = FIELD_GET(PCI_REBAR_CTRL_BAR_IDX, ctrl);
		size = BIT_ULL(FIELD_GET(PCI_REBAR_CTRL_BAR_SIZE, ctrl) + 20);
		if (bar < PCI_STD_NUM_BARS && pci_resource_n(pdev, bar)->parent &&
		    size != pci_resource_len(pdev, bar))
			return false;
	}

	return true;
}
EXPORT_SYMBOL_IF_KUNIT(vfio_pci_rebar_intact);

/*
 * Ask the hardware whether it decodes the memory, after something that vconfig
 * does not know of.  Nobody resets the device meanwhile.
 */
static void vfio_pci_check_decode(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	u32 bars[PCI_STD_NUM_BARS];
	bool decoded = true;
	u16 cmd;

	lockdep_assert_held(&vdev->dmabufs_lock);

	if (pdev->is_virtfn) {
		decoded = !vfio_pci_in_reset(vdev) && vfio_pci_vf_decoded(pdev);
	} else if (!pdev->no_command_memory) {
		pci_read_config_word(pdev, PCI_COMMAND, &cmd);
		decoded = !PCI_POSSIBLE_ERROR(cmd) &&
			  (cmd & PCI_COMMAND_MEMORY) &&
			  !vfio_pci_lost_bars(pdev, bars) &&
			  vfio_pci_rebar_intact(pdev);
	}

	WRITE_ONCE(vdev->revocation.lost,
		   !decoded || READ_ONCE(vdev->revocation.cut_off));
}

/* With registers that can be read: what the driver says, and ask it again. */
static bool vfio_pci_not_ready(struct vfio_pci_core_device *vdev)
{
	lockdep_assert_held(&vdev->dmabufs_lock);

	if (!vdev->pci_ops || !vdev->pci_ops->dmabufs_ready ||
	    vdev->pci_ops->dmabufs_ready(vdev))
		return false;

	mod_delayed_work(system_percpu_wq, &vdev->revocation.ready_work,
			 msecs_to_jiffies(VFIO_PCI_READY_POLL_MS));
	return true;
}

/*
 * Look which causes hold.  A path that is busy does so when it is done; without
 * dma-bufs nobody wants to know, and the device may be closed.
 */
static void vfio_pci_revoke_look(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;
	u32 causes;

	lockdep_assert_held(&vdev->dmabufs_lock);

	if (rev->busy || list_empty(&vdev->dmabufs))
		return;

	causes = vfio_pci_causes(vdev);
	if (!causes && vfio_pci_not_ready(vdev))
		causes = VFIO_PCI_CAUSE_NOT_READY;
	vfio_pci_revoke_apply(vdev, causes);
}

static void vfio_pci_ready_work(struct work_struct *work)
{
	struct vfio_pci_core_device *vdev =
		container_of(to_delayed_work(work), struct vfio_pci_core_device,
			     revocation.ready_work);

	guard(mutex)(&vdev->dmabufs_lock);
	vfio_pci_revoke_look(vdev);
}

/**
 * vfio_pci_dma_buf_wait_ready - wait for a driver after a reset
 * @priv: a dma-buf that is revoked for %VFIO_PCI_CAUSE_NOT_READY and nothing else
 *
 * For importers that would take a revoked dma-buf for one that is gone, although it
 * will be back in a moment.  A task that tells importers of a new cause, or of the
 * end of this one, waits for dma_resv.  It does not wait for long, because the change
 * of the causes ends the wait here.
 *
 * Context: process context, dma_resv held
 *
 * Return: 0 if it is ready now; -EAGAIN if it is not within the time that the
 * driver gives, or there is another cause; -EINTR if a fatal signal came
 */
int vfio_pci_dma_buf_wait_ready(struct vfio_pci_dma_buf *priv)
{
	unsigned int ms = priv->vdev->pci_ops->dmabufs_ready_ms;
	struct vfio_pci_revocation *rev = &priv->vdev->revocation;
	/* Not by jiffies, which are too low here if the last tick is late. */
	ktime_t end = ktime_add_ms(ktime_get(), ms);

	dma_resv_assert_held(priv->dmabuf->resv);

	while (READ_ONCE(rev->causes) == VFIO_PCI_CAUSE_NOT_READY) {
		if (READ_ONCE(priv->own_causes) || ktime_after(ktime_get(), end))
			return -EAGAIN;
		if (schedule_timeout_killable(msecs_to_jiffies(5)) &&
		    fatal_signal_pending(current))
			return -EINTR;
	}

	return READ_ONCE(rev->causes) || READ_ONCE(priv->own_causes) ? -EAGAIN : 0;
}

/* How to wait for importers that do device DMA */
struct vfio_pci_drain {
	bool killable;
	bool bounded;
	/* With bounded: jiffies at which to give up */
	unsigned long end;
};

static bool vfio_pci_dma_buf_unmapped(struct vfio_pci_dma_buf *priv)
{
	/* Pairs with vfio_pci_dma_buf_unmap(): DMA mappings are gone. */
	return !smp_load_acquire(&priv->nr_mapped);
}

/*
 * Wait until no device reaches the memory of a revoked dma-buf.  Restored, there
 * is nothing to wait for any more.
 */
static int vfio_pci_dma_buf_wait(struct vfio_pci_dma_buf *priv,
				 const struct vfio_pci_drain *drain)
{
	const unsigned long slice = msecs_to_jiffies(VFIO_PCI_DRAIN_SLICE_MS);

	while (READ_ONCE(priv->causes)) {
		if (dma_resv_wait_timeout(priv->dmabuf->resv,
					  DMA_RESV_USAGE_BOOKKEEP, false,
					  slice) > 0 &&
		    wait_event_timeout(priv->wait,
				       vfio_pci_dma_buf_unmapped(priv) ||
				       !READ_ONCE(priv->causes), slice))
			return 0;
		if (drain->killable && fatal_signal_pending(current))
			return -EINTR;
		if (drain->bounded && time_after(jiffies, drain->end))
			return -ETIMEDOUT;
	}

	return 0;
}

static struct vfio_pci_dma_buf *
vfio_pci_undrained(struct vfio_pci_core_device *vdev, u64 *revocations)
{
	struct vfio_pci_dma_buf *priv;

	guard(mutex)(&vdev->dmabufs_lock);

	list_for_each_entry(priv, &vdev->dmabufs, dmabufs_elm) {
		if (priv->undrained && get_file_active(&priv->dmabuf->file)) {
			*revocations = priv->revocations;
			return priv;
		}
	}

	return NULL;
}

/* Nobody restores what the caller has revoked. */
static int vfio_pci_revoke_drain(struct vfio_pci_core_device *vdev,
				 const struct vfio_pci_drain *drain)
{
	struct vfio_pci_dma_buf *priv;
	u64 revocations;
	int ret = 0;

	while (!ret && (priv = vfio_pci_undrained(vdev, &revocations))) {
		ret = vfio_pci_dma_buf_wait(priv, drain);
		if (!ret) {
			guard(mutex)(&vdev->dmabufs_lock);
			/* What was revoked again is to be waited for again. */
			if (priv->revocations == revocations)
				priv->undrained = false;
		}
		fput(priv->dmabuf->file);
	}

	return ret;
}

/**
 * vfio_pci_revoke_begin - the device is about to change
 * @vdev: the device
 * @cause: why its memory cannot be accessed from now on, or 0 if it can
 *
 * Call before the hardware changes.  On return no importer of a dma-buf of @vdev
 * reaches the memory any more, if there is a @cause.  To be followed by
 * vfio_pci_revoke_end(), unless it fails, and then the device must not change.
 *
 * Context: process context, memory_lock held for write; takes dmabufs_lock and
 * dma_resv, and waits for importers that do device DMA.
 *
 * Return: 0, or -EINTR: a fatal signal came
 */
int vfio_pci_revoke_begin(struct vfio_pci_core_device *vdev, u32 cause)
{
	const struct vfio_pci_drain drain = { .killable = true };
	int ret = 0;

	lockdep_assert_held_write(&vdev->memory_lock);

	scoped_guard(mutex, &vdev->dmabufs_lock) {
		vdev->revocation.busy++;
		vfio_pci_revoke_apply(vdev, vdev->revocation.causes | cause);
	}
	if (cause)
		ret = vfio_pci_revoke_drain(vdev, &drain);
	if (ret)
		vfio_pci_revoke_end(vdev);

	return ret;
}

/**
 * vfio_pci_revoke_end - the device has changed
 * @vdev: the device
 *
 * Call once the hardware has changed, whether or not the change succeeded, and
 * with the state of the device recorded.  What the caller did may have changed
 * more than it wanted (a reset wakes the device, a power transition can cost it
 * its registers), so all is looked at: dma-bufs come back if no cause is left.
 *
 * Context: process context, memory_lock held for write; takes dmabufs_lock and
 * dma_resv.
 */
void vfio_pci_revoke_end(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;
	bool woken;

	lockdep_assert_held_write(&vdev->memory_lock);

	guard(mutex)(&vdev->dmabufs_lock);
	if (WARN_ON_ONCE(!rev->busy) || --rev->busy || list_empty(&vdev->dmabufs))
		return;

	/*
	 * The user may have set up a device that had lost its registers, or a
	 * NoSoftRst- device may have lost by waking up what was written in D3hot.
	 * The end of a reset that goes on finds out.
	 */
	woken = (rev->causes & VFIO_PCI_CAUSE_D3) && !vdev->pdev->is_virtfn &&
		!(vfio_pci_causes(vdev) & VFIO_PCI_CAUSE_D3);
	if (!vfio_pci_in_reset(vdev) && (rev->lost || woken))
		vfio_pci_check_decode(vdev);
	vfio_pci_revoke_look(vdev);
}

/**
 * vfio_pci_revoke_add - a new dma-buf
 * @vdev: its owner
 * @priv: the buffer, nobody else knows it
 *
 * Context: process context, memory_lock held; takes dmabufs_lock and dma_resv.
 *
 * Return: 0, or as vfio_pci_private_add()
 */
int vfio_pci_revoke_add(struct vfio_pci_core_device *vdev,
			struct vfio_pci_dma_buf *priv)
{
	int ret;

	lockdep_assert_held(&vdev->memory_lock);

	guard(mutex)(&vdev->dmabufs_lock);
	ret = vfio_pci_private_add(vdev, priv);
	if (ret)
		return ret;

	/* Nobody has looked while there were none. */
	if (list_empty(&vdev->dmabufs) &&
	    (!vfio_pci_in_reset(vdev) || vdev->pdev->is_virtfn))
		vfio_pci_check_decode(vdev);
	list_add_tail(&priv->dmabufs_elm, &vdev->dmabufs);
	vfio_pci_revoke_look(vdev);

	return 0;
}

/**
 * vfio_pci_driver_can_revoke - does the driver tell us what we have to know?
 * @vdev: a device that is being registered, or is to export memory
 *
 * Memory that is exported has to be taken away from importers before each reset,
 * and in each error, of which only the driver's callbacks learn.
 *
 * Context: any, the device is bound.
 *
 * Return: true if all callbacks are there
 */
bool vfio_pci_driver_can_revoke(struct vfio_pci_core_device *vdev)
{
	const struct pci_error_handlers *handlers = vdev->pdev->driver->err_handler;

	return handlers && handlers->reset_prepare && handlers->reset_done &&
	       handlers->error_detected &&
	       (!IS_ENABLED(CONFIG_VFIO_PCI_DMABUF_RECOVERY) ||
		(handlers->slot_reset && handlers->resume));
}

/* A PF is about to be reset, and takes the memory of its VFs with it. */
static int vfio_pci_vfs_reset_prepare(struct vfio_pci_core_device *pf,
				      const struct vfio_pci_drain *drain)
{
	struct vfio_pci_core_device *vf;
	int ret = 0;

	guard(mutex)(&pf->revocation.vfs_lock);

	list_for_each_entry(vf, &pf->revocation.vfs, revocation.vf_item) {
		guard(mutex)(&vf->dmabufs_lock);
		/* Until somebody has seen in the PF that it is decoded again */
		WRITE_ONCE(vf->revocation.lost, true);
		vfio_pci_revoke_apply(vf, vf->revocation.causes |
					  VFIO_PCI_CAUSE_RESET |
					  VFIO_PCI_CAUSE_LOST);
	}
	list_for_each_entry(vf, &pf->revocation.vfs, revocation.vf_item)
		ret = vfio_pci_revoke_drain(vf, drain) ?: ret;

	return ret;
}

/* The PCI core has restored SR-IOV in the PF, if nothing went wrong. */
static void vfio_pci_vfs_reset_done(struct vfio_pci_core_device *pf)
{
	struct vfio_pci_core_device *vf;

	guard(mutex)(&pf->revocation.vfs_lock);

	list_for_each_entry(vf, &pf->revocation.vfs, revocation.vf_item) {
		guard(mutex)(&vf->dmabufs_lock);
		if (!list_empty(&vf->dmabufs) && !vfio_pci_in_reset(vf))
			vfio_pci_check_decode(vf);
		vfio_pci_revoke_look(vf);
	}
}

/**
 * vfio_pci_core_reset_prepare - revoke the dma-bufs, a reset follows
 * @pdev: a device bound to a VFIO driver, opened or not
 *
 * For &pci_error_handlers.reset_prepare: the PCI core resets the device, because
 * somebody wrote to its reset attribute in sysfs, or because VFIO asked for it
 * and has revoked the dma-bufs already.  When a device is closed VFIO calls it, as
 * the PCI core calls no driver then.
 *
 * An importer whose own device is being reset as well, and was stopped before it
 * could unmap, keeps the reset waiting for a bounded time only.  The reset of a PF
 * takes the memory of its VFs as well.
 *
 * Context: process context, device lock held, config space blocked.  memory_lock
 * may be held or not; takes dmabufs_lock and dma_resv, and those of VFs.
 */
void vfio_pci_core_reset_prepare(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *vdev = dev_get_drvdata(&pdev->dev);
	const struct vfio_pci_drain drain = {
		.bounded = true,
		.end = jiffies + msecs_to_jiffies(VFIO_PCI_RESET_DRAIN_MS),
	};
	int ret, ret_vfs;

	device_lock_assert(&pdev->dev);

	scoped_guard(mutex, &vdev->dmabufs_lock) {
		WRITE_ONCE(vdev->revocation.resets, vdev->revocation.resets + 1);
		vfio_pci_revoke_apply(vdev, vdev->revocation.causes |
					    VFIO_PCI_CAUSE_RESET);
	}
	ret = vfio_pci_revoke_drain(vdev, &drain);
	ret_vfs = vfio_pci_vfs_reset_prepare(vdev, &drain);
	if (ret || ret_vfs)
		pci_warn(pdev, "importers of dma-bufs do not stop, resetting\n");
}
EXPORT_SYMBOL_GPL(vfio_pci_core_reset_prepare);

/**
 * vfio_pci_core_reset_done - restore the dma-bufs after a reset
 * @pdev: as for vfio_pci_core_reset_prepare(), to each call of which belongs one
 *	of this
 *
 * For &pci_error_handlers.reset_done.  The reset has brought the device to D0,
 * which may have cost it its registers (NoSoftRst-) before the PCI core saved
 * them: memory that the user had decoded may not be decoded any more.
 *
 * Context: process context, the device is bound.  memory_lock may be held or not;
 * takes dmabufs_lock and dma_resv, and those of VFs.
 */
void vfio_pci_core_reset_done(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *vdev = dev_get_drvdata(&pdev->dev);
	struct vfio_pci_revocation *rev = &vdev->revocation;

	scoped_guard(mutex, &vdev->dmabufs_lock) {
		if (WARN_ON_ONCE(!rev->resets))
			return;
		WRITE_ONCE(rev->resets, rev->resets - 1);
		/* VFs have nothing to lose, but they may get it back. */
		if (!list_empty(&vdev->dmabufs) && !vfio_pci_in_reset(vdev) &&
		    (!pdev->is_virtfn || rev->lost))
			vfio_pci_check_decode(vdev);
		vfio_pci_revoke_look(vdev);
	}
	vfio_pci_vfs_reset_done(vdev);
}
EXPORT_SYMBOL_GPL(vfio_pci_core_reset_done);

static void vfio_pci_error_apply(struct vfio_pci_core_device *vdev, u8 events)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;

	guard(mutex)(&vdev->dmabufs_lock);

	/*
	 * Revoke even if the error is over: importers whose map was refused
	 * meanwhile are told by the end of a revocation that they can map again.
	 * The memory may read as ones now, and DMA of importers' devices to it
	 * ends nowhere.  Do not wait for them here; the next path that changes
	 * the device does.
	 */
	if (events & VFIO_PCI_ERROR_LOST) {
		WRITE_ONCE(rev->lost, true);
		vfio_pci_revoke_apply(vdev, rev->causes | VFIO_PCI_CAUSE_LOST |
					    VFIO_PCI_CAUSE_ERROR);
	}
	/* If the user has set the device up again before, nobody took notice. */
	if ((events & VFIO_PCI_ERROR_OVER) && !rev->busy &&
	    !vfio_pci_in_reset(vdev) && !list_empty(&vdev->dmabufs))
		vfio_pci_check_decode(vdev);
	vfio_pci_revoke_look(vdev);
}

/* Takes effect what vfio_pci_revoke_error() and its like have noted. */
static void vfio_pci_error_work(struct work_struct *work)
{
	struct vfio_pci_core_device *vdev =
		container_of(work, struct vfio_pci_core_device,
			     revocation.error_work);
	struct vfio_pci_revocation *rev = &vdev->revocation;
	u8 events;

	scoped_guard(spinlock, &rev->error_lock) {
		events = rev->events;
		rev->events = 0;
	}

	vfio_pci_error_apply(vdev, events);
	if (events & VFIO_PCI_ERROR_SIGNAL)
		vfio_pci_core_signal_error(vdev);

	/* What came meanwhile has queued the work again. */
	scoped_guard(spinlock, &rev->error_lock)
		WRITE_ONCE(rev->error_pending, rev->events);
	wake_up_all(&rev->error_wait);
}

static void vfio_pci_error_event(struct vfio_pci_core_device *vdev, u8 events,
				 bool cut_off)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;

	scoped_guard(spinlock, &rev->error_lock) {
		rev->events |= events;
		WRITE_ONCE(rev->error_pending, true);
		WRITE_ONCE(rev->cut_off, cut_off);
	}
	schedule_work(&rev->error_work);
}

/**
 * vfio_pci_revoke_error - the PCI core has found an error
 * @vdev: the device, opened or not
 * @state: of the channel
 *
 * For &pci_error_handlers.error_detected.  If the channel is frozen the link is about
 * to be reset: whatever the user does until recovery ends, the dma-bufs stay revoked.
 * The reset comes when all drivers have returned from here.  Importers' mappings have
 * to be gone by then, so this waits for the work that revokes.  The wait is bounded,
 * because a holder of dma_resv may wait for a device that is frozen, too.
 *
 * A permanent failure ends the recovery as well: a reset, or opening the device, and
 * setting it up may help.  If the error was not fatal and the recovery failed because
 * of another device, nothing has happened to this one.
 *
 * Not every reported error is followed by a recovery.  If the end of the recovery is
 * not reported, or if the channel is not frozen although the state says so (CXL), the
 * device is not marked as cut off.  It is marked as lost until it is set up again.
 *
 * Context: process context, device lock held; takes a leaf spinlock.
 *
 * Return: true if the user will be told when the memory has been taken away; false
 * if nothing is to be done before
 */
bool vfio_pci_revoke_error(struct vfio_pci_core_device *vdev,
			   pci_channel_state_t state)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;
	struct pci_dev *pdev = vdev->pdev;
	bool offline = pci_channel_offline(pdev);
	/* Without dma-bufs there is nothing to wait for: the caller tells the user. */
	bool told = !list_empty(&vdev->dmabufs);
	u8 signal = told ? VFIO_PCI_ERROR_SIGNAL : 0;

	if (state == pci_channel_io_normal)
		return false;

	if (state == pci_channel_io_perm_failure) {
		vfio_pci_error_event(vdev, signal |
				     (offline ? VFIO_PCI_ERROR_LOST :
						VFIO_PCI_ERROR_OVER), false);
		return told;
	}

	vfio_pci_error_event(vdev, signal | VFIO_PCI_ERROR_LOST,
			     offline && pdev->driver->err_handler->resume);
	/* A task that adds the first dma-buf sees the mark. */
	if ((told || !list_empty(&vdev->dmabufs)) &&
	    !wait_event_timeout(rev->error_wait, !READ_ONCE(rev->error_pending),
				msecs_to_jiffies(VFIO_PCI_ERROR_WAIT_MS)))
		pci_warn(pdev, "importers of dma-bufs are still to be told of the error\n");

	return told;
}

/**
 * vfio_pci_revoke_unplugged - the device is gone, its driver is to go as well
 * @vdev: the device, opened or not
 *
 * Context: process context; takes a leaf spinlock.
 */
void vfio_pci_revoke_unplugged(struct vfio_pci_core_device *vdev)
{
	vfio_pci_error_event(vdev, VFIO_PCI_ERROR_LOST, false);
}

#if IS_ENABLED(CONFIG_VFIO_PCI_DMABUF_RECOVERY)
/**
 * vfio_pci_core_aer_slot_reset - the link was reset
 * @pdev: a device bound to a VFIO driver, opened or not
 *
 * For &pci_error_handlers.slot_reset.  If the error was not fatal, the driver of
 * another device behind the same bridge asked for the reset.  This driver was not
 * told before.  All it can do now is to revoke, as the device lost its setup.
 *
 * Context: device lock held.
 *
 * Return: %PCI_ERS_RESULT_NONE: only drivers that asked for the reset vote on its
 * result
 */
pci_ers_result_t vfio_pci_core_aer_slot_reset(struct pci_dev *pdev)
{
	/* Until resume, which comes next unless recovery fails. */
	vfio_pci_error_event(dev_get_drvdata(&pdev->dev), VFIO_PCI_ERROR_LOST,
			     true);

	return PCI_ERS_RESULT_NONE;
}
EXPORT_SYMBOL_GPL(vfio_pci_core_aer_slot_reset);

/**
 * vfio_pci_core_aer_resume - the PCI core is done with an error
 * @pdev: a device bound to a VFIO driver, opened or not
 *
 * For &pci_error_handlers.resume.
 *
 * Context: device lock held.
 */
void vfio_pci_core_aer_resume(struct pci_dev *pdev)
{
	vfio_pci_error_event(dev_get_drvdata(&pdev->dev), VFIO_PCI_ERROR_OVER,
			     false);
}
EXPORT_SYMBOL_GPL(vfio_pci_core_aer_resume);
#endif

/* A dma-buf of this device that is named by an fd; to be put by its dmabuf. */
struct vfio_pci_dma_buf *
vfio_pci_dma_buf_get(struct vfio_pci_core_device *vdev, int fd)
{
	struct vfio_pci_dma_buf *priv;
	struct dma_buf *dmabuf;

	dmabuf = dma_buf_get(fd);
	if (IS_ERR(dmabuf))
		return ERR_CAST(dmabuf);

	priv = vfio_pci_dma_buf_find(vdev, dmabuf);
	if (IS_ERR(priv))
		dma_buf_put(dmabuf);

	return priv;
}

static void
vfio_pci_dma_buf_get_state(struct vfio_pci_core_device *vdev,
			   struct vfio_pci_dma_buf *priv,
			   struct vfio_device_feature_dma_buf_state *state)
{
	u32 causes;

	lockdep_assert_held(&vdev->dmabufs_lock);

	/* Not under dma_resv: a map that waits for the device may hold it. */
	causes = priv->causes;

	/* What cannot be mapped is not ok, even if the work is still to run. */
	if (priv->vdev && READ_ONCE(vdev->revocation.cut_off))
		causes |= VFIO_PCI_CAUSE_ERROR;

	state->causes = vfio_pci_causes_for_user(causes);
	state->state = causes ? VFIO_DMA_BUF_STATE_REVOKED :
				VFIO_DMA_BUF_STATE_OK;
	state->flags = causes & VFIO_PCI_CAUSE_CLOSED ?
		       VFIO_DMA_BUF_STATE_FLAG_PERMANENT : 0;
}

/* Importers that could not be restored may have what they need by now. */
static void vfio_pci_dma_buf_retry(struct vfio_pci_dma_buf *priv)
{
	struct dma_resv *resv = priv->dmabuf->resv;
	unsigned int before, after = 0;

	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	/* Neither could be restored, nor may dma_resv be waited for, see above. */
	if (priv->causes)
		return;

	dma_resv_lock(resv, NULL);
	before = dma_buf_restore_errors(priv->dmabuf);
	if (before)
		after = dma_buf_mappings_restored(priv->dmabuf);
	dma_resv_unlock(resv);

	if (before != after)
		vfio_pci_dma_buf_notify(priv);
}

/* Waits for nobody, see vfio_pci_dma_buf_wait(). */
static int vfio_pci_dma_buf_set_state(struct vfio_pci_dma_buf *priv, u32 state)
{
	if (!priv->vdev)
		return -ENODEV;

	if (state == VFIO_DMA_BUF_STATE_REVOKED) {
		WRITE_ONCE(priv->own_causes,
			   priv->own_causes | VFIO_PCI_CAUSE_USER);
		vfio_pci_dma_buf_apply(priv);
	} else if (priv->own_causes & VFIO_PCI_CAUSE_USER) {
		WRITE_ONCE(priv->own_causes,
			   priv->own_causes & ~VFIO_PCI_CAUSE_USER);
		vfio_pci_dma_buf_apply(priv);
	} else {
		vfio_pci_dma_buf_retry(priv);
	}

	return 0;
}

/* For a cause that is the dma-buf's own, under dmabufs_lock. */
void vfio_pci_dma_buf_set_cause(struct vfio_pci_dma_buf *priv, u32 cause,
				bool set)
{
	lockdep_assert_held(&priv->vdev->dmabufs_lock);

	WRITE_ONCE(priv->own_causes, set ? priv->own_causes | cause :
					   priv->own_causes & ~cause);
	vfio_pci_dma_buf_apply(priv);
}

/* Wait for importers that do DMA, until a fatal signal comes: -EINTR. */
int vfio_pci_dma_buf_drain(struct vfio_pci_dma_buf *priv)
{
	const struct vfio_pci_drain drain = { .killable = true };

	return vfio_pci_dma_buf_wait(priv, &drain);
}

static int
vfio_pci_dma_buf_do_state(struct vfio_pci_core_device *vdev, bool set,
			  struct vfio_device_feature_dma_buf_state *state)
{
	const struct vfio_pci_drain drain = { .killable = true };
	struct vfio_pci_dma_buf *priv;
	int ret;

	priv = vfio_pci_dma_buf_get(vdev, state->dmabuf_fd);
	if (IS_ERR(priv))
		return PTR_ERR(priv);

	ret = mutex_lock_killable(&vdev->dmabufs_lock);
	if (ret)
		goto out_put;
	if (set)
		ret = vfio_pci_dma_buf_set_state(priv, state->state);
	else
		vfio_pci_dma_buf_get_state(vdev, priv, state);
	mutex_unlock(&vdev->dmabufs_lock);
	/* Who holds it may wait for the device. */
	if (!set && !ret)
		ret = dma_resv_lock_interruptible(priv->dmabuf->resv, NULL);
	if (!set && !ret) {
		state->nr_not_restored = dma_buf_restore_errors(priv->dmabuf);
		dma_resv_unlock(priv->dmabuf->resv);
	}

	if (!ret && set && state->state == VFIO_DMA_BUF_STATE_REVOKED)
		ret = vfio_pci_dma_buf_wait(priv, &drain);

out_put:
	dma_buf_put(priv->dmabuf);
	return ret;
}

/**
 * vfio_pci_feature_dma_buf_state - the state of a dma-buf, for the user
 * @vdev: the device
 * @flags: of VFIO_DEVICE_FEATURE
 * @arg: a struct vfio_device_feature_dma_buf_state
 * @argsz: size of @arg
 *
 * memory_lock is not needed: what the user wants has nothing to do with the state
 * of the device.
 *
 * Context: process context; takes dmabufs_lock and dma_resv, and waits for
 * importers that do device DMA.
 *
 * Return: 0, or an errno as described with VFIO_DEVICE_FEATURE_DMA_BUF_STATE.
 */
int vfio_pci_feature_dma_buf_state(struct vfio_pci_core_device *vdev, u32 flags,
				   void __user *arg, size_t argsz)
{
	struct vfio_device_feature_dma_buf_state state;
	bool set = flags & VFIO_DEVICE_FEATURE_SET;
	int ret;

	if (!vdev->pci_ops || !vdev->pci_ops->get_dmabuf_phys)
		return -EOPNOTSUPP;

	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET |
				 VFIO_DEVICE_FEATURE_GET, sizeof(state));
	if (ret != 1)
		return ret;

	if (copy_from_user(&state, arg, sizeof(state)))
		return -EFAULT;
	if (state.causes || state.flags || state.nr_not_restored ||
	    state.__reserved)
		return -EINVAL;
	if (state.state != VFIO_DMA_BUF_STATE_OK &&
	    !(set && state.state == VFIO_DMA_BUF_STATE_REVOKED))
		return -EINVAL;

	ret = vfio_pci_dma_buf_do_state(vdev, set, &state);
	if (!ret && !set && copy_to_user(arg, &state, sizeof(state)))
		ret = -EFAULT;

	return ret;
}

/**
 * vfio_pci_feature_dma_buf_eventfd - tell the user when a dma-buf's state changes
 * @vdev: the device
 * @flags: of VFIO_DEVICE_FEATURE
 * @arg: a struct vfio_device_feature_dma_buf_eventfd
 * @argsz: size of @arg
 *
 * Context: process context; takes dmabufs_lock.
 *
 * Return: 0, or an errno as described with VFIO_DEVICE_FEATURE_DMA_BUF_EVENTFD.
 */
int vfio_pci_feature_dma_buf_eventfd(struct vfio_pci_core_device *vdev,
				     u32 flags, void __user *arg, size_t argsz)
{
	struct vfio_device_feature_dma_buf_eventfd args;
	struct eventfd_ctx *event = NULL;
	struct vfio_pci_dma_buf *priv;
	int ret;

	if (!vdev->pci_ops || !vdev->pci_ops->get_dmabuf_phys)
		return -EOPNOTSUPP;

	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET,
				 sizeof(args));
	if (ret != 1)
		return ret;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.eventfd < -1)
		return -EINVAL;

	priv = vfio_pci_dma_buf_get(vdev, args.dmabuf_fd);
	if (IS_ERR(priv))
		return PTR_ERR(priv);

	if (args.eventfd >= 0) {
		event = eventfd_ctx_fdget(args.eventfd);
		if (IS_ERR(event)) {
			ret = PTR_ERR(event);
			goto out_put;
		}
	}

	ret = mutex_lock_killable(&vdev->dmabufs_lock);
	if (!ret) {
		/* Closed for good: it will not change any more. */
		if (priv->vdev)
			swap(priv->event, event);
		else
			ret = -ENODEV;
		mutex_unlock(&vdev->dmabufs_lock);
	}
	if (event)
		eventfd_ctx_put(event);

out_put:
	dma_buf_put(priv->dmabuf);
	return ret;
}

/**
 * vfio_pci_revoke_init - initialize what only dma-bufs need
 * @vdev: the device
 */
void vfio_pci_revoke_init(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_revocation *rev = &vdev->revocation;

	mutex_init(&vdev->dmabufs_lock);
	INIT_LIST_HEAD(&vdev->dmabufs);
	spin_lock_init(&rev->error_lock);
	INIT_WORK(&rev->error_work, vfio_pci_error_work);
	init_waitqueue_head(&rev->error_wait);
	INIT_DELAYED_WORK(&rev->ready_work, vfio_pci_ready_work);
	mutex_init(&rev->vfs_lock);
	INIT_LIST_HEAD(&rev->vfs);
	INIT_LIST_HEAD(&rev->vf_item);
}

/**
 * vfio_pci_revoke_fini - undo vfio_pci_revoke_init()
 * @vdev: the device
 */
void vfio_pci_revoke_fini(struct vfio_pci_core_device *vdev)
{
	mutex_destroy(&vdev->revocation.vfs_lock);
	mutex_destroy(&vdev->dmabufs_lock);
}

/*
 * A reset with a dma-buf around is rare, and what importers do inside dma_resv is
 * theirs to decide: tell lockdep about the order right away.
 */
static void vfio_pci_revoke_teach_lockdep(struct vfio_pci_core_device *vdev)
{
	struct dma_resv resv;

	if (!IS_ENABLED(CONFIG_LOCKDEP))
		return;

	dma_resv_init(&resv);
	down_write(&vdev->memory_lock);
	mutex_lock(&vdev->revocation.vfs_lock);
	mutex_lock(&vdev->dmabufs_lock);
	dma_resv_lock(&resv, NULL);
	spin_lock(&vdev->revocation.error_lock);
	spin_unlock(&vdev->revocation.error_lock);
	dma_resv_unlock(&resv);
	mutex_unlock(&vdev->dmabufs_lock);
	mutex_unlock(&vdev->revocation.vfs_lock);
	up_write(&vdev->memory_lock);
	dma_resv_fini(&resv);
}

/**
 * vfio_pci_revoke_registered - a device can be opened from now on
 * @vdev: the device
 *
 * Context: process context, device lock held.  To be followed by
 * vfio_pci_revoke_unregistered().
 */
void vfio_pci_revoke_registered(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_core_device *pf = vdev->sriov_pf_core_dev;

	device_lock_assert(&vdev->pdev->dev);

	vfio_pci_revoke_teach_lockdep(vdev);

	if (pf) {
		guard(mutex)(&pf->revocation.vfs_lock);
		list_add_tail(&vdev->revocation.vf_item, &pf->revocation.vfs);
	}
}

/**
 * vfio_pci_revoke_unregistered - nothing is left to do for dma-bufs
 * @vdev: the device, closed
 *
 * Context: process context, device lock held, so that no callback of the PCI core
 * runs.
 */
void vfio_pci_revoke_unregistered(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_core_device *pf = vdev->sriov_pf_core_dev;

	device_lock_assert(&vdev->pdev->dev);

	if (pf) {
		guard(mutex)(&pf->revocation.vfs_lock);
		list_del_init(&vdev->revocation.vf_item);
	}
	cancel_work_sync(&vdev->revocation.error_work);
	cancel_delayed_work_sync(&vdev->revocation.ready_work);
}

/**
 * vfio_pci_dma_buf_cleanup - the device is being closed
 * @vdev: the device
 *
 * Nothing ends this cause.  Importers are told, unless the dma-buf is revoked
 * already: then they learn by -ENODEV when they map again.  Returns when nobody
 * reaches the memory any more, however long that takes, and killed or not:
 * the device is given back to the host next.
 *
 * Context: process context; takes dmabufs_lock and dma_resv, and waits for
 * importers that do device DMA.
 */
void vfio_pci_dma_buf_cleanup(struct vfio_pci_core_device *vdev)
{
	const struct vfio_pci_drain drain = {};
	struct vfio_pci_dma_buf *priv, *tmp;

	scoped_guard(mutex, &vdev->dmabufs_lock) {
		list_for_each_entry(priv, &vdev->dmabufs, dmabufs_elm)
			WRITE_ONCE(priv->own_causes, priv->own_causes |
						     VFIO_PCI_CAUSE_CLOSED);
		vfio_pci_revoke_apply(vdev, vdev->revocation.causes);
	}
	vfio_pci_revoke_drain(vdev, &drain);

	/*
	 * That includes those without a file: their release may be under way, or
	 * may not come while somebody holds the dentry (O_PATH).
	 */
	guard(mutex)(&vdev->dmabufs_lock);
	list_for_each_entry_safe(priv, tmp, &vdev->dmabufs, dmabufs_elm)
		vfio_pci_dma_buf_disown(vdev, priv);
}
