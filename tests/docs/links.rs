//! Relative links lead to a file, and to a heading in it.

use std::io;
use std::path::Path;

use super::pages::{self, Page};
use super::{read, root};

/// The targets of `[text](target)` in prose that are no addresses.
fn links(page: &Page) -> Vec<String> {
    let prose: Vec<&str> = page.lines().into_iter().filter(|(is_code, _)| !is_code).map(|(_, line)| line).collect();
    let joined = prose.join("\n");
    let targets = joined.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned()));
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// As GitHub names headings: lower case, blanks become `-`, and of the rest only letters, digits, `-` and `_` stay.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|one| if one == ' ' { '-' } else { one })
        .collect()
}

fn headings(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_relative_link_leads_somewhere() -> io::Result<()> {
    let mut checked = 0;
    for page in pages::all()? {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        for target in links(&page) {
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { Path::new(&page.path).to_owned() } else { folder.join(file) };
            assert!(root().join(&path).exists(), "{}: {target} is not there", page.path);
            if !heading.is_empty() {
                let there = headings(&read(&path.display().to_string())?);
                assert!(there.iter().any(|one| one == heading), "{}: {target}: no such heading", page.path);
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} links were found");
    Ok(())
}
