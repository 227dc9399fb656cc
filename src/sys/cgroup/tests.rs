//! Each layout that containers are found in, written into a directory and read back, and every value that the files take.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod used;

/// A root file system as a container would see it.
struct Tree {
    root: TempDir,
    cgroup: String,
    mountinfo: String,
}

impl Tree {
    fn new() -> Self {
        let mountinfo =
            "23 1 0:5 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/cgroup\n25 23 0:7 / /proc rw - proc proc rw\n";
        Self { root: tempfile::tempdir().expect("a temporary directory"), cgroup: String::new(), mountinfo: mountinfo.to_owned() }
    }

    fn line(mut self, membership: &str) -> Self {
        writeln!(self.cgroup, "{membership}").expect("strings grow");
        self
    }

    /// A mount, with optional fields and a source that tells nothing, as runtimes write them.
    fn mount(mut self, root: &str, point: &str, fstype: &str, options: &str) -> Self {
        writeln!(self.mountinfo, "31 23 0:28 {root} {point} ro,nosuid shared:9 master:2 - {fstype} /misleading/cpu rw,{options}")
            .expect("strings grow");
        self
    }

    fn v2(self, root: &str) -> Self {
        self.mount(root, "/sys/fs/cgroup", "cgroup2", "nsdelegate")
    }

    fn v1(self, root: &str, controllers: &str) -> Self {
        self.mount(root, &format!("/sys/fs/cgroup/{controllers}"), "cgroup", controllers)
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(path, text).expect("a file");
        self
    }

    fn quota(self, directory: &str, quota: &str, period: &str) -> Self {
        self.file(&format!("{directory}/cpu.cfs_quota_us"), &format!("{quota}\n"))
            .file(&format!("{directory}/cpu.cfs_period_us"), &format!("{period}\n"))
    }

    fn written(self) -> TempDir {
        let (cgroup, mountinfo) = (self.cgroup.clone(), self.mountinfo.clone());
        self.file("/proc/self/cgroup", &cgroup).file("/proc/self/mountinfo", &mountinfo).root
    }

    fn read(self) -> Limits {
        read(self.written().path())
    }

    /// What is to be watched, as seen from inside.
    fn limit_files(self) -> Vec<String> {
        let root = self.written();
        let files = limit_files(root.path());
        let inside = files.iter().map(|file| file.strip_prefix(root.path()).expect("below the root"));
        inside.map(|path| format!("/{}", path.display())).collect()
    }
}

fn cpu(cpus: f64, source: &str) -> CpuLimit {
    CpuLimit { cpus, source: source.into() }
}

fn memory(bytes: u64, source: &str) -> MemoryLimit {
    MemoryLimit { bytes, source: source.into() }
}

#[test]
fn layout_1_v2_in_its_own_namespace() {
    let tree = Tree::new().line("0::/").v2("/");
    let limits = tree.file("/sys/fs/cgroup/cpu.max", "150000 100000\n").file("/sys/fs/cgroup/memory.max", "536870912\n").read();
    assert_eq!(limits.cpu, Some(cpu(1.5, "/sys/fs/cgroup/cpu.max")));
    assert_eq!(limits.memory, Some(memory(536_870_912, "/sys/fs/cgroup/memory.max")));
}

