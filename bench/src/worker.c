/* worker: what the inits run in the benchmark. The first thing it does is to take the time.
 *
 *   worker FILE exit        appends "NS PID" to FILE and exits 0
 *   worker FILE stay        appends "NS PID", says READY=1 where somebody asks, and waits
 *   worker FILE crash MS    as stay, then dies by SIGKILL after MS to 1.3 * MS milliseconds
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void say_ready(void) {
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = name ? strlen(name) : 0;
    if (!length || length > sizeof to.sun_path)
        return;
    memcpy(to.sun_path, name, length);
    if (name[0] == '@')
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + length);
    close(fd);
}

int main(int count, char **words) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (count < 3)
        return 64;
    char line[64];
    int length = snprintf(line, sizeof line, "%lld %d\n", now.tv_sec * 1000000000LL + now.tv_nsec, getpid());
    int fd = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (fd < 0 || write(fd, line, length) != length)
        return 74;
    close(fd);
    if (!strcmp(words[2], "exit"))
        return 0;
    say_ready();
    if (!strcmp(words[2], "crash") && count > 3) {
        long ms = atol(words[3]);
        ms += (now.tv_nsec / 1000 + getpid()) % (ms * 3 / 10 + 1);
        struct timespec life = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&life, NULL);
        kill(getpid(), SIGKILL);
    }
    for (;;)
        pause();
}
