//! Extended attributes (`man 7 xattr`): what a file, or whatever a path leads to, says of itself under a name.
#![expect(unsafe_code, reason = "getxattr, which nix does not have")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reads an attribute and answers its length. Links are followed. Into an empty buffer nothing is read: the length alone.
pub fn read(path: &Path, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: two live NUL-terminated strings, and a live buffer of the length that is said.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_says_its_protocol() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let mut name = [0; 32];
        let length = read(Path::new(&path), c"system.sockprotoname", &mut name).expect("a socket has it");
        assert_eq!(&name[..length], b"TCP\0");
        assert_eq!(read(Path::new(&path), c"system.sockprotoname", &mut []).ok(), Some(4));
        assert_eq!(read(Path::new("/proc/self/none"), c"user.x", &mut []).expect_err("not there").raw_os_error(), Some(2));
    }
}
