// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of the dma-buf physical interconnect
 *
 * A mock exporter, whose ranges and capabilities each test sets, and a mock
 * importer that records what it was told. Nothing here touches the memory: the
 * addresses are made up, only the contract is under test.
 *
 * Locks: as in the interconnect, the buffer's dma_resv protects the mocks'
 * state. Invariant: a test that ends has detached every importer, so that
 * releasing the buffer finds its list empty (the core warns if not).
 */

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/dma-buf-phys.h>
#include <linux/dma-resv.h>
#include <linux/kthread.h>
#include <linux/sizes.h>

#define RW		(DMA_BUF_PHYS_READ | DMA_BUF_PHYS_WRITE)
#define RW_MMIO		(RW | DMA_BUF_PHYS_MMIO)
#define MAX_RANGES	4

struct mock_exporter {
	struct dma_buf *dmabuf;
	struct dma_buf_phys_caps caps;
	struct dma_buf_phys_range ranges[MAX_RANGES];
	unsigned int nr_legacy_attach;
};

struct mock_importer {
	struct dma_buf_phys_importer importer;
	struct dma_buf_phys_attachment *attach;
	struct dma_buf_phys_ranges *ranges;
	unsigned int nr_invalidate;
	unsigned int nr_restore;
	u32 revoked_at_restore;
	int restore_ret;
	bool keep;		/* break the contract: stay mapped */
	bool map_on_restore;
};

static void mock_get_caps(struct dma_buf *dmabuf,
			  struct dma_buf_phys_caps *caps)
{
	struct mock_exporter *exp = dmabuf->priv;

	dma_resv_assert_held(dmabuf->resv);
	*caps = exp->caps;
}

static void mock_get_range(struct dma_buf *dmabuf, unsigned int index,
			   struct dma_buf_phys_range *range)
{
	struct mock_exporter *exp = dmabuf->priv;

	dma_resv_assert_held(dmabuf->resv);
	if (index < MAX_RANGES)
		*range = exp->ranges[index];
}

static const struct dma_buf_phys_ops mock_phys_ops = {
	.get_caps = mock_get_caps,
	.get_range = mock_get_range,
};

static int mock_legacy_attach(struct dma_buf *dmabuf,
			      struct dma_buf_attachment *attach)
{
	struct mock_exporter *exp = dmabuf->priv;

	exp->nr_legacy_attach++;
	return 0;
}

static struct sg_table *mock_map(struct dma_buf_attachment *attach,
				 enum dma_data_direction dir)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void mock_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
}

static void mock_release(struct dma_buf *dmabuf)
{
}

static const struct dma_buf_ops mock_ops = {
	.attach = mock_legacy_attach,
	.map_dma_buf = mock_map,
	.unmap_dma_buf = mock_unmap,
	.release = mock_release,
	.phys_ops = &mock_phys_ops,
};

static const struct dma_buf_ops mock_ops_without_phys = {
	.map_dma_buf = mock_map,
	.unmap_dma_buf = mock_unmap,
	.release = mock_release,
};

static void mock_invalidate(struct dma_buf_phys_attachment *attach)
{
	struct mock_importer *imp = attach->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	imp->nr_invalidate++;
	if (imp->keep)
		return;
	dma_buf_phys_free_ranges(imp->ranges);
	imp->ranges = NULL;
	dma_buf_phys_unmap(attach);
}

static int mock_restore(struct dma_buf_phys_attachment *attach)
{
	struct mock_importer *imp = attach->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	imp->nr_restore++;
	imp->revoked_at_restore = attach->dmabuf->phys_revoked;
	if (imp->restore_ret)
		return imp->restore_ret;
	if (imp->map_on_restore)
		return dma_buf_phys_map(attach, 0, attach->dmabuf->size,
					&imp->ranges);
	return 0;
}

static const struct dma_buf_phys_caps default_exp_caps = {
	.spaces = DMA_BUF_PHYS_SPACE_CPU,
	.models = DMA_BUF_PHYS_REVOCABLE | DMA_BUF_PHYS_DYNAMIC,
	.attrs = RW_MMIO | DMA_BUF_PHYS_WC,
	.granule = SZ_4K,
};

