// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of dma-buf's negotiation and of the callbacks of memory models
 *
 * A mock exporter, whose offer each test sets, and mock importers that record
 * what they were told. Nothing here touches memory: addresses are made up, only
 * the contract is under test.
 *
 * Locks: the buffer's dma_resv protects the mocks' state.
 *
 * Invariant: a test that ends has detached every importer, so that releasing
 * the buffer finds its list empty (the core warns if not).
 */

#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "dma-buf-test.h"

#define P	DMA_BUF_MODEL_PINNED
#define M	DMA_BUF_MODEL_MOVABLE
#define V	DMA_BUF_MODEL_REVOCABLE
#define S	DMA_BUF_MODEL_RESTORABLE

#define MAX_MATCHES	4
#define BUFFER_SIZE	SZ_64K

struct mock_exporter {
	struct dma_buf *dmabuf;
	unsigned int nr_attach;
	unsigned int nr_detach;
	unsigned int nr_pin;
	unsigned int nr_unpin;
	enum dma_buf_model model_at_attach;
};

struct mock_importer {
	struct dma_buf_attachment *attach;
	unsigned int nr_invalidate;
	unsigned int nr_restored;
	int restored_ret;
};

static int mock_attach_op(struct dma_buf *dmabuf,
			  struct dma_buf_attachment *attach)
{
	struct mock_exporter *exp = dmabuf->priv;

	exp->nr_attach++;
	exp->model_at_attach = dma_buf_attach_model(attach);
	return 0;
}

static void mock_detach_op(struct dma_buf *dmabuf,
			   struct dma_buf_attachment *attach)
{
	struct mock_exporter *exp = dmabuf->priv;

	exp->nr_detach++;
}

static int mock_pin(struct dma_buf_attachment *attach)
{
	struct mock_exporter *exp = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	exp->nr_pin++;
	return 0;
}

static void mock_unpin(struct dma_buf_attachment *attach)
{
	struct mock_exporter *exp = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	exp->nr_unpin++;
}

static struct sg_table *mock_map(struct dma_buf_attachment *attach,
				 enum dma_data_direction dir)
{
	struct sg_table *sgt;

	sgt = kzalloc_obj(*sgt);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	if (sg_alloc_table(sgt, 1, GFP_KERNEL)) {
		kfree(sgt);
		return ERR_PTR(-ENOMEM);
	}
	sg_dma_address(sgt->sgl) = SZ_1G;
	sg_dma_len(sgt->sgl) = attach->dmabuf->size;
	return sgt;
}

static void mock_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
	sg_free_table(sgt);
	kfree(sgt);
}

static void mock_release(struct dma_buf *dmabuf)
{
}

/* An exporter whose memory never moves, and one that pins */
static const struct dma_buf_ops static_ops = {
	.attach = mock_attach_op,
	.detach = mock_detach_op,
	.map_dma_buf = mock_map,
	.unmap_dma_buf = mock_unmap,
	.release = mock_release,
};

static const struct dma_buf_ops dynamic_ops = {
	.attach = mock_attach_op,
	.detach = mock_detach_op,
	.pin = mock_pin,
	.unpin = mock_unpin,
	.map_dma_buf = mock_map,
	.unmap_dma_buf = mock_unmap,
	.release = mock_release,
};

static struct dma_buf *mock_export(struct mock_exporter *exp,
				   const struct dma_buf_ops *ops,
				   const struct dma_buf_match *matches,
				   unsigned int nr_matches)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);

	info.ops = ops;
	info.size = BUFFER_SIZE;
	info.flags = O_RDWR | O_CLOEXEC;
	info.priv = exp;
	info.matches = matches;
	info.nr_matches = nr_matches;
	return dma_buf_export(&info);
}

static struct mock_exporter *
mock_exporter(struct kunit *test, const struct dma_buf_ops *ops,
	      const struct dma_buf_match *matches, unsigned int nr_matches)
{
	struct mock_exporter *exp;

	exp = kunit_kzalloc(test, sizeof(*exp), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, exp);
	exp->dmabuf = mock_export(exp, ops, matches, nr_matches);
	KUNIT_ASSERT_FALSE(test, IS_ERR(exp->dmabuf));
	return exp;
}

