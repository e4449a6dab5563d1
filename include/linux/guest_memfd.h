/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory of a guest_memfd for those who map it for a device. The model and the
 * rules are in virt/lib/guest_memfd.c, who makes such files includes
 * guest_memfd_provider.h.
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
 * @revoke: the owner takes pages of the importer's range back. On return
 *	nothing reaches any page of the range through the importer, which lets
 *	go of all of it, for ever. Called at most once, and not any more when
 *	guest_memfd_detach() has returned. Called with the locks of the owner,
 *	so it waits for nobody who waits for the owner, and does not take the
 *	folio lock of a guest_memfd
 */
struct guest_memfd_importer_ops {
	void (*revoke)(struct guest_memfd_importer *importer);
};

/**
 * struct guest_memfd_importer - a range of a guest_memfd that somebody maps
 * @ops: of the importer
 * @file: a reference to this is all that is held. It keeps the module of the
 *	provider, the inode with its pages, and the VM
 * @provider: whose file it is
 * @range: the first and the last page, counted in the file, and the entry in
 *	@importers, which is empty when it was revoked
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
