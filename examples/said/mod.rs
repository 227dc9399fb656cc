//! What an example says to its supervisor: one message on `NOTIFY_SOCKET` (`man 3 sd_notify`), as any server can say it without a library.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `message` (`READY=1`, `STATUS=...`); false where nobody asked to be notified.
pub(crate) fn to_supervisor(message: &str) -> io::Result<bool> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(name) => {
            UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address(&name)?)?;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// A name that begins with `@` lives in the abstract namespace and is no file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
