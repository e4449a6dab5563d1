/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who is charged for memory that the kernel allocates?
 *
 * A test enters the memory cgroup "maker" and makes something.  What others do to
 * that is done by processes in the cgroup "other", see cg_run().
 */
#ifndef SELFTEST_MEMCG_CHARGE_H
#define SELFTEST_MEMCG_CHARGE_H

#include <linux/limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "cgroup_util.h"
#include "kselftest.h"

struct memcgs {
	char root[PATH_MAX];
	char *maker;
	char *other;
};

/* Leaves them first.  Returns 0 on success. */
static inline int memcgs_destroy(struct memcgs *memcgs)
{
	int ret;

	/* cg_destroy() kills who is in there. */
	if (cg_enter_current(memcgs->root))
		return -1;
	ret = cg_destroy(memcgs->maker);
	ret |= cg_destroy(memcgs->other);
	free(memcgs->maker);
	free(memcgs->other);
	return ret;
}

/* Returns NULL, or why there can be no memory cgroups: then there are none. */
static inline const char *memcgs_create(struct memcgs *memcgs)
{
	char *root = memcgs->root;

	if (cg_find_unified_root(root, sizeof(memcgs->root), NULL))
		return "cgroup v2 isn't mounted";
	if (cg_read_strstr(root, "cgroup.controllers", "memory"))
		return "memory controller isn't available (CONFIG_MEMCG)";
	if (cg_read_strstr(root, "cgroup.subtree_control", "memory") &&
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		return "failed to enable the memory controller";

	memcgs->maker = cg_name_indexed(root, "memcg_maker", getpid());
	memcgs->other = cg_name_indexed(root, "memcg_other", getpid());
	if (cg_create(memcgs->maker) || cg_create(memcgs->other)) {
		memcgs_destroy(memcgs);
		return "failed to create cgroups";
	}
	return NULL;
}

/*
 * Is @cgroup charged for that many bytes or more (or is it not), by @key of
 * memory.stat?  Little that is charged does not show at once: the kernel adds up its
 * counters every other second.  So that a cgroup is not charged says something only
 * if it is seen, too, that another one is.
 */
static inline bool memcg_is_charged(const char *cgroup, const char *key, long bytes,
				    bool charged)
{
	long val;
	int i;

	for (i = 0; i < 200; i++) {
		val = cg_read_key_long(cgroup, "memory.stat", key);
		if (val >= 0 && charged == !(val < bytes))
			return true;
		usleep(DEFAULT_WAIT_INTERVAL_US);
	}
	ksft_print_msg("%s: %sis %ld, wanted %s than %ld\n", cgroup, key, val,
		       charged ? "no less" : "less", bytes);
	return false;
}

#endif /* SELFTEST_MEMCG_CHARGE_H */
