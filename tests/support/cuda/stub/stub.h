/*
 * A libcuda.so.1 without a GPU: the ABI of the CUDA driver API as far as checkpoints need it, with the same
 * process states. One library serves both sides, as the real one does: the engine's calls, and the calls of
 * whoever checkpoints it. It is also libnvidia-ml.so.1.
 *
 * What a GPU would hold is in the directory $STUB_CUDA (default /gpu), which stands for the node's hardware:
 *
 *   config   driver 580.65.06 | api 13000 | init_ms 0 | host private|memfd | coupled
 *            device UUID NAME MEMORY_MIB MINOR [mig]       (blanks in NAME as _)
 *   faults   CALL RANK|* [error=N] [state=failed] [hang] [deaf] [die] [delay_ms=N] [once]
 *            hang: the process never answers again; deaf: the caller never hears the answer; die: SIGKILL
 *   log      a line for each call that reached a process: CALL pid rank result
 *   mem/     device memory, a file an allocation: UUID.pid.id
 *
 * Of the config's devices a container sees those that NVIDIA_VISIBLE_DEVICES of its PID 1 names.
 * A process's rank is $STUB_CUDA_RANK when it calls cuInit, else -1. `coupled`: while one process is locked, calls on
 * any other hang, as ranks of an NCCL job do (NVIDIA/cuda-checkpoint #30). A process that began to use CUDA with
 * CUDA_CHECKPOINT_JOB_FILE set is of a launch job: whoever checkpoints it must have the same file, and ask one
 * process of it at a time.
 */
#ifndef STUB_H
#define STUB_H

#include <cuda.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

enum { MAX_DEVICES = 16, MAX_ALLOCATIONS = 64 };

struct device {
	char uuid[37];
	char name[64];
	uint64_t memory_bytes;
	int minor;
	int is_mig;
};

struct config {
	char driver[32];
	int api;
	int init_ms;
	int host_is_memfd;
	int is_coupled;
	int count;
	struct device devices[MAX_DEVICES];
};

/* What to do instead of, or before, the call itself. */
struct fault {
	int error;
	int fails;	/* the process is lost: CU_PROCESS_STATE_FAILED */
	int hangs;
	int is_deaf;
	int dies;
	int delay_ms;
};

enum call { CALL_STATE = 1, CALL_TID, CALL_LOCK, CALL_CHECKPOINT, CALL_RESTORE, CALL_UNLOCK };

/* The page through which a process with a context is spoken to: a memfd that others open in /proc/PID/fd. */
struct control {
	uint32_t magic;
	int32_t pid;
	int32_t restore_tid;
	uint32_t rank;
	uint32_t state;
	int32_t caller;		/* pid whose turn it is, 0: nobody's */
	uint32_t request;	/* futex: number of the last request */
	uint32_t response;	/* futex: number of the last answer */
	uint32_t call;
	uint32_t timeout_ms;
	uint32_t pair_count;
	uint32_t result;
	uint32_t value;
	uint32_t is_of_job;
	CUcheckpointGpuPair pairs[MAX_DEVICES];
};

#define CONTROL_NAME "stub-cuda-control"
#define CONTROL_MAGIC 0x43554441u

/* node.c */
void read_config(struct config *config);
struct fault read_fault(const char *call, uint32_t rank);
void note(enum call call, int pid, uint32_t rank, CUresult result);
int is_named(const char *list, int index, const char *uuid);
const char *call_name(enum call call);
void node_path(char *path, size_t size, const char *format, ...);
uint64_t used_bytes(const char *uuid);
int hold_others(void);
void release_others(void);
void sleep_ms(int ms);
int is_alive(int pid);
void uuid_text(char text[37], const CUuuid *uuid);
void uuid_bytes(CUuuid *uuid, const char *text);

/* memory.c */
CUresult allocate(const struct device *device, uint64_t size, CUdeviceptr *pointer);
CUresult release(CUdeviceptr pointer);
CUresult copy(CUdeviceptr pointer, void *host, uint64_t size, int to_device);
void open_nodes(const struct config *config);
int reserve(void);
void memory_to_host(int is_memfd);
CUresult memory_to_devices(const struct config *old, const struct config *now, const CUcheckpointGpuPair *pairs,
			   uint32_t pair_count);

/* engine.c */
int is_initialised(void);

/* futex on a word that other processes map as well */
int futex_wait(uint32_t *word, uint32_t seen, int ms);
void futex_wake(uint32_t *word);

#endif
