//! `USER`: who workers run as, resolved to numbers before anything is started.
//!
//! `uid`, `uid:gid`, `name` or `name:group`. A name must be in `/etc/passwd` (a group in `/etc/group`). A bare uid takes its gid
//! from `/etc/passwd`; a uid that is not there (`FROM scratch` has no such file) takes the gid of the same number, never root's.

use nix::unistd::{self, Gid, Group, Uid};

use super::mistakes::quoted;
use super::{User, number};

const ALLOWED: &str = "allowed: uid, uid:gid, or the name of a user";

pub(super) fn parse(text: &str) -> Result<User, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let (uid, own_gid) = resolve_user(user)?;
    let gid = group.map_or(Ok(own_gid), resolve_group)?;
    Ok(User { uid, gid })
}

fn resolve_user(text: &str) -> Result<(u32, u32), String> {
    if is_number(text) {
        let uid = id(text)?;
        // An unreadable /etc/passwd is as good as none: the number says all that is needed.
        let entry = unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
        return Ok((uid, entry.map_or(uid, |entry| entry.gid.as_raw())));
    }
    match unistd::User::from_name(text) {
        Ok(Some(entry)) => Ok((entry.uid.as_raw(), entry.gid.as_raw())),
        Ok(None) => Err(format!("there is no user {} in /etc/passwd; {ALLOWED}", quoted(text))),
        Err(errno) => Err(format!("looking up user {}: {}; {ALLOWED}", quoted(text), errno.desc())),
    }
}

fn resolve_group(text: &str) -> Result<u32, String> {
    if is_number(text) {
        return id(text);
    }
    match Group::from_name(text).map(|entry| entry.map(|entry| Gid::as_raw(entry.gid))) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => Err(format!("there is no group {} in /etc/group; {ALLOWED}", quoted(text))),
        Err(errno) => Err(format!("looking up group {}: {}; {ALLOWED}", quoted(text), errno.desc())),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && number::is_digits(text)
}

/// 4294967295 is -1, which `setuid` takes for "leave it as it is".
fn id(text: &str) -> Result<u32, String> {
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| format!("{} is no id; allowed: ids from 0 to 4294967294", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_passwd_file() {
        assert_eq!(parse("65532:1000"), Ok(User { uid: 65532, gid: 1000 }));
        assert_eq!(parse("4123456789"), Ok(User { uid: 4_123_456_789, gid: 4_123_456_789 }));
    }

    #[test]
    fn names_are_looked_up() {
        let root = User { uid: 0, gid: 0 };
        assert_eq!((parse("root"), parse("0"), parse("root:root")), (Ok(root), Ok(root), Ok(root)));
        assert_eq!(parse("root:7"), Ok(User { uid: 0, gid: 7 }));
        assert!(parse("no-such-user").unwrap_err().contains("/etc/passwd"));
        assert!(parse("0:no-such-group").unwrap_err().contains("/etc/group"));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for wrong in ["", ":", "0:", ":0", "-1", "4294967295", "4294967296", "0:4294967295", "0:0:0", "1.5", " 0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