/* The release must not outlive @exp, nor the module. */
static void mock_put(struct mock_exporter *exp)
{
	__fput_sync(exp->dmabuf->file);
}

static void mock_invalidate(struct dma_buf_attachment *attach)
{
	struct mock_importer *imp = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	imp->nr_invalidate++;
}

static int mock_restored(struct dma_buf_attachment *attach)
{
	struct mock_importer *imp = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	imp->nr_restored++;
	return imp->restored_ret;
}

static const struct dma_buf_attach_ops mock_attach_ops = {
	.invalidate_mappings = mock_invalidate,
	.mappings_restored = mock_restored,
};

static const struct dma_buf_attach_ops no_callbacks = {
	.allow_peer2peer = true,
};

static const struct dma_buf_attach_ops only_invalidate = {
	.invalidate_mappings = mock_invalidate,
};

static const struct dma_buf_attach_ops takes_revocable = {
	.invalidate_mappings = mock_invalidate,
	.models = BIT(P) | BIT(M) | BIT(V),
};

static const struct dma_buf_attach_ops not_movable = {
	.invalidate_mappings = mock_invalidate,
	.models = BIT(P) | BIT(V),
};

static const struct dma_buf_attach_ops takes_all = {
	.invalidate_mappings = mock_invalidate,
	.mappings_restored = mock_restored,
	.models = BIT(P) | BIT(M) | BIT(V) | BIT(S),
};

/* Types of the tests' own, as somebody outside of drivers/dma-buf has them */
static const struct dma_buf_mapping_type type_a = { .name = "a" };
static const struct dma_buf_mapping_type type_b = { .name = "b" };

static const struct dma_buf_mapping_type type_extents = {
	.name = "extents",
	.extents = true,
};

/* Negotiation of importers that are no device */

struct negotiation {
	const char *desc;
	struct dma_buf_match exp[MAX_MATCHES];
	struct dma_buf_match imp[MAX_MATCHES];
	int taken;	/* index of the exporter's, or an errno */
};

#define MATCH(_type, _model)	{ .type = &(_type), .model = (_model) }
#define SGT(_model)		MATCH(dma_buf_type_sgt, _model)
#define A(_model)		MATCH(type_a, _model)
#define B(_model)		MATCH(type_b, _model)
#define MAYBE_PRIVATE(_model) \
	{ .type = &type_a, .model = (_model), .private = true }

static const struct negotiation negotiations[] = {
	{ "same", { A(V) }, { A(V) }, 0 },
	{ "exporter prefers the first", { A(M), A(V) }, { A(V), A(M) }, 0 },
	{ "importer has only the second", { A(M), A(V) }, { A(V) }, 1 },
	{ "exporter prefers a type", { B(P), A(V) }, { A(V), B(P) }, 0 },
	{ "scatterlist beside it", { SGT(V), A(V) }, { A(V) }, 1 },
	{ "other type", { A(V) }, { B(V) }, -EOPNOTSUPP },
	{ "other model", { A(V) }, { A(P) }, -EOPNOTSUPP },
	{ "model of the other type", { A(V), B(P) }, { A(P), B(V) },
	  -EOPNOTSUPP },
	{ "no restore at the exporter", { A(V) }, { A(S) }, -EOPNOTSUPP },
	{ "restorable before revocable", { A(S), A(V) }, { A(V), A(S) }, 0 },
	{ "revocable is not pinned", { A(P) }, { A(V), A(M) }, -EOPNOTSUPP },
	{ "only a scatterlist", { SGT(M), SGT(P) }, { A(P) }, -EOPNOTSUPP },
	{ "nothing to take", { A(V) }, { }, -EOPNOTSUPP },
	{ "private fits who knows of it", { MAYBE_PRIVATE(V) },
	  { MAYBE_PRIVATE(V) }, 0 },
	{ "private does not fit who does not", { MAYBE_PRIVATE(V) }, { A(V) },
	  -EOPNOTSUPP },
	{ "who knows of private takes all", { A(V) }, { MAYBE_PRIVATE(V) }, 0 },
	{ "only the second is never private", { MAYBE_PRIVATE(S), A(V) },
	  { A(S), A(V) }, 1 },
};