static const struct dma_buf_phys_importer default_importer = {
	.name = "mock",
	.caps = {
		.spaces = DMA_BUF_PHYS_SPACE_CPU,
		.models = DMA_BUF_PHYS_REVOCABLE | DMA_BUF_PHYS_DYNAMIC,
		.attrs = DMA_BUF_PHYS_ATTRS_ALL,
		.granule = SZ_4K,
	},
	.invalidate = mock_invalidate,
	.restore = mock_restore,
};

/*
 * The buffer of most tests: two neighbours that are one, one that is contiguous
 * but read-only, and one elsewhere.
 */
static const struct dma_buf_phys_range default_ranges[MAX_RANGES] = {
	{ .addr = SZ_1G,		.len = SZ_16K,	.attrs = RW_MMIO },
	{ .addr = SZ_1G + SZ_16K,	.len = SZ_16K,	.attrs = RW_MMIO },
	{ .addr = SZ_1G + SZ_32K,	.len = SZ_4K,
	  .attrs = DMA_BUF_PHYS_READ | DMA_BUF_PHYS_MMIO },
	{ .addr = SZ_2G,		.len = SZ_64K,
	  .attrs = RW_MMIO | DMA_BUF_PHYS_WC },
};

#define DEFAULT_SIZE	(SZ_32K + SZ_4K + SZ_64K)

static struct dma_buf *mock_export(struct kunit *test,
				   struct mock_exporter *exp,
				   const struct dma_buf_ops *ops)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.ops = ops;
	info.size = DEFAULT_SIZE;
	info.flags = O_RDWR | O_CLOEXEC;
	info.priv = exp;
	exp->dmabuf = dma_buf_export(&info);
	KUNIT_ASSERT_FALSE(test, IS_ERR(exp->dmabuf));
	return exp->dmabuf;
}

