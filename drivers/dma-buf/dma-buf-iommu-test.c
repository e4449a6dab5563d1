// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of dma-buf extents and of the converter to an IOMMU domain
 *
 * A mock exporter whose extents each test sets, and a mock domain that records
 * what is mapped to it. So what the converter made of an exporter's answers is
 * seen in the domain, as an IOMMU would. Addresses are made up.
 *
 * Locks: the buffer's dma_resv protects the mocks' state.
 *
 * Invariant: a test that ends has nothing mapped and nobody attached.
 */

#include <kunit/test.h>
#include <linux/dma-buf-extents.h>
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/iommu.h>
#include <linux/sizes.h>

#include "dma-buf-internal.h"
#include "dma-buf-test.h"

#define R		DMA_BUF_EXTENT_READ
#define W		DMA_BUF_EXTENT_WRITE
#define RW		(R | W)
#define MMIO		DMA_BUF_EXTENT_MMIO
#define RW_MMIO		(RW | MMIO)
#define PRIVATE		DMA_BUF_EXTENT_PRIVATE

#define MAX_EXTENTS	4
#define MAX_MAPS	64
#define IOVA		SZ_1G
#define RW_PROT		(IOMMU_READ | IOMMU_WRITE)

#define PGSIZES_X86	((unsigned long)(SZ_4K | SZ_2M | SZ_1G))
/* With the contiguous sizes of arm64 */
#define PGSIZES_ARM64	((unsigned long)(SZ_4K | SZ_64K | SZ_2M | SZ_32M | \
					 SZ_1G))

struct mock_exporter {
	struct dma_buf *dmabuf;
	struct dma_buf_extent extents[MAX_EXTENTS];
	u64 generation;
	int access_error;	/* of get_extent */
	int layout_error;	/* of get_layout */
	unsigned int fail_after;
	bool only_first;	/* answer with the first extent, always */
	bool not_announced;	/* that extents may be private */
};

struct mock_map {
	unsigned long iova;
	phys_addr_t phys;
	size_t pgsize;
	size_t nr_pages;
	int prot;
};

struct mock_domain {
	struct iommu_domain domain;
	struct mock_map maps[MAX_MAPS];
	unsigned int nr_maps;
	unsigned int nr_syncs;
	unsigned int fail_at;	/* the n-th map fails, counting from 1 */
	int sync_error;
	size_t mapped;		/* bytes now */
};

/* The exporter */

static int find_extent(struct mock_exporter *exp, u64 offset,
		       struct dma_buf_extent *extent)
{
	unsigned int i;

	for (i = 0; i < MAX_EXTENTS; i++) {
		*extent = exp->extents[i];
		if (exp->only_first || offset < extent->offset + extent->len)
			return 0;
	}
	return 0;
}

static int mock_get_extent(struct dma_buf *dmabuf, u64 offset,
			   struct dma_buf_extent *extent)
{
	struct mock_exporter *exp = dmabuf->priv;

	dma_resv_assert_held(dmabuf->resv);
	if (exp->access_error) {
		if (!exp->fail_after)
			return exp->access_error;
		exp->fail_after--;
	}
	return find_extent(exp, offset, extent);
}

static int mock_get_layout(struct dma_buf *dmabuf, u64 offset,
			   struct dma_buf_extent *extent)
{
	struct mock_exporter *exp = dmabuf->priv;

	dma_resv_assert_held(dmabuf->resv);
	if (exp->layout_error)
		return exp->layout_error;
	return find_extent(exp, offset, extent);
}

static u64 mock_generation(struct dma_buf *dmabuf)
{
	struct mock_exporter *exp = dmabuf->priv;

	return exp->generation;
}

static const struct dma_buf_extent_ops mock_extent_ops = {
	.get_extent = mock_get_extent,
	.get_layout = mock_get_layout,
	.layout_generation = mock_generation,
};

static struct sg_table *mock_map_sgt(struct dma_buf_attachment *attach,
				     enum dma_data_direction dir)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void mock_unmap_sgt(struct dma_buf_attachment *attach,
			   struct sg_table *sgt, enum dma_data_direction dir)
{
}

static void mock_release(struct dma_buf *dmabuf)
{
}

static const struct dma_buf_ops mock_ops = {
	.map_dma_buf = mock_map_sgt,
	.unmap_dma_buf = mock_unmap_sgt,
	.release = mock_release,
};

static const struct dma_buf_match matches[] = {
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_REVOCABLE,
	  .private = true },
};

static const struct dma_buf_match never_private[] = {
	{ .type = &dma_buf_type_iommu, .model = DMA_BUF_MODEL_REVOCABLE },
};

static struct dma_buf *mock_export(struct mock_exporter *exp, u64 size,
				   const struct dma_buf_extent_ops *extent_ops)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.ops = &mock_ops;
	info.size = size;
	info.flags = O_RDWR | O_CLOEXEC;
	info.priv = exp;
	info.matches = exp->not_announced ? never_private : matches;
	info.nr_matches = 1;
	info.extent_ops = extent_ops;
	return dma_buf_export(&info);
}

