/* What all processes of a node see: its GPUs, the faults a test asks for, and the log. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

void node_path(char *path, size_t size, const char *format, ...)
{
	const char *root = getenv("STUB_CUDA");
	int length = snprintf(path, size, "%s/", root && *root ? root : "/gpu");
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(path + length, size - length, format, arguments);
	va_end(arguments);
}

/* Which GPUs a container is given: NVIDIA_VISIBLE_DEVICES of its PID 1, as nvidia-container-toolkit reads it. */
static void read_given(char *given, size_t size)
{
	static const char name[] = "NVIDIA_VISIBLE_DEVICES=";
	char text[65536];
	FILE *file = fopen("/proc/1/environ", "re");
	size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
	if (file)
		fclose(file);
	text[length] = 0;
	*given = 0;
	for (char *entry = text; entry < text + length; entry += strlen(entry) + 1)
		if (!strncmp(entry, name, sizeof name - 1))
			snprintf(given, size, "%s", entry + sizeof name - 1);
	if (!strcmp(given, "all") || !strcmp(given, "void") || !strcmp(given, "none"))
		*given = 0;
}

/* Whether a list of indices and UUIDs, separated by commas, has a GPU. */
int is_named(const char *list, int index, const char *uuid)
{
	char text[1024], *rest;
	snprintf(text, sizeof text, "%s", list);
	for (char *part = strtok_r(text, ",", &rest); part; part = strtok_r(NULL, ",", &rest))
		if (strncmp(part, "GPU-", 4) ? atoi(part) == index : !strcmp(part + 4, uuid))
			return 1;
	return 0;
}

void read_config(struct config *config)
{
	char given[1024];
	int index = 0;
	read_given(given, sizeof given);
	char path[256], line[256], flag[16];
	node_path(path, sizeof path, "config");
	memset(config, 0, sizeof *config);
	strcpy(config->driver, "580.65.06");
	config->api = 13000;
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file)) {
		struct device *device = &config->devices[config->count];
		unsigned long long mib;
		*flag = 0;
		if (sscanf(line, "device %36s %63s %llu %d %15s", device->uuid, device->name, &mib, &device->minor, flag) >= 4) {
			device->memory_bytes = mib << 20;
			device->is_mig = !strcmp(flag, "mig");
			for (char *c = device->name; *c; c++)
				if (*c == '_')
					*c = ' ';
			if (!*given || is_named(given, index++, device->uuid))
				config->count++;
		}
		sscanf(line, "driver %31s", config->driver);
		sscanf(line, "api %d", &config->api);
		sscanf(line, "init_ms %d", &config->init_ms);
		if (sscanf(line, "host %15s", flag) == 1)
			config->host_is_memfd = !strcmp(flag, "memfd");
		if (!strncmp(line, "coupled", 7))
			config->is_coupled = 1;
	}
	if (file)
		fclose(file);
}

const char *call_name(enum call call)
{
	static const char *names[] = { "", "state", "tid", "lock", "checkpoint", "restore", "unlock" };
	return names[call];
}

static int is_first_time(int line)
{
	char path[256];
	node_path(path, sizeof path, "once.%d", line);
	int descriptor = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (descriptor >= 0)
		close(descriptor);
	return descriptor >= 0;
}

struct fault read_fault(const char *call, uint32_t rank)
{
	struct fault fault = { 0 };
	char path[256], line[256], wanted_call[32], wanted_rank[16];
	node_path(path, sizeof path, "faults");
	FILE *file = fopen(path, "re");
	for (int number = 0; file && fgets(line, sizeof line, file); number++) {
		if (sscanf(line, "%31s %15s", wanted_call, wanted_rank) != 2 || strcmp(wanted_call, call))
			continue;
		if (strcmp(wanted_rank, "*") && (uint32_t)atoi(wanted_rank) != rank)
			continue;
		if (strstr(line, " once") && !is_first_time(number))
			continue;
		const char *found;
		if ((found = strstr(line, "error=")))
			fault.error = atoi(found + 6);
		if ((found = strstr(line, "delay_ms=")))
			fault.delay_ms = atoi(found + 9);
		fault.fails = strstr(line, "state=failed") != NULL;
		fault.hangs = strstr(line, " hang") != NULL;
		fault.is_deaf = strstr(line, " deaf") != NULL;
		fault.dies = strstr(line, " die") != NULL;
		break;
	}
	if (file)
		fclose(file);
	return fault;
}

void note(enum call call, int pid, uint32_t rank, CUresult result)
{
	char path[256], line[96];
	node_path(path, sizeof path, "log");
	int length = snprintf(line, sizeof line, "%s %d %u %d\n", call_name(call), pid, rank, result);
	int descriptor = open(path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0666);
	if (descriptor < 0)
		return;
	if (write(descriptor, line, length) != length)
		abort();
	close(descriptor);
}

int is_alive(int pid)
{
	char path[64], line[256];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	char *end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
	fclose(file);
	return end && end[2] != 'Z' && end[2] != 'X';
}

uint64_t used_bytes(const char *uuid)
{
	char path[512];
	uint64_t used = 0;
	node_path(path, sizeof path, "mem");
	DIR *directory = opendir(path);
	struct dirent *entry;
	while (directory && (entry = readdir(directory))) {
		struct stat found;
		int pid;
		if (strncmp(entry->d_name, uuid, 36) || sscanf(entry->d_name + 36, ".%d.", &pid) != 1)
			continue;
		node_path(path, sizeof path, "mem/%s", entry->d_name);
		if (pid && !is_alive(pid)) /* pid 0: memory of somebody else's, which a test put there */
			continue;
		if (!stat(path, &found))
			used += found.st_size;
	}
	if (directory)
		closedir(directory);
	return used;
}

/* The one process of the node that is locked, where ranks are coupled: a link to its pid, made by whoever is first. */
int hold_others(void)
{
	char path[256], pid[16], holder[16];
	node_path(path, sizeof path, "holder");
	snprintf(pid, sizeof pid, "%d", getpid());
	if (!symlink(pid, path))
		return 1;
	ssize_t length = readlink(path, holder, sizeof holder - 1);
	if (length < 0)
		return 0;
	holder[length] = 0;
	if (atoi(holder) != getpid() && !is_alive(atoi(holder)))
		unlink(path);
	return atoi(holder) == getpid();
}

void release_others(void)
{
	char path[256];
	node_path(path, sizeof path, "holder");
	unlink(path);
}

void sleep_ms(int ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000L };
	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

void uuid_text(char text[37], const CUuuid *uuid)
{
	const unsigned char *b = (const unsigned char *)uuid->bytes;
	snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
		 b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

void uuid_bytes(CUuuid *uuid, const char *text)
{
	for (int i = 0; i < 16; i++) {
		while (*text == '-')
			text++;
		unsigned int byte = 0;
		sscanf(text, "%2x", &byte);
		uuid->bytes[i] = (char)byte;
		text += 2;
	}
}

int futex_wait(uint32_t *word, uint32_t seen, int ms)
{
	struct timespec limit = { ms / 1000, ms % 1000 * 1000000L };
	return syscall(SYS_futex, word, FUTEX_WAIT, seen, ms < 0 ? NULL : &limit, NULL, 0);
}

void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}