KUNIT_ARRAY_PARAM_DESC(negotiation, negotiations, desc);

static unsigned int nr_of(const struct dma_buf_match *matches)
{
	unsigned int nr = 0;

	while (nr < MAX_MATCHES && matches[nr].type)
		nr++;
	return nr;
}

static void test_negotiation(struct kunit *test)
{
	const struct negotiation *n = test->param_value;
	struct dma_buf_attachment *attach;
	struct mock_importer imp = {};
	struct mock_exporter *exp;

	exp = mock_exporter(test, &static_ops, n->exp, nr_of(n->exp));
	attach = mapping_attach(exp->dmabuf, n->imp, nr_of(n->imp),
				&mock_attach_ops, &imp);
	if (n->taken < 0) {
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), n->taken);
		KUNIT_EXPECT_TRUE(test, list_empty(&exp->dmabuf->attachments));
	} else if (IS_ERR(attach)) {
		KUNIT_FAIL(test, "attach: %ld", PTR_ERR(attach));
	} else {
		KUNIT_EXPECT_PTR_EQ(test, attach->match->type,
				    n->exp[n->taken].type);
		KUNIT_EXPECT_EQ(test, dma_buf_attach_model(attach),
				n->exp[n->taken].model);
	}
	if (!IS_ERR(attach))
		dma_buf_detach(exp->dmabuf, attach);
	KUNIT_EXPECT_EQ(test, exp->nr_attach, 0);
	KUNIT_EXPECT_EQ(test, exp->nr_detach, 0);
	mock_put(exp);
}

/* Every kind of scatterlist importer with every kind of exporter */

struct sgt_importer {
	const char *desc;
	const struct dma_buf_attach_ops *ops;
};

static const struct sgt_importer sgt_importers[] = {
	{ "static", NULL },
	{ "no callbacks", &no_callbacks },
	{ "only invalidate", &only_invalidate },
	{ "takes revocable", &takes_revocable },
	{ "not movable", &not_movable },
	{ "takes all", &takes_all },
};

#define NR_IMPORTERS	ARRAY_SIZE(sgt_importers)
#define NO		(-1)

struct sgt_pair {
	const char *desc;
	const struct dma_buf_ops *ops;
	struct dma_buf_match matches[MAX_MATCHES];
	int models[NR_IMPORTERS];	/* as sgt_importers[] */
};

static const struct sgt_pair sgt_pairs[] = {
	{ "old, static", &static_ops, { }, { P, P, M, M, P, M } },
	{ "old, dynamic", &dynamic_ops, { }, { P, P, M, M, P, M } },
	{ "pinned", &static_ops, { SGT(P) }, { P, P, P, P, P, P } },
	{ "movable", &dynamic_ops, { SGT(M) }, { NO, NO, M, M, NO, M } },
	{ "revocable", &static_ops, { SGT(V) }, { NO, NO, NO, V, V, V } },
	{ "revocable, dynamic", &dynamic_ops, { SGT(V) },
	  { NO, NO, NO, V, V, V } },
	{ "restorable or revocable", &static_ops, { SGT(S), SGT(V) },
	  { NO, NO, NO, V, V, S } },
	{ "restorable", &static_ops, { SGT(S) },
	  { NO, NO, NO, NO, NO, S } },
	{ "no scatterlist", &static_ops, { A(V), B(P) },
	  { NO, NO, NO, NO, NO, NO } },
};

KUNIT_ARRAY_PARAM_DESC(sgt_pair, sgt_pairs, desc);

