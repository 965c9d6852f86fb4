// SPDX-License-Identifier: Apache-2.0
/*
 * Times system calls of sockets. Each line of standard input is `CALL ADDRESS PORT COUNT`; the answer is
 * the mean nanoseconds of one, or `error: ...`. Stays in the network namespace and cgroup it is started in.
 *
 * The time is that of the processor: of all that runs on a busy machine meanwhile it leaves out most, and
 * none of these calls sleeps.
 *
 * CALL: connect (UDP), send (UDP, not connected), name (getpeername of a connected UDP socket),
 * life (UDP: socket, connect, close), open (TCP: the same), bind (TCP: socket, bind to ADDRESS and PORT,
 * close).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct place {
	struct sockaddr_storage address;
	socklen_t length;
	int family;
};

static int parse(struct place *place, const char *text, int port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&place->address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&place->address;

	memset(place, 0, sizeof(*place));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = place->family = AF_INET;
		v4->sin_port = htons(port);
		place->length = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
		return -1;
	v6->sin6_family = place->family = AF_INET6;
	v6->sin6_port = htons(port);
	place->length = sizeof(*v6);
	return 0;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

/* One call; 0, or -1 with errno. */
static int once(const char *call, int fd, const struct place *place)
{
	const struct sockaddr *address = (const struct sockaddr *)&place->address;
	struct linger at_once = { .l_onoff = 1 };
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);
	int made, failed;

	if (!strcmp(call, "connect"))
		return connect(fd, address, place->length);
	if (!strcmp(call, "send"))
		return sendto(fd, "x", 1, 0, address, place->length) == 1 ? 0 : -1;
	if (!strcmp(call, "name"))
		return getpeername(fd, (struct sockaddr *)&peer, &length);
	made = socket(place->family, strcmp(call, "life") ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (!strcmp(call, "bind"))
		failed = bind(made, address, place->length);
	else
		failed = connect(made, address, place->length);
	setsockopt(made, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)); /* no port stays in TIME-WAIT */
	return close(made) || failed ? -1 : 0;
}

static double measure(const char *call, const struct place *place, int count)
{
	int fd = socket(place->family, SOCK_DGRAM, 0), i;
	double start, end;

	if (!strcmp(call, "name") && connect(fd, (const struct sockaddr *)&place->address, place->length))
		return -1;
	if (once(call, fd, place))
		return -1;
	start = now();
	for (i = 0; i < count; i++) {
		if (once(call, fd, place))
			return -1;
	}
	end = now();
	close(fd);
	return (end - start) / count;
}

int main(void)
{
	char line[256], call[16], address[64];
	int port, count;

	while (fgets(line, sizeof(line), stdin)) {
		struct place place;
		double ns;

		if (sscanf(line, "%15s %63s %d %d", call, address, &port, &count) != 4 || parse(&place, address, port)) {
			printf("error: %s", line);
		} else {
			ns = measure(call, &place, count);
			if (ns < 0)
				printf("error: %s %s: %s\n", call, address, strerror(errno));
			else
				printf("%.1f\n", ns);
		}
		fflush(stdout);
	}
	return 0;
}
