//! Programs and files where every user may read them, and the programs that a machine may lack.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{output_of, skipped, succeeds};

/// A folder for one test in which everybody may read and write: the build's own may be closed to others than its owner.
pub(crate) struct Stage(TempDir);

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a directory");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        Self(folder)
    }

    /// The path of a file in it, there or not.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// A copy of a program, by the same name.
    pub(crate) fn copy(&self, program: &str) -> String {
        let name = Path::new(program).file_name().and_then(|name| name.to_str()).expect("a file");
        let path = self.path(name);
        // By a process of its own: what another test forks while we write would keep the file open, and nobody could execute it.
        assert!(Path::new(&path).exists() || succeeds(&["cp"], &[program, &path]), "{program} is copied");
        path
    }
}

/// The path of a program in a folder that every user may search, or `None` with a loud line: tests run it under other uids.
pub(crate) fn tool(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let open = |file: &PathBuf| {
        let runs = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 1 == 1);
        file.is_file() && file.ancestors().all(runs)
    };
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(open);
    if found.is_none() {
        skipped(&format!("{name} is not here, where every user may run it"));
    }
    found.map(|path| path.to_str().expect("UTF-8").to_owned())
}

/// The Go server of `share/servers/server.go`, static, built once for all tests.
pub(crate) fn go() -> Option<String> {
    static BUILT: OnceLock<Option<String>> = OnceLock::new();
    let built = BUILT.get_or_init(build);
    if built.is_none() {
        skipped("go is not here");
    }
    built.clone()
}

fn build() -> Option<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    let program = folder.join("goserver");
    // Another run of these tests may execute the file at this moment: the new one gets a name of its own first.
    let fresh = folder.join(format!("goserver.{}", std::process::id()));
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&fresh).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/share/servers/server.go"));
    command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder.join("cache")).env("GOPATH", &folder);
    command.env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
    succeeds(&["go"], &["version"]).then(|| {
        let output = output_of(&mut command);
        assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&fresh, &program).expect("moved");
        program.to_str().expect("UTF-8").to_owned()
    })
}
