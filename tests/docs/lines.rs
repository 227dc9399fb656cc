//! docs/troubleshooting.md quotes what is really logged, and has every note of the core that is a warning or an error.

use std::io;

use super::{read, sources};

/// Shorter parts between two `...` say nothing.
const SAYS_NOTHING: usize = 4;

/// The lines that the page explains: the first cell of its tables.
fn explained(page: &str) -> Vec<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once("` |").map(|(line, _)| line.to_owned())).collect()
}

/// A source as its texts are when they are printed: continued lines joined, escapes undone.
fn printed(source: &str) -> String {
    let mut joined = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while let Some(begun) = line.strip_suffix('\\') {
            line = format!("{begun}{}", lines.next().unwrap_or_default().trim_start());
        }
        joined.push_str(&line);
        joined.push('\n');
    }
    joined.replace("\\\"", "\"").replace("{{", "{").replace("}}", "}")
}

#[test]
fn continued_texts_are_joined() {
    assert_eq!(printed("\"a \\\n   b \\\n   c\"\nd {{x}}"), "\"a b c\"\nd {x}\n");
}

#[test]
fn every_quoted_line_is_in_the_code() -> io::Result<()> {
    let code: String = sources()?.iter().map(|path| Ok(printed(&read(path)?))).collect::<io::Result<_>>()?;
    let lines = explained(&read("docs/troubleshooting.md")?);
    assert!(lines.len() > 50, "only {} lines were found", lines.len());
    for line in lines {
        let parts: Vec<&str> = line.split("...").map(str::trim).filter(|part| part.len() >= SAYS_NOTHING).collect();
        assert!(!parts.is_empty(), "{line} quotes nothing");
        for part in parts {
            assert!(code.contains(part), "docs/troubleshooting.md quotes {part:?}, which nothing in src/ says");
        }
    }
    Ok(())
}

#[test]
fn every_warning_of_the_core_is_explained() -> io::Result<()> {
    let (page, notes) = (read("docs/troubleshooting.md")?, printed(&read("src/runtime/lines.rs")?));
    let macros = notes.split("warn!(").skip(1).chain(notes.split("error!(").skip(1));
    // Of the literals of one call the longest is the text; the others name fields.
    let text = |call: &str| {
        let call = call.split(");").next().unwrap_or_default().split("),\n").next().unwrap_or_default().to_owned();
        call.split('"').skip(1).step_by(2).max_by_key(|literal| literal.len()).map(str::to_owned)
    };
    let mut checked = 0;
    for text in macros.filter_map(text).filter(|text| !text.starts_with('{')) {
        let begins = text.split([';', '{', '(']).next().unwrap_or_default().trim();
        assert!(page.contains(begins), "docs/troubleshooting.md does not explain {text:?}");
        checked += 1;
    }
    assert!(checked > 20, "only {checked} warnings were found");
    Ok(())
}
