/* launch: starts an init as PID 1 of a fresh PID namespace and takes the time of its exec.
 *
 *   launch run COMMAND...          prints "EXEC_NS END_NS STATUS" when it has ended
 *   launch term US COMMAND...      sends TERM, US microseconds after the exec was seen; prints "lost", or "STATUS" of the end;
 *                                  lost: PID 1 still lives 1.5 s later (it is killed then)
 *   launch stay FILE COMMAND...    writes "EXEC_NS PID" (PID as the host counts) to FILE, then waits for the end
 *
 * Needs root. The init gets a /proc and a network namespace of its own, so that side ports do not meet. Times are CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(71);
}

static void loopback_up(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
        die("launch: loopback");
    close(fd);
}

/* The child tells the time of its exec through a pipe whose end, by close-on-exec, says that the exec has happened. */
static pid_t start(char **command, int *told) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0 || unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET) < 0)
        die("launch: namespaces");
    loopback_up();
    pid_t child = fork();
    if (child < 0)
        die("launch: fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0)
            die("launch: /proc");
        long long at = now();
        if (write(ends[1], &at, sizeof at) != sizeof at)
            _exit(71);
        execvp(command[0], command);
        perror(command[0]);
        _exit(127);
    }
    close(ends[1]);
    *told = ends[0];
    return child;
}

static long long exec_time(int told) {
    long long at;
    char more;
    if (read(told, &at, sizeof at) != sizeof at)
        die("launch: no exec");
    while (read(told, &more, 1) > 0)
        ;
    return at;
}

static int status_of(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int send_term(long long wait_us, char **command) {
    int told, status;
    pid_t child = start(command, &told);
    int ended = (int)syscall(SYS_pidfd_open, child, 0);
    exec_time(told);
    long long due = now() + wait_us * 1000;
    while (now() < due)
        ;
    kill(child, SIGTERM);
    struct pollfd end = {.fd = ended, .events = POLLIN};
    if (poll(&end, 1, 1500) == 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        puts("lost");
        return 0;
    }
    waitpid(child, &status, 0);
    printf("%d\n", status_of(status));
    return 0;
}

int main(int count, char **words) {
    int told, status;
    if (count > 2 && !strcmp(words[1], "run")) {
        pid_t child = start(words + 2, &told);
        long long at = exec_time(told);
        waitpid(child, &status, 0);
        printf("%lld %lld %d\n", at, now(), status_of(status));
        return 0;
    }
    if (count > 3 && !strcmp(words[1], "term"))
        return send_term(atoll(words[2]), words + 3);
    if (count > 3 && !strcmp(words[1], "stay")) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pid_t child = start(words + 3, &told);
        long long at = exec_time(told);
        FILE *file = fopen(words[2], "w");
        if (!file)
            die(words[2]);
        fprintf(file, "%lld %d\n", at, child);
        fclose(file);
        waitpid(child, &status, 0);
        return status_of(status);
    }
    fputs("usage: launch run COMMAND... | term US COMMAND... | stay FILE COMMAND...\n", stderr);
    return 64;
}