static int phys_test_init(struct kunit *test)
{
	struct mock_exporter *exp;

	exp = kunit_kzalloc(test, sizeof(*exp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, exp);
	exp->caps = default_exp_caps;
	memcpy(exp->ranges, default_ranges, sizeof(default_ranges));
	mock_export(test, exp, &mock_ops);
	test->priv = exp;
	return 0;
}

static void phys_test_exit(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;

	if (!exp)
		return;
	KUNIT_EXPECT_TRUE(test, list_empty(&exp->dmabuf->phys_attachments));
	/* The release must not outlive @exp, nor the module. */
	__fput_sync(exp->dmabuf->file);
}

static struct mock_importer *mock_attach(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;
	struct mock_importer *imp;

	imp = kunit_kzalloc(test, sizeof(*imp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, imp);
	imp->importer = default_importer;
	imp->attach = dma_buf_phys_attach(exp->dmabuf, &imp->importer, imp);
	KUNIT_ASSERT_FALSE(test, IS_ERR(imp->attach));
	return imp;
}

static void mock_detach(struct mock_importer *imp)
{
	dma_buf_phys_detach(imp->attach);
	dma_buf_phys_free_ranges(imp->ranges);
	imp->ranges = NULL;
}

static int mock_map_slice(struct mock_importer *imp, u64 offset, u64 len)
{
	struct dma_resv *resv = imp->attach->dmabuf->resv;
	int ret;

	dma_resv_lock(resv, NULL);
	ret = dma_buf_phys_map(imp->attach, offset, len, &imp->ranges);
	dma_resv_unlock(resv);
	return ret;
}

static void revoke(struct kunit *test, enum dma_buf_revoke_cause cause)
{
	struct mock_exporter *exp = test->priv;

	dma_resv_lock(exp->dmabuf->resv, NULL);
	dma_buf_phys_revoke(exp->dmabuf, cause);
	dma_resv_unlock(exp->dmabuf->resv);
}

static void restore(struct kunit *test, enum dma_buf_revoke_cause cause)
{
	struct mock_exporter *exp = test->priv;

	dma_resv_lock(exp->dmabuf->resv, NULL);
	dma_buf_phys_restore(exp->dmabuf, cause);
	dma_resv_unlock(exp->dmabuf->resv);
}

/* Negotiation */

struct negotiation {
	const char *desc;
	struct dma_buf_phys_caps exp;
	struct dma_buf_phys_caps imp;
	int ret;
	u32 model;
};

#define CAPS(_spaces, _models, _attrs, _granule)			\
	{ .spaces = (_spaces), .models = (_models), .attrs = (_attrs),	\
	  .granule = (_granule) }
#define CPU	DMA_BUF_PHYS_SPACE_CPU
#define PIN	DMA_BUF_PHYS_PINNED
#define REV	DMA_BUF_PHYS_REVOCABLE
#define DYN	DMA_BUF_PHYS_DYNAMIC

static const struct negotiation negotiations[] = {
	{ "same", CAPS(CPU, REV, RW, SZ_4K), CAPS(CPU, REV, RW, SZ_4K),
	  0, REV },
	{ "weakest model in common", CAPS(CPU, PIN | REV | DYN, RW, SZ_4K),
	  CAPS(CPU, PIN | REV | DYN, RW, SZ_4K), 0, DYN },
	{ "importer cannot restore", CAPS(CPU, REV | DYN, RW, SZ_4K),
	  CAPS(CPU, REV, RW, SZ_4K), 0, REV },
	{ "exporter cannot restore", CAPS(CPU, REV, RW, SZ_4K),
	  CAPS(CPU, REV | DYN, RW, SZ_4K), 0, REV },
	{ "pinned only", CAPS(CPU, PIN, RW, SZ_4K),
	  CAPS(CPU, PIN | REV, RW, SZ_4K), 0, PIN },
	{ "pinned importer, revocable exporter",
	  CAPS(CPU, REV | DYN, RW, SZ_4K), CAPS(CPU, PIN, RW, SZ_4K),
	  -EOPNOTSUPP },
	{ "revocable importer, pinned exporter", CAPS(CPU, PIN, RW, SZ_4K),
	  CAPS(CPU, REV | DYN, RW, SZ_4K), -EOPNOTSUPP },
	{ "no model", CAPS(CPU, 0, RW, SZ_4K), CAPS(CPU, REV, RW, SZ_4K),
	  -EOPNOTSUPP },
	{ "other address space", CAPS(BIT(1), REV, RW, SZ_4K),
	  CAPS(CPU, REV, RW, SZ_4K), -EOPNOTSUPP },
	{ "no address space", CAPS(CPU, REV, RW, SZ_4K),
	  CAPS(0, REV, RW, SZ_4K), -EOPNOTSUPP },
	{ "one address space in common", CAPS(CPU | BIT(1), REV, RW, SZ_4K),
	  CAPS(CPU, REV, RW, SZ_4K), 0, REV },
	{ "coarser exporter", CAPS(CPU, REV, RW, SZ_64K),
	  CAPS(CPU, REV, RW, SZ_4K), 0, REV },
	{ "finer exporter", CAPS(CPU, REV, RW, SZ_4K),
	  CAPS(CPU, REV, RW, SZ_64K), -EOPNOTSUPP },
	{ "importer honours more", CAPS(CPU, REV, RW, SZ_4K),
	  CAPS(CPU, REV, DMA_BUF_PHYS_ATTRS_ALL, SZ_4K), 0, REV },
	{ "importer knows no private memory",
	  CAPS(CPU, REV, RW | DMA_BUF_PHYS_PRIVATE, SZ_4K),
	  CAPS(CPU, REV, RW_MMIO, SZ_4K), -EOPNOTSUPP },
	{ "importer knows no MMIO", CAPS(CPU, REV, RW_MMIO, SZ_4K),
	  CAPS(CPU, REV, RW, SZ_4K), -EOPNOTSUPP },
};

KUNIT_ARRAY_PARAM_DESC(negotiation, negotiations, desc);

static void test_negotiation(struct kunit *test)
{
	const struct negotiation *n = test->param_value;
	struct dma_buf_phys_importer importer = default_importer;
	struct dma_buf_phys_attachment *attach;
	struct mock_exporter *exp = test->priv;

	exp->caps = n->exp;
	importer.caps = n->imp;

	attach = dma_buf_phys_attach(exp->dmabuf, &importer, NULL);
	if (n->ret) {
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), n->ret);
		KUNIT_EXPECT_TRUE(test,
				  list_empty(&exp->dmabuf->phys_attachments));
	}
	if (IS_ERR(attach)) {
		KUNIT_EXPECT_EQ(test, (int)PTR_ERR(attach), n->ret);
		return;
	}
	KUNIT_EXPECT_EQ(test, attach->model, n->model);
	KUNIT_EXPECT_EQ(test, attach->space, (u32)CPU);
	dma_buf_phys_detach(attach);
}