/* Whether an attachment pins does not depend on the model, as before models. */
static void expect_map_pins(struct kunit *test, struct mock_exporter *exp,
			    struct dma_buf_attachment *attach)
{
	bool pins = exp->dmabuf->ops->pin && !attach->importer_ops;
	unsigned int nr_pin = exp->nr_pin;
	struct sg_table *sgt;

	sgt = dma_buf_map_attachment_unlocked(attach, DMA_BIDIRECTIONAL);
	KUNIT_ASSERT_FALSE(test, IS_ERR(sgt));
	KUNIT_EXPECT_EQ(test, exp->nr_pin, nr_pin + pins);
	KUNIT_EXPECT_EQ(test, exp->nr_unpin, nr_pin);
	dma_buf_unmap_attachment_unlocked(attach, sgt, DMA_BIDIRECTIONAL);
	KUNIT_EXPECT_EQ(test, exp->nr_unpin, nr_pin + pins);
}

static void expect_sgt_pair(struct kunit *test, struct mock_exporter *exp,
			    struct device *dev, const struct sgt_importer *kind,
			    int model)
{
	struct dma_buf_attachment *attach;
	struct mock_importer imp = {};

	exp->nr_attach = 0;
	exp->nr_detach = 0;
	attach = dma_buf_dynamic_attach(exp->dmabuf, dev, kind->ops, &imp);
	if (model == NO) {
		KUNIT_EXPECT_EQ_MSG(test, PTR_ERR_OR_ZERO(attach), -EOPNOTSUPP,
				    "%s", kind->desc);
		KUNIT_EXPECT_EQ(test, exp->nr_attach, 0);
	}
	if (IS_ERR(attach)) {
		KUNIT_EXPECT_EQ_MSG(test, model, NO, "%s", kind->desc);
		return;
	}
	KUNIT_EXPECT_EQ_MSG(test, (int)dma_buf_attach_model(attach), model,
			    "%s", kind->desc);
	KUNIT_EXPECT_EQ(test, (int)exp->model_at_attach, model);
	KUNIT_EXPECT_PTR_EQ(test, attach->match->type, &dma_buf_type_sgt);
	KUNIT_EXPECT_EQ(test, exp->nr_attach, 1);
	expect_map_pins(test, exp, attach);
	dma_buf_detach(exp->dmabuf, attach);
	KUNIT_EXPECT_EQ(test, exp->nr_detach, 1);
}

static void test_sgt_pair(struct kunit *test)
{
	const struct sgt_pair *pair = test->param_value;
	unsigned int i, nr = nr_of(pair->matches);
	struct mock_exporter *exp;
	struct device *dev;

	dev = kunit_device_register(test, "dma-buf-match-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(dev));
	exp = mock_exporter(test, pair->ops, nr ? pair->matches : NULL, nr);
	for (i = 0; i < NR_IMPORTERS; i++)
		expect_sgt_pair(test, exp, dev, &sgt_importers[i],
				pair->models[i]);
	mock_put(exp);
}

/* Contradictions of one side */

static void expect_invalid_importer(struct kunit *test,
				    const struct dma_buf_match *match,
				    const struct dma_buf_attach_ops *ops)
{
	struct dma_buf_attachment *attach;
	struct mock_exporter *exp;

	exp = mock_exporter(test, &static_ops, match, 1);
	kunit_warning_suppress(test) {
		attach = mapping_attach(exp->dmabuf, match, 1, ops,
					NULL);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), -EINVAL);
	}
	mock_put(exp);
}

static void test_invalid_importer(struct kunit *test)
{
	static const struct dma_buf_match matches[] = {
		SGT(P), A(M), A(V), A(S),
	};

	/* A scatterlist needs a device. */
	expect_invalid_importer(test, &matches[0], &only_invalidate);
	/* A model needs its callbacks. */
	expect_invalid_importer(test, &matches[1], NULL);
	expect_invalid_importer(test, &matches[2], &no_callbacks);
	expect_invalid_importer(test, &matches[3], &only_invalidate);
}

