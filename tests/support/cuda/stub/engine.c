/* The engine's side: what a program calls to use a GPU, and the thread that answers whoever checkpoints it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

static struct config gpus;		/* the node's, as they were at cuInit or at the last restore */
static int visible[MAX_DEVICES], visible_count;
static struct control *control;
static int has_lost_memory;	/* a restore ran out of memory: it can never succeed again (cuda-checkpoint #44) */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int is_closed;		/* to calls: locked, or about to be */
static int calls_under_way;
static struct timespec busy_until;

static struct timespec in_ms(int ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += ms % 1000 * 1000000L;
	if (at.tv_nsec >= 1000000000L)
		at.tv_sec++, at.tv_nsec -= 1000000000L;
	return at;
}

static int is_past(struct timespec at)
{
	struct timespec now = in_ms(0);
	return now.tv_sec > at.tv_sec || (now.tv_sec == at.tv_sec && now.tv_nsec >= at.tv_nsec);
}

int is_initialised(void) { return visible_count > 0; }

/* Every call that touches a GPU waits here while the process is locked. */
static void enter(void)
{
	pthread_mutex_lock(&mutex);
	while (is_closed)
		pthread_cond_wait(&changed, &mutex);
	calls_under_way++;
	pthread_mutex_unlock(&mutex);
}

static CUresult leave(CUresult result)
{
	pthread_mutex_lock(&mutex);
	calls_under_way--;
	pthread_mutex_unlock(&mutex);
	return result;
}

static void set_closed(int value)
{
	pthread_mutex_lock(&mutex);
	is_closed = value;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mutex);
}

static CUresult lock(void)
{
	if (control->state != CU_PROCESS_STATE_RUNNING)
		return CUDA_ERROR_ILLEGAL_STATE;
	struct timespec deadline = in_ms(control->timeout_ms ? control->timeout_ms : 1 << 30);
	set_closed(1);
	while (calls_under_way || !is_past(busy_until)) {
		if (is_past(deadline)) {
			set_closed(0);
			return CUDA_ERROR_NOT_READY;
		}
		sleep_ms(2);
	}
	control->state = CU_PROCESS_STATE_LOCKED;
	return CUDA_SUCCESS;
}

static CUresult checkpoint(void)
{
	if (control->state != CU_PROCESS_STATE_LOCKED)
		return CUDA_ERROR_ILLEGAL_STATE;
	memory_to_host(gpus.host_is_memfd);
	control->state = CU_PROCESS_STATE_CHECKPOINTED;
	return CUDA_SUCCESS;
}

static CUresult restore(void)
{
	struct config now;
	read_config(&now);
	if (control->state != CU_PROCESS_STATE_CHECKPOINTED)
		return CUDA_ERROR_ILLEGAL_STATE;
	if (has_lost_memory)
		return CUDA_ERROR_OPERATING_SYSTEM;
	CUresult result = memory_to_devices(&gpus, &now, control->pairs, control->pair_count);
	if (result == CUDA_SUCCESS) {
		gpus = now;
		control->state = CU_PROCESS_STATE_LOCKED;
	}
	has_lost_memory = result == CUDA_ERROR_OUT_OF_MEMORY;
	return result;
}

static CUresult unlock(void)
{
	if (control->state != CU_PROCESS_STATE_LOCKED)
		return CUDA_ERROR_ILLEGAL_STATE;
	control->state = CU_PROCESS_STATE_RUNNING;
	set_closed(0);
	return CUDA_SUCCESS;
}

static CUresult perform(enum call call)
{
	struct fault fault = read_fault(call_name(call), control->rank);
	while (gpus.is_coupled && !hold_others())
		sleep_ms(5);
	sleep_ms(fault.delay_ms);
	if (fault.dies)
		kill(getpid(), SIGKILL);
	while (fault.hangs)
		sleep_ms(1000);
	if (fault.fails)
		control->state = CU_PROCESS_STATE_FAILED;
	if (fault.error)
		return fault.error;
	switch (call) {
	case CALL_STATE:
		control->value = control->state;
		return CUDA_SUCCESS;
	case CALL_TID:
		control->value = control->restore_tid;
		return CUDA_SUCCESS;
	case CALL_LOCK:
		return lock();
	case CALL_CHECKPOINT:
		return checkpoint();
	case CALL_RESTORE:
		return restore();
	case CALL_UNLOCK:
		return unlock();
	}
	return CUDA_ERROR_INVALID_VALUE;
}

static void *answer(void *unused)
{
	uint32_t seen = 0;
	control->restore_tid = syscall(SYS_gettid);
	for (;;) {
		while (__atomic_load_n(&control->request, __ATOMIC_SEQ_CST) == seen)
			futex_wait(&control->request, seen, -1);
		seen = __atomic_load_n(&control->request, __ATOMIC_SEQ_CST);
		enum call call = control->call; /* another caller may write the next one already */
		control->result = perform(call);
		if (control->state == CU_PROCESS_STATE_RUNNING)
			release_others();
		note(call, getpid(), control->rank, control->result);
		__atomic_store_n(&control->response, seen, __ATOMIC_SEQ_CST);
		futex_wake(&control->response);
	}
	return unused;
}

