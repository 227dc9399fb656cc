//! The pages for people, and what stands in them as code.

use std::io;
use std::path::Path;

use super::{files, read, root};

/// A page should be read in one sitting.
const LONGEST_PAGE: usize = 150;

pub(crate) struct Page {
    /// From the root of the project.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every Markdown file for users of the program: README.md, SECURITY.md, and those under docs/, k8s/, examples/ and bench/.
pub(crate) fn all() -> io::Result<Vec<Page>> {
    let mut paths =
        vec!["README.md".to_owned(), "SECURITY.md".to_owned(), "CONTRIBUTING.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for folder in ["docs", "k8s", "examples", "bench"] {
        let found = files(&root().join(folder))?;
        paths.extend(
            found
                .into_iter()
                .filter(|path| Path::new(path).extension().is_some_and(|end| end == "md") && !path.contains("node_modules")),
        );
    }
    paths.into_iter().map(|path| Ok(Page { text: read(&path)?, path })).collect()
}

/// Only those that explain how to use it.
pub(crate) fn guides() -> io::Result<Vec<Page>> {
    let about_us = ["CONTRIBUTING.md", "ARCHITECTURE.md", "bench/README.md"];
    Ok(all()?.into_iter().filter(|page| !about_us.contains(&page.path.as_str())).collect())
}

impl Page {
    /// Lines of fenced and indented blocks, without their indentation.
    pub(crate) fn code(&self) -> Vec<&str> {
        self.lines().into_iter().filter(|(is_code, _)| *is_code).map(|(_, line)| line.trim()).collect()
    }

    /// Inline code of all other lines.
    pub(crate) fn spans(&self) -> Vec<&str> {
        let prose = self.lines().into_iter().filter(|(is_code, _)| !is_code).map(|(_, line)| line);
        prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
    }

    /// Each line, and whether it is code.
    pub(crate) fn lines(&self) -> Vec<(bool, &str)> {
        let mut fenced = false;
        let mut found = Vec::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else {
                found.push((fenced || line.starts_with("    "), line));
            }
        }
        found
    }
}

#[test]
fn code_is_told_from_prose() {
    let text = "a `b` c `d e`\n```sh\nrun `x`\n```\n    indented\n".to_owned();
    let page = Page { path: String::new(), text };
    assert_eq!((page.code(), page.spans()), (vec!["run `x`", "indented"], vec!["b", "d e"]));
}

#[test]
fn pages_are_short_and_the_index_has_them_all() -> io::Result<()> {
    let index = read("docs/README.md")?;
    for page in all()?.iter().filter(|page| page.path.starts_with("docs/")) {
        let lines = page.text.lines().count();
        assert!(lines <= LONGEST_PAGE, "{} has {lines} lines of {LONGEST_PAGE}", page.path);
        let name = page.path.trim_start_matches("docs/");
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "docs/README.md does not name {name}");
    }
    Ok(())
}