/* The domain */

static struct mock_domain *to_mock(struct iommu_domain *domain)
{
	return container_of(domain, struct mock_domain, domain);
}

static int mock_map_pages(struct iommu_domain *domain, unsigned long iova,
			  phys_addr_t phys, size_t pgsize, size_t nr_pages,
			  int prot, gfp_t gfp, size_t *mapped)
{
	struct mock_domain *mock = to_mock(domain);

	if (mock->nr_maps + 1 == mock->fail_at)
		return -ENOMEM;
	if (mock->nr_maps < MAX_MAPS)
		mock->maps[mock->nr_maps] = (struct mock_map) {
			iova, phys, pgsize, nr_pages, prot
		};
	mock->nr_maps++;
	mock->mapped += pgsize * nr_pages;
	*mapped += pgsize * nr_pages;
	return 0;
}

static size_t mock_unmap_pages(struct iommu_domain *domain, unsigned long iova,
			       size_t pgsize, size_t nr_pages,
			       struct iommu_iotlb_gather *gather)
{
	to_mock(domain)->mapped -= pgsize * nr_pages;
	return pgsize * nr_pages;
}

static int mock_sync_map(struct iommu_domain *domain, unsigned long iova,
			 size_t size)
{
	to_mock(domain)->nr_syncs++;
	return to_mock(domain)->sync_error;
}

static const struct iommu_domain_ops mock_domain_ops = {
	.map_pages = mock_map_pages,
	.unmap_pages = mock_unmap_pages,
	.iotlb_sync_map = mock_sync_map,
};

static void mock_reset_domain(struct mock_domain *mock,
			      unsigned long pgsize_bitmap)
{
	memset(mock, 0, sizeof(*mock));
	mock->domain.type = IOMMU_DOMAIN_UNMANAGED;
	mock->domain.ops = &mock_domain_ops;
	mock->domain.pgsize_bitmap = pgsize_bitmap;
}

/* The importer, and what all tests share */

struct fixture {
	struct mock_exporter exp;
	struct mock_domain mock;
	struct dma_buf_attachment *attach;
};

static void mock_invalidate(struct dma_buf_attachment *attach)
{
	struct fixture *f = attach->importer_priv;

	if (f->mock.mapped)
		iommu_unmap(&f->mock.domain, IOVA, f->mock.mapped);
}

static const struct dma_buf_attach_ops attach_ops = {
	.invalidate_mappings = mock_invalidate,
};

#define EXTENT(_phys, _offset, _len, _attrs)				\
	{ .phys = (_phys), .offset = (_offset), .len = (_len),		\
	  .attrs = (_attrs) }

/*
 * The buffer of most tests: two neighbours that are one, one that is contiguous
 * but read-only, and one elsewhere.
 */
static const struct dma_buf_extent default_extents[MAX_EXTENTS] = {
	EXTENT(SZ_1G, 0, SZ_64K, RW_MMIO),
	EXTENT(SZ_1G + SZ_64K, SZ_64K, SZ_64K, RW_MMIO),
	EXTENT(SZ_1G + SZ_128K, SZ_128K, SZ_64K, R | MMIO),
	EXTENT(SZ_2G, SZ_128K + SZ_64K, SZ_64K, RW_MMIO),
};

#define DEFAULT_SIZE	SZ_256K
#define RDONLY		SZ_128K			/* the offset of */
#define ELSEWHERE	(SZ_128K + SZ_64K)	/* the offset of */

static void attach_buffer(struct kunit *test, struct fixture *f, u64 size)
{
	f->exp.dmabuf = mock_export(&f->exp, size, &mock_extent_ops);
	KUNIT_ASSERT_FALSE(test, IS_ERR(f->exp.dmabuf));
	f->attach = mapping_attach(f->exp.dmabuf, matches,
				   ARRAY_SIZE(matches), &attach_ops, f);
	KUNIT_ASSERT_FALSE(test, IS_ERR(f->attach));
}

static void detach_buffer(struct fixture *f)
{
	dma_buf_detach(f->exp.dmabuf, f->attach);
	/* The release must not outlive @f, nor the module. */
	__fput_sync(f->exp.dmabuf->file);
}

static struct fixture *default_fixture(struct kunit *test)
{
	struct fixture *f;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	memcpy(f->exp.extents, default_extents, sizeof(default_extents));
	mock_reset_domain(&f->mock, PGSIZES_X86);
	attach_buffer(test, f, DEFAULT_SIZE);
	return f;
}

static int map_slice(struct fixture *f, u64 offset, size_t len, int prot,
		     unsigned int flags)
{
	int ret;

	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	ret = dma_buf_map_attachment_iommu(f->attach, &f->mock.domain, IOVA,
					   offset, len, prot, flags,
					   GFP_KERNEL);
	dma_resv_unlock(f->exp.dmabuf->resv);
	return ret;
}

