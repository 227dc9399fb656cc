//! The tables of README.md and the code say the same: endpoints, signals, exit statuses, subcommands. (The table of variables is compared
//! beside its source, in `src/config/variables.rs`.)

use std::collections::BTreeSet;
use std::io;

use clusterinit::cli::args;
use clusterinit::config::{Config, SignalAction};
use clusterinit::exit;

use super::read;

/// Rows of the table whose header begins so, as cells.
fn table(document: &str, header: &str) -> Vec<Vec<String>> {
    let rows = document.lines().map(|line| line.trim_start_matches("//! ")).skip_while(|line| !line.starts_with(header));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    rows.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

/// What stands as code in the first cells.
fn named(rows: &[Vec<String>]) -> BTreeSet<String> {
    let first = rows.iter().filter_map(|cells| cells.first());
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn endpoints() -> io::Result<()> {
    let (readme, code) = (table(&read("README.md")?, "| path |"), table(&read("src/http/mod.rs")?, "| path |"));
    assert!(named(&code).len() > 3, "{code:?}");
    assert_eq!(named(&readme), named(&code));
    Ok(())
}

#[test]
fn signals() -> io::Result<()> {
    let rows = table(&read("README.md")?, "| signal to PID 1 |");
    let mut checked = 0;
    for (signal, action) in Config::default().signals {
        let (name, number) = (signal.name(), signal.0.to_string());
        let row = rows.iter().find(|cells| cells[0].split([',', ' ']).any(|word| word == name || word == number));
        let row = row.unwrap_or_else(|| panic!("README.md does not say what {name} does"));
        let word = match action {
            SignalAction::Stop => "stop",
            SignalAction::Reload => "reload",
            SignalAction::More => "one worker more",
            SignalAction::Fewer => "one fewer",
            other => panic!("{name}: {other:?} has no word in README.md"),
        };
        let says = row[1].starts_with(word) || row[1].contains(&format!(", {word}"));
        assert!(says, "README.md: {name}: {} without {word:?}", row[1]);
        checked += 1;
    }
    assert_eq!(checked, 7);
    Ok(())
}

#[test]
fn exit_statuses() -> io::Result<()> {
    let rows = table(&read("README.md")?, "| status |");
    let ours = [exit::USAGE, exit::INTERNAL, exit::NOT_EXECUTABLE, exit::NOT_FOUND].map(|status| status.to_string());
    assert!(rows.iter().any(|cells| cells[0] == ours.join(", ")), "{rows:?} without {ours:?}");
    for status in ["0", "137"] {
        assert!(rows.iter().any(|cells| cells[0] == status), "{rows:?} without {status}");
    }
    Ok(())
}

#[test]
fn subcommands() -> io::Result<()> {
    let (readme, help) = (read("README.md")?, args::help());
    let section =
        readme.split("## ").find(|section| section.starts_with("Command line")).expect("a section about the command line");
    let lines = help.lines().filter_map(|line| line.strip_prefix("  clusterinit "));
    let words: BTreeSet<&str> =
        lines.filter_map(|line| line.split(' ').next()).filter(|word| !word.starts_with(['-', '['])).collect();
    assert!(words.len() >= 8, "{words:?}");
    for word in words {
        assert!(section.contains(&format!("`{word}")) || section.contains(&format!("`clusterinit {word}")), "README.md: {word}");
    }
    Ok(())
}
