/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The mock provider of guest_memfds, as seen by iommufd's selftest. See
 * selftest_gmem.c.
 */
#ifndef __IOMMUFD_SELFTEST_GMEM_H
#define __IOMMUFD_SELFTEST_GMEM_H

#include <linux/types.h>

struct file;
struct iommu_test_cmd;

/* Of selftest.c */
#ifdef CONFIG_IOMMUFD_TEST
void iommufd_test_hold_at(unsigned int point);
#else
static inline void iommufd_test_hold_at(unsigned int point)
{
}
#endif

/* The mock guest_memfd, see selftest_gmem.c */
void mock_gmem_init(void);
void mock_gmem_exit(void);
int mock_gmem_get(struct iommu_test_cmd *cmd);
int mock_gmem_change(struct iommu_test_cmd *cmd);
struct file *mock_gmem_file(int fd);
u64 mock_gmem_size(struct file *file);
phys_addr_t mock_gmem_phys(struct file *file, u64 offset);

#endif
