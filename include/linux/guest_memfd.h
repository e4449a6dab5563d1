/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For importers, which map the memory of a guest_memfd for a device. Providers,
 * which make such files, include guest_memfd_provider.h. The model, the locks
 * and the invariants are in virt/lib/guest_memfd.c.
 */
#ifndef _LINUX_GUEST_MEMFD_H
#define _LINUX_GUEST_MEMFD_H

#include <linux/interval_tree.h>
#include <linux/types.h>

struct file;
struct guest_memfd_importer;
struct guest_memfd_importers;
struct guest_memfd_provider;
struct iommu_domain;

/**
 * struct guest_memfd_importer_ops - what a provider tells an importer
 * @revoke: the owner takes pages of the importer's range back. The importer
 *	unmaps the whole range, for ever. On return nothing reaches any page of
 *	the range through the importer. Called at most once, and not any more
 *	when guest_memfd_detach() has returned. Called with the locks of the
 *	owner held, so it must not wait for a task that waits for the owner, and
 *	must not take the folio lock of a guest_memfd
 */
struct guest_memfd_importer_ops {
	void (*revoke)(struct guest_memfd_importer *importer);
};

/**
 * struct guest_memfd_importer - a range of a guest_memfd that an importer maps
 * @ops: of the importer
 * @file: the file, to which the importer holds a reference. This is the only
 *	reference that it holds. It keeps the module of the provider, the inode
 *	with its pages, and the VM
 * @provider: the provider that made @file
 * @range: the first and the last page, counted in the file, and the entry in
 *	@importers, which is empty after the revocation
 * @importers: where it is listed, NULL if the provider refused it
 */
struct guest_memfd_importer {
	const struct guest_memfd_importer_ops *ops;
	struct file *file;
	const struct guest_memfd_provider *provider;
	struct interval_tree_node range;
	struct guest_memfd_importers *importers;
};

const struct guest_memfd_provider *guest_memfd_provider(struct file *file);
int guest_memfd_attach(struct guest_memfd_importer *importer,
		       const struct guest_memfd_provider *provider,
		       struct file *file, pgoff_t first, pgoff_t last,
		       const struct guest_memfd_importer_ops *ops);
void guest_memfd_detach(struct guest_memfd_importer *importer);
int guest_memfd_map_iommu(struct guest_memfd_importer *importer,
			  struct iommu_domain *domain, unsigned long iova,
			  u64 offset, size_t len, int prot, bool small_pages,
			  gfp_t gfp);

#endif /* _LINUX_GUEST_MEMFD_H */
