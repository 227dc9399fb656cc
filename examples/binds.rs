//! A server for one client: `binds ADDRESS` listens, tells whoever connects where it listens, and ends with 0; where the kernel refuses
//! something it ends with the errno.
//!
//! Shows: what a server that knows nothing of clusterinit sees of the answers to its `bind` and `listen`.

use std::env;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let address = env::args().nth(1).unwrap_or_default();
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(u8::MAX)),
    }
}

fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let (mut client, _) = listener.accept()?;
    write!(client, "{}", listener.local_addr()?)
}