static int count_slice(struct fixture *f, unsigned long iova, u64 offset,
		       size_t len, int prot, unsigned int flags, u64 *items)
{
	int ret;

	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	ret = dma_buf_iommu_count_items(f->attach,
					f->mock.domain.pgsize_bitmap, iova,
					offset, len, prot, flags, items);
	dma_resv_unlock(f->exp.dmabuf->resv);
	return ret;
}

static void expect_map(struct kunit *test, struct fixture *f, unsigned int i,
		       unsigned long iova, phys_addr_t phys, size_t len,
		       int prot)
{
	struct mock_map *map = &f->mock.maps[i];

	KUNIT_ASSERT_LT(test, i, f->mock.nr_maps);
	KUNIT_EXPECT_EQ(test, map->iova, iova);
	KUNIT_EXPECT_EQ(test, map->phys, phys);
	KUNIT_EXPECT_EQ(test, map->pgsize * map->nr_pages, len);
	KUNIT_EXPECT_EQ(test, map->prot, prot);
}

/* What is mapped */

static void test_map_merges(struct kunit *test)
{
	struct fixture *f = default_fixture(test);

	KUNIT_ASSERT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 3);
	expect_map(test, f, 0, IOVA, SZ_1G, SZ_128K, IOMMU_READ | IOMMU_MMIO);
	/* Contiguous, but not alike */
	expect_map(test, f, 1, IOVA + SZ_128K, SZ_1G + SZ_128K, SZ_64K,
		   IOMMU_READ | IOMMU_MMIO);
	expect_map(test, f, 2, IOVA + ELSEWHERE, SZ_2G, SZ_64K,
		   IOMMU_READ | IOMMU_MMIO);
	KUNIT_EXPECT_EQ(test, f->mock.nr_syncs, 1);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, DEFAULT_SIZE);
	KUNIT_EXPECT_TRUE(test, f->attach->mapped);
	detach_buffer(f);
}

static void test_map_nothing_beside_slice(struct kunit *test)
{
	struct fixture *f = default_fixture(test);

	/* Inside of one extent, then across three of them */
	KUNIT_ASSERT_EQ(test, map_slice(f, SZ_8K, SZ_4K, RW_PROT, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 1);
	expect_map(test, f, 0, IOVA, SZ_1G + SZ_8K, SZ_4K,
		   RW_PROT | IOMMU_MMIO);

	mock_reset_domain(&f->mock, PGSIZES_X86);
	KUNIT_ASSERT_EQ(test, map_slice(f, SZ_64K - SZ_4K, SZ_64K + SZ_8K,
					IOMMU_READ, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 2);
	expect_map(test, f, 0, IOVA, SZ_1G + SZ_64K - SZ_4K, SZ_64K + SZ_4K,
		   IOMMU_READ | IOMMU_MMIO);
	expect_map(test, f, 1, IOVA + SZ_64K + SZ_4K, SZ_1G + SZ_128K, SZ_4K,
		   IOMMU_READ | IOMMU_MMIO);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, SZ_64K + SZ_8K);
	detach_buffer(f);
}

struct attr_case {
	const char *desc;
	u32 attrs;
	int prot;
	int ret;	/* the protection in the domain, or an errno */
};

static const struct attr_case attr_cases[] = {
	{ "MMIO", RW_MMIO, RW_PROT, RW_PROT | IOMMU_MMIO },
	{ "write-combining", RW_MMIO | DMA_BUF_EXTENT_WC, RW_PROT,
	  RW_PROT | IOMMU_MMIO },
	{ "cached memory", RW | DMA_BUF_EXTENT_CACHED, RW_PROT,
	  RW_PROT | IOMMU_CACHE },
	{ "cached MMIO", RW_MMIO | DMA_BUF_EXTENT_CACHED, RW_PROT,
	  RW_PROT | IOMMU_MMIO | IOMMU_CACHE },
	{ "uncached memory", RW, RW_PROT, RW_PROT },
	{ "read of all", RW_MMIO, IOMMU_READ, IOMMU_READ | IOMMU_MMIO },
	{ "write of all", RW_MMIO, IOMMU_WRITE, IOMMU_WRITE | IOMMU_MMIO },
	{ "read of read-only", R, IOMMU_READ, IOMMU_READ },
	{ "write of read-only", R, RW_PROT, -EPERM },
	{ "read of write-only", W, IOMMU_READ, -EPERM },
	{ "read of nothing", MMIO, IOMMU_READ, -EPERM },
	{ "protection of another kind", RW, RW_PROT | IOMMU_CACHE, -EINVAL },
	{ "unknown attribute", RW | BIT(31), RW_PROT, -EIO },
	{ "cached and write-combining",
	  RW | DMA_BUF_EXTENT_WC | DMA_BUF_EXTENT_CACHED, RW_PROT, -EIO },
};

KUNIT_ARRAY_PARAM_DESC(attr_case, attr_cases, desc);

static void test_attributes(struct kunit *test)
{
	const struct attr_case *c = test->param_value;
	struct fixture *f = default_fixture(test);
	int ret, count_ret;
	u64 items;

	f->exp.extents[3].attrs = c->attrs;
	kunit_warning_suppress(test) {
		ret = map_slice(f, ELSEWHERE, SZ_64K, c->prot, 0);
		count_ret = count_slice(f, IOVA, ELSEWHERE, SZ_64K, c->prot, 0,
					&items);
	}
	KUNIT_EXPECT_EQ(test, ret, min(c->ret, 0));
	KUNIT_EXPECT_EQ(test, count_ret, min(c->ret, 0));
	if (c->ret > 0)
		expect_map(test, f, 0, IOVA, SZ_2G, SZ_64K, c->ret);
	else
		KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 0);
	detach_buffer(f);
}

