/* serve: the smallest HTTP server that wrk can be pointed at; one thread, epoll, keep-alive.
 *
 *   serve PORT                     binds and listens as any server does
 *   serve PORT reuseport COPIES    so many copies, each with a socket of its own and SO_REUSEPORT
 *
 * A request is what one read returns. The answer is the worker's number or, without one, the pid.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char kept[256], closing[256];

static void die(const char *what) {
    perror(what);
    exit(71);
}

static int listening(int port, int reuse) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (reuse && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0)
        die("serve: SO_REUSEPORT");
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4096) < 0)
        die("serve: bind");
    return fd;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void answer(int fd) {
    char request[4096];
    ssize_t length = read(fd, request, sizeof request - 1);
    if (length <= 0) {
        if (length == 0)
            close(fd);
        return;
    }
    request[length] = 0;
    int last = strcasestr(request, "connection: close") != NULL;
    const char *text = last ? closing : kept;
    if (write(fd, text, strlen(text)) < 0 || last)
        close(fd);
}

static void serve(int port, int reuse) {
    int listener = listening(port, reuse), epoll = epoll_create1(EPOLL_CLOEXEC), one = 1;
    const char *worker = getenv("CLUSTERINIT_WORKER_ID");
    char body[32];
    snprintf(body, sizeof body, "%s\n", worker ? worker : "");
    if (!worker)
        snprintf(body, sizeof body, "%d\n", getpid());
    const char *form = "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n%s";
    snprintf(kept, sizeof kept, form, strlen(body), "keep-alive", body);
    snprintf(closing, sizeof closing, form, strlen(body), "close", body);
    watch(epoll, listener);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd != listener) {
                answer(events[i].data.fd);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(epoll, fd);
            }
        }
    }
}

int main(int count, char **words) {
    if (count < 2)
        return 64;
    int port = atoi(words[1]);
    if (count < 4)
        serve(port, 0);
    for (int copies = atoi(words[3]); copies > 0; copies--)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, 9);
            serve(port, 1);
        }
    while (wait(NULL) > 0)
        ;
    return 0;
}