static void test_exporter_without_phys_ops(struct kunit *test)
{
	struct dma_buf_phys_attachment *attach;
	struct mock_exporter exp = {};

	mock_export(test, &exp, &mock_ops_without_phys);
	attach = dma_buf_phys_attach(exp.dmabuf, &default_importer, NULL);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), -EOPNOTSUPP);
	__fput_sync(exp.dmabuf->file);
}

static void expect_invalid_importer(struct kunit *test,
				    const struct dma_buf_phys_importer *importer)
{
	struct dma_buf_phys_attachment *attach;
	struct mock_exporter *exp = test->priv;

	kunit_warning_suppress(test) {
		attach = dma_buf_phys_attach(exp->dmabuf, importer, NULL);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), -EINVAL);
	}
}

static void test_importer_contradicts_itself(struct kunit *test)
{
	struct dma_buf_phys_importer importer;

	importer = default_importer;
	importer.invalidate = NULL;
	expect_invalid_importer(test, &importer);

	importer = default_importer;
	importer.restore = NULL;
	expect_invalid_importer(test, &importer);

	importer = default_importer;
	importer.name = NULL;
	expect_invalid_importer(test, &importer);

	importer = default_importer;
	importer.caps.granule = 0;
	expect_invalid_importer(test, &importer);

	importer = default_importer;
	importer.caps.granule = 3 * SZ_4K;
	expect_invalid_importer(test, &importer);
}

static void test_attachment_is_apart(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;
	struct mock_importer *imp = mock_attach(test);

	KUNIT_EXPECT_EQ(test, exp->nr_legacy_attach, 0);
	KUNIT_EXPECT_TRUE(test, list_empty(&exp->dmabuf->attachments));
	KUNIT_EXPECT_TRUE(test,
			  list_is_singular(&exp->dmabuf->phys_attachments));
	mock_detach(imp);
}

/* What a mapping contains */

struct slice {
	const char *desc;
	u64 offset;
	u64 len;
	int ret;
	unsigned int nr;
	struct dma_buf_phys_range ranges[3];
};

#define RANGE(_addr, _len, _attrs) \
	{ .addr = (_addr), .len = (_len), .attrs = (_attrs) }

