/* probe: asks a health endpoint again and again, and keeps each answer's time.
 *
 *   probe PORT PATH WANTED FILE    one connection per question, about 500 a second, until FILE exists no more;
 *                                  prints "COUNT WRONG P50_US P99_US MOST_US"
 *
 * WANTED is the start of the expected status line. An answer later than 2 s counts as wrong.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000000 };
static double times[MOST];

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int ask(int port, const char *path, const char *wanted) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {2, 0};
    char text[4096];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    int right = 0;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) {
        int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", path);
        if (write(fd, text, length) == length) {
            ssize_t got = read(fd, text, sizeof text);
            right = got >= (ssize_t)strlen(wanted) && !memcmp(text, wanted, strlen(wanted));
        }
    }
    close(fd);
    return right;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int count, char **words) {
    if (count < 5)
        return 64;
    int asked = 0, wrong = 0;
    while (access(words[4], F_OK) == 0 && asked < MOST) {
        double start = now_us();
        wrong += !ask(atoi(words[1]), words[2], words[3]);
        times[asked++] = now_us() - start;
        usleep(2000);
    }
    qsort(times, asked, sizeof times[0], by_size);
    if (asked)
        printf("%d %d %.0f %.0f %.0f\n", asked, wrong, times[asked / 2], times[asked * 99L / 100], times[asked - 1]);
    return 0;
}
