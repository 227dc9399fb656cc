//! Node's cluster protocol, from the primary's side: programs written for `cluster`, and plain servers, run as our workers unchanged.
//!
//! ```text
//! worker (node)                        channel (socket pair, a JSON text a line)        clusterinit
//! listen()            -- queryServer -->                                         servers: what is shared under this key
//!                     <-- its accept queue, or an error ---------------------
//! process.send(x)     -- x -->                                                   routing: to whom, or a line in the log
//!                     <-- disconnect ----------------------------------------    it finishes what it has and ends by itself
//! ```
//! Nothing of ours is on the data path: a worker gets the lane that any other program gets (`share`), only by another way. Round
//! robin, where the user asks for it, is the exception: we accept, and hand connections over one by one.
//!
//! | file | what |
//! |---|---|
//! | `command.rs` | PURE: is it node with a script? |
//! | `message.rs` | PURE: one line, read and written |
//! | `routing.rs` | PURE: what becomes of a message of a program |
//! | `log4js.rs` | PURE: a log event of log4js as a line |
//! | `metrics.rs` | PURE: prom-client's metrics of all workers as one text |
//! | `rotation.rs` | PURE: whose turn it is, and connections that nobody has taken yet |
//! | `lines.rs` | PURE: bytes -> lines, bounded |
//! | `channel.rs` | one worker's channel: descriptors, acknowledgements, heartbeats |
//! | `servers.rs` | what workers share, by key |
//! | `preload.js` | what a worker runs first (`NODE_OPTIONS`) |
//!
//! Protocol: `lib/internal/cluster` and `lib/internal/child_process.js` of Node 16 to 24.

pub mod channel;
pub mod command;
pub mod lines;
pub mod log4js;
pub mod message;
pub mod metrics;
pub mod rotation;
pub mod routing;
pub mod servers;

/// What a worker runs before its program, as `NODE_OPTIONS` takes it: no file is needed. (Everything but letters and digits is escaped:
/// `NODE_OPTIONS` is split at blanks.)
pub fn preload() -> String {
    use std::fmt::Write;
    let mut option = "--import=data:text/javascript,".to_owned();
    for line in include_str!("preload.js").lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        for byte in line.bytes().chain([b'\n']) {
            if byte.is_ascii_alphanumeric() {
                option.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(option, "%{byte:02X}");
            }
        }
    }
    option
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_preload_is_one_word() {
        let word = super::preload();
        let code = word.strip_prefix("--import=data:text/javascript,").expect("a module");
        assert!(code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'), "{code}");
        assert!(word.len() < 8_000, "{}: every worker carries it in its environment", word.len());
    }
}
