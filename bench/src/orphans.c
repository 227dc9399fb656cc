/* orphans: the load for measuring how an init reaps.
 *
 *   orphans N FILE    makes N double-forked orphans that wait on a pipe, then lets all of them exit at once, and waits until
 *                     the PID namespace holds none of them any more
 *
 * Prints one line of JSON to FILE ("-": stdout): made, drain_ms (from the release on, looked at every 0.5 ms), left (120 s later),
 * cpu_ms (run time of all threads of PID 1 for the whole of it). Run as PID 1's child, or entered from outside.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void rest(long us) {
    struct timespec wait = {0, us * 1000};
    nanosleep(&wait, NULL);
}

/* Run time of PID 1's threads, in ms. */
static double cpu_of_pid1(void) {
    DIR *tasks = opendir("/proc/1/task");
    struct dirent *task;
    double sum = 0;
    while (tasks && (task = readdir(tasks))) {
        char path[300];
        double ns = 0;
        snprintf(path, sizeof path, "/proc/1/task/%s/schedstat", task->d_name);
        FILE *file = isdigit(task->d_name[0]) ? fopen(path, "r") : NULL;
        if (file) {
            if (fscanf(file, "%lf", &ns) == 1)
                sum += ns;
            fclose(file);
        }
    }
    if (tasks)
        closedir(tasks);
    return sum / 1e6;
}

/* Orphans have the group of this process, zombies too; nothing else in the namespace has it. */
static int any_left(void) {
    DIR *all = opendir("/proc");
    struct dirent *entry;
    int found = 0;
    while (!found && (entry = readdir(all))) {
        int pid = atoi(entry->d_name);
        found = pid > 1 && pid != getpid() && getpgid(pid) == getpgrp();
    }
    closedir(all);
    return found;
}

/* A child whose child waits for the pipe's end; false when the kernel refuses. */
static int make(int go[2]) {
    pid_t middle = fork();
    if (middle < 0)
        return 0;
    if (middle == 0) {
        pid_t orphan = fork();
        if (orphan == 0) {
            char end;
            close(go[1]);
            while (read(go[0], &end, 1) < 0 && errno == EINTR)
                ;
        }
        _exit(orphan < 0);
    }
    int status;
    while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int count, char **words) {
    if (count < 3)
        return 64;
    int wanted = atoi(words[1]), made = 0, refused = 0, go[2];
    setpgid(0, 0);
    signal(SIGTTOU, SIG_IGN);
    if (pipe(go))
        return 71;
    rest(300000); /* the init settles */
    double cpu = cpu_of_pid1();
    while (made < wanted && refused < 20000) {
        if (make(go))
            made++;
        else {
            refused++;
            rest(1000);
        }
    }
    double release = now_ms(), drained = -1;
    close(go[1]);
    while (drained < 0 && now_ms() < release + 120000) {
        if (any_left())
            rest(500);
        else
            drained = now_ms() - release;
    }
    rest(50000);
    FILE *out = strcmp(words[2], "-") ? fopen(words[2], "w") : stdout;
    if (!out)
        return 73;
    fprintf(out, "{\"made\":%d,\"drain_ms\":%.1f,\"left\":%s,\"cpu_ms\":%.2f}\n", made, drained, drained < 0 ? "true" : "false",
            cpu_of_pid1() - cpu);
    return fclose(out) != 0;
}
