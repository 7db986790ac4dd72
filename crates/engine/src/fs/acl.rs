//! POSIX ACLs, as the kernel hands them over in two extended attributes.
//!
//! Invariant: an access ACL and the permission bits of its inode say the same. Setting an ACL sets the bits, a chmod
//! changes the ACL, and what the bits can say alone has no ACL. Who may do what is the kernel's to compare.
//! Called by `attributes` and `create`.
//!
//! | bytes (little endian, `linux/posix_acl_xattr.h`) | |
//! |---|---|
//! | 4 | version: 2 |
//! | 2, 2, 4 for each entry | tag, permissions (3 bits), user or group id (all ones where the tag has none) |

use super::FsError;
use crate::journal::record::Xattr;

/// The extended attribute of who may do what.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of what new entries of a directory begin with.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

/// Tags of entries, in the order in which they stand.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The greatest length of a value in bytes: the kernel reads no more than a page.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A well-formed ACL: one entry each for owner, group and others, and a mask where users or groups are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads a value.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for anything but a well-formed ACL.
    pub(super) fn parse(value: &[u8]) -> Result<Self, FsError> {
        let (version, rest) = value.split_first_chunk().ok_or(FsError::Invalid)?;
        let (entries, odd) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !odd.is_empty() || value.len() > MOST {
            return Err(FsError::Invalid);
        }
        let entries = entries.iter().map(|[t0, t1, p0, p1, id @ ..]| Entry {
            tag: u16::from_le_bytes([*t0, *t1]),
            permissions: u16::from_le_bytes([*p0, *p1]),
            id: u32::from_le_bytes(*id),
        });
        let acl = Self(entries.collect());
        match acl.is_well_formed() {
            true => Ok(acl),
            false => Err(FsError::Invalid),
        }
    }

    fn is_well_formed(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let names = count(USER) + count(GROUP) > 0;
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        self.0.is_sorted_by_key(|entry| entry.tag)
            && (self.0.iter()).all(|e| known.contains(&e.tag) && e.permissions <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER].map(count) == [1, 1, 1]
            && count(MASK) <= 1
            && (count(MASK) == 1 || !names)
    }

    fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            value.extend(entry.id.to_le_bytes());
        }
        value
    }

    /// Whether permission bits can say the same.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits (`& 0o777`) that go with it: the group's are the mask, where there is one.
    pub(super) fn mode(&self) -> u16 {
        let of = |tag| self.0.iter().find(|entry| entry.tag == tag);
        let bits = |tag| of(tag).map_or(0, |entry| entry.permissions);
        let group = if of(MASK).is_some() { MASK } else { GROUP_OBJ };
        bits(USER_OBJ) << 6 | bits(group) << 3 | bits(OTHER)
    }

    /// Replaces the permissions that [`Acl::mode`] tells of, each by what `change` makes of it and of its bits in `mode`.
    fn change(&mut self, mode: u16, change: fn(u16, u16) -> u16) {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                MASK => 3,
                GROUP_OBJ if !masked => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions = change(entry.permissions, mode >> shift & 7);
        }
    }
}

/// Brings the access ACL among `xattrs`, where there is one, in step with the permission bits of `mode`.
pub(super) fn chmod(xattrs: &mut [Xattr], mode: u16) {
    let Some(xattr) = xattrs.iter_mut().find(|xattr| xattr.name == ACCESS) else {
        return;
    };
    // What is no ACL the kernel refuses to everybody but the owner; nothing of it is guessed.
    if let Ok(mut acl) = Acl::parse(&xattr.value) {
        acl.change(mode, |_, bits| bits);
        xattr.value = acl.to_value();
    }
}

/// The mode and the extended attributes that a new inode of a directory with `xattrs` begins with, where its maker asks
/// for `mode`: its umask counts where the directory has no default ACL alone.
pub(super) fn inherit(
    xattrs: &[Xattr],
    mode: u16,
    umask: u16,
    directory: bool,
) -> (u16, Vec<Xattr>) {
    let default = xattrs.iter().find(|xattr| xattr.name == DEFAULT);
    let acl = default.map(|xattr| Acl::parse(&xattr.value));
    let (Some(default), Some(Ok(mut acl))) = (default, acl) else {
        return (mode & !umask, Vec::new());
    };
    acl.change(mode, |granted, asked| granted & asked);
    let mut inherited = Vec::new();
    if !acl.is_minimal() {
        inherited.push(Xattr {
            name: ACCESS.to_vec(),
            value: acl.to_value(),
        });
    }
    // Sorted by name.
    inherited.extend(directory.then(|| default.clone()));
    (mode & !0o777 | acl.mode(), inherited)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tag, permissions and id.
    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        };
        Acl(entries.iter().map(entry).collect()).to_value()
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let good = [
            (1, 7, NONE),
            (2, 6, 5),
            (4, 5, NONE),
            (0x10, 7, NONE),
            (0x20, 0, NONE),
        ];
        assert_eq!(Acl::parse(&value(&good)).unwrap().mode(), 0o770);
        let without = |at: usize| [&good[..at], &good[at + 1..]].concat();
        let mut bad = vec![
            Vec::new(),
            vec![2],
            value(&[]),
            [value(&good), vec![0]].concat(),
        ];
        // Owner, group, mask (a user is named) and others have to be there.
        bad.extend([0, 2, 3, 4].map(|at| value(&without(at))));
        for (at, entry) in [
            (0, (4, 7, NONE)),
            (1, (0x20, 6, 5)),
            (1, (2, 8, 5)),
            (1, (3, 6, 5)),
            (2, (8, 5, 5)),
        ] {
            let mut changed = good;
            changed[at] = entry;
            bad.push(value(&changed));
        }
        let mut version = value(&good);
        version[0] = 1;
        bad.push(version);
        let many: Vec<_> = (0..600).map(|id| (2, 6, id)).collect();
        bad.push(value(&[&good[..1], &many, &good[2..]].concat()));
        for value in bad {
            assert_eq!(Acl::parse(&value), Err(FsError::Invalid), "{value:?}");
        }
    }

    #[test]
    fn bits_change_owner_mask_and_others_and_never_a_named_user() {
        let mut xattrs = [Xattr {
            name: ACCESS.to_vec(),
            value: value(&[
                (1, 7, NONE),
                (2, 6, 5),
                (4, 5, NONE),
                (0x10, 7, NONE),
                (0x20, 0, NONE),
            ]),
        }];
        chmod(&mut xattrs, 0o4641);
        let expected = [
            (1, 6, NONE),
            (2, 6, 5),
            (4, 5, NONE),
            (0x10, 4, NONE),
            (0x20, 1, NONE),
        ];
        assert_eq!(xattrs[0].value, value(&expected));
        // Without a mask they are the group's own.
        let mut minimal = Acl::parse(&value(&[(1, 7, NONE), (4, 7, NONE), (0x20, 7, NONE)]));
        minimal.as_mut().unwrap().change(0o751, |_, bits| bits);
        assert_eq!(minimal.unwrap().mode(), 0o751);
    }
}
