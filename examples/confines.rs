//! Makes port sharing impossible and then executes the rest of its arguments: `confines refused|outer COMMAND...`
//!
//! `refused`: as under a container's profile that does not know seccomp(2), the call fails with EPERM.
//! `outer`: as inside another program that watches its container's calls, somebody else has the one notification descriptor.
//!
//! Shows: what clusterinit says where it cannot share.
#![expect(unsafe_code, reason = "seccomp(2), fork(2) and prctl(2)")]

use std::env;
use std::error::Error;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork, pause};

/// The number of the call in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// `BPF_LD | BPF_W | BPF_ABS`
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let kind = words.next().unwrap_or_default();
    let command = words.next().ok_or("usage: confines refused|outer COMMAND...")?;
    nix::sys::prctl::set_no_new_privs()?;
    match kind.as_str() {
        "refused" => {
            let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
            install(libc::SYS_seccomp, refusal, 0)?;
        }
        "outer" => {
            // A call that nobody makes: nothing ever waits for an answer.
            install(libc::SYS_swapoff, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
            // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
            if let ForkResult::Child = unsafe { fork() }? {
                // The descriptor closes at our exec; the child holds it as long as the container lives.
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                loop {
                    pause();
                }
            }
        }
        _ => return Err(format!("what is {kind}?").into()),
    }
    Err(Command::new(command).args(words).exec().into())
}

/// A filter that answers one call with `action` and allows all others.
fn install(call: i64, action: u32, flags: libc::c_ulong) -> Result<(), Box<dyn Error>> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_IF_EQUAL, 0, 1, u32::try_from(call)?),
        step(RETURN, 0, 0, action),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: u16::try_from(steps.len())?, filter: steps.as_mut_ptr() };
    // SAFETY: the program and its steps live until the call returns; the kernel copies them.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if answer < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
