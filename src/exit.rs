//! Each way to end, as a number that a container runtime understands.

use std::process::ExitCode;

/// `man 3 sysexits`: the command was used incorrectly. Usage and configuration.
pub const USAGE: u8 = 64;

/// `man 3 sysexits`: an internal error; something that the kernel never refuses was refused before the first worker.
pub const INTERNAL: u8 = 70;

/// The shells' "command found but not executable".
pub const NOT_EXECUTABLE: u8 = 126;

/// The shells' "command not found".
pub const NOT_FOUND: u8 = 127;

/// What a failed `exec` is called by shells.
pub fn of_exec_error(error: &std::io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

pub fn code(status: u8) -> ExitCode {
    ExitCode::from(status)
}