static const struct slice slices[] = {
	{ "whole buffer", 0, DEFAULT_SIZE, 0, 3, {
		RANGE(SZ_1G, SZ_32K, RW_MMIO),
		RANGE(SZ_1G + SZ_32K, SZ_4K,
		      DMA_BUF_PHYS_READ | DMA_BUF_PHYS_MMIO),
		RANGE(SZ_2G, SZ_64K, RW_MMIO | DMA_BUF_PHYS_WC) } },
	{ "inside one range", SZ_4K, SZ_8K, 0, 1, {
		RANGE(SZ_1G + SZ_4K, SZ_8K, RW_MMIO) } },
	{ "across two that are one", SZ_8K, SZ_16K, 0, 1, {
		RANGE(SZ_1G + SZ_8K, SZ_16K, RW_MMIO) } },
	{ "second range exactly", SZ_16K, SZ_16K, 0, 1, {
		RANGE(SZ_1G + SZ_16K, SZ_16K, RW_MMIO) } },
	{ "contiguous, other attributes", SZ_32K - SZ_4K, SZ_8K, 0, 2, {
		RANGE(SZ_1G + SZ_32K - SZ_4K, SZ_4K, RW_MMIO),
		RANGE(SZ_1G + SZ_32K, SZ_4K,
		      DMA_BUF_PHYS_READ | DMA_BUF_PHYS_MMIO) } },
	{ "across the hole", SZ_32K, SZ_8K, 0, 2, {
		RANGE(SZ_1G + SZ_32K, SZ_4K,
		      DMA_BUF_PHYS_READ | DMA_BUF_PHYS_MMIO),
		RANGE(SZ_2G, SZ_4K, RW_MMIO | DMA_BUF_PHYS_WC) } },
	{ "below a page", SZ_4K + 16, 32, 0, 1, {
		RANGE(SZ_1G + SZ_4K + 16, 32, RW_MMIO) } },
	{ "last byte", DEFAULT_SIZE - 1, 1, 0, 1, {
		RANGE(SZ_2G + SZ_64K - 1, 1, RW_MMIO | DMA_BUF_PHYS_WC) } },
	{ "empty", SZ_4K, 0, -EINVAL },
	{ "one byte too long", 0, DEFAULT_SIZE + 1, -EINVAL },
	{ "starts behind the end", DEFAULT_SIZE, 1, -EINVAL },
	{ "ends behind the end", DEFAULT_SIZE - SZ_4K, SZ_8K, -EINVAL },
	{ "offset plus length overflows", SZ_4K, U64_MAX, -EINVAL },
	{ "offset overflows", U64_MAX, SZ_4K, -EINVAL },
};

KUNIT_ARRAY_PARAM_DESC(slice, slices, desc);

static void test_map_slice(struct kunit *test)
{
	const struct slice *s = test->param_value;
	struct mock_importer *imp = mock_attach(test);
	unsigned int i;
	int ret;

	ret = mock_map_slice(imp, s->offset, s->len);
	KUNIT_EXPECT_EQ(test, ret, s->ret);
	KUNIT_EXPECT_EQ(test, imp->attach->mapped, !s->ret);
	if (!ret) {
		KUNIT_EXPECT_EQ(test, imp->ranges->nr, s->nr);
		for (i = 0; i < min(imp->ranges->nr, s->nr); i++) {
			KUNIT_EXPECT_EQ(test, imp->ranges->ranges[i].addr,
					s->ranges[i].addr);
			KUNIT_EXPECT_EQ(test, imp->ranges->ranges[i].len,
					s->ranges[i].len);
			KUNIT_EXPECT_EQ(test, imp->ranges->ranges[i].attrs,
					s->ranges[i].attrs);
		}
	}
	mock_detach(imp);
}

static void test_one_mapping_an_attachment(struct kunit *test)
{
	struct mock_importer *imp = mock_attach(test);
	struct dma_buf_phys_ranges *first;

	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);
	first = imp->ranges;
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -EBUSY);
	KUNIT_EXPECT_PTR_EQ(test, imp->ranges, first);
	mock_detach(imp);
}

struct bad_range {
	const char *desc;
	struct dma_buf_phys_range range;
};

static const struct bad_range bad_ranges[] = {
	{ "no length", RANGE(SZ_1G, 0, RW) },
	{ "longer than the buffer", RANGE(SZ_1G, DEFAULT_SIZE + SZ_4K, RW) },
	{ "address below the granule", RANGE(SZ_1G + 1, SZ_4K, RW) },
	{ "length below the granule", RANGE(SZ_1G, SZ_4K + 1, RW) },
	{ "attribute that was not negotiated",
	  RANGE(SZ_1G, SZ_4K, RW | DMA_BUF_PHYS_CACHED) },
	{ "end overflows", RANGE((phys_addr_t)-SZ_4K, SZ_8K, RW) },
};

KUNIT_ARRAY_PARAM_DESC(bad_range, bad_ranges, desc);

static void test_exporter_breaks_its_word(struct kunit *test)
{
	const struct bad_range *bad = test->param_value;
	struct mock_exporter *exp = test->priv;
	struct mock_importer *imp = mock_attach(test);

	if (sizeof(phys_addr_t) < sizeof(u64) && bad->range.addr >= SZ_2G)
		kunit_skip(test, "needs 64-bit physical addresses");

	exp->ranges[0] = bad->range;
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, DEFAULT_SIZE),
				-EIO);
	}
	KUNIT_EXPECT_FALSE(test, imp->attach->mapped);
	KUNIT_EXPECT_NULL(test, imp->ranges);
	mock_detach(imp);
}

