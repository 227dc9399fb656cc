//! What a container uses: both layouts as files, and a real memory cgroup of our own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::super::used::Container;
use super::*;
use crate::skip::has_python;
use crate::sys::family::Family;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

/// v1 lines first, which have the same names without `total_`.
fn v1_stat(inactive: u64, active: u64, limit: u64) -> String {
    format!(
        "cache 5\ninactive_file 1\nactive_file 2\nhierarchical_memory_limit {limit}\n\
         total_cache 7\ntotal_inactive_file {inactive}\ntotal_active_file {active}\ntotal_unevictable 0\n"
    )
}

fn v2_group(tree: Tree, directory: &str, max: &str, current: u64, kills: u64) -> Tree {
    tree.file(&format!("{directory}/memory.max"), &format!("{max}\n"))
        .file(&format!("{directory}/memory.current"), &format!("{current}\n"))
        .file(&format!("{directory}/memory.stat"), "anon 9\nfile 8\ninactive_anon 3\ninactive_file 100\nactive_file 20\n")
        .file(
            &format!("{directory}/memory.events"),
            &format!("low 0\nhigh 0\nmax 4\noom 3\noom_kill {kills}\noom_group_kill 0\n"),
        )
}

fn v1_group(tree: Tree, directory: &str, limit: u64, usage: u64, kills: u64) -> Tree {
    tree.file(&format!("{directory}/memory.limit_in_bytes"), &format!("{limit}\n"))
        .file(&format!("{directory}/memory.usage_in_bytes"), &format!("{usage}\n"))
        .file(&format!("{directory}/memory.stat"), &v1_stat(100, 20, limit))
        .file(&format!("{directory}/memory.oom_control"), &format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"))
}

#[test]
fn v2_page_cache_is_taken_off_where_it_matters() {
    let root = v2_group(Tree::new().line("0::/").v2("/"), "/sys/fs/cgroup", "2000", 1000, 3).written();
    let mut container = Container::open(root.path()).expect("a limit");
    assert_eq!((container.used(1001), container.used(1000), container.used(0)), (Some(1000), Some(880), Some(880)));
    assert_eq!(container.oom_kills(), Some(3));
    fs::write(root.path().join("sys/fs/cgroup/memory.current"), "50\n").expect("ours");
    assert_eq!((container.used(51), container.used(0)), (Some(50), Some(0)), "read again, and never below nothing");
    fs::write(root.path().join("sys/fs/cgroup/memory.stat"), "anon 9\n").expect("ours");
    assert_eq!((container.used(51), container.used(0)), (Some(50), None), "true or nothing");
}

#[test]
fn v2_the_level_of_the_tightest_limit_counts() {
    let tree = || Tree::new().line("0::/pod/c1/clusterinit").v2("/");
    let within = |tree: Tree| v2_group(tree, "/sys/fs/cgroup/pod/c1/clusterinit", "max", 10, 0);
    let container = |tree: Tree| v2_group(tree, "/sys/fs/cgroup/pod/c1", "5000", 1000, 1);
    let tighter_pod = v2_group(container(within(tree())), "/sys/fs/cgroup/pod", "4000", 3000, 7).written();
    let mut found = Container::open(tighter_pod.path()).expect("a limit");
    assert_eq!((found.used(4000), found.oom_kills()), (Some(3000), Some(7)));
    let wider_pod = v2_group(container(within(tree())), "/sys/fs/cgroup/pod", "6000", 3000, 7).written();
    let mut found = Container::open(wider_pod.path()).expect("a limit");
    assert_eq!((found.used(4000), found.oom_kills()), (Some(1000), Some(1)));
    assert!(Container::open(within(tree()).written().path()).is_none(), "no limit");
    assert!(Container::open(tree().written().path()).is_none());
}

#[test]
fn v1_groups_below_count_and_every_victim_does() {
    let tree = Tree::new().line("4:memory:/pod/c1").v1("/", "memory");
    let leaf = v1_group(tree, "/sys/fs/cgroup/memory/pod/c1", 9000, 500, 2);
    let root = v1_group(leaf, "/sys/fs/cgroup/memory/pod", 4000, 1000, 5);
    let root = v1_group(root, "/sys/fs/cgroup/memory", 9_223_372_036_854_771_712, 77, 11).written();
    let mut container = Container::open(root.path()).expect("a limit");
    assert_eq!((container.used(1001), container.used(1000)), (Some(1000), Some(880)));
    assert_eq!(container.oom_kills(), Some(7), "the victim's own group has it, not those above");
    let old = "oom_kill_disable 0\nunder_oom 0\n";
    for level in ["pod/c1", "pod"] {
        fs::write(root.path().join("sys/fs/cgroup/memory").join(level).join("memory.oom_control"), old).expect("ours");
    }
    assert_eq!(container.oom_kills(), None, "before Linux 4.13");
}

#[test]
fn v1_a_hidden_limit_is_nearest_at_the_highest_level() {
    let tree = Tree::new().line("4:memory:/inner").v1("/", "memory");
    let inner = v1_group(tree, "/sys/fs/cgroup/memory/inner", 1 << 62, 500, 0);
    let root = v1_group(inner, "/sys/fs/cgroup/memory", 1 << 62, 1000, 0);
    let root = root
        .file("/sys/fs/cgroup/memory/inner/memory.stat", &v1_stat(1, 1, 4000))
        .file("/sys/fs/cgroup/memory/memory.stat", &v1_stat(2, 2, 4000))
        .written();
    assert_eq!(Container::open(root.path()).expect("a limit").used(0), Some(996));
}

proptest! {
    #[test]
    fn any_content_is_taken(text in "\\PC{0,40}|(oom_kill|inactive_file|active_file|x) -?[0-9]{0,25}\n?", number in "[0-9]{0,25}\n?") {
        let root = Tree::new().line("0::/").v2("/").file("/sys/fs/cgroup/memory.max", "1\n").file("/sys/fs/cgroup/memory.current", &number);
        let root = root.file("/sys/fs/cgroup/memory.stat", &text).file("/sys/fs/cgroup/memory.events", &text).written();
        let mut container = Container::open(root.path()).expect("a limit");
        let _ = (container.used(0), container.oom_kills());
    }
}

/// A real memory cgroup, below the first of the hierarchies that this machine has; gone at the end of the test.
struct Group {
    directory: PathBuf,
    /// A root file system whose `/sys` is the real one, and whose process is in the group.
    root: TempDir,
}

impl Group {
    fn new(name: &str, limit: u64) -> Self {
        let name = format!("clusterinit-test-{}-{name}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory").is_dir();
        let (mount, file) = if v1 { ("memory", "memory.limit_in_bytes") } else { ("", "memory.max") };
        let directory = Path::new("/sys/fs/cgroup").join(mount).join(&name);
        fs::create_dir(&directory).expect("this test needs root, and a memory cgroup that it may write");
        let root = if v1 {
            Tree::new().line(&format!("4:memory:/{name}")).v1("/", "memory").written()
        } else {
            Tree::new().line(&format!("0::/{name}")).v2("/").written()
        };
        std::os::unix::fs::symlink("/sys", root.path().join("sys")).expect("a link");
        let group = Self { directory, root };
        fs::write(group.directory.join(file), limit.to_string()).expect("a limit");
        group
    }

    fn open(&self) -> Container {
        Container::open(self.root.path()).expect("it has a limit")
    }

    /// Runs in the group.
    fn start(&self, script: &str) -> Family {
        let enter = format!("echo 0 > {}/cgroup.procs && exec python3 -c \"$0\"", self.directory.display());
        Family::start(&["sh", "-c", &enter, script])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let began = SystemTime::now();
        // What was killed in it has to leave first.
        while fs::remove_dir(&self.directory).is_err() {
            assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "{} stays behind", self.directory.display());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_real_group_uses_what_its_processes_have_without_the_files_that_they_read() {
    if !has_python() {
        return;
    }
    let group = Group::new("used", 512 * MIB);
    let mut container = group.open();
    let before = container.used(0).expect("files of the kernel");
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory on a disk");
    let file = folder.path().join("cached");
    let script = format!(
        "import os, signal\nkept = b'x' * (64 << 20)\nwith open('{}', 'wb') as file:\n  file.write(kept[:48 << 20])\n  os.fsync(file)\n\
         print(flush=True)\nsignal.pause()",
        file.display()
    );
    let family = group.start(&script);
    let (all, used) = (container.used(u64::MAX).expect("charged"), container.used(0).expect("the same files"));
    assert!((60 * MIB..100 * MIB).contains(&(used - before)), "{before} {used} {all}");
    assert!(all > used + 40 * MIB, "{used} {all}");
    drop(family);
    let began = SystemTime::now();
    while container.used(0).is_none_or(|left| left > before + 20 * MIB) {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "nothing comes back: {before} {:?}", container.used(0));
    }
}

#[test]
fn the_kernels_oom_killer_is_counted() {
    if !has_python() {
        return;
    }
    let group = Group::new("oom", 48 * MIB);
    let mut container = group.open();
    let before = container.oom_kills().expect("Linux 4.13");
    let family =
        group.start("import os, time\nprint(flush=True)\nif os.fork() == 0: b'x' * (256 << 20)\nos.wait()\ntime.sleep(600)");
    let began = SystemTime::now();
    while container.oom_kills() != Some(before + 1) {
        assert!(began.elapsed().is_ok_and(|waited| waited < LONG), "{:?} after {before}", container.oom_kills());
        std::thread::yield_now();
    }
    drop(family);
}

#[test]
fn what_the_limits_name_is_what_is_read() {
    let group = Group::new("named", 100 * MIB);
    let limit = read(group.root.path()).memory.expect("a limit");
    assert_eq!((limit.bytes, limit.source.parent()), (100 * MIB, Some(group.directory.as_path())));
    assert!(group.open().used(0).is_some());
}