static void expect_invalid_sgt_importer(struct kunit *test, struct device *dev,
					const struct dma_buf_attach_ops *ops)
{
	struct dma_buf_attachment *attach;
	struct mock_exporter *exp;

	exp = mock_exporter(test, &static_ops, NULL, 0);
	kunit_warning_suppress(test) {
		attach = dma_buf_dynamic_attach(exp->dmabuf, dev, ops, NULL);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(attach), -EINVAL);
	}
	KUNIT_EXPECT_EQ(test, exp->nr_attach, 0);
	mock_put(exp);
}

static void test_invalid_sgt_importer(struct kunit *test)
{
	static const struct dma_buf_attach_ops no_invalidate = {
		.models = BIT(P) | BIT(M),
	};
	static const struct dma_buf_attach_ops no_restored = {
		.invalidate_mappings = mock_invalidate,
		.models = BIT(P) | BIT(S),
	};
	static const struct dma_buf_attach_ops unknown_model = {
		.invalidate_mappings = mock_invalidate,
		.mappings_restored = mock_restored,
		.models = BIT(P) | BIT(31),
	};
	struct device *dev;

	dev = kunit_device_register(test, "dma-buf-match-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(dev));
	expect_invalid_sgt_importer(test, dev, &no_invalidate);
	expect_invalid_sgt_importer(test, dev, &no_restored);
	expect_invalid_sgt_importer(test, dev, &unknown_model);
}

static void expect_invalid_offer(struct kunit *test,
				 const struct dma_buf_match *matches,
				 unsigned int nr_matches)
{
	struct mock_exporter exp = {};
	struct dma_buf *dmabuf;

	kunit_warning_suppress(test) {
		dmabuf = mock_export(&exp, &static_ops, matches, nr_matches);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(dmabuf), -EINVAL);
	}
	if (!IS_ERR(dmabuf))
		__fput_sync(dmabuf->file);
}

static void test_invalid_offer(struct kunit *test)
{
	static const struct dma_buf_match matches[] = {
		SGT(P), { .model = P }, A(31), MATCH(type_extents, P),
		{ .type = &dma_buf_type_sgt, .model = P, .private = true },
	};

	expect_invalid_offer(test, NULL, 1);
	expect_invalid_offer(test, &matches[0], 0);
	/* No type, no such model, one of them beside others */
	expect_invalid_offer(test, &matches[1], 1);
	expect_invalid_offer(test, &matches[2], 1);
	expect_invalid_offer(test, &matches[0], 2);
	/* No extents for a type that needs them */
	expect_invalid_offer(test, &matches[3], 1);
	/* No importer could say that it knows of private memory */
	expect_invalid_offer(test, &matches[4], 1);
}

/* Importers of one buffer, one of scatterlists and others without a device */

static const struct dma_buf_match mixed_offer[] = { SGT(V), A(S), A(V) };
static const struct dma_buf_match revocable[] = { A(V) };
static const struct dma_buf_match restorable[] = { A(S) };

struct mixed {
	struct mock_exporter *exp;
	struct mock_importer sgt;
	struct mock_importer revocable;
	struct mock_importer restorable;
};

static void mixed_attach(struct kunit *test, struct mixed *mixed)
{
	struct device *dev;

	dev = kunit_device_register(test, "dma-buf-match-test");
	KUNIT_ASSERT_FALSE(test, IS_ERR(dev));

	mixed->exp = mock_exporter(test, &dynamic_ops, mixed_offer,
				   ARRAY_SIZE(mixed_offer));
	mixed->sgt.attach =
		dma_buf_dynamic_attach(mixed->exp->dmabuf, dev, &takes_all,
				       &mixed->sgt);
	mixed->revocable.attach =
		mapping_attach(mixed->exp->dmabuf, revocable, 1,
			       &only_invalidate, &mixed->revocable);
	mixed->restorable.attach =
		mapping_attach(mixed->exp->dmabuf, restorable, 1,
			       &mock_attach_ops, &mixed->restorable);
	KUNIT_ASSERT_FALSE(test, IS_ERR(mixed->restorable.attach));
	KUNIT_ASSERT_FALSE(test, IS_ERR(mixed->sgt.attach));
	KUNIT_ASSERT_FALSE(test, IS_ERR(mixed->revocable.attach));
}

