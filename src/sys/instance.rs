//! Which container this is: the mount and PID namespaces of the caller.
//!
//! The containers of a pod share one network namespace, so an address alone does not say who answers there. Supervisor and
//! subcommands compute this value alike, and `status`, `healthcheck` and the control socket listen only to their own.

use std::fmt;
use std::fs;
use std::io;

/// Inode numbers of the namespaces, for example `mnt:4026532001/pid:4026532003`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    pub mnt: u64,
    pub pid: u64,
}

impl Instance {
    /// The namespaces that the caller lives in; fails where there is no `/proc`.
    pub fn own() -> io::Result<Self> {
        Ok(Self { mnt: inode("mnt")?, pid: inode("pid")? })
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mnt:{}/pid:{}", self.mnt, self.pid)
    }
}

fn inode(kind: &str) -> io::Result<u64> {
    let path = format!("/proc/self/ns/{kind}");
    let link = fs::read_link(&path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    parse_link(kind, &link.to_string_lossy())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not a namespace: {}", link.display())))
}

/// The kernel writes `mnt:[4026531841]`.
fn parse_link(kind: &str, link: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_the_kernel_writes_it_and_no_other_way() {
        assert_eq!(parse_link("mnt", "mnt:[4026531841]"), Some(4_026_531_841));
        for wrong in ["mnt:[]", "pid:[4026531841]", "mnt:[4026531841", "mnt:4026531841", "mnt:[-1]", ""] {
            assert_eq!(parse_link("mnt", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_looks_from_one_place_agree() {
        let own = Instance::own().expect("/proc is here");
        assert_eq!(Instance::own().expect("/proc is here"), own);
        assert_eq!(own.to_string(), format!("mnt:{}/pid:{}", own.mnt, own.pid));
    }
}