#[test]
fn layout_2_v2_in_the_host_namespace_with_the_whole_tree() {
    let tree = || {
        Tree::new()
            .line("0::/labtest/c1")
            .v2("/")
            .file("/sys/fs/cgroup/labtest/c1/cpu.max", "150000 100000\n")
            .file("/sys/fs/cgroup/labtest/c1/memory.max", "max\n")
    };
    assert_eq!(tree().read(), Limits { cpu: Some(cpu(1.5, "/sys/fs/cgroup/labtest/c1/cpu.max")), memory: None });

    let under_a_tighter_pod = tree()
        .file("/sys/fs/cgroup/labtest/cpu.max", "25000 50000\n")
        .file("/sys/fs/cgroup/labtest/memory.max", "1073741824\n")
        .file("/sys/fs/cgroup/labtest/c2/cpu.max", "1000 100000\n");
    let expected = Limits {
        cpu: Some(cpu(0.5, "/sys/fs/cgroup/labtest/cpu.max")),
        memory: Some(memory(1 << 30, "/sys/fs/cgroup/labtest/memory.max")),
    };
    assert_eq!(under_a_tighter_pod.read(), expected);

    let under_a_wider_pod = tree().file("/sys/fs/cgroup/labtest/cpu.max", "400000 100000\n");
    assert_eq!(under_a_wider_pod.read().cpu, Some(cpu(1.5, "/sys/fs/cgroup/labtest/c1/cpu.max")));

    let under_an_equal_pod = tree().file("/sys/fs/cgroup/labtest/cpu.max", "300000 200000\n");
    assert_eq!(under_an_equal_pod.read().cpu, Some(cpu(1.5, "/sys/fs/cgroup/labtest/c1/cpu.max")), "the nearest file is named");
}

#[test]
fn layout_3_v2_with_its_own_subtree_bind_mounted() {
    let tree = Tree::new().line("0::/kubepods/pod7/c1/inner").v2("/kubepods/pod7/c1");
    let limits = tree
        .file("/sys/fs/cgroup/inner/cpu.max", "max 100000\n")
        .file("/sys/fs/cgroup/cpu.max", "199999 100000\n")
        .file("/sys/fs/cgroup/kubepods/pod7/c1/cpu.max", "1000 100000\n")
        .read();
    assert_eq!(limits.cpu, Some(cpu(1.99999, "/sys/fs/cgroup/cpu.max")));
}

