//! Our own memory.
#![expect(unsafe_code, reason = "mallctl")]

/// Gives all that was freed back to the kernel. At the end of a turn rather than at each `free`, which would take pages away that
/// the next call needs again: half of the page faults of a start.
pub fn give_back() {
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