static void test_small_pages(struct kunit *test)
{
	struct fixture *f = default_fixture(test);
	unsigned int i;
	u64 items;

	f->exp.extents[0] = (struct dma_buf_extent)
		EXTENT(SZ_1G, 0, SZ_4M, RW_MMIO);
	detach_buffer(f);
	attach_buffer(test, f, SZ_4M);

	KUNIT_ASSERT_EQ(test, map_slice(f, 0, SZ_4M, RW_PROT, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 1);
	KUNIT_EXPECT_EQ(test, f->mock.maps[0].pgsize, SZ_2M);

	mock_reset_domain(&f->mock, PGSIZES_X86);
	KUNIT_ASSERT_EQ(test, map_slice(f, 0, SZ_4M, RW_PROT,
					DMA_BUF_IOMMU_SMALL_PAGES), 0);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, SZ_4M / SZ_4K);
	for (i = 0; i < MAX_MAPS; i++)
		KUNIT_EXPECT_EQ(test, f->mock.maps[i].pgsize, SZ_4K);
	KUNIT_EXPECT_EQ(test, f->mock.nr_syncs, 1);
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, SZ_4M, RW_PROT,
					  DMA_BUF_IOMMU_SMALL_PAGES, &items),
			0);
	KUNIT_EXPECT_EQ(test, items, SZ_4M / SZ_4K);
	detach_buffer(f);
}

/* What is refused, and that nothing is left then */

struct slice_case {
	const char *desc;
	unsigned long iova;
	u64 offset;
	size_t len;
	unsigned int flags;
	unsigned long pgsizes;
};

static const struct slice_case bad_slices[] = {
	{ "empty", IOVA, 0, 0, 0, PGSIZES_X86 },
	{ "beyond the end", IOVA, SZ_128K, SZ_256K, 0, PGSIZES_X86 },
	{ "behind the end", IOVA, SZ_256K, SZ_4K, 0, PGSIZES_X86 },
	{ "overflow", IOVA, U64_MAX - SZ_4K + 1, SZ_8K, 0, PGSIZES_X86 },
	{ "overflow of IOVA", -SZ_4K, 0, SZ_8K, 0, PGSIZES_X86 },
	{ "odd IOVA", IOVA + SZ_2K, 0, SZ_4K, 0, PGSIZES_X86 },
	{ "odd offset", IOVA, SZ_2K, SZ_4K, 0, PGSIZES_X86 },
	{ "odd length", IOVA, 0, SZ_4K + SZ_2K, 0, PGSIZES_X86 },
	{ "flag", IOVA, 0, SZ_4K, BIT(31), PGSIZES_X86 },
	{ "slice for larger pages", IOVA, SZ_4K, SZ_64K, 0, SZ_64K },
	{ "extent for larger pages", IOVA, 0, SZ_256K, 0, SZ_128K },
};

KUNIT_ARRAY_PARAM_DESC(bad_slice, bad_slices, desc);

static void test_bad_slice(struct kunit *test)
{
	const struct slice_case *c = test->param_value;
	struct fixture *f = default_fixture(test);
	u64 items;
	int ret;

	mock_reset_domain(&f->mock, c->pgsizes);
	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	ret = dma_buf_map_attachment_iommu(f->attach, &f->mock.domain, c->iova,
					   c->offset, c->len, IOMMU_READ,
					   c->flags, GFP_KERNEL);
	dma_resv_unlock(f->exp.dmabuf->resv);
	KUNIT_EXPECT_EQ(test, ret, -EINVAL);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);
	KUNIT_EXPECT_EQ(test, count_slice(f, c->iova, c->offset, c->len,
					  IOMMU_READ, c->flags, &items),
			-EINVAL);
	detach_buffer(f);
}

static void test_all_or_nothing(struct kunit *test)
{
	struct fixture *f = default_fixture(test);

	/* A part that may not be written, in the middle */
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, RW_PROT, 0),
			-EPERM);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 1);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);

	/* The domain fails at its third part. */
	mock_reset_domain(&f->mock, PGSIZES_X86);
	f->mock.fail_at = 3;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0),
			-ENOMEM);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 2);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);

	/* It fails in the middle of a part that is mapped page by page. */
	mock_reset_domain(&f->mock, PGSIZES_X86);
	f->mock.fail_at = 7;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_64K, IOMMU_READ,
					DMA_BUF_IOMMU_SMALL_PAGES), -ENOMEM);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);

	/* Its sync fails. */
	mock_reset_domain(&f->mock, PGSIZES_X86);
	f->mock.sync_error = -EIO;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0),
			-EIO);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);

	/* The memory goes away between two parts. */
	mock_reset_domain(&f->mock, PGSIZES_X86);
	f->exp.access_error = -EAGAIN;
	f->exp.fail_after = 2;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0),
			-EAGAIN);
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 1);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);
	detach_buffer(f);
}

