//! Tests that cannot run here say so, loudly; with `CLUSTERINIT_TEST_NO_SKIP` they fail.

use std::io::Write;

pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Straight to the descriptor: the test harness swallows what `eprintln!` says in a test that passes.
    writeln!(std::io::stderr(), "SKIPPED {name}: {why}").expect("stderr");
    assert!(std::env::var_os("CLUSTERINIT_TEST_NO_SKIP").is_none(), "skipping is not allowed: {why}");
}

/// If there is none, says so.
#[expect(clippy::disallowed_methods, reason = "a test's own child")]
pub(crate) fn has_python() -> bool {
    let has = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !has {
        skipped("this needs python3");
    }
    has
}
