// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of what keeps the memory of a device from being accessed, as far as
 * it is read from registers that few devices have: resizable BARs, D1 and D2.
 *
 * The device is no more than a struct pci_dev with a config space in memory. What
 * a real device does is tested by tools/testing/selftests/vfio.
 */
#include <kunit/test.h>
#include <linux/bitfield.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/unaligned.h>
#include <linux/vfio_pci_core.h>

#include "vfio_pci_priv.h"

#define REBAR_CAP	0x100

struct revoke_fixture {
	struct kunit *test;
	struct vfio_pci_core_device *vdev;
	struct pci_dev *pdev;
	struct resource window;
	u8 config[PCI_CFG_SPACE_EXP_SIZE];
	u8 vconfig[PCI_CFG_SPACE_SIZE];
};

static int fake_read(struct pci_bus *bus, unsigned int devfn, int where, int size,
		     u32 *val)
{
	struct revoke_fixture *f = bus->sysdata;

	if (size == 4)
		*val = get_unaligned_le32(f->config + where);
	else if (size == 2)
		*val = get_unaligned_le16(f->config + where);
	else
		*val = f->config[where];
	return PCIBIOS_SUCCESSFUL;
}

static int fake_write(struct pci_bus *bus, unsigned int devfn, int where, int size,
		      u32 val)
{
	struct revoke_fixture *f = bus->sysdata;

	KUNIT_FAIL(f->test, "register 0x%x written", where);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops fake_ops = {
	.read = fake_read,
	.write = fake_write,
};

static int revoke_init(struct kunit *test)
{
	struct revoke_fixture *f;
	struct pci_bus *bus;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	bus = kunit_kzalloc(test, sizeof(*bus), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, bus);
	f->pdev = kunit_kzalloc(test, sizeof(*f->pdev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f->pdev);
	f->vdev = kunit_kzalloc(test, sizeof(*f->vdev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f->vdev);

	f->test = test;
	bus->ops = &fake_ops;
	bus->sysdata = f;
	f->pdev->bus = bus;
	f->pdev->error_state = pci_channel_io_normal;
	f->pdev->current_state = PCI_D0;
	f->vdev->pdev = f->pdev;
	f->vdev->vconfig = f->vconfig;
	put_unaligned_le16(PCI_COMMAND_MEMORY, f->vconfig + PCI_COMMAND);
	test->priv = f;
	return 0;
}

/* What the host has assigned. */
static void assign_bar(struct revoke_fixture *f, unsigned int bar, u64 size)
{
	*pci_resource_n(f->pdev, bar) = (struct resource){
		.start = SZ_4G, .end = SZ_4G + size - 1, .parent = &f->window,
	};
}

/* What the device decodes, entry @i of @nr. */
static void set_rebar(struct revoke_fixture *f, unsigned int i, unsigned int nr,
		      unsigned int bar, u64 size)
{
	f->pdev->rebar_cap = REBAR_CAP;
	put_unaligned_le32(FIELD_PREP(PCI_REBAR_CTRL_BAR_IDX, bar) |
			   FIELD_PREP(PCI_REBAR_CTRL_NBAR_MASK, i ? 0 : nr) |
			   FIELD_PREP(PCI_REBAR_CTRL_BAR_SIZE, ilog2(size) - 20),
			   f->config + REBAR_CAP + PCI_REBAR_CTRL + 8 * i);
}

static void test_rebar_none(struct kunit *test)
{
	struct revoke_fixture *f = test->priv;

	assign_bar(f, 0, SZ_1M);
	KUNIT_EXPECT_TRUE(test, vfio_pci_rebar_intact(f->pdev));
}

static void test_rebar_size(struct kunit *test)
{
	struct revoke_fixture *f = test->priv;

	assign_bar(f, 0, SZ_256M);
	set_rebar(f, 0, 1, 0, SZ_256M);
	KUNIT_EXPECT_TRUE(test, vfio_pci_rebar_intact(f->pdev));
	/* As after a reset of the link */
	set_rebar(f, 0, 1, 0, SZ_1M);
	KUNIT_EXPECT_FALSE(test, vfio_pci_rebar_intact(f->pdev));
	/* Too much is no better: it decodes what is somebody else's. */
	set_rebar(f, 0, 1, 0, SZ_512M);
	KUNIT_EXPECT_FALSE(test, vfio_pci_rebar_intact(f->pdev));
	/* Larger than what is counted in 32 bits */
	assign_bar(f, 0, SZ_8G);
	set_rebar(f, 0, 1, 0, SZ_8G);
	KUNIT_EXPECT_TRUE(test, vfio_pci_rebar_intact(f->pdev));
}

static void test_rebar_second(struct kunit *test)
{
	struct revoke_fixture *f = test->priv;

	assign_bar(f, 0, SZ_1M);
	assign_bar(f, 2, SZ_16M);
	assign_bar(f, 4, SZ_1G);
	set_rebar(f, 0, 2, 2, SZ_16M);
	set_rebar(f, 1, 2, 4, SZ_1G);
	KUNIT_EXPECT_TRUE(test, vfio_pci_rebar_intact(f->pdev));
	set_rebar(f, 1, 2, 4, SZ_16M);
	KUNIT_EXPECT_FALSE(test, vfio_pci_rebar_intact(f->pdev));
}

/* What the host has not assigned decodes nothing that anybody could have. */
static void test_rebar_unassigned(struct kunit *test)
{
	struct revoke_fixture *f = test->priv;

	assign_bar(f, 0, SZ_256M);
	pci_resource_n(f->pdev, 0)->parent = NULL;
	set_rebar(f, 0, 2, 0, SZ_1M);
	/* Nor is there a BAR of this number. */
	set_rebar(f, 1, 2, 7, SZ_1M);
	KUNIT_EXPECT_TRUE(test, vfio_pci_rebar_intact(f->pdev));
}

static const struct state_case {
	const char *desc;
	pci_power_t state;
	bool decode;
	bool pm_entry;
	u32 causes;
} state_cases[] = {
	{ "D0", PCI_D0, true, false, 0 },
	{ "D0, decode off", PCI_D0, false, false, VFIO_PCI_CAUSE_DECODE },
	{ "D1", PCI_D1, true, false, VFIO_PCI_CAUSE_D1_D2 },
	{ "D2", PCI_D2, true, false, VFIO_PCI_CAUSE_D1_D2 },
	{ "D2, decode off", PCI_D2, false, false,
	  VFIO_PCI_CAUSE_D1_D2 | VFIO_PCI_CAUSE_DECODE },
	{ "D3hot", PCI_D3hot, true, false, VFIO_PCI_CAUSE_D3 },
	{ "D3cold", PCI_D3cold, true, false, VFIO_PCI_CAUSE_D3 },
	{ "unknown", PCI_UNKNOWN, true, false, VFIO_PCI_CAUSE_D3 },
	{ "low power", PCI_D0, true, true, VFIO_PCI_CAUSE_PM_ENTRY },
};

KUNIT_ARRAY_PARAM_DESC(state_case, state_cases, desc);

static void test_causes(struct kunit *test)
{
	const struct state_case *c = test->param_value;
	struct revoke_fixture *f = test->priv;
	u32 rdwr = VFIO_PCI_CAUSE_DECODE | VFIO_PCI_CAUSE_D3;

	f->pdev->current_state = c->state;
	f->vdev->pm_runtime_engaged = c->pm_entry;
	if (!c->decode)
		put_unaligned_le16(0, f->vconfig + PCI_COMMAND);
	KUNIT_EXPECT_EQ(test, vfio_pci_causes(f->vdev), c->causes);

	/* D1 and D2 keep importers away, not the user. */
	KUNIT_EXPECT_EQ(test, __vfio_pci_memory_enabled(f->vdev),
			!(c->causes & rdwr));

	/* VFs have no bit of their own, which is what the user sees. */
	f->pdev->no_command_memory = 1;
	KUNIT_EXPECT_EQ(test, vfio_pci_causes(f->vdev),
			c->causes & ~VFIO_PCI_CAUSE_DECODE);
}

static struct kunit_case revoke_cases[] = {
	KUNIT_CASE(test_rebar_none),
	KUNIT_CASE(test_rebar_size),
	KUNIT_CASE(test_rebar_second),
	KUNIT_CASE(test_rebar_unassigned),
	KUNIT_CASE_PARAM(test_causes, state_case_gen_params),
	{}
};

static struct kunit_suite revoke_suite = {
	.name = "vfio-pci-revoke",
	.init = revoke_init,
	.test_cases = revoke_cases,
};

kunit_test_suite(revoke_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_DESCRIPTION("KUnit tests of causes for which memory cannot be accessed");
MODULE_LICENSE("GPL");
