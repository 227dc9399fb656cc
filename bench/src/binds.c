/* binds: how long a worker's bind and listen take.
 *
 *   binds PORT ROUNDS GO OUT    listens on PORT and stays; the last worker of all waits for the file GO, then makes, binds, listens
 *                               on and closes a socket, on PORT + 1, ROUNDS times, and writes "BIND_NS LISTEN_NS" (medians) to OUT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

static long long median(long long *all, int count) {
    qsort(all, count, sizeof *all, by_size);
    return all[count / 2];
}

/* The times of the two calls. */
static int open_port(int port, long long *bound, long long *listened) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    long long began = now();
    int refused = bind(fd, (struct sockaddr *)&at, sizeof at);
    long long between = now();
    refused |= listen(fd, 128);
    *bound = between - began;
    *listened = now() - between;
    if (refused) {
        perror("binds");
        exit(71);
    }
    return fd;
}

int main(int count, char **words) {
    if (count < 5)
        return 64;
    int port = atoi(words[1]), rounds = atoi(words[2]);
    long long *bound = calloc(rounds, sizeof *bound), *listened = calloc(rounds, sizeof *listened), first, second;
    const char *own = getenv("CLUSTERINIT_WORKER_ID"), *all = getenv("CLUSTERINIT_WORKER_COUNT");
    open_port(port, &first, &second);
    /* Everybody holds the port that is measured; the last one gets its own as all the others did. */
    int last = !own || !all || atoi(own) == atoi(all) - 1;
    if (!last)
        open_port(port + 1, &first, &second);
    while (last && access(words[3], F_OK))
        usleep(10000);
    if (last) {
        for (int i = 0; i < rounds; i++)
            close(open_port(port + 1, &bound[i], &listened[i]));
        FILE *out = fopen(words[4], "w");
        fprintf(out, "%lld %lld\n", median(bound, rounds), median(listened, rounds));
        fclose(out);
    }
    for (;;)
        pause();
}