static void test_revoked(struct kunit *test)
{
	struct fixture *f = default_fixture(test);
	u64 items, skew;
	int ret;

	KUNIT_ASSERT_EQ(test, map_slice(f, 0, SZ_64K, RW_PROT, 0), 0);
	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	f->exp.access_error = -EAGAIN;
	dma_buf_invalidate_mappings(f->exp.dmabuf);
	dma_resv_unlock(f->exp.dmabuf->resv);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);
	KUNIT_EXPECT_FALSE(test, f->attach->mapped);

	/* Not to be mapped, but what would be refused is known. */
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_64K, RW_PROT, 0), -EAGAIN);
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, SZ_64K, RW_PROT, 0,
					  &items), 0);
	KUNIT_EXPECT_EQ(test, items, 16);
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, RDONLY, SZ_64K, RW_PROT, 0,
					  &items), -EPERM);

	/* Gone for ever */
	f->exp.access_error = -ENODEV;
	f->exp.layout_error = -ENODEV;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_64K, RW_PROT, 0), -ENODEV);
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, SZ_64K, RW_PROT, 0,
					  &items), -ENODEV);
	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	ret = dma_buf_iommu_congruence(f->attach, 0, SZ_2M, &skew);
	dma_resv_unlock(f->exp.dmabuf->resv);
	KUNIT_EXPECT_EQ(test, ret, -ENODEV);
	detach_buffer(f);
}

/* Exporters that break the contract */

struct contract_case {
	const char *desc;
	struct dma_buf_extent extent;	/* the answer for ELSEWHERE */
};

static const struct contract_case contract_cases[] = {
	{ "empty", EXTENT(SZ_2G, ELSEWHERE, 0, RW) },
	{ "begins behind the offset",
	  EXTENT(SZ_2G, ELSEWHERE + SZ_4K, SZ_64K - SZ_4K, RW) },
	{ "ends before the offset", EXTENT(SZ_2G, 0, SZ_64K, RW) },
	{ "beyond the buffer", EXTENT(SZ_2G, ELSEWHERE, SZ_128K, RW) },
	{ "overflows", EXTENT(SZ_2G, SZ_128K, -(u64)SZ_4K, RW) },
	{ "odd address", EXTENT(SZ_2G + SZ_1K, ELSEWHERE, SZ_64K, RW) },
	{ "odd offset", EXTENT(SZ_2G, ELSEWHERE - SZ_1K, SZ_64K, RW) },
	{ "odd length", EXTENT(SZ_2G, ELSEWHERE, SZ_64K - SZ_1K, RW) },
	{ "address overflows",
	  EXTENT(-(phys_addr_t)SZ_4K, ELSEWHERE, SZ_64K, RW) },
};

KUNIT_ARRAY_PARAM_DESC(contract_case, contract_cases, desc);

static void test_exporter_breaks_contract(struct kunit *test)
{
	const struct contract_case *c = test->param_value;
	struct fixture *f = default_fixture(test);
	u64 items;

	f->exp.extents[0] = c->extent;
	f->exp.only_first = true;
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, map_slice(f, ELSEWHERE, SZ_64K,
						IOMMU_READ, 0), -EIO);
		KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, ELSEWHERE, SZ_64K,
						  IOMMU_READ, 0, &items),
				-EIO);
	}
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 0);
	detach_buffer(f);
}

static void test_exporter_invents_errors(struct kunit *test)
{
	struct fixture *f = default_fixture(test);
	u64 items;

	kunit_warning_suppress(test) {
		f->exp.access_error = -EFAULT;
		KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_4K, IOMMU_READ, 0),
				-EIO);
		f->exp.access_error = 1;
		KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_4K, IOMMU_READ, 0),
				-EIO);
		/* A layout is known or gone, not gone for now. */
		f->exp.layout_error = -EAGAIN;
		KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, SZ_4K,
						  IOMMU_READ, 0, &items),
				-EIO);
	}
	KUNIT_EXPECT_EQ(test, f->mock.nr_maps, 0);
	detach_buffer(f);
}

static void test_invalid_offer(struct kunit *test)
{
	static const struct dma_buf_extent_ops no_layout = {
		.get_extent = mock_get_extent,
		.layout_generation = mock_generation,
	};
	struct mock_exporter exp = {};
	struct dma_buf *dmabuf;

	kunit_warning_suppress(test) {
		dmabuf = mock_export(&exp, SZ_64K, NULL);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dmabuf), -EINVAL);
		dmabuf = mock_export(&exp, SZ_64K, &no_layout);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dmabuf), -EINVAL);
		dmabuf = mock_export(&exp, SZ_64K + SZ_1K, &mock_extent_ops);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dmabuf), -EINVAL);
	}
}

