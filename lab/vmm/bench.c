// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of VARIANTS="bench ..." of lab/vmm.sh: switches memory decode of
 * the PCI test device off and on, and says on its second serial port what that
 * cost in ticks of the TSC. No more than that, and without interrupts: the
 * machine counts instructions, and QEMU's TCG cannot be trusted with interrupts
 * of nested guests there (lab/machine.sh). A multiboot program, 32 bits.
 *
 * Each write is between two markers of lab/profile.c, so that all that is executed for
 * it can be told: by the guest, the VMM and the kernel.
 */
#include <stdint.h>

#define COM2		0x2f8
#define LSR		(COM2 + 5)
#define LSR_DATA	0x01
#define LSR_ROOM	0x20

#define TESTDEV		0x00051b36
#define PCI_COMMAND	4
#define PCI_COMMAND_MEMORY 2

/* q35's ACPI registers, as SeaBIOS places them: sleep type 0, sleep enable. */
#define PM1A_CONTROL	0x604
#define PM1A_SLEEP	0x2000

asm(".text\n"
    ".align 4\n"
    ".long 0x1badb002, 0, -0x1badb002\n"
    ".globl _start\n"
    "_start: cli\n"
    "mov $stack + 4096, %esp\n"
    "call run\n"
    "1: hlt\n"
    "jmp 1b\n");

char stack[4096];

static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint64_t rdtsc(void)
{
	uint64_t v;

	asm volatile("lfence; rdtsc" : "=A"(v) : : "memory");
	return v;
}

static void put(const char *s)
{
	for (; *s; s++) {
		while (!(inb(LSR) & LSR_ROOM))
			;
		outb(COM2, *s);
	}
}

static void put_number(uint32_t v)
{
	char s[12];
	int i = sizeof(s) - 1;

	s[i] = 0;
	do {
		s[--i] = '0' + v % 10;
		v /= 10;
	} while (v);
	put(s + i);
}

static void await_line(void)
{
	char c;

	do {
		while (!(inb(LSR) & LSR_DATA))
			;
		c = inb(COM2);
	} while (c != '\n');
}

static uint32_t config(int dev, int reg)
{
	outl(0xcf8, 0x80000000 | dev << 11 | reg);
	return inl(0xcfc);
}

static void set_command(int dev, uint16_t v)
{
	outl(0xcf8, 0x80000000 | dev << 11 | PCI_COMMAND);
	asm volatile("nopl 0x5bec0001(%%eax,%%eax,1)" : : : "memory");
	outw(0xcfc, v);
	asm volatile("nopl 0x5bec0000(%%eax,%%eax,1)" : : : "memory");
}

void run(void)
{
	uint64_t t[3];
	uint16_t cmd;
	int dev, i;

	for (dev = 0; dev < 32 && config(dev, 0) != TESTDEV; dev++)
		;
	put("up\n");
	await_line();
	if (dev == 32) {
		put("bench no device\n");
		await_line();
	} else {
		cmd = config(dev, PCI_COMMAND);
		/* Once before: what is allocated the first time is not of interest. */
		for (i = 0; i < 2; i++) {
			t[0] = rdtsc();
			set_command(dev, cmd & ~PCI_COMMAND_MEMORY);
			t[1] = rdtsc();
			set_command(dev, cmd | PCI_COMMAND_MEMORY);
			t[2] = rdtsc();
		}
		put("bench ");
		put_number(t[1] - t[0]);
		put(" ");
		put_number(t[2] - t[1]);
		put("\n");
		await_line();
	}
	outw(PM1A_CONTROL, PM1A_SLEEP);
}
