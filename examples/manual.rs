//! Writes what is generated from the help text and the table of variables: the manual page and the completions of three shells, into the
//! project's own folder. `tests/docs.rs` fails where they are out of date.

mod manuals;

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in manuals::all() {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, text)?;
    }
    Ok(())
}
