// SPDX-License-Identifier: GPL-2.0
/*
 * What the guest of make demo-vmm does to its devices from user space, through
 * the files of sysfs:
 *
 *   devtool fill DEVICE SEED      fill BAR 2 with a pattern, by 64-bit stores
 *   devtool check DEVICE SEED     compare; offset of the first difference
 *   devtool p2p EDU DEVICE        have the edu device DMA from the first page
 *				   of BAR 2 of DEVICE to its second MiB
 *   devtool p2preg EDU FROM TO	   have it DMA the first 8 bytes of BAR 0 of FROM
 *				   to BAR 2 of TO; compare with what a load gives
 *   devtool watch DEVICE FILE     read the first register of BAR 0 until FILE
 *				   is there; report how often it was all ones
 *   devtool clock		   the time in ns
 *
 * DEVICE and EDU are PCI addresses.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Registers of the edu device: docs/specs/edu.rst in QEMU. */
#define EDU_DMA_SRC	0x80
#define EDU_DMA_DST	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_CMD	0x98
#define EDU_DMA_START	0x1
#define EDU_DMA_FROM_DEV 0x2
#define EDU_BUFFER	0x40000
#define EDU_CHUNK	4096

#define PCI_COMMAND	4
#define PCI_COMMAND_MEMORY_MASTER 6

static void die(const char *what)
{
	fprintf(stderr, "devtool: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int open_file(const char *bdf, const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	fd = open(path, O_RDWR | O_SYNC);
	if (fd < 0)
		die(path);
	return fd;
}

static volatile void *map_bar(const char *bdf, int bar, size_t *size)
{
	char name[16];
	struct stat st;
	void *p;
	int fd;

	snprintf(name, sizeof(name), "resource%d", bar);
	fd = open_file(bdf, name);
	if (fstat(fd, &st))
		die("fstat");
	*size = st.st_size;
	p = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	close(fd);
	return p;
}

/* Without a driver nobody did that. */
static void enable(const char *bdf)
{
	uint16_t cmd;
	int fd = open_file(bdf, "config");

	if (pread(fd, &cmd, 2, PCI_COMMAND) != 2)
		die("config");
	cmd |= PCI_COMMAND_MEMORY_MASTER;
	if (pwrite(fd, &cmd, 2, PCI_COMMAND) != 2)
		die("config");
	close(fd);
}

static uint64_t bar_address(const char *bdf, int bar)
{
	char line[128];
	uint64_t start = 0;
	FILE *f;

	snprintf(line, sizeof(line), "/sys/bus/pci/devices/%s/resource", bdf);
	f = fopen(line, "r");
	if (!f)
		die(line);
	do {
		if (!fgets(line, sizeof(line), f))
			die("resource");
	} while (bar--);
	fclose(f);
	start = strtoull(line, NULL, 0);
	return start;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint64_t pattern(uint64_t seed, uint64_t i)
{
	return (seed + i) * 0x9e3779b97f4a7c15ull;
}

static int fill(const char *bdf, uint64_t seed)
{
	volatile uint64_t *p;
	size_t size, i;

	enable(bdf);
	p = map_bar(bdf, 2, &size);
	for (i = 0; i < size / 8; i++)
		p[i] = pattern(seed, i);
	printf("filled %zu bytes\n", size);
	return 0;
}

static int check(const char *bdf, uint64_t seed)
{
	volatile uint64_t *p;
	size_t size, i;

	enable(bdf);
	p = map_bar(bdf, 2, &size);
	for (i = 0; i < size / 8; i++) {
		if (p[i] != pattern(seed, i)) {
			printf("differs at %#zx\n", i * 8);
			return 1;
		}
	}
	printf("%zu bytes as they were\n", size);
	return 0;
}

static int edu_dma(volatile uint8_t *edu, uint64_t src, uint64_t dst,
		   size_t count, int cmd)
{
	volatile uint64_t *command = (volatile uint64_t *)(edu + EDU_DMA_CMD);
	long tries = 10000000;

	*(volatile uint64_t *)(edu + EDU_DMA_SRC) = src;
	*(volatile uint64_t *)(edu + EDU_DMA_DST) = dst;
	*(volatile uint64_t *)(edu + EDU_DMA_COUNT) = count;
	*command = cmd | EDU_DMA_START;
	while (*command & EDU_DMA_START) {
		if (!--tries) {
			printf("DMA does not end\n");
			return 1;
		}
	}
	return 0;
}

static int p2p(const char *edu_bdf, const char *bdf)
{
	const size_t to = 1 << 20;
	uint64_t addr = bar_address(bdf, 2);
	volatile uint64_t *mem;
	volatile uint8_t *edu;
	size_t size, i, same = 0;

	enable(edu_bdf);
	enable(bdf);
	edu = map_bar(edu_bdf, 0, &size);
	mem = map_bar(bdf, 2, &size);
	for (i = 0; i < EDU_CHUNK / 8; i++) {
		mem[i] = pattern(42, i);
		mem[to / 8 + i] = 0;
	}
	if (edu_dma(edu, addr, EDU_BUFFER, EDU_CHUNK, 0) ||
	    edu_dma(edu, EDU_BUFFER, addr + to, EDU_CHUNK, EDU_DMA_FROM_DEV))
		return 1;
	for (i = 0; i < EDU_CHUNK / 8; i++)
		same += mem[to / 8 + i] == pattern(42, i);
	printf("%zu of %d words arrived at %#" PRIx64 "\n", same, EDU_CHUNK / 8,
	       addr + to);
	return same != EDU_CHUNK / 8;
}

static int p2preg(const char *edu_bdf, const char *from, const char *to)
{
	volatile uint64_t *mem, *reg;
	volatile uint8_t *edu;
	size_t size;

	enable(edu_bdf);
	enable(to);
	edu = map_bar(edu_bdf, 0, &size);
	mem = map_bar(to, 2, &size);
	reg = map_bar(from, 0, &size);
	*mem = 0;
	if (edu_dma(edu, bar_address(from, 0), EDU_BUFFER, 8, 0) ||
	    edu_dma(edu, EDU_BUFFER, bar_address(to, 2), 8, EDU_DMA_FROM_DEV))
		return 1;
	printf("%#" PRIx64 " by DMA, %#" PRIx64 " by a load\n", *mem, *reg);
	return *mem != *reg;
}

static int watch(const char *bdf, const char *file)
{
	uint64_t reads = 0, ones = 0, first, v;
	volatile uint32_t *p;
	size_t size;

	p = map_bar(bdf, 0, &size);
	first = *p;
	printf("watching\n");
	fflush(stdout);
	do {
		v = *p;
		reads++;
		ones += v == 0xffffffff;
	} while (access(file, F_OK));
	printf("%" PRIu64 " reads, %" PRIu64 " all ones, %s\n", reads, ones,
	       *p == first ? "as before at the end" : "another value at the end");
	return *p != first;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "fill"))
		return fill(argv[2], strtoull(argv[3], NULL, 0));
	if (argc == 4 && !strcmp(argv[1], "check"))
		return check(argv[2], strtoull(argv[3], NULL, 0));
	if (argc == 4 && !strcmp(argv[1], "p2p"))
		return p2p(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "watch"))
		return watch(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "p2preg"))
		return p2preg(argv[2], argv[3], argv[4]);
	if (argc == 2 && !strcmp(argv[1], "clock"))
		return printf("%" PRIu64 "\n", now()) < 0;
	fprintf(stderr, "usage: see the source\n");
	return 2;
}
