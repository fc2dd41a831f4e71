/* The other side: a process that checkpoints another one by its pid. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stub.h"

#ifndef WITHOUT_CHECKPOINT_API

static struct control *map(int pid)
{
	char path[288], link[128];
	struct control *found = NULL;
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	DIR *directory = opendir(path);
	struct dirent *entry;
	while (directory && !found && (entry = readdir(directory))) {
		snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, entry->d_name);
		ssize_t length = readlink(path, link, sizeof link - 1);
		if (length < 0 || (link[length] = 0, !strstr(link, CONTROL_NAME)))
			continue;
		int descriptor = open(path, O_RDWR | O_CLOEXEC);
		found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
		close(descriptor);
		/* A child that was forked has the descriptor, but no context. */
		if (found != MAP_FAILED && (found->pid != pid || found->magic != CONTROL_MAGIC)) {
			munmap(found, sizeof *found);
			found = NULL;
		}
	}
	if (directory)
		closedir(directory);
	return found == MAP_FAILED ? NULL : found;
}

static int take_turn(struct control *control)
{
	int32_t nobody = 0;
	while (!__atomic_compare_exchange_n(&control->caller, &nobody, getpid(), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		if (!is_alive(nobody)) /* a caller that was killed: its turn is over */
			__atomic_compare_exchange_n(&control->caller, &nobody, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		nobody = 0;
		sleep_ms(2);
		if (!is_alive(control->pid))
			return 0;
	}
	return 1;
}

/* The job file, ours for one call; -1 without the file, or while another call is under way. */
static int join_job(void)
{
	const char *path = getenv("CUDA_CHECKPOINT_JOB_FILE");
	int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (descriptor >= 0 && flock(descriptor, LOCK_EX | LOCK_NB)) {
		close(descriptor);
		return -1;
	}
	return descriptor;
}

/* No time limit here: as with the real driver, a process that does not run does not answer. */
static CUresult ask(int pid, enum call call, uint32_t timeout_ms, const CUcheckpointRestoreArgs *args, int *value)
{
	struct control *control = map(pid);
	CUresult result = CUDA_ERROR_OPERATING_SYSTEM;
	if (!control)
		return CUDA_ERROR_INVALID_VALUE;
	int job = control->is_of_job && call != CALL_TID ? join_job() : 0;
	if (job < 0)
		return CUDA_ERROR_NOT_SUPPORTED;
	if (take_turn(control)) {
		control->call = call;
		control->timeout_ms = timeout_ms;
		control->pair_count = args ? args->gpuPairsCount : 0;
		for (uint32_t i = 0; i < control->pair_count; i++)
			control->pairs[i] = args->gpuPairs[i];
		uint32_t number = __atomic_add_fetch(&control->request, 1, __ATOMIC_SEQ_CST), seen;
		futex_wake(&control->request);
		while ((seen = __atomic_load_n(&control->response, __ATOMIC_SEQ_CST)) != number && is_alive(pid))
			futex_wait(&control->response, seen, 20);
		while (read_fault(call_name(call), control->rank).is_deaf)
			sleep_ms(100);
		if (seen == number) {
			result = control->result;
			if (value)
				*value = control->value;
		}
		__atomic_store_n(&control->caller, 0, __ATOMIC_SEQ_CST);
	}
	munmap(control, sizeof *control);
	if (job)
		close(job);
	return result;
}

static int is_zero(const void *data, size_t size)
{
	for (const char *byte = data; size--; byte++)
		if (*byte)
			return 0;
	return 1;
}

EXPORT CUresult cuCheckpointProcessGetState(int pid, CUprocessState *state)
{
	return ask(pid, CALL_STATE, 0, NULL, (int *)state);
}

EXPORT CUresult cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
	return ask(pid, CALL_TID, 0, NULL, tid);
}

EXPORT CUresult cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
	if (args && !is_zero(&args->reserved0, sizeof *args - sizeof args->timeoutMs))
		return CUDA_ERROR_INVALID_VALUE;
	return ask(pid, CALL_LOCK, args ? args->timeoutMs : 0, NULL, NULL);
}

EXPORT CUresult cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs *args)
{
	if (args && !is_zero(args, sizeof *args))
		return CUDA_ERROR_INVALID_VALUE;
	return ask(pid, CALL_CHECKPOINT, 0, NULL, NULL);
}

EXPORT CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args)
{
	struct config config;
	read_config(&config);
	if (!is_initialised())
		return CUDA_ERROR_NOT_INITIALIZED;
	/* Until CUDA 13 all of it was reserved; pointer and count came then. */
	size_t known = config.api < 13000 ? 0 : sizeof(void *) + sizeof(unsigned int);
	if (args && (!is_zero((char *)args + known, sizeof *args - known) || (known && args->gpuPairsCount > MAX_DEVICES)))
		return CUDA_ERROR_INVALID_VALUE;
	return ask(pid, CALL_RESTORE, 0, known ? args : NULL, NULL);
}

EXPORT CUresult cuCheckpointProcessUnlock(int pid, CUcheckpointUnlockArgs *args)
{
	if (args && !is_zero(args, sizeof *args))
		return CUDA_ERROR_INVALID_VALUE;
	return ask(pid, CALL_UNLOCK, 0, NULL, NULL);
}

#endif