#[test]
fn layout_4_v1_docker_in_the_host_namespace() {
    let tree =
        Tree::new().line("4:memory:/docker/abc").line("1:cpu:/docker/abc").v1("/docker/abc", "cpu").v1("/docker/abc", "memory");
    let limits = tree
        .quota("/sys/fs/cgroup/cpu", "150000", "100000")
        .file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n")
        .file("/sys/fs/cgroup/memory/memory.stat", "cache 0\nhierarchical_memory_limit 268435456\n")
        .read();
    assert_eq!(limits.cpu, Some(cpu(1.5, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")));
    assert_eq!(limits.memory, Some(memory(1 << 28, "/sys/fs/cgroup/memory/memory.limit_in_bytes")));
}

#[test]
fn layout_5_v1_in_its_own_namespace_knows_a_hidden_memory_limit() {
    let tree = Tree::new().line("4:memory:/").line("1:cpu:/").v1("/", "cpu").v1("/", "memory");
    let limits = tree
        .quota("/sys/fs/cgroup/cpu", "50000", "100000")
        .file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        .file("/sys/fs/cgroup/memory/memory.stat", "cache 0\nhierarchical_memory_limit 104857600\ntotal_cache 0\n")
        .read();
    assert_eq!(limits.cpu, Some(cpu(0.5, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")));
    assert_eq!(limits.memory, Some(memory(100 << 20, "/sys/fs/cgroup/memory/memory.stat")));
}

#[test]
fn v1_ancestors_count_as_in_v2() {
    let tree = Tree::new().line("2:cpu:/pod/c1").v1("/", "cpu");
    let limits = tree
        .quota("/sys/fs/cgroup/cpu/pod/c1", "-1", "100000")
        .quota("/sys/fs/cgroup/cpu/pod", "200000", "100000")
        .quota("/sys/fs/cgroup/cpu", "-1", "100000")
        .read();
    assert_eq!(limits.cpu, Some(cpu(2.0, "/sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us")));
}

#[test]
fn the_files_of_all_levels_are_watched_as_far_as_they_are_there() {
    let v2 = Tree::new().line("0::/pod/c1").v2("/");
    let v2 = v2.file("/sys/fs/cgroup/pod/c1/cpu.max", "").file("/sys/fs/cgroup/pod/c1/memory.max", "");
    let v2 = v2.file("/sys/fs/cgroup/pod/memory.max", "").file("/sys/fs/cgroup/pod/c2/memory.max", "");
    let v2 = v2.file("/sys/fs/cgroup/pod/c1/cpuset.cpus", "").file("/sys/fs/cgroup/pod/c1/cpuset.cpus.effective", "0");
    let expected = ["pod/c1/cpu.max", "pod/c1/cpuset.cpus", "pod/c1/memory.max", "pod/memory.max"]
        .map(|file| format!("/sys/fs/cgroup/{file}"));
    assert_eq!(v2.limit_files(), expected);

    let v1 =
        Tree::new().line("4:memory:/c1").line("3:cpuset:/").line("2:cpu:/").v1("/", "cpu").v1("/", "memory").v1("/", "cpuset");
    let v1 = v1.file("/sys/fs/cgroup/cpuset/cpuset.cpus", "0-1");
    let v1 = v1.quota("/sys/fs/cgroup/cpu", "-1", "100000").file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "");
    let v1 = v1.file("/sys/fs/cgroup/memory/c1/memory.limit_in_bytes", "");
    let expected = [
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "cpuset/cpuset.cpus",
        "memory/c1/memory.limit_in_bytes",
        "memory/memory.limit_in_bytes",
    ];
    assert_eq!(v1.limit_files(), expected.map(|file| format!("/sys/fs/cgroup/{file}")));

    assert_eq!(Tree::new().line("0::/").limit_files(), [""; 0]);
}

#[test]
fn a_memory_limit_is_named_by_the_file_that_sets_it() {
    let tree = Tree::new().line("4:memory:/pod/c1").v1("/", "memory");
    let limits = tree
        .file("/sys/fs/cgroup/memory/pod/c1/memory.limit_in_bytes", "9223372036854771712\n")
        .file("/sys/fs/cgroup/memory/pod/c1/memory.stat", "hierarchical_memory_limit 104857600\n")
        .file("/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "104857600\n")
        .file("/sys/fs/cgroup/memory/pod/memory.stat", "hierarchical_memory_limit 104857600\n")
        .read();
    assert_eq!(limits.memory, Some(memory(100 << 20, "/sys/fs/cgroup/memory/pod/memory.limit_in_bytes")));
}

#[test]
fn layout_6_v1_co_mounted() {
    let tree =
        Tree::new().line("5:cpuset:/x").line("4:cpu,cpuacct:/docker/abc").v1("/x", "cpuset").v1("/docker/abc", "cpu,cpuacct");
    let limits =
        tree.quota("/sys/fs/cgroup/cpu,cpuacct", "10000", "100000").quota("/sys/fs/cgroup/cpuset", "1000", "100000").read();
    assert_eq!(limits.cpu, Some(cpu(0.1, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us")));
}

#[test]
fn layout_7_hybrid_takes_each_controller_from_where_it_is() {
    let tree = || {
        let tree = Tree::new().line("1:name=systemd:/s").line("0::/app").mount("/", "/sys/fs/cgroup/unified", "cgroup2", "rw");
        tree.mount("/", "/sys/fs/cgroup/systemd", "cgroup", "xattr,name=systemd")
            .v1("/", "cpu")
            .quota("/sys/fs/cgroup/cpu/app", "300000", "100000")
            .file("/sys/fs/cgroup/unified/app/cpu.max", "100000 100000\n")
            .file("/sys/fs/cgroup/unified/app/memory.max", "1000000\n")
    };
    let memory = Some(memory(1_000_000, "/sys/fs/cgroup/unified/app/memory.max"));
    let both = tree().line("2:cpu:/app").read();
    assert_eq!(both, Limits { cpu: Some(cpu(3.0, "/sys/fs/cgroup/cpu/app/cpu.cfs_quota_us")), memory: memory.clone() });
    let without_a_cpu_line = tree().read();
    assert_eq!(without_a_cpu_line, Limits { cpu: Some(cpu(1.0, "/sys/fs/cgroup/unified/app/cpu.max")), memory });
}

#[test]
fn layout_8_a_path_outside_the_mount_falls_back_to_its_root() {
    let v2 = Tree::new().line("0::/../x").v2("/").file("/sys/fs/x/cpu.max", "1000 100000\n");
    assert_eq!(v2.file("/sys/fs/cgroup/cpu.max", "150000 100000\n").read().cpu, Some(cpu(1.5, "/sys/fs/cgroup/cpu.max")));

    let v1 = Tree::new().line("1:cpu:/elsewhere").v1("/docker/abc", "cpu").quota("/sys/fs/cgroup/cpu", "50000", "100000");
    assert_eq!(v1.read().cpu, Some(cpu(0.5, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")));

    let gone = Tree::new().line("0::/docker/abc").v2("/").file("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_eq!(gone.read().cpu, Some(cpu(0.5, "/sys/fs/cgroup/cpu.max")), "a path that is not there leaves its ancestors");
}

#[test]
fn a_mount_above_the_namespace_root_is_followed_down() {
    let tree = Tree::new().line("0::/../x").v2("/..").file("/sys/fs/cgroup/x/cpu.max", "50000 100000\n");
    assert_eq!(tree.read().cpu, Some(cpu(0.5, "/sys/fs/cgroup/x/cpu.max")));
}

#[test]
fn layout_9_no_mount_or_no_proc_is_no_limit() {
    assert_eq!(read(tempfile::tempdir().expect("a temporary directory").path()), Limits::default());
    let no_mount = Tree::new().line("0::/").file("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    assert_eq!(no_mount.read(), Limits::default());
    let no_membership = Tree::new().v2("/").file("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    assert_eq!(no_membership.read(), Limits::default());
    let not_ours = Tree::new().line("0::/").mount("/", "/sys/fs/cgroup", "tmpfs", "mode=755");
    assert_eq!(not_ours.file("/sys/fs/cgroup/cpu.max", "150000 100000\n").read(), Limits::default());
}

#[test]
fn a_foreign_cgroup_that_is_mounted_too_does_not_count() {
    let tree = Tree::new().line("0::/pod/c1").v2("/pod/c1").mount("/pod/c2", "/other", "cgroup2", "rw");
    let limits = tree.file("/other/cpu.max", "1000 100000\n").file("/sys/fs/cgroup/cpu.max", "200000 100000\n").read();
    assert_eq!(limits.cpu, Some(cpu(2.0, "/sys/fs/cgroup/cpu.max")));
}

#[test]
fn blanks_in_paths_are_escaped_in_mountinfo_and_plain_in_the_membership() {
    let tree = Tree::new().line("0::/my pod/a:b").mount("/my\\040pod", "/c\\134g\\040roup", "cgroup2", "rw");
    let limits = tree.file("/c\\g roup/a:b/cpu.max", "50000 100000\n").read();
    assert_eq!(limits.cpu, Some(cpu(0.5, "/c\\g roup/a:b/cpu.max")));
}

#[test]
fn octal_escapes_that_are_none_stay_as_they_are() {
    for (escaped, plain) in [(r"\1", r"\1"), (r"\18x", r"\18x"), (r"\777", r"\777"), (r"\", r"\"), (r"a\011\012b", "a\t\nb")] {
        let line = format!("1 1 0:1 / /{escaped} rw - cgroup2 none rw");
        assert_eq!(parse::mounts(line.as_bytes())[0].point, Path::new(&format!("/{plain}")));
    }
}

#[test]
fn v2_cpu_values() {
    let cases = [
        ("max 100000\n", None),
        ("150000 100000\n", Some(1.5)),
        ("10000 100000\n", Some(0.1)),
        ("25000 50000\n", Some(0.5)),
        ("199999 100000\n", Some(1.99999)),
        ("1000 1000000\n", Some(0.001)),
        ("6400000 100000\n", Some(64.0)),
        ("", None),
        ("150000\n", None),
        ("0 100000\n", None),
        ("100000 0\n", None),
        ("-1 100000\n", None),
        ("1.5 1\n", None),
        ("99999999999999999999 1\n", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse::cpu_max(text), expected, "{text:?}");
    }
}

#[test]
fn v1_cpu_values() {
    let cases = [("-1\n", None), ("150000\n", Some(1.5)), ("1000\n", Some(0.01)), ("0\n", None), ("max\n", None), ("", None)];
    for (quota, expected) in cases {
        assert_eq!(parse::cfs_quota(quota, "100000\n"), expected, "{quota:?}");
    }
    assert_eq!(parse::cfs_quota("150000\n", ""), None);
}

#[test]
fn memory_values() {
    for (text, expected) in
        [("max\n", None), ("0\n", Some(0)), ("268435456\n", Some(1 << 28)), ("", None), ("-1\n", None), ("1G\n", None)]
    {
        assert_eq!(parse::memory_max(text), expected, "{text:?}");
    }
    // Pages of 4 KiB and of 64 KiB, and two kernels before 3.19.
    for unlimited in ["9223372036854771712", "9223372036854710272", "9223372036854775807", "18446744073709551615"] {
        assert_eq!(parse::memory_limit_in_bytes(&format!("{unlimited}\n")), None);
        assert_eq!(parse::hierarchical_memory_limit(&format!("hierarchical_memory_limit {unlimited}\n")), None);
    }
    assert_eq!(parse::memory_limit_in_bytes("1099511627776\n"), Some(1 << 40));
    assert_eq!(parse::hierarchical_memory_limit("cache 1\nhierarchical_memsw_limit 5\n"), None);
}

#[test]
fn malformed_files_are_as_good_as_none() {
    let tree = Tree::new().line("0::/pod/c1").line("not a line").line("0::relative").v2("/");
    let limits = tree
        .file("/sys/fs/cgroup/pod/c1/cpu.max", "\u{0}garbage")
        .file("/sys/fs/cgroup/pod/c1/memory.max", "lots\n")
        .file("/sys/fs/cgroup/pod/cpu.max", "50000 100000\n")
        .read();
    assert_eq!(limits, Limits { cpu: Some(cpu(0.5, "/sys/fs/cgroup/pod/cpu.max")), memory: None });
}

/// Whatever this machine is, `read` must say what its files say.
#[test]
fn this_very_machine() {
    let limits = read(Path::new("/"));
    let Some(CpuLimit { cpus, source }) = limits.cpu else {
        let quota =
            fs::read_to_string("/sys/fs/cgroup/cpu.max").or_else(|_| fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
        assert!(quota.map_or(true, |text| text.starts_with("max") || text.starts_with("-1")), "a quota was overlooked");
        return;
    };
    let text = fs::read_to_string(&source).expect("the source exists");
    let quota: f64 = text.split_ascii_whitespace().next().and_then(|quota| quota.parse().ok()).expect("a number");
    assert!(cpus > 0.0 && quota > 0.0, "{} says {text:?}, read as {cpus}", source.display());
}

proptest! {
    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse::memberships(&bytes);
        parse::mounts(&bytes);
    }

    #[test]
    fn parsers_take_almost_lines(line in "[0-9]{0,2} ?[-0-9:/ \\\\a-z,.]{0,60}( - cgroup2? [a-z]{0,3} [a-z,]{0,9})?") {
        let memberships = parse::memberships(line.as_bytes());
        let mounts = parse::mounts(line.as_bytes());
        hierarchy::levels(Controller::Cpu, &memberships, &mounts);
        parse::hierarchical_memory_limit(&line);
    }

    #[test]
    fn values_take_any_text_and_a_limit_is_a_sane_number(text in "\\PC{0,30}|-?[0-9]{0,25} -?[0-9]{0,25}") {
        let limit = parse::cpu_max(&text).or_else(|| parse::cfs_quota(&text, &text));
        prop_assert!(limit.is_none_or(|cpus| cpus > 0.0 && cpus.is_finite()));
        parse::memory_max(&text);
        parse::memory_limit_in_bytes(&text);
    }

    #[test]
    fn an_escaped_path_reads_back(path in "/[ -~\t\n]{0,20}") {
        let escaped: String = path.bytes().map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
            plain => char::from(plain).to_string(),
        }).collect();
        let line = format!("31 23 0:28 {escaped} {escaped} ro - cgroup2 x rw");
        let mounts = parse::mounts(line.as_bytes());
        prop_assert_eq!(mounts.len(), 1);
        prop_assert_eq!(mounts[0].root.as_os_str(), path.as_str());
        prop_assert_eq!(&mounts[0].root, &mounts[0].point);
    }
}
