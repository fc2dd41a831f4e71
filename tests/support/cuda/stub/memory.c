/* Device memory: outside the process while its state is on the devices, inside while it is checkpointed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stub.h"

struct allocation {
	int is_used;
	uint64_t size;
	char uuid[37];
	void *host;	/* the contents, while checkpointed */
};

static struct allocation allocations[MAX_ALLOCATIONS];
static int nodes[MAX_DEVICES + 1];
static int node_count;

/* Device addresses that no process has mapped: 1 TiB apart, above what Linux gives to user space. */
static CUdeviceptr address(int id) { return ((CUdeviceptr)0xd000 << 48) + ((CUdeviceptr)id << 40); }
static int id_of(CUdeviceptr pointer) { return (int)(pointer >> 40 & 0xff); }
static uint64_t offset_in(CUdeviceptr pointer) { return pointer & (((CUdeviceptr)1 << 40) - 1); }

static void file_of(char *path, size_t size, int id)
{
	node_path(path, size, "mem/%s.%d.%d", allocations[id].uuid, getpid(), id);
}

static int open_file(int id, int flags)
{
	char path[256];
	file_of(path, sizeof path, id);
	return open(path, flags | O_CLOEXEC, 0600);
}

CUresult allocate(const struct device *device, uint64_t size, CUdeviceptr *pointer)
{
	char path[256];
	int id = 0;
	while (id < MAX_ALLOCATIONS && allocations[id].is_used)
		id++;
	if (id == MAX_ALLOCATIONS || used_bytes(device->uuid) + size > device->memory_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	allocations[id] = (struct allocation){ .is_used = 1, .size = size };
	memcpy(allocations[id].uuid, device->uuid, sizeof device->uuid);
	node_path(path, sizeof path, "mem");
	mkdir(path, 0777);
	int descriptor = open_file(id, O_CREAT | O_TRUNC | O_RDWR);
	if (descriptor < 0 || ftruncate(descriptor, size))
		return CUDA_ERROR_OPERATING_SYSTEM;
	close(descriptor);
	*pointer = address(id);
	return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer)
{
	char path[256];
	int id = id_of(pointer);
	if (!allocations[id].is_used)
		return CUDA_ERROR_INVALID_VALUE;
	file_of(path, sizeof path, id);
	unlink(path);
	allocations[id].is_used = 0;
	return CUDA_SUCCESS;
}

/*
 * What the real driver maps beside device memory: gigabytes of addresses without pages, where CUDA puts unified
 * addresses, and memory that it shares with the GPU, here anonymous and shared. It must come back as it was.
 */
static unsigned char *staging;
enum { STAGING_SIZE = 2 << 20 };

int reserve(void)
{
	void *wanted = (void *)0x200000000;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
	if (mmap(wanted, (size_t)8 << 30, PROT_NONE, flags, -1, 0) != wanted)
		return 0;
	staging = mmap(NULL, STAGING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (staging == MAP_FAILED)
		return 0;
	for (int i = 0; i < STAGING_SIZE; i++)
		staging[i] = (unsigned char)(i * 7 + 1);
	return 1;
}

static int is_staging_whole(void)
{
	for (int i = 0; i < STAGING_SIZE; i += 509)
		if (staging[i] != (unsigned char)(i * 7 + 1))
			return 0;
	return 1;
}

static CUresult transfer(int id, uint64_t offset, char *host, uint64_t size, int to_device)
{
	int descriptor = open_file(id, O_RDWR);
	if (descriptor < 0)
		return CUDA_ERROR_ILLEGAL_ADDRESS;
	while (size) {
		ssize_t done = to_device ? pwrite(descriptor, host, size, offset) : pread(descriptor, host, size, offset);
		if (done <= 0)
			break;
		host += done, offset += done, size -= done;
	}
	close(descriptor);
	return size ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

CUresult copy(CUdeviceptr pointer, void *host, uint64_t size, int to_device)
{
	int id = id_of(pointer);
	if (staging && !is_staging_whole())
		return CUDA_ERROR_ILLEGAL_ADDRESS;
	if (id >= MAX_ALLOCATIONS || !allocations[id].is_used || offset_in(pointer) + size > allocations[id].size)
		return CUDA_ERROR_INVALID_VALUE;
	return transfer(id, offset_in(pointer), host, size, to_device);
}

/* The device nodes a real context holds open; what is not there is not opened. */
void open_nodes(const struct config *config)
{
	char path[64];
	for (int i = -1; i < config->count; i++) {
		if (i < 0)
			strcpy(path, "/dev/nvidiactl");
		else
			snprintf(path, sizeof path, "/dev/nvidia%d", config->devices[i].minor);
		int descriptor = open(path, O_RDWR | O_CLOEXEC);
		if (descriptor >= 0)
			nodes[node_count++] = descriptor;
	}
}

static void close_nodes(void)
{
	while (node_count)
		close(nodes[--node_count]);
}

static void *host_memory(uint64_t size, int is_memfd)
{
	if (!is_memfd)
		return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int descriptor = memfd_create("stub-cuda-memory", MFD_CLOEXEC);
	if (descriptor < 0 || ftruncate(descriptor, size))
		return MAP_FAILED;
	void *host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	close(descriptor);
	return host;
}

void memory_to_host(int is_memfd)
{
	char path[256];
	for (int id = 0; id < MAX_ALLOCATIONS; id++) {
		struct allocation *it = &allocations[id];
		if (!it->is_used)
			continue;
		it->host = host_memory(it->size, is_memfd);
		if (it->host == MAP_FAILED || transfer(id, 0, it->host, it->size, 0))
			abort();
		file_of(path, sizeof path, id);
		unlink(path);
	}
	close_nodes();
}

static const struct device *find(const struct config *config, const char *uuid)
{
	for (int i = 0; i < config->count; i++)
		if (!strcmp(config->devices[i].uuid, uuid))
			return &config->devices[i];
	return NULL;
}

/* Where a checkpointed device goes: by the pairs, or where there are none to the same place in the list. */
static const struct device *target(const struct config *old, const struct config *now, const char *uuid,
				   const CUcheckpointGpuPair *pairs, uint32_t pair_count)
{
	char text[37];
	for (uint32_t i = 0; i < pair_count; i++) {
		uuid_text(text, &pairs[i].oldUuid);
		if (strcmp(text, uuid))
			continue;
		uuid_text(text, &pairs[i].newUuid);
		return find(now, text);
	}
	const struct device *from = find(old, uuid);
	int place = (int)(from - old->devices);
	return pair_count || place >= now->count ? NULL : &now->devices[place];
}

CUresult memory_to_devices(const struct config *old, const struct config *now, const CUcheckpointGpuPair *pairs,
			   uint32_t pair_count)
{
	/* Every device that was visible must be mapped, used or not (NVIDIA/cuda-python #1983). */
	for (int i = 0; i < old->count; i++) {
		const struct device *to = target(old, now, old->devices[i].uuid, pairs, pair_count);
		if (!to || strcmp(to->name, old->devices[i].name))
			return CUDA_ERROR_INVALID_VALUE;
	}
	for (int id = 0; id < MAX_ALLOCATIONS; id++) {
		struct allocation *it = &allocations[id];
		if (!it->is_used)
			continue;
		const struct device *to = target(old, now, it->uuid, pairs, pair_count);
		if (used_bytes(to->uuid) + it->size > to->memory_bytes)
			return CUDA_ERROR_OUT_OF_MEMORY;
		memcpy(it->uuid, to->uuid, sizeof to->uuid);
		char path[256];
		node_path(path, sizeof path, "mem");
		mkdir(path, 0777);
		int descriptor = open_file(id, O_CREAT | O_TRUNC | O_RDWR);
		if (descriptor < 0 || ftruncate(descriptor, it->size) || transfer(id, 0, it->host, it->size, 1))
			return CUDA_ERROR_OPERATING_SYSTEM;
		close(descriptor);
		munmap(it->host, it->size);
		it->host = NULL;
	}
	open_nodes(now);
	return CUDA_SUCCESS;
}
