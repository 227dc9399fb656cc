//! The probe on the real kernel: as whoever runs the tests, as nobody, and under filters that refuse one thing each.
#![expect(unsafe_code, reason = "tests fork, and put their children under filters")]

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use libc::sock_filter;
use nix::unistd::{ForkResult, fork, geteuid, pipe, setgroups, setresgid, setresuid};

use super::*;

const NOBODY: u32 = 65_534;

#[test]
fn it_works_here() {
    let works = probe().expect("a kernel of 5.9 or later, and nobody who forbids it");
    assert_eq!(works.needs_no_new_privs, lacks_privileges(), "needed without CAP_SYS_ADMIN, unless it is set already");
}

/// `CAP_SYS_ADMIN` is bit 21.
fn lacks_privileges() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("a /proc");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned();
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).expect("hexadecimal");
    capabilities & 1 << 21 == 0 && field("NoNewPrivs:") == "0"
}

#[test]
fn it_works_for_nobody_with_no_new_privs() {
    let said = in_child(|| {
        if geteuid().is_root() {
            setgroups(&[]).expect("root may");
            setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into()).expect("root may");
            setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into()).expect("root may");
        }
        assert!(lacks_privileges(), "who runs the tests has CAP_SYS_ADMIN or no_new_privs");
    });
    assert_eq!(said, "works, no_new_privs");
}

#[test]
fn a_listener_above_us_is_named() {
    let said = in_child(|| {
        let outer = Filter { program: filter::program(), no_new_privs: true };
        // Open until the child ends: it would answer, if it were asked.
        std::mem::forget(seccomp::install(&outer).expect("installed"));
    });
    assert!(said.contains("(EBUSY)") && said.contains("another clusterinit, Sysbox or LXD"), "{said}");
}