/* How many page table items */

struct count_case {
	const char *desc;
	unsigned long pgsizes;
	unsigned long iova;
	struct dma_buf_extent extents[2];
	u64 items;
};

#define LEN(_len)	EXTENT(SZ_1G, 0, (_len), RW)

static const struct count_case count_cases[] = {
	{ "one page", PGSIZES_X86, 0, { LEN(SZ_4K) }, 1 },
	{ "large page", PGSIZES_X86, 0, { LEN(SZ_2M) }, 1 },
	{ "huge page", PGSIZES_X86, 0, { LEN(SZ_1G) }, 1 },
	{ "large page, IOVA not congruent", PGSIZES_X86, SZ_4K,
	  { LEN(SZ_2M) }, 512 },
	{ "huge page, IOVA congruent to large ones", PGSIZES_X86, SZ_2M,
	  { LEN(SZ_1G) }, 512 },
	{ "head and tail", PGSIZES_X86, SZ_2M - SZ_4K,
	  { EXTENT(SZ_1G - SZ_4K, 0, SZ_2M + SZ_8K, RW) }, 1 + 1 + 1 },
	{ "head only", PGSIZES_X86, SZ_2M - SZ_8K,
	  { EXTENT(SZ_1G - SZ_8K, 0, SZ_4K, RW) }, 1 },
	{ "heads of two levels", PGSIZES_X86, SZ_1G - SZ_2M - SZ_4K,
	  { EXTENT(SZ_1G - SZ_2M - SZ_4K, 0, SZ_1G + SZ_2M + SZ_4K, RW) },
	  1 + 1 + 1 },
	{ "two extents", PGSIZES_X86, 0,
	  { LEN(SZ_2M), EXTENT(SZ_2G, SZ_2M, SZ_2M, RW) }, 2 },
	{ "two extents that are one", PGSIZES_X86, 0,
	  { LEN(SZ_1M), EXTENT(SZ_1G + SZ_1M, SZ_1M, SZ_1M, RW) }, 1 },
	{ "contiguous, unlike", PGSIZES_X86, 0,
	  { LEN(SZ_1M), EXTENT(SZ_1G + SZ_1M, SZ_1M, SZ_1M, R) }, 512 },
	{ "64K is 16 items", PGSIZES_ARM64, 0, { LEN(SZ_64K) }, 16 },
	{ "32M is 16 items", PGSIZES_ARM64, 0, { LEN(SZ_32M) }, 16 },
	{ "no large pages", SZ_4K | SZ_64K, 0, { LEN(SZ_2M) }, 512 },
	{ "no large pages, but huge ones", SZ_4K | SZ_1G, 0,
	  { LEN(SZ_1G + SZ_2M) }, 1 + 512 },
	{ "16K granule", SZ_16K | SZ_32M, 0, { LEN(SZ_32M + SZ_16K) }, 2 },
	{ "64K granule", SZ_64K | SZ_512M, 0, { LEN(SZ_512M + SZ_64K) }, 2 },
	{ "2K granule", SZ_2K | SZ_512K, 0, { LEN(SZ_512K + SZ_4K) }, 3 },
};

KUNIT_ARRAY_PARAM_DESC(count_case, count_cases, desc);

static void test_count_items(struct kunit *test)
{
	const struct count_case *c = test->param_value;
	struct fixture *f;
	u64 size, items;

	size = c->extents[0].len + c->extents[1].len;
	if (!PAGE_ALIGNED(c->extents[0].phys | size))
		kunit_skip(test, "pages are larger than this extent");

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	memcpy(f->exp.extents, c->extents, sizeof(c->extents));
	mock_reset_domain(&f->mock, c->pgsizes);
	attach_buffer(test, f, size);

	KUNIT_EXPECT_EQ(test, count_slice(f, c->iova, 0, size, IOMMU_READ, 0,
					  &items), 0);
	KUNIT_EXPECT_EQ(test, items, c->items);
	detach_buffer(f);
}

/* On page tables without contiguous items, count what iommu_map() maps. */
static void test_count_is_what_is_mapped(struct kunit *test)
{
	static const u64 skews[] = {
		0, SZ_4K, SZ_64K, SZ_2M - SZ_8K, SZ_2M, SZ_16M
	};
	struct fixture *f = default_fixture(test);
	unsigned int i, j, k;
	size_t size = PAGE_ALIGN(SZ_32M + SZ_16K);

	detach_buffer(f);
	for (i = 0; i < ARRAY_SIZE(skews); i++) {
		u64 items, mapped = 0;

		if (!PAGE_ALIGNED(skews[i]))
			continue;

		f->exp.extents[0] = (struct dma_buf_extent)
			EXTENT(SZ_1G + skews[i], 0, size, RW);
		for (j = 0; j < 2; j++) {
			unsigned long pgsizes = j ? PGSIZES_X86 :
						    SZ_4K | SZ_2M | SZ_64K;

			mock_reset_domain(&f->mock, pgsizes);
			attach_buffer(test, f, size);
			KUNIT_EXPECT_EQ(test, map_slice(f, 0, size, IOMMU_READ,
							0), 0);
			KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, size,
							  IOMMU_READ, 0,
							  &items), 0);
			KUNIT_ASSERT_LE(test, f->mock.nr_maps, MAX_MAPS);
			mapped = 0;
			for (k = 0; k < f->mock.nr_maps; k++) {
				struct mock_map *map = &f->mock.maps[k];
				u64 nr = map->nr_pages;

				/* Sixteen side by side */
				mapped += map->pgsize == SZ_64K ? nr * 16 : nr;
			}
			KUNIT_EXPECT_EQ(test, items, mapped);
			detach_buffer(f);
		}
	}
}

