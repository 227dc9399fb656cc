//! Writes what its words say: `writes lines:1000:80 err:oops part:unfinished abort`.
//!
//! | word | what it does |
//! |---|---|
//! | `out:TEXT`, `err:TEXT` | a line to stdout or stderr; `\n` and `\r` in the text are what they are in C |
//! | `part:TEXT` | the same to stdout, without its end |
//! | `lines:N:LENGTH` | N lines to stdout, numbered, of about this length, in writes that end where a line does not |
//! | `json:N:LENGTH` | N objects `{"n":0,"pad":"..."}`, likewise |
//! | `flood` | lines of 100 bytes to stdout, without end |
//! | `endless` | bytes to stdout that are no line, without end |
//! | `touch:FILE` | makes a file: so far it has come |
//! | `inode` | a line with the device, inode and kind of its stdout and stderr |
//! | `wait`, `exit:N`, `abort` | for ever; with this status; by SIGABRT |
#![expect(clippy::disallowed_methods, clippy::exit, reason = "an example is a program of its own")]

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::stat::fstat;

/// A write that ends where no line does.
const ODD: usize = 7919;

fn main() -> io::Result<()> {
    for word in env::args().skip(1) {
        let (verb, argument) = word.split_once(':').unwrap_or((&word, ""));
        play(verb, argument)?;
    }
    Ok(())
}

fn play(verb: &str, argument: &str) -> io::Result<()> {
    let text = argument.replace("\\n", "\n").replace("\\r", "\r");
    match verb {
        "out" => say(format!("{text}\n").as_bytes()),
        "err" => io::stderr().write_all(format!("{text}\n").as_bytes()),
        "part" => say(text.as_bytes()),
        "lines" => many(argument, |number, pad| format!("{number} {pad} {number}\n")),
        "json" => many(argument, |number, pad| format!("{{\"n\":{number},\"pad\":\"{pad}\"}}\n")),
        "flood" => loop {
            let line = format!("{}\n", "flood ".repeat(17));
            say(line.repeat(600).as_bytes())?;
        },
        "endless" => loop {
            say(&vec![b'x'; 1 << 16])?;
        },
        "touch" => File::create(argument).map(drop),
        "inode" => {
            let (out, err) = (fstat(io::stdout())?, fstat(io::stderr())?);
            let seen = [out, err].map(|stat| format!("{}:{}:{:o}", stat.st_dev, stat.st_ino, stat.st_mode));
            say(format!("{}\n", seen.join(" ")).as_bytes())
        }
        "wait" => loop {
            thread::sleep(Duration::from_secs(1));
        },
        "exit" => process::exit(argument.parse().map_err(io::Error::other)?),
        "abort" => process::abort(),
        _ => Err(io::Error::other(format!("no such word: {verb}"))),
    }
}

/// Not line by line, as Rust's stdout would.
fn say(bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = nix::unistd::write(io::stdout(), rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn many(argument: &str, line: impl Fn(usize, &str) -> String) -> io::Result<()> {
    let (count, length) = argument.split_once(':').ok_or_else(|| io::Error::other("N:LENGTH"))?;
    let (count, length): (usize, usize) = (count.parse().map_err(io::Error::other)?, length.parse().map_err(io::Error::other)?);
    let pad = "x".repeat(length);
    let mut waiting = Vec::new();
    for number in 0..count {
        waiting.extend_from_slice(line(number, &pad).as_bytes());
        while waiting.len() > ODD {
            let rest = waiting.split_off(ODD);
            say(&waiting)?;
            waiting = rest;
        }
    }
    say(&waiting)
}
