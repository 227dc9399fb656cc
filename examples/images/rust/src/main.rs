//! A server without any shutdown code, as most are; each worker runs it, and all share the port.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process;
use std::thread;

fn main() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || serve(&connection));
    }
    Ok(())
}

/// Requests without a body, until the client closes or asks to.
fn serve(connection: &TcpStream) -> io::Result<()> {
    let worker = env::var("CLUSTERINIT_WORKER_ID").unwrap_or_else(|_| "0".to_owned());
    let body = format!("{{\"worker\":{worker},\"pid\":{}}}\n", process::id());
    let mut lines = BufReader::new(connection).lines();
    while let Some(mut line) = lines.next().transpose()? {
        let mut last = false;
        while !line.is_empty() {
            last |= line.eq_ignore_ascii_case("connection: close");
            let Some(next) = lines.next().transpose()? else { return Ok(()) };
            line = next;
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        (&*connection).write_all(answer.as_bytes())?;
        if last {
            break;
        }
    }
    Ok(())
}