static void test_bounds(struct kunit *test)
{
	const u64 max = DMA_BUF_IOMMU_MAX_ATTACH_ITEMS;
	struct dma_buf_attachment *others[4];
	struct fixture *f;
	unsigned int i;
	u64 items;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	mock_reset_domain(&f->mock, PAGE_SIZE);
	f->exp.extents[0] = (struct dma_buf_extent)
		EXTENT(SZ_1G, 0, (max + 1) * PAGE_SIZE, RW);
	attach_buffer(test, f, (max + 1) * PAGE_SIZE);

	/* Too many for any attachment, revoked or not */
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, max * PAGE_SIZE, IOMMU_READ,
					  0, &items), 0);
	KUNIT_EXPECT_EQ(test, items, max);
	f->exp.access_error = -EAGAIN;
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, (max + 1) * PAGE_SIZE,
					  IOMMU_READ, 0, &items), -EDQUOT);

	for (i = 0; i < ARRAY_SIZE(others); i++) {
		others[i] = mapping_attach(f->exp.dmabuf, matches, 1,
					   &attach_ops, f);
		KUNIT_ASSERT_FALSE(test, IS_ERR(others[i]));
	}

	/* An attachment, over all that it maps. It takes no dma_resv */
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(f->attach, max - 1),
			0);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(f->attach, 2),
			-EDQUOT);
	KUNIT_EXPECT_EQ(test, f->attach->nr_items, max - 1);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(f->attach, 1), 0);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(f->attach, U64_MAX),
			-EDQUOT);

	/* A buffer, over all attachments */
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test,
				dma_buf_iommu_charge_items(others[i], max), 0);
	KUNIT_EXPECT_EQ(test, dma_buf_core(f->exp.dmabuf)->nr_items,
			(u64)DMA_BUF_IOMMU_MAX_BUFFER_ITEMS);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(others[3], 1),
			-EDQUOT);

	dma_buf_iommu_uncharge_items(others[0], 1);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_charge_items(others[3], 1), 0);
	kunit_warning_suppress(test)
		dma_buf_iommu_uncharge_items(others[3], 2);
	KUNIT_EXPECT_EQ(test, others[3]->nr_items, 0);

	/* Detaching gives back what is left. */
	for (i = 0; i < ARRAY_SIZE(others); i++)
		dma_buf_detach(f->exp.dmabuf, others[i]);
	KUNIT_EXPECT_EQ(test, dma_buf_core(f->exp.dmabuf)->nr_items, max);
	detach_buffer(f);
}

static int check_slice(struct fixture *f, u64 offset, size_t len, int prot,
		       bool live)
{
	int ret;

	dma_resv_lock(f->exp.dmabuf->resv, NULL);
	ret = dma_buf_iommu_check(f->attach, offset, len, prot, live);
	dma_resv_unlock(f->exp.dmabuf->resv);
	return ret;
}

static void test_check(struct kunit *test)
{
	struct fixture *f = default_fixture(test);

	/* What is wrong with the slice, without a domain */
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, IOMMU_READ,
					  false), 0);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, RW_PROT, false),
			-EPERM);
	KUNIT_EXPECT_EQ(test, check_slice(f, PAGE_SIZE, DEFAULT_SIZE,
					  IOMMU_READ, false), -EINVAL);

	/* And whether it can be mapped now */
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, RW_PROT, true),
			0);
	f->exp.access_error = -EAGAIN;
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, RW_PROT, true),
			-EAGAIN);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, IOMMU_READ,
					  false), 0);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, RW_PROT, false),
			-EPERM);
	f->exp.layout_error = -ENODEV;
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, IOMMU_READ,
					  false), -ENODEV);
	detach_buffer(f);
}