static void mixed_detach(struct mixed *mixed)
{
	dma_buf_detach(mixed->exp->dmabuf, mixed->sgt.attach);
	dma_buf_detach(mixed->exp->dmabuf, mixed->revocable.attach);
	dma_buf_detach(mixed->exp->dmabuf, mixed->restorable.attach);
	mock_put(mixed->exp);
}

static void invalidate(struct dma_buf *dmabuf)
{
	dma_resv_lock(dmabuf->resv, NULL);
	dma_buf_invalidate_mappings(dmabuf);
	dma_resv_unlock(dmabuf->resv);
}

static unsigned int restored(struct dma_buf *dmabuf)
{
	unsigned int nr;

	dma_resv_lock(dmabuf->resv, NULL);
	nr = dma_buf_mappings_restored(dmabuf);
	dma_resv_unlock(dmabuf->resv);
	return nr;
}

static unsigned int restore_errors(struct dma_buf *dmabuf)
{
	unsigned int nr;

	dma_resv_lock(dmabuf->resv, NULL);
	nr = dma_buf_restore_errors(dmabuf);
	dma_resv_unlock(dmabuf->resv);
	return nr;
}

static void test_exporter_sees_devices_only(struct kunit *test)
{
	struct mixed mixed = {};

	mixed_attach(test, &mixed);
	KUNIT_EXPECT_EQ(test, mixed.exp->nr_attach, 1);
	KUNIT_EXPECT_NULL(test, mixed.revocable.attach->dev);
	dma_buf_detach(mixed.exp->dmabuf, mixed.revocable.attach);
	KUNIT_EXPECT_EQ(test, mixed.exp->nr_detach, 0);
	mixed.revocable.attach =
		mapping_attach(mixed.exp->dmabuf, revocable, 1,
			       &only_invalidate, &mixed.revocable);
	KUNIT_ASSERT_FALSE(test, IS_ERR(mixed.revocable.attach));
	mixed_detach(&mixed);
	KUNIT_EXPECT_EQ(test, mixed.exp->nr_detach, 1);
}

static void test_no_scatterlist_without_device(struct kunit *test)
{
	struct dma_buf_attachment *attach;
	struct mixed mixed = {};
	struct sg_table *sgt;

	mixed_attach(test, &mixed);
	attach = mixed.revocable.attach;
	dma_resv_lock(mixed.exp->dmabuf->resv, NULL);
	kunit_warning_suppress(test) {
		sgt = dma_buf_map_attachment(attach, DMA_BIDIRECTIONAL);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(sgt), -EINVAL);
		KUNIT_EXPECT_EQ(test, dma_buf_pin(attach), -EINVAL);
		dma_buf_unpin(attach);
	}
	dma_resv_unlock(mixed.exp->dmabuf->resv);
	KUNIT_EXPECT_EQ(test, mixed.exp->nr_pin, 0);
	KUNIT_EXPECT_EQ(test, mixed.exp->nr_unpin, 0);
	mixed_detach(&mixed);
}

static void test_invalidate_reaches_all(struct kunit *test)
{
	struct mixed mixed = {};

	mixed_attach(test, &mixed);
	invalidate(mixed.exp->dmabuf);
	KUNIT_EXPECT_EQ(test, mixed.sgt.nr_invalidate, 1);
	KUNIT_EXPECT_EQ(test, mixed.revocable.nr_invalidate, 1);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_invalidate, 1);
	/* Mapped or not, and as often as the exporter says. */
	invalidate(mixed.exp->dmabuf);
	KUNIT_EXPECT_EQ(test, mixed.sgt.nr_invalidate, 2);
	KUNIT_EXPECT_EQ(test, mixed.revocable.nr_invalidate, 2);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_invalidate, 2);
	mixed_detach(&mixed);
}