/* Revocation and restoration */

static void test_revoke_reaches_every_holder(struct kunit *test)
{
	struct mock_importer *holds = mock_attach(test);
	struct mock_importer *holds_too = mock_attach(test);
	struct mock_importer *holds_not = mock_attach(test);

	KUNIT_ASSERT_EQ(test, mock_map_slice(holds, 0, DEFAULT_SIZE), 0);
	KUNIT_ASSERT_EQ(test, mock_map_slice(holds_too, SZ_4K, SZ_4K), 0);

	revoke(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, holds->nr_invalidate, 1);
	KUNIT_EXPECT_EQ(test, holds_too->nr_invalidate, 1);
	KUNIT_EXPECT_EQ(test, holds_not->nr_invalidate, 0);
	KUNIT_EXPECT_FALSE(test, holds->attach->mapped);
	KUNIT_EXPECT_EQ(test, mock_map_slice(holds, 0, SZ_4K), -EAGAIN);

	/* Again for the same cause, and for another: nobody is left to tell. */
	revoke(test, DMA_BUF_REVOKE_DECODE);
	revoke(test, DMA_BUF_REVOKE_RESET);
	revoke(test, DMA_BUF_REVOKE_DECODE | DMA_BUF_REVOKE_USER);
	KUNIT_EXPECT_EQ(test, holds->nr_invalidate, 1);

	mock_detach(holds);
	mock_detach(holds_too);
	mock_detach(holds_not);
}

static void test_restore_after_last_cause(struct kunit *test)
{
	struct mock_importer *imp = mock_attach(test);

	imp->map_on_restore = true;
	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);

	revoke(test, DMA_BUF_REVOKE_DECODE);
	revoke(test, DMA_BUF_REVOKE_USER);
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 0);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -EAGAIN);

	/* A cause that is not set changes nothing. */
	restore(test, DMA_BUF_REVOKE_RESET);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 0);

	restore(test, DMA_BUF_REVOKE_USER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 1);
	KUNIT_EXPECT_EQ(test, imp->revoked_at_restore, 0);
	KUNIT_EXPECT_TRUE(test, imp->attach->mapped);

	/* Not revoked, so there is nothing to restore. */
	restore(test, DMA_BUF_REVOKE_USER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 1);

	/* Several at once, whether all of them are set or not. */
	revoke(test, DMA_BUF_REVOKE_DECODE);
	revoke(test, DMA_BUF_REVOKE_RESET);
	revoke(test, DMA_BUF_REVOKE_USER);
	restore(test, DMA_BUF_REVOKE_DECODE | DMA_BUF_REVOKE_RESET);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 1);
	restore(test, DMA_BUF_REVOKE_USER | DMA_BUF_REVOKE_LOW_POWER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 2);

	/* The same when they are set: each of them counts, those set before too. */
	revoke(test, DMA_BUF_REVOKE_DECODE);
	revoke(test, DMA_BUF_REVOKE_DECODE | DMA_BUF_REVOKE_RESET);
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 2);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -EAGAIN);
	restore(test, DMA_BUF_REVOKE_RESET);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 3);

	/* And if none was. */
	revoke(test, DMA_BUF_REVOKE_USER | DMA_BUF_REVOKE_LOW_POWER);
	KUNIT_EXPECT_FALSE(test, imp->attach->mapped);
	restore(test, DMA_BUF_REVOKE_USER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 3);
	restore(test, DMA_BUF_REVOKE_LOW_POWER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 4);
	mock_detach(imp);
}

static void test_revocable_is_not_told(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;
	struct mock_importer *imp;

	exp->caps.models = DMA_BUF_PHYS_REVOCABLE;
	imp = mock_attach(test);
	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);
	revoke(test, DMA_BUF_REVOKE_DECODE);
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, imp->nr_invalidate, 1);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 0);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);
	mock_detach(imp);
}

