// SPDX-License-Identifier: GPL-2.0-only
/*
 * Races between the exporter of a dma-buf, which revokes and restores it, and
 * userspace, which makes and removes mappings of it.
 *
 * Nothing is left to chance. The mock exporter or the mock domain holds one
 * side at a point at which it has locks or is half done. Then the other side is
 * started, and must either finish or wait in the kernel; the locking rules of
 * dmabuf.c say which. After that the first side is released, both have to
 * finish, and the mappings of every domain are compared page by page with the
 * expected ones. Each operation is put against each point at which it, or the
 * exporter, can be held.
 *
 * There is one table of operations and one of points below. A combination that
 * is not in the tables is not possible. If an operation does not get to a point
 * although the table says that it does, the test fails.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/iommufd.h>

#include "iommufd_utils.h"

#define NR_PAGES 4
#define BUF_SIZE (NR_PAGES * PAGE_SIZE)

/* Where things are, far enough apart for any PAGE_SIZE */
enum {
	IOVA_BASE = MOCK_APERTURE_START,
	IOVA_COPY = MOCK_APERTURE_START + (1 << 20),
	IOVA_NEW = MOCK_APERTURE_START + (2 << 20),
	IOVA_NEW_COPY = MOCK_APERTURE_START + (3 << 20),
};

enum race_op {
	/* Of the dma-buf into the first IOAS, which has two domains */
	OP_MAP,
	/* From the first IOAS into the second */
	OP_COPY,
	/* Of another domain to the first IOAS */
	OP_ATTACH,
	/* Of a domain from the first IOAS, which keeps another */
	OP_DETACH,
	/* From the first IOAS */
	OP_UNMAP,
	/* Of the only device of the second IOAS, and then of the IOAS */
	OP_DESTROY,
	/* Of another process, which is killed, with all that it has */
	OP_EXIT,
};

enum {
	/* Longer than anything here takes, shorter than the hold lasts */
	LIMIT_SECONDS = 30,
};

static __attribute__((constructor)) void setup_page_size(void)
{
	PAGE_SIZE = sysconf(_SC_PAGE_SIZE);
}

/*
 * A dma-buf of as many ranges as it has pages. It is mapped into the first of
 * two IOASes, and copied to the second.
 */
struct scene {
	int fd;
	int dfd;
	unsigned int map_flags;
	__u32 ioas_id[2];
	__u32 stdev_id[2];
	__u32 idev_id[2];
	__u32 hwpt_id[2];
	/* More domains of the first IOAS, 0 if not there */
	__u32 hwpt_id_extra;
	__u32 hwpt_id_new;
	/* Which mappings there are */
	bool base;
	bool copy;
	bool new;
	bool new_copy;
	/* For OP_EXIT, who has a device and a mapping of its own */
	pid_t child;
};

/* One side of the race */
struct actor {
	struct scene *scene;
	int (*fn)(struct actor *actor);
	enum race_op op;
	unsigned int dmabuf_op;
	int result;
	/* Whose state to look at */
	pid_t pid;
	pthread_t thread;
	bool is_child;
	bool done;
};

static int map_file(int fd, __u32 ioas_id, int dfd, __u64 iova,
		    unsigned int flags)
{
	return _test_ioctl_ioas_map_file(fd, ioas_id, dfd, 0, BUF_SIZE, &iova,
					 flags | IOMMU_IOAS_MAP_FIXED_IOVA |
						 IOMMU_IOAS_MAP_WRITEABLE |
						 IOMMU_IOAS_MAP_READABLE);
}

static int copy(struct scene *scene, __u64 dst_iova)
{
	return _test_ioctl_ioas_copy(scene->fd, scene->ioas_id[1], &dst_iova,
				     scene->ioas_id[0], IOVA_BASE, BUF_SIZE,
				     IOMMU_IOAS_MAP_FIXED_IOVA |
					     IOMMU_IOAS_MAP_WRITEABLE |
					     IOMMU_IOAS_MAP_READABLE);
}

