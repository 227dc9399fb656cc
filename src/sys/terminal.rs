//! The terminal's foreground process group (`man 3 tcsetpgrp`): lent to a single worker, so that Ctrl-C and job control are its own.

use std::io;

use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};

/// Whether stdin is our terminal and we are in the foreground: only then is it ours to lend. From the background of a shell
/// (`clusterinit -- ... &`) it would be taken away from whoever types there.
pub fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}

/// Back from a worker that has ended: whoever started us may want to read there next, and its group is ours. TTOU must be ignored.
pub fn take_back() {
    // Where it has gone (a hang-up) there is nothing to take.
    let _ = tcsetpgrp(io::stdin(), getpgrp());
}