static void test_restore_error_is_counted(struct kunit *test)
{
	struct mock_importer *fails = mock_attach(test);
	struct mock_importer *works = mock_attach(test);

	fails->restore_ret = -ENOMEM;
	fails->map_on_restore = true;
	works->map_on_restore = true;
	KUNIT_ASSERT_EQ(test, mock_map_slice(fails, 0, SZ_4K), 0);

	revoke(test, DMA_BUF_REVOKE_DECODE);
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, fails->attach->nr_restore_errors, 1);
	KUNIT_EXPECT_FALSE(test, fails->attach->mapped);
	KUNIT_EXPECT_TRUE(test, works->attach->mapped);

	fails->restore_ret = 0;
	revoke(test, DMA_BUF_REVOKE_DECODE);
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, fails->attach->nr_restore_errors, 1);
	KUNIT_EXPECT_TRUE(test, fails->attach->mapped);
	/* Holding nothing, it had no reason to be invalidated again. */
	KUNIT_EXPECT_EQ(test, fails->nr_invalidate, 1);

	mock_detach(fails);
	mock_detach(works);
}

static void test_attach_while_revoked(struct kunit *test)
{
	struct mock_importer *imp;

	revoke(test, DMA_BUF_REVOKE_LOW_POWER);
	imp = mock_attach(test);
	imp->map_on_restore = true;
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -EAGAIN);
	restore(test, DMA_BUF_REVOKE_LOW_POWER);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 1);
	KUNIT_EXPECT_TRUE(test, imp->attach->mapped);
	mock_detach(imp);
}

static void test_closed_is_for_ever(struct kunit *test)
{
	struct mock_importer *imp = mock_attach(test);
	struct mock_exporter *exp = test->priv;

	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);
	revoke(test, DMA_BUF_REVOKE_DECODE);
	revoke(test, DMA_BUF_REVOKE_CLOSED);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -ENODEV);

	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 0);
	kunit_warning_suppress(test) {
		restore(test, DMA_BUF_REVOKE_CLOSED);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_EQ(test, exp->dmabuf->phys_revoked,
			(u32)DMA_BUF_REVOKE_CLOSED);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -ENODEV);
	mock_detach(imp);
}

static void test_importer_keeps_mapping(struct kunit *test)
{
	struct mock_importer *imp = mock_attach(test);

	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);
	imp->keep = true;
	kunit_warning_suppress(test) {
		revoke(test, DMA_BUF_REVOKE_DECODE);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	restore(test, DMA_BUF_REVOKE_DECODE);
	KUNIT_EXPECT_EQ(test, imp->nr_restore, 0);
	KUNIT_EXPECT_EQ(test, mock_map_slice(imp, 0, SZ_4K), -EIO);
	mock_detach(imp);
}