static int alloc_hwpt(struct scene *scene, __u32 *hwpt_id)
{
	return _test_cmd_hwpt_alloc(scene->fd, scene->idev_id[0],
				    scene->ioas_id[0], 0, 0, hwpt_id,
				    IOMMU_HWPT_DATA_NONE, NULL, 0);
}

static int do_op(struct actor *actor)
{
	struct scene *scene = actor->scene;

	switch (actor->op) {
	case OP_MAP:
		if (map_file(scene->fd, scene->ioas_id[0], scene->dfd, IOVA_NEW,
			     scene->map_flags))
			return -errno;
		scene->new = true;
		return 0;
	case OP_COPY:
		if (copy(scene, IOVA_NEW_COPY))
			return -errno;
		scene->new_copy = true;
		return 0;
	case OP_ATTACH:
		if (alloc_hwpt(scene, &scene->hwpt_id_new))
			return -errno;
		return 0;
	case OP_DETACH:
		if (_test_ioctl_destroy(scene->fd, scene->hwpt_id_extra))
			return -errno;
		scene->hwpt_id_extra = 0;
		return 0;
	case OP_UNMAP:
		if (_test_ioctl_ioas_unmap(scene->fd, scene->ioas_id[0],
					   IOVA_BASE, BUF_SIZE, NULL))
			return -errno;
		scene->base = false;
		return 0;
	case OP_DESTROY:
		if (_test_ioctl_destroy(scene->fd, scene->stdev_id[1]) ||
		    _test_ioctl_destroy(scene->fd, scene->ioas_id[1]))
			return -errno;
		scene->copy = false;
		return 0;
	case OP_EXIT:
		break;
	}
	return -EINVAL;
}

static int do_exporter(struct actor *actor)
{
	if (_test_cmd_revoke_dmabuf(actor->scene->fd, actor->scene->dfd,
				    actor->dmabuf_op))
		return -errno;
	return 0;
}

