//! The documents and the source tree agree: the map names every file and no other, the bounds of the house hold, and what the pages show
//! of settings, commands, log lines and tables is what the code has.

#[path = "docs/commands.rs"]
mod commands;
#[path = "docs/lines.rs"]
mod lines;
#[path = "docs/links.rs"]
mod links;
#[path = "../examples/manuals/mod.rs"]
mod manuals;
#[path = "docs/pages.rs"]
mod pages;
#[path = "docs/settings.rs"]
mod settings;
#[path = "docs/tables.rs"]
mod tables;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clusterinit::http::metrics::table::FAMILIES;

const LONGEST_README: usize = 180;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(root().join(path)).map_err(|error| io::Error::other(format!("{path}: {error}")))
}

fn sources() -> io::Result<BTreeSet<String>> {
    files(&root().join("src"))
}

/// Every file under a folder, as a path from the root of the project.
fn files(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut files(&path)?);
        } else {
            found.insert(path.strip_prefix(root()).map_err(io::Error::other)?.display().to_string());
        }
    }
    Ok(found)
}

/// The files of a drawn tree that begins with the line `src/`: two spaces per level, a name, and what it is for.
fn mapped(document: &str) -> BTreeSet<String> {
    let tree = document.lines().skip_while(|line| *line != "src/").take_while(|line| !line.starts_with("```"));
    let mut folders: Vec<&str> = Vec::new();
    let mut found = BTreeSet::new();
    for line in tree {
        let level = (line.len() - line.trim_start().len()) / 2;
        let (name, about) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        folders.truncate(level);
        if let Some(folder) = name.strip_suffix('/') {
            folders.push(folder);
        } else {
            assert!(!about.trim().is_empty(), "{name} is named without a word about it");
            found.insert(format!("{}/{name}", folders.join("/")));
        }
    }
    found
}

#[test]
fn a_drawn_tree_is_read() {
    let drawn = "text\n```text\nsrc/\n  main.rs   the program\n  a/        a room\n    b.rs    deep\n  c.rs      shallow\n```\nsrc/d.rs\n";
    let expected = ["src/main.rs", "src/a/b.rs", "src/c.rs"].map(str::to_owned);
    assert_eq!(mapped(drawn), BTreeSet::from(expected));
}

#[test]
fn the_map_names_every_file_and_no_other() -> io::Result<()> {
    let (map, tree) = (mapped(&read("ARCHITECTURE.md")?), sources()?);
    let missing: Vec<_> = tree.difference(&map).collect();
    let gone: Vec<_> = map.difference(&tree).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}, which is not there");
    Ok(())
}

#[test]
fn the_map_of_unsafe_is_complete() -> io::Result<()> {
    let map = read("src/lib.rs")?;
    let mut expecting = 0;
    for path in sources()? {
        if read(&path)?.contains("expect(unsafe_code") {
            let name = path.trim_start_matches("src/");
            assert!(map.contains(&format!("//! | `{name}` | ")), "src/lib.rs does not name {name} in its table of unsafe");
            expecting += 1;
        }
    }
    assert!(expecting > 0, "no file with unsafe was found");
    Ok(())
}

#[test]
fn the_readme_is_short() -> io::Result<()> {
    let lines = read("README.md")?.lines().count();
    assert!(lines <= LONGEST_README, "README.md has {lines} lines of {LONGEST_README}");
    Ok(())
}

#[test]
fn what_is_generated_is_up_to_date() -> io::Result<()> {
    for (path, text) in manuals::all() {
        assert!(read(path)? == text, "{path} is out of date: cargo run --example manual");
    }
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test waits for the shell that it starts")]
fn the_completion_for_bash_completes() -> io::Result<()> {
    let script = ". completions/clusterinit.bash; COMP_WORDS=(clusterinit status --a); COMP_CWORD=2; _clusterinit; echo ${COMPREPLY[*]}; \
                  COMP_WORDS=(clusterinit re); COMP_CWORD=1; _clusterinit; echo ${COMPREPLY[*]}";
    let output = std::process::Command::new("bash").args(["-c", script]).current_dir(root()).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--addr\nreload restart\n");
    Ok(())
}

/// What the last part of a name says, before `_total`.
fn unit_of(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    let units = [("_seconds", "seconds"), ("_bytes", "bytes"), ("_cores", "CPUs")];
    units.iter().find(|(end, _)| name.ends_with(end)).map_or("–", |(_, unit)| unit)
}

#[test]
fn every_metric_is_in_its_table_and_no_other() -> io::Result<()> {
    let document = read("docs/metrics.md")?;
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter(|line| line.starts_with("| `clusterinit_"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let written: Vec<_> = rows.iter().map(|row| row.get(..5).map(<[&str]>::to_vec).unwrap_or_default()).collect();
    let known = FAMILIES.iter().map(|family| {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let name = format!("`{}`", family.name);
        [name, family.kind.name().to_owned(), unit_of(family.name).to_owned(), labels, family.help.to_owned()]
    });
    assert_eq!(written, known.collect::<Vec<_>>(), "name, type, unit, labels, what");
    assert!(rows.iter().all(|row| row.get(5).is_some_and(|absent| !absent.is_empty())), "when it is absent");
    Ok(())
}