static void test_restored_reaches_restorable(struct kunit *test)
{
	struct mixed mixed = {};

	mixed_attach(test, &mixed);
	invalidate(mixed.exp->dmabuf);
	KUNIT_EXPECT_EQ(test, restored(mixed.exp->dmabuf), 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_restored, 1);
	/* The scatterlist importer can restore, but it was offered revocable. */
	KUNIT_EXPECT_EQ(test, mixed.sgt.nr_restored, 0);
	KUNIT_EXPECT_EQ(test, mixed.revocable.nr_restored, 0);
	mixed_detach(&mixed);
}

static void test_restore_error(struct kunit *test)
{
	struct mock_importer other = {};
	struct mixed mixed = {};
	struct dma_buf *dmabuf;

	mixed_attach(test, &mixed);
	dmabuf = mixed.exp->dmabuf;
	other.attach = mapping_attach(dmabuf, restorable, 1,
				      &mock_attach_ops, &other);
	KUNIT_ASSERT_FALSE(test, IS_ERR(other.attach));

	/* One fails, the other is restored nevertheless. Both mapped a part. */
	mixed.restorable.restored_ret = -ENOMEM;
	mixed.restorable.attach->mapped = true;
	other.attach->mapped = true;
	KUNIT_EXPECT_EQ(test, restored(dmabuf), 1);
	KUNIT_EXPECT_FALSE(test, mixed.restorable.attach->mapped);
	KUNIT_EXPECT_TRUE(test, other.attach->mapped);
	KUNIT_EXPECT_EQ(test, restore_errors(dmabuf), 1);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, -ENOMEM);
	KUNIT_EXPECT_EQ(test, other.attach->restore_error, 0);
	KUNIT_EXPECT_EQ(test, other.nr_restored, 1);

	/* Taking away what it does not have does not make it whole. */
	invalidate(dmabuf);
	KUNIT_EXPECT_EQ(test, restore_errors(dmabuf), 1);

	/* The last error counts, and both failing is two. */
	mixed.restorable.restored_ret = -E2BIG;
	other.restored_ret = -EIO;
	KUNIT_EXPECT_EQ(test, restored(dmabuf), 2);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, -E2BIG);
	KUNIT_EXPECT_EQ(test, restore_errors(dmabuf), 2);

	/* It is asked again, and success clears the error. */
	mixed.restorable.restored_ret = 0;
	other.restored_ret = 0;
	KUNIT_EXPECT_EQ(test, restored(dmabuf), 0);
	KUNIT_EXPECT_EQ(test, restore_errors(dmabuf), 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_restored, 3);

	/* An error of an importer that is gone does not count. */
	other.restored_ret = -EIO;
	KUNIT_EXPECT_EQ(test, restored(dmabuf), 1);
	dma_buf_detach(dmabuf, other.attach);
	KUNIT_EXPECT_EQ(test, restore_errors(dmabuf), 0);

	/* A callback returns 0 or an errno. */
	mixed.restorable.restored_ret = 1;
	kunit_warning_suppress(test)
		KUNIT_EXPECT_EQ(test, restored(dmabuf), 1);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, -EIO);
	mixed_detach(&mixed);
}

/* A restore by a task that is being killed */

struct killed {
	struct dma_buf *dmabuf;
	struct completion done;
	unsigned int nr_errors;
};

static int killed_thread(void *data)
{
	struct killed *killed = data;

	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	killed->nr_errors = restored(killed->dmabuf);
	flush_signals(current);
	kthread_complete_and_exit(&killed->done, 0);
}

/* Returns how many importers could not be restored. */
static unsigned int restored_by_killed(struct kunit *test, struct dma_buf *dmabuf)
{
	struct killed killed = { .dmabuf = dmabuf };
	struct task_struct *task;

	init_completion(&killed.done);
	task = kthread_run(killed_thread, &killed, "dma-buf-killed");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	wait_for_completion(&killed.done);
	return killed.nr_errors;
}

