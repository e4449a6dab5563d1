/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For providers, which make guest_memfds and let devices access their memory.
 * The model, the locks and the invariants are in virt/lib/guest_memfd.c.
 */
#ifndef _LINUX_GUEST_MEMFD_PROVIDER_H
#define _LINUX_GUEST_MEMFD_PROVIDER_H

#include <linux/guest_memfd.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/types.h>

struct file_operations;

/**
 * struct guest_memfd_importers - the importers of one guest_memfd
 * @lock: protects @tree, held while importers are told of a revocation
 * @tree: of &guest_memfd_importer.range, as one file has many importers where
 *	memory is taken back in small pieces
 *
 * The provider has one for each inode.
 */
struct guest_memfd_importers {
	struct mutex lock;	/* see above */
	struct rb_root_cached tree;
};

/**
 * struct guest_memfd_provider - code that makes files that are guest_memfds
 * @fops: the file operations by which its files are known. The module that owns
 *	them unregisters the provider when it is unloaded and not before
 * @attach: checks that all of &guest_memfd_importer.range can be imported,
 *	calls guest_memfd_add_importer(), and then allocates every page that is
 *	missing, and zeroes what has no contents. When it returns 0 all pages
 *	are there, or the importer is revoked. It can be revoked while this
 *	function runs: a task that first calls guest_memfd_revoke() can take a
 *	page out of the file that this function has seen already. On failure
 *	pages that were allocated may stay. Returns 0 or -EINVAL, -EOPNOTSUPP,
 *	-EHWPOISON, -EINTR, -ENOMEM, see guest_memfd_attach()
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

void guest_memfd_register_provider(struct guest_memfd_provider *provider);
void guest_memfd_unregister_provider(struct guest_memfd_provider *provider);
void guest_memfd_init_importers(struct guest_memfd_importers *importers);
void guest_memfd_add_importer(struct guest_memfd_importers *importers,
			      struct guest_memfd_importer *importer);
bool guest_memfd_is_revoked(struct guest_memfd_importer *importer);
void guest_memfd_revoke(struct guest_memfd_importers *importers, pgoff_t first,
			pgoff_t last);
void guest_memfd_assert_revoked(struct guest_memfd_importers *importers,
				pgoff_t first, pgoff_t last);

#endif /* _LINUX_GUEST_MEMFD_PROVIDER_H */
