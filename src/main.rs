//! The program: signals kept before `main`, the allocator, the command line, the exit status.

use std::process::ExitCode;

use clusterinit::{cli, exit, start, sys, telemetry};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One arena, no caches per thread: there is one thread. Read by jemalloc before its first allocation (`man 3 jemalloc`). What was
/// freed goes back to the kernel at the end of each turn of the loop (`sys::memory::give_back`), not at each `free`.
#[cfg(target_env = "musl")]
#[expect(unsafe_code, reason = "jemalloc looks for this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_OPTIONS: &std::ffi::c_char = {
    let options = c"narenas:1,tcache:false,dirty_decay_ms:1000,muzzy_decay_ms:0";
    // SAFETY: the pointer is to a NUL-terminated string that lives for ever.
    unsafe { &*options.as_ptr() }
};

/// Sorted before every other constructor (jemalloc has one).
#[expect(unsafe_code, reason = "a constructor: the kernel discards a signal that PID 1 has not blocked yet")]
#[used]
#[unsafe(link_section = ".init_array.00000")]
static BEFORE_MAIN: extern "C" fn() = sys::init::before_main;

fn main() -> ExitCode {
    let status = match cli::args::parse(std::env::args_os().skip(1)) {
        Ok(command) => start::run(command, &std::env::vars_os().collect()),
        Err(error) => {
            telemetry::complain(&error.to_string());
            exit::USAGE
        }
    };
    exit::code(status)
}