static void test_congruence(struct kunit *test)
{
	struct fixture *f = default_fixture(test);
	struct dma_resv *resv = f->exp.dmabuf->resv;
	u64 skew;

	f->exp.extents[3].phys = 5ULL * SZ_1G + SZ_512M + SZ_64K;
	/* Known while it is revoked, too */
	f->exp.access_error = -EAGAIN;
	dma_resv_lock(resv, NULL);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach,
						       ELSEWHERE + SZ_4K,
						       SZ_2M, &skew), 0);
	KUNIT_EXPECT_EQ(test, skew, SZ_64K + SZ_4K);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach, ELSEWHERE,
						       SZ_1G, &skew), 0);
	KUNIT_EXPECT_EQ(test, skew, SZ_512M + SZ_64K);
	/* It does not tell where the memory is. */
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach, ELSEWHERE,
						       BIT_ULL(63), &skew), 0);
	KUNIT_EXPECT_EQ(test, skew, SZ_512M + SZ_64K);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach, 0, 0, &skew),
			-EINVAL);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach, 0, SZ_4K * 3,
						       &skew), -EINVAL);
	KUNIT_EXPECT_EQ(test, dma_buf_iommu_congruence(f->attach, DEFAULT_SIZE,
						       SZ_4K, &skew), -EINVAL);
	dma_resv_unlock(resv);
	detach_buffer(f);
}

/* Private memory */

static void test_private(struct kunit *test)
{
	struct fixture *f = default_fixture(test);
	u64 items;

	/* In the middle of what would be one */
	f->exp.extents[1].attrs |= PRIVATE;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0),
			-EACCES);
	KUNIT_EXPECT_EQ(test, map_slice(f, SZ_64K, SZ_4K, RW_PROT, 0), -EACCES);
	KUNIT_EXPECT_EQ(test, map_slice(f, SZ_128K - SZ_4K, SZ_8K, IOMMU_READ,
					0), -EACCES);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, 0);
	KUNIT_EXPECT_FALSE(test, f->attach->mapped);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, true),
			-EACCES);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, SZ_64K, RW_PROT, true), 0);

	/* What is not in the slice is no matter. */
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_64K, RW_PROT, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, SZ_64K);
	mock_reset_domain(&f->mock, PGSIZES_X86);

	/* It is for now: neither a reason to refuse for ever, nor to count less. */
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, false),
			0);
	KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, 0, SZ_128K, RW_PROT, 0,
					  &items), 0);
	KUNIT_EXPECT_EQ(test, items, SZ_128K / SZ_4K);
	KUNIT_EXPECT_EQ(test, check_slice(f, 0, DEFAULT_SIZE, RW_PROT, false),
			-EPERM);

	/* Being revoked is found out first. */
	f->exp.access_error = -EAGAIN;
	KUNIT_EXPECT_EQ(test, map_slice(f, SZ_64K, SZ_4K, RW_PROT, 0), -EAGAIN);
	KUNIT_EXPECT_EQ(test, check_slice(f, SZ_64K, SZ_64K, 0, true), -EAGAIN);
	f->exp.access_error = 0;

	f->exp.extents[1].attrs &= ~PRIVATE;
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, DEFAULT_SIZE, IOMMU_READ, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, DEFAULT_SIZE);
	detach_buffer(f);
}

/* Importers that it is mapped for were promised that there is none. */
static void test_private_not_announced(struct kunit *test)
{
	struct fixture *f;
	u64 items;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	memcpy(f->exp.extents, default_extents, sizeof(default_extents));
	mock_reset_domain(&f->mock, PGSIZES_X86);
	f->exp.not_announced = true;
	attach_buffer(test, f, DEFAULT_SIZE);

	f->exp.extents[1].attrs |= PRIVATE;
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, map_slice(f, SZ_64K, SZ_4K, RW_PROT, 0),
				-EIO);
		KUNIT_EXPECT_EQ(test, count_slice(f, IOVA, SZ_64K, SZ_4K,
						  RW_PROT, 0, &items), -EIO);
	}
	KUNIT_EXPECT_EQ(test, map_slice(f, 0, SZ_4K, RW_PROT, 0), 0);
	KUNIT_EXPECT_EQ(test, f->mock.mapped, SZ_4K);
	detach_buffer(f);
}

static struct kunit_case iommu_test_cases[] = {
	KUNIT_CASE(test_map_merges),
	KUNIT_CASE(test_map_nothing_beside_slice),
	KUNIT_CASE_PARAM(test_attributes, attr_case_gen_params),
	KUNIT_CASE(test_small_pages),
	KUNIT_CASE_PARAM(test_bad_slice, bad_slice_gen_params),
	KUNIT_CASE(test_all_or_nothing),
	KUNIT_CASE(test_revoked),
	KUNIT_CASE_PARAM(test_exporter_breaks_contract,
			 contract_case_gen_params),
	KUNIT_CASE(test_exporter_invents_errors),
	KUNIT_CASE(test_invalid_offer),
	KUNIT_CASE_PARAM(test_count_items, count_case_gen_params),
	KUNIT_CASE(test_count_is_what_is_mapped),
	KUNIT_CASE(test_bounds),
	KUNIT_CASE(test_check),
	KUNIT_CASE(test_congruence),
	KUNIT_CASE(test_private),
	KUNIT_CASE(test_private_not_announced),
	{}
};

static struct kunit_suite iommu_test_suite = {
	.name = "dma-buf-iommu",
	.test_cases = iommu_test_cases,
};

kunit_test_suite(iommu_test_suite);
