//! What is refused, and the pure parts. That it works is seen in real containers only: see the tests of the virtual machine.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A root file system in which everything but the kernel is there.
fn container_with(cgroup: &str, mountinfo: &str) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    let files =
        [("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mountinfo), ("sys/fs/cgroup/cgroup.controllers", "memory\n")];
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(path, text).expect("a file");
    }
    root
}

fn refusal(cgroup: &str, mountinfo: &str) -> String {
    let root = container_with(cgroup, mountinfo);
    let why = Subgroups::probe(root.path()).expect_err("nothing here is a cgroup");
    assert_eq!(Subgroups::set_up(root.path()).expect_err("nothing here is a cgroup"), why);
    let left: Vec<_> = fs::read_dir(root.path().join("sys/fs/cgroup")).expect("a directory").flatten().collect();
    assert_eq!(left.len(), 1, "nothing stays: {left:?}");
    why.replace(&root.path().display().to_string(), "")
}

const MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn each_refusal_says_why() {
    assert_eq!(refusal("", MOUNT), "there is no cgroup v2 here");
    assert_eq!(refusal("4:memory:/\n0::/\n", MOUNT), "memory is in cgroup v1 here, which cannot be delegated");
    assert_eq!(refusal("4:cpu:/\n", MOUNT), "there is no cgroup v2 here");
    assert_eq!(
        refusal("0::/kubepods/pod7\n", MOUNT),
        "our group is /kubepods/pod7, not the root of a cgroup namespace of our own"
    );
    assert_eq!(refusal("0::/../x\n", MOUNT), "our group is /../x, not the root of a cgroup namespace of our own");
    let not_shown = "the container has no cgroup v2 mounted that shows its own group";
    assert_eq!(refusal("0::/\n", ""), not_shown);
    assert_eq!(refusal("0::/\n", &MOUNT.replace(" / /", " /../.. /")), not_shown);
    assert_eq!(refusal("0::/\n", &MOUNT.replace("cgroup2", "cgroup")), not_shown);
    // A temporary directory is what cgroup v1 containers have there: anybody may make directories in it.
    assert_eq!(refusal("0::/\n", MOUNT), "/sys/fs/cgroup is no cgroup v2 file system");
    let elsewhere = MOUNT.replace("/sys/fs/cgroup", "/nowhere");
    assert_eq!(refusal("0::/\n", &elsewhere), "cannot look at /nowhere: No such file or directory");
}

#[test]
fn this_process_is_refused_for_what_its_own_file_says() {
    let own = fs::read_to_string("/proc/self/cgroup").expect("a file of /proc");
    let why = Subgroups::probe(Path::new("/")).expect_err("tests do not run as PID 1 of a container");
    let expected = if own.contains(":memory:") { "cgroup v1" } else { "" };
    assert!(why.contains(expected), "{why}");
    assert_eq!(Subgroups::set_up(Path::new("/")).expect_err("as before"), why);
}

#[test]
fn a_group_is_a_directory_without_processes_or_directories_of_its_own() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let group = root.path().join("7");
    fs::create_dir(&group).expect("made");
    fs::write(group.join("cgroup.procs"), "0\n7\n12\n\nx\n").expect("a file");
    fs::create_dir(group.join("inner")).expect("made");
    fs::write(group.join("inner/cgroup.procs"), "13\n").expect("a file");
    assert_eq!(processes_below(&group), [Pid(7), Pid(12), Pid(13)], "0 is a process of another namespace");
    assert!(processes_below(&root.path().join("gone")).is_empty());
    assert!(remove_tree(&root.path().join("gone")).is_ok());
    assert!(remove_tree(&root.path().join("7")).is_err(), "it holds what is none of ours");
    assert_eq!(limit(None), "max");
    assert_eq!(limit(Some(1 << 27)), "134217728");
}

#[test]
fn figures_are_read_from_descriptors_that_stay_open() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).expect("a file");
    for (name, text) in [("cgroup.procs", ""), ("memory.oom.group", "0"), ("memory.max", "max"), ("memory.current", "9000\n")] {
        write(name, text);
    }
    write("memory.stat", "anon 5000\nfile 4000\ninactive_anon 5000\nactive_file 1000\ninactive_file 2000\n");
    write("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n");
    let mut group = Group::open(root.path(), Some(10_000)).expect("opened");
    let text = |name: &str| fs::read_to_string(root.path().join(name)).expect("a file");
    assert_eq!((text("memory.max").as_str(), text("memory.oom.group").as_str()), ("10000", "1"));
    assert_eq!(group.used(), Some((6_000, 5_000)), "without page cache, and what is anonymous");
    assert_eq!(group.oom_kills(), 2);
    write("memory.events", "oom_kill 3\n");
    write("memory.stat", "anon 1\n");
    assert_eq!(group.oom_kills(), 3);
    assert_eq!(group.used(), None, "the kernel does not say");
}