static void test_fatal_signal_stops_restore(struct kunit *test)
{
	struct mixed mixed = {};

	mixed_attach(test, &mixed);
	KUNIT_EXPECT_EQ(test, restored_by_killed(test, mixed.exp->dmabuf), 1);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_restored, 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, -EINTR);

	/* The next restore tries again. */
	KUNIT_EXPECT_EQ(test, restored(mixed.exp->dmabuf), 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_restored, 1);

	/* An importer that has its mapping again is not a failed restore. */
	mixed.restorable.attach->mapped = true;
	KUNIT_EXPECT_EQ(test, restored_by_killed(test, mixed.exp->dmabuf), 0);
	KUNIT_EXPECT_EQ(test, mixed.restorable.nr_restored, 2);
	KUNIT_EXPECT_EQ(test, mixed.restorable.attach->restore_error, 0);
	KUNIT_EXPECT_TRUE(test, mixed.restorable.attach->mapped);
	mixed_detach(&mixed);
}

/* Attach and detach against invalidate and restore */

#define RACE_THREADS	4
#define RACE_ROUNDS	2000

struct racer {
	struct dma_buf *dmabuf;
	struct completion done;
	int bad;
};

static int race_thread(void *data)
{
	struct racer *racer = data;
	unsigned int i;

	for (i = 0; i < RACE_ROUNDS && !racer->bad; i++) {
		struct mock_importer imp = {};

		imp.attach = mapping_attach(racer->dmabuf, restorable,
					    1, &mock_attach_ops, &imp);
		if (IS_ERR(imp.attach))
			racer->bad = PTR_ERR(imp.attach);
		else
			dma_buf_detach(racer->dmabuf, imp.attach);
		cond_resched();
	}
	/* Not a return: nothing of this module may run once it is done. */
	kthread_complete_and_exit(&racer->done, 0);
}

static void test_attach_detach_race(struct kunit *test)
{
	struct racer *racers;
	struct mock_exporter *exp;
	unsigned int i, started;

	exp = mock_exporter(test, &static_ops, mixed_offer,
			    ARRAY_SIZE(mixed_offer));
	racers = kunit_kcalloc(test, RACE_THREADS, sizeof(*racers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, racers);

	for (started = 0; started < RACE_THREADS; started++) {
		struct racer *racer = &racers[started];
		struct task_struct *task;

		racer->dmabuf = exp->dmabuf;
		init_completion(&racer->done);
		task = kthread_run(race_thread, racer, "dma-buf-race-%u",
				   started);
		if (IS_ERR(task)) {
			KUNIT_FAIL(test, "no thread: %ld", PTR_ERR(task));
			break;
		}
	}
	for (i = 0; i < started; i++) {
		while (!try_wait_for_completion(&racers[i].done)) {
			invalidate(exp->dmabuf);
			cond_resched();
			KUNIT_EXPECT_EQ(test, restored(exp->dmabuf), 0);
			cond_resched();
		}
		KUNIT_EXPECT_EQ(test, racers[i].bad, 0);
	}
	mock_put(exp);
}

static struct kunit_case match_test_cases[] = {
	KUNIT_CASE_PARAM(test_negotiation, negotiation_gen_params),
	KUNIT_CASE_PARAM(test_sgt_pair, sgt_pair_gen_params),
	KUNIT_CASE(test_invalid_importer),
	KUNIT_CASE(test_invalid_sgt_importer),
	KUNIT_CASE(test_invalid_offer),
	KUNIT_CASE(test_exporter_sees_devices_only),
	KUNIT_CASE(test_no_scatterlist_without_device),
	KUNIT_CASE(test_invalidate_reaches_all),
	KUNIT_CASE(test_restored_reaches_restorable),
	KUNIT_CASE(test_restore_error),
	KUNIT_CASE(test_fatal_signal_stops_restore),
	KUNIT_CASE(test_attach_detach_race),
	{}
};

static struct kunit_suite match_test_suite = {
	.name = "dma-buf-match",
	.test_cases = match_test_cases,
};

kunit_test_suite(match_test_suite);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("KUnit tests for dma-buf mapping types");
MODULE_LICENSE("GPL");
