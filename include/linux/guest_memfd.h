/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory of a guest_memfd for those who map it for a device. The model and the
 * rules are in virt/lib/guest_memfd.c.
 */
#ifndef _LINUX_GUEST_MEMFD_H
#define _LINUX_GUEST_MEMFD_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/types.h>

struct file;
struct file_operations;
struct guest_memfd_importer;
struct iommu_domain;

/**
 * struct guest_memfd_importers - who has mapped memory of one guest_memfd
 * @lock: protects @list, held while importers are told of a revocation
 * @list: of &guest_memfd_importer.node
 *
 * The provider has one for each inode.
 */
struct guest_memfd_importers {
	struct mutex lock;	/* see above */
	struct list_head list;
};

/**
 * struct guest_memfd_provider - who makes files that are guest_memfds
 * @fops: the file operations by which they are known. They have an owner, which
 *	unregisters the provider when it is unloaded and not before
 * @attach: checks that all of &guest_memfd_importer.first to
 *	&guest_memfd_importer.last can be imported, calls
 *	guest_memfd_add_importer(), allocates every page that is missing, and
 *	zeroes it. Nothing can be taken out of the file in between. On failure
 *	all that may be left behind are pages that were allocated. Returns 0 or
 *	-EINVAL, -EOPNOTSUPP, -EHWPOISON, -EINTR, -ENOMEM, see
 *	guest_memfd_attach()
 * @get_pfns: fills an array of @nr with the PFNs of the pages from @index on,
 *	which are in an importer's range. Takes no lock that can sleep. Returns
 *	0, or -EIO, with a warning, if one is missing
 * @node: in the registry
 */
struct guest_memfd_provider {
	const struct file_operations *fops;
	int (*attach)(struct guest_memfd_importer *importer);
	int (*get_pfns)(struct file *file, pgoff_t index, unsigned int nr,
			unsigned long *pfns);
	struct list_head node;
};

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
 * @first: the first page, counted in the file
 * @last: the last page
 * @importers: where it is listed, NULL if the provider refused it
 * @node: entry there, or empty when it was revoked
 */
struct guest_memfd_importer {
	const struct guest_memfd_importer_ops *ops;
	struct file *file;
	const struct guest_memfd_provider *provider;
	pgoff_t first;
	pgoff_t last;
	struct guest_memfd_importers *importers;
	struct list_head node;
};

/* For providers */
void guest_memfd_register_provider(struct guest_memfd_provider *provider);
void guest_memfd_unregister_provider(struct guest_memfd_provider *provider);
void guest_memfd_init_importers(struct guest_memfd_importers *importers);
void guest_memfd_add_importer(struct guest_memfd_importers *importers,
			      struct guest_memfd_importer *importer);
void guest_memfd_revoke(struct guest_memfd_importers *importers, pgoff_t first,
			pgoff_t last);

/* For importers */
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
