//! Our own memory.
#![expect(unsafe_code, reason = "mallctl, madvise, and where the linker put our code")]

/// Gives all that was freed back to the kernel. At the end of a turn rather than at each `free`, which would take pages away that
/// the next call needs again: half of the page faults of a start.
pub fn give_back() {
    // Only what is shipped has jemalloc.
    #[cfg(target_env = "musl")]
    // SAFETY: the name is NUL-terminated, `purge` neither reads nor writes a value, and a failure changes nothing. 4096 stands for
    // all arenas (`man 3 jemalloc`, MALLCTL_ARENAS_ALL).
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.purge".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        )
    };
}

unsafe extern "C" {
    /// The first byte of the program in memory. The linker provides both names (`man 3 end`).
    static __executable_start: u8;
    /// The first byte behind its code.
    static etext: u8;
}

/// Forgets which pages of our own file were needed so far: most of the code that has run (a start, say) will not run
/// again soon. What is needed later is mapped anew, from the page cache. Nothing in these pages is ours to lose: they are read-only.
pub fn forget_pages() {
    let page = 4096_usize.max(
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .map_or(0, |size| usize::try_from(size).unwrap_or(0)),
    );
    let begin = (&raw const __executable_start).addr().next_multiple_of(page);
    let end = (&raw const etext).addr() / page * page;
    if let Some(length) = end.checked_sub(begin) {
        // SAFETY: the range is within one program's read-only, file-backed segments, which the kernel reads again at the next touch.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(begin), length, libc::MADV_DONTNEED) };
    }
}