static void test_pinned_is_not_revoked(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;
	struct mock_importer *imp;

	exp->caps.models = DMA_BUF_PHYS_PINNED;
	imp = kunit_kzalloc(test, sizeof(*imp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, imp);
	imp->importer = default_importer;
	imp->importer.caps.models = DMA_BUF_PHYS_PINNED;
	imp->importer.invalidate = NULL;
	imp->importer.restore = NULL;
	imp->attach = dma_buf_phys_attach(exp->dmabuf, &imp->importer, imp);
	KUNIT_ASSERT_FALSE(test, IS_ERR(imp->attach));
	KUNIT_ASSERT_EQ(test, mock_map_slice(imp, 0, SZ_4K), 0);

	kunit_warning_suppress(test) {
		revoke(test, DMA_BUF_REVOKE_DECODE);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_TRUE(test, imp->attach->mapped);
	mock_detach(imp);
}

/* Attach, map and detach against revoke and restore */

#define RACE_THREADS	4
#define RACE_ROUNDS	2000

struct racer {
	struct dma_buf *dmabuf;
	struct completion done;
	unsigned int nr_mapped;
	unsigned int nr_refused;
	int bad;
};

static void race_once(struct racer *racer)
{
	struct mock_importer imp = {
		.importer = default_importer,
		.map_on_restore = true,
	};
	int ret;

	imp.attach = dma_buf_phys_attach(racer->dmabuf, &imp.importer, &imp);
	if (IS_ERR(imp.attach)) {
		racer->bad = PTR_ERR(imp.attach);
		return;
	}

	dma_resv_lock(racer->dmabuf->resv, NULL);
	/* A restore can have mapped it between the attach and here. */
	ret = imp.attach->mapped ? 0 :
		dma_buf_phys_map(imp.attach, 0, DEFAULT_SIZE, &imp.ranges);
	if (!ret && (racer->dmabuf->phys_revoked || !imp.ranges))
		racer->bad = -EUCLEAN;
	else if (!ret)
		racer->nr_mapped++;
	else if (ret == -EAGAIN)
		racer->nr_refused++;
	else
		racer->bad = ret;
	dma_resv_unlock(racer->dmabuf->resv);

	mock_detach(&imp);
}

static int race_thread(void *data)
{
	struct racer *racer = data;
	unsigned int i;

	for (i = 0; i < RACE_ROUNDS && !racer->bad; i++) {
		race_once(racer);
		cond_resched();
	}
	/* Not a return: nothing of this module may run once it is done. */
	kthread_complete_and_exit(&racer->done, 0);
}

static bool race_toggle_until_done(struct kunit *test, struct racer *racer)
{
	while (!try_wait_for_completion(&racer->done)) {
		revoke(test, DMA_BUF_REVOKE_DECODE);
		cond_resched();
		restore(test, DMA_BUF_REVOKE_DECODE);
		cond_resched();
	}
	return !racer->bad;
}

static void test_attach_detach_race(struct kunit *test)
{
	struct mock_exporter *exp = test->priv;
	struct racer *racers;
	unsigned int i, started;

	racers = kunit_kcalloc(test, RACE_THREADS, sizeof(*racers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, racers);

	for (started = 0; started < RACE_THREADS; started++) {
		struct racer *racer = &racers[started];
		struct task_struct *task;

		racer->dmabuf = exp->dmabuf;
		init_completion(&racer->done);
		task = kthread_run(race_thread, racer, "phys-race-%u", started);
		if (IS_ERR(task)) {
			KUNIT_FAIL(test, "no thread: %ld", PTR_ERR(task));
			break;
		}
	}
	for (i = 0; i < started; i++)
		KUNIT_EXPECT_TRUE_MSG(test,
				      race_toggle_until_done(test, &racers[i]),
				      "racer %u: %d", i, racers[i].bad);
	for (i = 0; i < started; i++)
		KUNIT_EXPECT_EQ(test,
				racers[i].nr_mapped + racers[i].nr_refused,
				RACE_ROUNDS);
}

static struct kunit_case phys_test_cases[] = {
	KUNIT_CASE_PARAM(test_negotiation, negotiation_gen_params),
	KUNIT_CASE(test_exporter_without_phys_ops),
	KUNIT_CASE(test_importer_contradicts_itself),
	KUNIT_CASE(test_attachment_is_apart),
	KUNIT_CASE_PARAM(test_map_slice, slice_gen_params),
	KUNIT_CASE(test_one_mapping_an_attachment),
	KUNIT_CASE_PARAM(test_exporter_breaks_its_word, bad_range_gen_params),
	KUNIT_CASE(test_revoke_reaches_every_holder),
	KUNIT_CASE(test_restore_after_last_cause),
	KUNIT_CASE(test_revocable_is_not_told),
	KUNIT_CASE(test_restore_error_is_counted),
	KUNIT_CASE(test_attach_while_revoked),
	KUNIT_CASE(test_closed_is_for_ever),
	KUNIT_CASE(test_importer_keeps_mapping),
	KUNIT_CASE(test_pinned_is_not_revoked),
	KUNIT_CASE(test_attach_detach_race),
	{}
};

static struct kunit_suite phys_test_suite = {
	.name = "dma-buf-phys",
	.init = phys_test_init,
	.exit = phys_test_exit,
	.test_cases = phys_test_cases,
};

kunit_test_suite(phys_test_suite);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("KUnit tests for the dma-buf physical interconnect");
MODULE_LICENSE("GPL");