#[test]
fn a_profile_without_seccomp_is_named() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let said = in_child(|| forbid(libc::SYS_seccomp, None, refusal(errno)));
        let name = format!("({:?})", Errno::from_raw(errno));
        assert!(said.contains("seccomp profile does not allow seccomp(2)") && said.contains(&name), "{said}");
    }
    let said = in_child(|| forbid(libc::SYS_seccomp, None, libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!(said, "the container's seccomp profile kills who calls seccomp(2) (SIGSYS)");
}

#[test]
fn a_kernel_without_notifications_is_named() {
    let said = in_child(|| forbid(libc::SYS_seccomp, None, refusal(libc::EINVAL)));
    assert!(said.contains("older than 5.0, or it is gVisor's"), "{said}");
}

#[test]
fn a_kernel_that_knows_no_killable_wait_is_good_enough() {
    let killable = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let said = in_child(|| forbid(libc::SYS_seccomp, Some((1, u32::try_from(killable).unwrap())), refusal(libc::EINVAL)));
    assert!(said.starts_with("works"), "{said}");
}

#[test]
fn a_kernel_that_cannot_replace_a_socket_is_named() {
    let said = in_child(|| forbid(libc::SYS_ioctl, Some((1, request(libc::SECCOMP_IOCTL_NOTIF_ADDFD))), refusal(libc::EINVAL)));
    assert!(said.contains("older than 5.9"), "{said}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let said = in_child(|| forbid(libc::SYS_pread64, None, refusal(libc::EACCES)));
    assert!(said.starts_with("what workers call cannot be read (EACCES): "), "{said}");
    let said = in_child(|| forbid(libc::SYS_getxattr, None, refusal(libc::ENOENT)));
    assert!(said.contains("/proc is not mounted"), "{said}");
    let yama = unreadable(&io::Error::from_raw_os_error(libc::EACCES), Some("2"));
    assert!(yama.contains("kernel.yama.ptrace_scope is 2") && yama.contains("CAP_SYS_PTRACE"), "{yama}");
}

#[test]
fn a_kernel_that_takes_no_program_for_a_group_is_named() {
    let option = libc::SO_ATTACH_REUSEPORT_CBPF.cast_unsigned();
    let said = in_child(|| forbid(libc::SYS_setsockopt, Some((2, option)), refusal(libc::EPERM)));
    assert!(said.contains("(EPERM: SO_ATTACH_REUSEPORT_CBPF)"), "{said}");
}

#[test]
fn a_child_that_never_gets_its_answer_is_ended_in_time() {
    // A call that is refused with 0 does nothing and says that it did.
    let said = in_child(|| forbid(libc::SYS_ioctl, Some((1, request(libc::SECCOMP_IOCTL_NOTIF_SEND))), refusal(0)));
    assert_eq!(said, "trying it out took too long: the end of the try did not come within 300 ms");
}

#[test]
fn every_refusal_is_one_sentence_of_its_own() {
    let mut said = Vec::new();
    for errno in [Errno::EINVAL, Errno::EBUSY, Errno::EPERM, Errno::ENOSYS, Errno::EACCES, Errno::EMFILE, Errno::ENOMEM] {
        said.push(refused_by_install(errno).to_string());
        said.push(unreadable(&errno.into(), None));
        said.push(refused_by_put_over(&errno.into()).to_string());
    }
    for status in 1..5 {
        said.push(refused_by_end(Some(ExitStatus::Code(status))).to_string());
    }
    said.push(unreadable(&Errno::EPERM.into(), Some("2")));
    for sentence in &said {
        assert!(!sentence.contains('\n') && !sentence.contains("  ") && !sentence.ends_with('.'), "{sentence}");
    }
    let different: HashSet<&String> = said.iter().collect();
    assert_eq!(different.len(), said.len(), "{said:#?}");
}

#[test]
fn a_file_that_gives_rights_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server");
    let set = |mode| {
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
        privileged_file(&path)
    };
    let shown = path.display();
    assert_eq!(set(0o755), None);
    assert_eq!(set(0o4755), Some(format!("{shown} is setuid")));
    assert_eq!(set(0o2755), Some(format!("{shown} is setgid")));
    assert_eq!(set(0o2745), None, "mandatory locking, once");
    assert_eq!(privileged_file(&folder.path().join("none")), None);
}

// === who is asked ===

/// What the probe says in a process of its own that was prepared first. By libc's fork, since it allocates.
fn in_child(prepare: impl FnOnce()) -> String {
    let (ours, theirs) = pipe().expect("a pipe");
    // SAFETY: libc's fork leaves the allocator in order; the child uses nothing else of other threads.
    if let ForkResult::Parent { child } = unsafe { fork() }.expect("forked") {
        drop(theirs);
        let mut said = String::new();
        File::from(ours).read_to_string(&mut said).expect("text");
        assert_eq!(reap::wait_for_end(Pid(child.as_raw())), Some(ExitStatus::Code(0)), "{said}");
        return said;
    }
    prepare();
    let said = match probe() {
        Ok(Works { needs_no_new_privs: false }) => "works".to_owned(),
        Ok(Works { needs_no_new_privs: true }) => "works, no_new_privs".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    let left = reap::only_living_children() || reap::ended_child().is_some();
    let status = match nix::unistd::write(&theirs, said.as_bytes()) {
        Ok(_) if !left => 0,
        _ => 1,
    };
    // SAFETY: ends the child without the destructors of the test.
    unsafe { libc::_exit(status) }
}

fn refusal(errno: c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

/// Its lower half, whatever libc's type for it.
fn request(request: libc::Ioctl) -> u32 {
    let bytes = request.to_le_bytes();
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

/// As a container's profile does. `only`: where this argument has this value in its lower half.
fn forbid(number: libc::c_long, only: Option<(u32, u32)>, action: u32) {
    let load = |offset| sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let skip_unless = |value, skipped| sock_filter { code: 0x15, jt: 0, jf: skipped, k: value };
    let answer = |action| sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: action };
    let number = u32::try_from(number).unwrap();
    let mut program = match only {
        None => vec![load(0), skip_unless(number, 1)],
        Some((argument, value)) => vec![load(0), skip_unless(number, 3), load(16 + argument * 8), skip_unless(value, 1)],
    };
    program.extend([answer(action), answer(libc::SECCOMP_RET_ALLOW)]);
    let program = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) }, 0);
    // SAFETY: a live program.
    let installed = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(installed, 0, "{}", io::Error::last_os_error());
}
