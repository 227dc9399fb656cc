//! `CLUSTERINIT_OUTPUT=prefix`: what becomes of what workers write. PURE, and bounded; `runtime/output.rs` moves the bytes.
//!
//! ```text
//! worker's pipe -> Lines (whole lines) -> Label ([worker N] line) -> Backlog (waits for a reader, or is dropped) -> our stdout
//! ```
//! What holds, and why it was decided so:
//!
//! - **Whole lines.** A line goes out in one piece with its prefix, whoever else writes. A beginning waits for its end; what ends
//!   without a newline gets one. Bytes are not interpreted: `\r`, NUL and what is no UTF-8 stay, an empty line is a prefix. A line
//!   longer than [`lines::LONGEST`] goes out as several, each with the prefix, cut between two UTF-8 characters where there are any:
//!   somebody who never ends a line must not cost memory without end.
//! - **JSON stays JSON.** `[worker 3] {...}` is none, and log shippers would take it for text. A line that is a JSON object gets
//!   its worker as its first member, `{"worker":3,...}`, in place of the prefix: whoever asked for the prefix wants to know who spoke.
//!   An object that has a member of this name already is left as it is, because a key that occurs twice is refused by some readers.
//!   A line is parsed for that; what only looks like an object gets the prefix.
//! - **No worker waits for a reader.** Where nobody reads, lines wait in [`backlog::ROOM`]; then they are dropped, whole, and
//!   counted by worker. A worker gets at most as much of that room as is still free beside it, so one that floods fills half and the
//!   others' lines get through.
//! - **Nothing tears a line.** Lines go out in writes of at most `PIPE_BUF`, which a pipe takes whole or not at all
//!   (`man 7 pipe`); only a longer line may be half written when the reader stops, and then our own log lines wait behind it.

pub mod backlog;
pub mod label;
pub mod lines;
