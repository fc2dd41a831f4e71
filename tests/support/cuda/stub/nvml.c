/* libnvidia-ml.so.1: what the devices are and how much of their memory is free, without a context. */
#include <stdio.h>
#include <string.h>

#include "stub.h"

typedef struct { unsigned long long total, free, used; } memory_t;

static struct config config;

EXPORT int nvmlInit_v2(void)
{
	read_config(&config);
	return 0;
}

EXPORT int nvmlShutdown(void) { return 0; }

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	snprintf(version, length, "%s", config.driver);
	return 0;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
	for (int i = 0; i < config.count; i++)
		if (!strcmp(uuid + strlen("GPU-"), config.devices[i].uuid)) {
			*device = &config.devices[i];
			return 0;
		}
	return 6; /* NVML_ERROR_NOT_FOUND */
}

EXPORT int nvmlDeviceGetMemoryInfo(struct device *device, memory_t *memory)
{
	memory->total = device->memory_bytes;
	memory->used = used_bytes(device->uuid);
	memory->free = memory->total - memory->used;
	return 0;
}

EXPORT int nvmlDeviceGetMigMode(struct device *device, unsigned int *current, unsigned int *pending)
{
	*current = *pending = device->is_mig;
	return 0;
}

EXPORT int nvmlDeviceGetMinorNumber(struct device *device, unsigned int *minor)
{
	*minor = device->minor;
	return 0;
}
