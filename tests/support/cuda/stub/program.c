/* A cuda-checkpoint program over the stub, with the options of NVIDIA's (580). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stub.h"

static void *library;

static int fail(const char *what, int pid, CUresult result)
{
	static CUresult (*text_of)(CUresult, const char **);
	const char *text = NULL;
	*(void **)&text_of = dlsym(library, "cuGetErrorString");
	text_of(result, &text);
	fprintf(stderr, "Could not %s on process ID %d: \"%s\"\n", what, pid, text ? text : "unknown error");
	return 1;
}

static unsigned int read_pairs(char *text, CUcheckpointGpuPair *pairs)
{
	unsigned int count = 0;
	for (char *part = strtok(text, ","); part; part = strtok(NULL, ","), count++) {
		char *to = strchr(part, '=') + 1;
		uuid_bytes(&pairs[count].oldUuid, part + strlen("GPU-"));
		uuid_bytes(&pairs[count].newUuid, to + strlen("GPU-"));
	}
	return count;
}

static int launch_job(char **argv)
{
	char path[32];
	snprintf(path, sizeof path, "/proc/self/fd/%d", memfd_create("cuda-checkpoint-job", 0));
	setenv("CUDA_CHECKPOINT_JOB_FILE", path, 1);
	execvp(*argv, argv);
	return 127;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "--launch-job"))
		return launch_job(argv + 2);
	static const struct option options[] = {
		{ "get-state", no_argument, NULL, 's' }, { "get-restore-tid", no_argument, NULL, 'r' },
		{ "action", required_argument, NULL, 'a' }, { "pid", required_argument, NULL, 'p' },
		{ "timeout", required_argument, NULL, 't' }, { "device-map", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' }, { 0 },
	};
	static const char *states[] = { "running", "locked", "checkpointed", "failed" };
	CUcheckpointGpuPair pairs[MAX_DEVICES];
	CUcheckpointRestoreArgs restore = { 0 };
	CUcheckpointLockArgs lock = { 0 };
	const char *action = "";
	int option, pid = 0, value;
	while ((option = getopt_long(argc, argv, "p:t:d:h", options, NULL)) != -1)
		switch (option) {
		case 's': action = "get-state"; break;
		case 'r': action = "get-restore-tid"; break;
		case 'a': action = optarg; break;
		case 'p': pid = atoi(optarg); break;
		case 't': lock.timeoutMs = atoi(optarg); break;
		case 'd': restore.gpuPairs = pairs; restore.gpuPairsCount = read_pairs(optarg, pairs); break;
		default: puts("--get-state --action --get-restore-tid --device-map"); return 0;
		}
	const char *path = getenv("STUB_CUDA_LIBRARY");
	library = dlopen(path ? path : "/opt/stub/libcuda.so.1", RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	CUresult (*call)();
	char symbol[64] = "cuCheckpointProcess";
	*(void **)&call = dlsym(library, "cuInit");
	CUresult result = call(0);
	if (result)
		return fail("initialize CUDA", pid, result);
	if (!strcmp(action, "get-state") || !strcmp(action, "get-restore-tid")) {
		strcat(symbol, strcmp(action, "get-state") ? "GetRestoreThreadId" : "GetState");
		*(void **)&call = dlsym(library, symbol);
		if ((result = call(pid, &value)))
			return fail(action, pid, result);
		if (strcmp(action, "get-state"))
			printf("%d\n", value);
		else
			puts(states[value]);
		return 0;
	}
	strcat(symbol, action);
	symbol[strlen("cuCheckpointProcess")] -= 'a' - 'A';
	*(void **)&call = dlsym(library, symbol);
	void *args = !strcmp(action, "lock") ? (void *)&lock : restore.gpuPairsCount ? &restore : NULL;
	result = call(pid, args);
	return result ? fail(action, pid, result) : 0;
}
