/* A node with SELinux, as far as extended attributes go: every file has a label, which a container may read and not set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/types.h>

static const char name[] = "security.selinux";
static const char label[] = "system_u:object_r:container_file_t:s0:c1,c2";

static ssize_t listed(ssize_t size, char *list, size_t room)
{
	if (size < 0)
		return size;
	if (room && room < size + sizeof(name)) {
		errno = ERANGE;
		return -1;
	}
	if (room)
		memcpy(list + size, name, sizeof(name));
	return size + sizeof(name);
}

static ssize_t got(void *value, size_t room)
{
	if (room && room < sizeof(label)) {
		errno = ERANGE;
		return -1;
	}
	if (room)
		memcpy(value, label, sizeof(label));
	return sizeof(label);
}

static int refused(void)
{
	errno = EACCES;
	return -1;
}

#define NEXT(call) ((__typeof__(&call))dlsym(RTLD_NEXT, #call))
#define LABELLED(prefix, file_type)                                                                 \
	ssize_t prefix##listxattr(file_type which, char *list, size_t room)                         \
	{                                                                                           \
		return listed(NEXT(prefix##listxattr)(which, list, room), list, room);              \
	}                                                                                           \
	ssize_t prefix##getxattr(file_type which, const char *key, void *value, size_t room)        \
	{                                                                                           \
		return strcmp(key, name) ? NEXT(prefix##getxattr)(which, key, value, room)          \
					 : got(value, room);                                        \
	}                                                                                           \
	int prefix##setxattr(file_type which, const char *key, const void *value, size_t size, int flags) \
	{                                                                                           \
		return strcmp(key, name) ? NEXT(prefix##setxattr)(which, key, value, size, flags)   \
					 : refused();                                               \
	}

LABELLED(, const char *)
LABELLED(l, const char *)
LABELLED(f, int)
