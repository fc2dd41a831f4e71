/* A kernel without one sock_diag module: requests for FAMILY become such for AF_X25, which has none (ENOENT). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/netlink.h>
#include <sys/socket.h>

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags)
{
	ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
	int domain = 0, protocol = 0;
	socklen_t size = sizeof(int);

	getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size);
	getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &protocol, &size);
	if (domain == AF_NETLINK && protocol == NETLINK_SOCK_DIAG) {
		struct nlmsghdr *head = message->msg_iov[0].iov_base;
		unsigned char *family = NLMSG_DATA(head);
		if (*family == FAMILY)
			*family = AF_X25;
	}
	return next(descriptor, message, flags);
}