static void choose_visible(void)
{
	const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
	for (int i = 0; i < gpus.count; i++)
		if (!wanted || is_named(wanted, i, gpus.devices[i].uuid))
			visible[visible_count++] = i;
}

static uint32_t rank(void)
{
	const char *text = getenv("STUB_CUDA_RANK");
	return text ? atoi(text) : -1;
}

EXPORT CUresult cuInit(unsigned int flags)
{
	if (flags || is_initialised())
		return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
	read_config(&gpus);
	struct fault fault = read_fault("init", rank());
	sleep_ms(gpus.init_ms + fault.delay_ms);
	if (fault.error)
		return fault.error;
	choose_visible();
	return is_initialised() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

/* With its first context a process can be checkpointed. */
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	*context = (CUcontext)(uintptr_t)(device + 1);
	if (control)
		return CUDA_SUCCESS;
	int descriptor = memfd_create(CONTROL_NAME, MFD_CLOEXEC);
	if (descriptor < 0 || ftruncate(descriptor, sizeof *control) || !reserve())
		return CUDA_ERROR_OPERATING_SYSTEM;
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	control->pid = getpid();
	control->rank = rank();
	control->is_of_job = getenv("CUDA_CHECKPOINT_JOB_FILE") != NULL;
	open_nodes(&gpus);
	pthread_t thread;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_create(&thread, NULL, answer, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	while (!*(volatile int32_t *)&control->restore_tid)
		sleep_ms(1);
	control->magic = CONTROL_MAGIC;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { (void)device; return CUDA_SUCCESS; }

static __thread int current;

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
	current = (int)(uintptr_t)context - 1;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void)
{
	enter();
	while (!is_past(busy_until))
		sleep_ms(2);
	return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
	*module = (CUmodule)image;
	return is_initialised() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

/* The two kernels of gpu_engine.py, known by their names. */
EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
	(void)module;
	*function = (CUfunction)(uintptr_t)(strcmp(name, "spin") ? 1 : 2);
	return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned int x, unsigned int y, unsigned int z, unsigned int bx,
			       unsigned int by, unsigned int bz, unsigned int shared, CUstream stream, void **parameters,
			       void **extra)
{
	uint64_t parameter = *(uint64_t *)parameters[0], count;
	CUresult result = CUDA_SUCCESS;
	(void)shared, (void)stream;
	if (x * y * z * bx * by * bz != 1 || extra)
		return CUDA_ERROR_INVALID_VALUE;
	enter();
	if ((uintptr_t)function == 2) {
		busy_until = in_ms((int)(parameter / 1000000));
	} else if (!(result = copy(parameter, &count, sizeof count, 0))) {
		count++;
		result = copy(parameter, &count, sizeof count, 1);
	}
	return leave(result);
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size)
{
	enter();
	return leave(allocate(&gpus.devices[visible[current]], size, pointer));
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer)
{
	enter();
	return leave(release(pointer));
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size)
{
	enter();
	return leave(copy(to, (void *)(uintptr_t)from, size, 1));
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size)
{
	enter();
	return leave(copy(from, to, size, 0));
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
	struct config config;
	read_config(&config);
	*version = config.api;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
	*count = visible_count;
	return is_initialised() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	*device = ordinal;
	return ordinal < visible_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
	snprintf(name, length, "%s", gpus.devices[visible[device]].name);
	return CUDA_SUCCESS;
}

#undef cuDeviceGetUuid /* the header of CUDA 13 makes it the newer one; the library has both */
EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
	uuid_bytes(uuid, gpus.devices[visible[device]].uuid);
	return CUDA_SUCCESS;
}

/* Of a MIG slice this gives the slice's own UUID, and cuDeviceGetUuid its GPU's. */
EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	cuDeviceGetUuid(uuid, device);
	if (gpus.devices[visible[device]].is_mig)
		uuid->bytes[0] ^= 0x55;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
	*bytes = gpus.devices[visible[device]].memory_bytes;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
	(void)device;
	*value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
	return CUDA_SUCCESS;
}

static const struct { int number; const char *name, *text; } errors[] = {
	{ 0, "CUDA_SUCCESS", "no error" },
	{ 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
	{ 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" },
	{ 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
	{ 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected" },
	{ 304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS" },
	{ 401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state" },
	{ 600, "CUDA_ERROR_NOT_READY", "device not ready" },
	{ 801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported" },
};

static CUresult look_up(CUresult error, const char **found, int wants_text)
{
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].number == (int)error) {
			*found = wants_text ? errors[i].text : errors[i].name;
			return CUDA_SUCCESS;
		}
	*found = NULL;
	return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char **name) { return look_up(error, name, 0); }
EXPORT CUresult cuGetErrorString(CUresult error, const char **text) { return look_up(error, text, 1); }