static void *actor_thread(void *arg)
{
	struct actor *actor = arg;

	__atomic_store_n(&actor->pid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	actor->result = actor->fn(actor);
	__atomic_store_n(&actor->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static int actor_start(struct actor *actor)
{
	if (!actor->is_child)
		return pthread_create(&actor->thread, NULL, actor_thread, actor);

	actor->pid = actor->scene->child;
	return kill(actor->pid, SIGKILL);
}

/* It has come back from the kernel, or is a zombie: after closing its files */
static bool actor_done(struct actor *actor)
{
	siginfo_t info = {};

	if (!actor->is_child)
		return __atomic_load_n(&actor->done, __ATOMIC_ACQUIRE);

	return !waitid(P_PID, actor->pid, &info, WEXITED | WNOHANG | WNOWAIT) &&
	       info.si_pid == actor->pid;
}

/*
 * It sleeps: waiting for a lock, with or without an ear for signals, or held.
 * A child sleeps anyway until it is killed, but then only its exit can.
 */
static bool actor_waits(struct actor *actor)
{
	pid_t pid = __atomic_load_n(&actor->pid, __ATOMIC_ACQUIRE);
	char buf[512];
	char *state;
	ssize_t len;
	int fd;

	if (!pid)
		return false;

	snprintf(buf, sizeof(buf),
		 actor->is_child ? "/proc/%d/stat" : "/proc/self/task/%d/stat",
		 pid);
	fd = open(buf, O_RDONLY);
	if (fd < 0)
		return false;
	len = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (len <= 0)
		return false;
	buf[len] = 0;

	/* The name before it may have anything in it */
	state = strrchr(buf, ')');
	if (!state || state[1] != ' ')
		return false;
	return state[2] == 'D' || (state[2] == 'S' && !actor->is_child);
}

static void actor_join(struct actor *actor)
{
	if (!actor->is_child) {
		pthread_join(actor->thread, NULL);
		return;
	}
	waitpid(actor->pid, NULL, 0);
	actor->scene->child = 0;
}

static bool out_of_time(time_t start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	sched_yield();
	return now.tv_sec > start + LIMIT_SECONDS;
}

static time_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* Another process with an iommufd and a mapping of the same dma-buf */
static int scene_start_child(struct scene *scene)
{
	int pipefd[2];
	char byte;
	int rc;

	if (pipe(pipefd))
		return -1;

	scene->child = fork();
	if (scene->child < 0)
		return -1;
	if (!scene->child) {
		__u32 ioas_id;
		int fd;

		/* What it inherited is not to live on in it */
		close(scene->fd);
		close(pipefd[0]);
		fd = open("/dev/iommu", O_RDWR);
		if (fd < 0 || _test_ioctl_ioas_alloc(fd, &ioas_id) ||
		    _test_cmd_mock_domain(fd, ioas_id, NULL, NULL, NULL) ||
		    map_file(fd, ioas_id, scene->dfd, IOVA_BASE,
			     scene->map_flags))
			_exit(1);
		close(scene->dfd);
		if (write(pipefd[1], "", 1) != 1)
			_exit(1);
		/* Until it is killed */
		while (true)
			pause();
	}

	close(pipefd[1]);
	rc = read(pipefd[0], &byte, 1) == 1 ? 0 : -1;
	close(pipefd[0]);
	return rc;
}

static int scene_setup(struct scene *scene, bool restore, bool child)
{
	int i;

	*scene = (struct scene){
		.map_flags = restore ? IOMMU_IOAS_MAP_RESTORE : 0,
	};
	scene->fd = open("/dev/iommu", O_RDWR);
	if (scene->fd < 0)
		return -1;
	/* A test that failed may have left something */
	_test_cmd_hold(scene->fd, MOCK_HOLD_RELEASE, 0, 0);

	if (_test_cmd_get_dmabuf(scene->fd, BUF_SIZE, PAGE_SIZE, 0, O_RDWR,
				 &scene->dfd))
		return -1;
	for (i = 0; i != 2; i++)
		if (_test_ioctl_ioas_alloc(scene->fd, &scene->ioas_id[i]) ||
		    _test_cmd_mock_domain(scene->fd, scene->ioas_id[i],
					  &scene->stdev_id[i],
					  &scene->hwpt_id[i],
					  &scene->idev_id[i]))
			return -1;
	if (alloc_hwpt(scene, &scene->hwpt_id_extra) ||
	    map_file(scene->fd, scene->ioas_id[0], scene->dfd, IOVA_BASE,
		     scene->map_flags) ||
	    copy(scene, IOVA_COPY))
		return -1;
	scene->base = true;
	scene->copy = true;
	return child ? scene_start_child(scene) : 0;
}

static void scene_teardown(struct scene *scene)
{
	_test_cmd_hold(scene->fd, MOCK_HOLD_RELEASE, 0, 0);
	if (scene->child) {
		kill(scene->child, SIGKILL);
		waitpid(scene->child, NULL, 0);
	}
	close(scene->dfd);
	close(scene->fd);
}

static int scene_check_one(struct scene *scene, bool exists, __u32 hwpt_id,
			   __u64 iova, bool mapped)
{
	if (!hwpt_id)
		return 0;
	return _test_cmd_check_dmabuf(scene->fd, hwpt_id, scene->dfd, 0, iova,
				      BUF_SIZE, exists && mapped);
}

/* Every mapping that exists is in all domains, or in none, others are not */
static int scene_check(struct scene *scene, bool mapped)
{
	const __u32 first[] = {
		scene->hwpt_id[0],
		scene->hwpt_id_extra,
		scene->hwpt_id_new,
	};
	__u32 second = scene->copy ? scene->hwpt_id[1] : 0;
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(first); i++)
		if (scene_check_one(scene, scene->base, first[i], IOVA_BASE,
				    mapped) ||
		    scene_check_one(scene, scene->new, first[i], IOVA_NEW,
				    mapped))
			return -1;
	if (scene_check_one(scene, scene->copy, second, IOVA_COPY, mapped) ||
	    scene_check_one(scene, scene->new_copy, second, IOVA_NEW_COPY,
			    mapped))
		return -1;
	return 0;
}

/* The second one has to wait for the first */
static void race_expect_waits(struct __test_metadata *_metadata,
			      struct actor *second)
{
	time_t start = now_seconds();

	while (!actor_done(second) && !actor_waits(second))
		ASSERT_FALSE(out_of_time(start))
			TH_LOG("It neither finished nor waits");
	EXPECT_FALSE(actor_done(second))
		TH_LOG("It did not wait for the one that is held");
}

/* The second one is not in the way of the first */
static void race_expect_done(struct __test_metadata *_metadata,
			     struct actor *second)
{
	time_t start = now_seconds();

	while (!actor_done(second))
		ASSERT_FALSE(out_of_time(start))
			TH_LOG("It waits for the one that is held");
}

static void race(struct __test_metadata *_metadata, struct scene *scene,
		 struct actor *first, struct actor *second, unsigned int point,
		 unsigned int skip, bool waits)
{
	time_t start = now_seconds();

	ASSERT_EQ(0, _test_cmd_hold(scene->fd, MOCK_HOLD_ARM, point, skip));
	ASSERT_EQ(0, actor_start(first));
	while (_test_cmd_hold(scene->fd, MOCK_HOLD_QUERY, 0, 0)) {
		ASSERT_FALSE(actor_done(first))
			TH_LOG("It finished without passing the point");
		ASSERT_FALSE(out_of_time(start));
	}

	ASSERT_EQ(0, actor_start(second));
	if (waits)
		race_expect_waits(_metadata, second);
	else
		race_expect_done(_metadata, second);
	ASSERT_FALSE(actor_done(first));

	ASSERT_EQ(0, _test_cmd_hold(scene->fd, MOCK_HOLD_RELEASE, 0, 0));
	actor_join(first);
	actor_join(second);
}

FIXTURE(dmabuf_race)
{
	struct scene scene;
	struct actor op;
	struct actor exporter;
};

FIXTURE_VARIANT(dmabuf_race)
{
	enum race_op op;
	bool restore;
};

/* With IOMMU_IOAS_MAP_RESTORE and without */
#define RACE_VARIANT(_name, _op)                                          \
	FIXTURE_VARIANT_ADD(dmabuf_race, _name)                           \
	{                                                                 \
		.op = _op,                                                \
	};                                                                \
	FIXTURE_VARIANT_ADD(dmabuf_race, _name##_restore)                 \
	{                                                                 \
		.op = _op,                                                \
		.restore = true,                                          \
	}

RACE_VARIANT(map, OP_MAP);
RACE_VARIANT(copy, OP_COPY);
RACE_VARIANT(attach, OP_ATTACH);
RACE_VARIANT(detach, OP_DETACH);
RACE_VARIANT(unmap, OP_UNMAP);
RACE_VARIANT(destroy, OP_DESTROY);
RACE_VARIANT(exit, OP_EXIT);

FIXTURE_SETUP(dmabuf_race)
{
}

FIXTURE_TEARDOWN(dmabuf_race)
{
}

static void begin(struct __test_metadata *_metadata,
		  FIXTURE_DATA(dmabuf_race) *self,
		  const FIXTURE_VARIANT(dmabuf_race) *variant,
		  unsigned int dmabuf_op)
{
	ASSERT_EQ(0, scene_setup(&self->scene, variant->restore,
				 variant->op == OP_EXIT));
	ASSERT_EQ(0, scene_check(&self->scene, true));
	if (dmabuf_op == MOCK_DMABUF_RESTORE)
		ASSERT_EQ(0, _test_cmd_revoke_dmabuf(self->scene.fd,
						     self->scene.dfd,
						     MOCK_DMABUF_REVOKE));
	self->op = (struct actor){
		.scene = &self->scene,
		.fn = do_op,
		.op = variant->op,
		.is_child = variant->op == OP_EXIT,
	};
	self->exporter = (struct actor){
		.scene = &self->scene,
		.fn = do_exporter,
		.dmabuf_op = dmabuf_op,
	};
}

/*
 * Whatever came first, after a revoke nothing is mapped, and after a restore
 * all that wanted it.
 */
static void end(struct __test_metadata *_metadata,
		FIXTURE_DATA(dmabuf_race) *self,
		const FIXTURE_VARIANT(dmabuf_race) *variant)
{
	struct scene *scene = &self->scene;

	EXPECT_EQ(0, self->exporter.result);
	if (self->exporter.dmabuf_op == MOCK_DMABUF_REVOKE) {
		ASSERT_EQ(0, scene_check(scene, false));
		ASSERT_EQ(0, _test_cmd_revoke_dmabuf(scene->fd, scene->dfd,
						     MOCK_DMABUF_RESTORE));
	} else if (scene->new && !variant->restore) {
		/* It came after the restore, the older ones stay revoked */
		ASSERT_EQ(0, scene_check_one(scene, true, scene->hwpt_id[0],
					     IOVA_NEW, true));
		ASSERT_EQ(0, scene_check_one(scene, true, scene->hwpt_id[0],
					     IOVA_BASE, false));
		scene_teardown(scene);
		return;
	}
	ASSERT_EQ(0, scene_check(scene, variant->restore));

	/* And it all still works */
	ASSERT_EQ(0, _test_cmd_revoke_dmabuf(scene->fd, scene->dfd,
					     MOCK_DMABUF_REVOKE));
	ASSERT_EQ(0, scene_check(scene, false));
	ASSERT_EQ(0, _test_cmd_revoke_dmabuf(scene->fd, scene->dfd,
					     MOCK_DMABUF_RESTORE));
	ASSERT_EQ(0, scene_check(scene, variant->restore));
	scene_teardown(scene);
}

struct point {
	unsigned int point;
	unsigned int skip;
	/* Whoever is held there has pages->mutex */
	bool mutex;
};

#define POINT(_point, _skip, _mutex) { MOCK_HOLD_##_point, _skip, _mutex }

/*
 * An operation is held, then comes a revoke. The two domains of the first IOAS
 * are filled with NR_PAGES calls each.
 */
static const struct point map_points[] = {
	/* The first look, and another one when a domain is filled */
	POINT(GET_EXTENT, 0, true),
	POINT(GET_EXTENT, NR_PAGES * 2 - 1, true),
	POINT(DOMAIN_MAP, 0, true),
	POINT(DOMAIN_MAP, NR_PAGES - 1, true),
	POINT(DOMAIN_MAP, NR_PAGES, true),
	POINT(DOMAIN_MAP, NR_PAGES * 2 - 1, true),
};

static const struct point fill_points[] = {
	POINT(DOMAIN_MAP, 0, true),
	POINT(DOMAIN_MAP, NR_PAGES - 1, true),
};

static const struct point unfill_points[] = {
	POINT(DOMAIN_UNMAP, 0, true),
};

static const struct point unfill_two_points[] = {
	POINT(DOMAIN_UNMAP, 0, true),
	POINT(DOMAIN_UNMAP, 1, true),
};

#define POINTS(_points) { _points, ARRAY_SIZE(_points) }

static const struct {
	const struct point *points;
	unsigned int nr;
} op_points[] = {
	[OP_MAP] = POINTS(map_points),
	[OP_COPY] = POINTS(fill_points),
	[OP_ATTACH] = POINTS(fill_points),
	[OP_DETACH] = POINTS(unfill_points),
	[OP_UNMAP] = POINTS(unfill_two_points),
	[OP_DESTROY] = POINTS(unfill_points),
	[OP_EXIT] = POINTS(unfill_points),
};

TEST_F_TIMEOUT(dmabuf_race, revoke_during_op, 120)
{
	unsigned int i;

	for (i = 0; i != op_points[variant->op].nr; i++) {
		const struct point *point = &op_points[variant->op].points[i];

		begin(_metadata, self, variant, MOCK_DMABUF_REVOKE);
		race(_metadata, &self->scene, &self->op, &self->exporter,
		     point->point, point->skip, true);
		EXPECT_EQ(0, self->op.result);
		end(_metadata, self, variant);
	}
}

/*
 * The exporter is held. There are three domains to unmap: two of the first
 * IOAS, then the second's, and a fourth where there is another process.
 */
static const struct point revoke_points[] = {
	POINT(REVOKE_BEGIN, 0, false),
	POINT(DOMAIN_UNMAP, 0, true),
	POINT(DOMAIN_UNMAP, 1, true),
	POINT(DOMAIN_UNMAP, 2, true),
	POINT(REVOKE_END, 0, false),
};

/*
 * It holds the reservation all of the time, and that is enough for what fills a
 * domain, or lets go of the dma-buf. What only empties one doesn't wait for it.
 */
static bool op_needs_resv(enum race_op op)
{
	return op == OP_MAP || op == OP_COPY || op == OP_ATTACH ||
	       op == OP_EXIT;
}

TEST_F_TIMEOUT(dmabuf_race, op_during_revoke, 120)
{
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(revoke_points); i++) {
		const struct point *point = &revoke_points[i];

		begin(_metadata, self, variant, MOCK_DMABUF_REVOKE);
		race(_metadata, &self->scene, &self->exporter, &self->op,
		     point->point, point->skip,
		     point->mutex || op_needs_resv(variant->op));
		EXPECT_EQ(variant->op == OP_MAP && !variant->restore ? -ENODEV :
								       0,
			  self->op.result);
		end(_metadata, self, variant);
	}
}

/* As above, and each domain is filled with NR_PAGES calls */
static const struct point restore_points[] = {
	POINT(RESTORE_BEGIN, 0, false),
	POINT(GET_EXTENT, 0, true),
	POINT(DOMAIN_MAP, 0, true),
	POINT(DOMAIN_MAP, NR_PAGES - 1, true),
	POINT(DOMAIN_MAP, NR_PAGES, true),
	POINT(DOMAIN_MAP, NR_PAGES * 3 - 1, true),
	POINT(RESTORE_END, 0, false),
};

TEST_F_TIMEOUT(dmabuf_race, op_during_restore, 120)
{
	unsigned int i;

	for (i = 0; i != ARRAY_SIZE(restore_points); i++) {
		const struct point *point = &restore_points[i];

		/* Nobody is told who did not ask for it */
		if (point->mutex && !variant->restore)
			continue;

		begin(_metadata, self, variant, MOCK_DMABUF_RESTORE);
		race(_metadata, &self->scene, &self->exporter, &self->op,
		     point->point, point->skip,
		     point->mutex || op_needs_resv(variant->op));
		EXPECT_EQ(0, self->op.result);
		end(_metadata, self, variant);
	}
}

/* Of the operations only a map does something that can be held meanwhile */
TEST_F_TIMEOUT(dmabuf_race, restore_during_map, 120)
{
	if (variant->op != OP_MAP)
		SKIP(return, "does nothing to a revoked dma-buf");

	begin(_metadata, self, variant, MOCK_DMABUF_RESTORE);
	race(_metadata, &self->scene, &self->op, &self->exporter,
	     MOCK_HOLD_GET_EXTENT, 0, true);
	/* Its own look at the memory comes before the restore */
	EXPECT_EQ(variant->restore ? 0 : -ENODEV, self->op.result);
	end(_metadata, self, variant);
}

/* A second revocation while the first is being undone, and the other way */
TEST_F_TIMEOUT(dmabuf_race, revoke_during_restore, 120)
{
	unsigned int i;

	if (variant->op != OP_MAP)
		SKIP(return, "has no operation to vary");

	for (i = 0; i != ARRAY_SIZE(restore_points); i++) {
		const struct point *point = &restore_points[i];

		if (point->mutex && !variant->restore)
			continue;

		begin(_metadata, self, variant, MOCK_DMABUF_RESTORE);
		self->op.fn = do_exporter;
		self->op.dmabuf_op = MOCK_DMABUF_REVOKE;
		race(_metadata, &self->scene, &self->exporter, &self->op,
		     point->point, point->skip, true);
		EXPECT_EQ(0, self->op.result);
		ASSERT_EQ(0, scene_check(&self->scene, false));
		self->exporter.dmabuf_op = MOCK_DMABUF_REVOKE;
		end(_metadata, self, variant);
	}
}

TEST_HARNESS_MAIN
