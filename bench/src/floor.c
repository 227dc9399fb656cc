/* floor: the least a C PID 1 can do: fork and exec one child, block in waitpid(-1), exit with its status. Other inits are compared with it. */
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count < 2)
        return 64;
    pid_t child = fork();
    if (child == 0) {
        execvp(words[1], words + 1);
        _exit(127);
    }
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (ended < 0)
            return 70;
    }
}
