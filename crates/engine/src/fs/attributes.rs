//! Changing attributes: mode, owner, times, extended attributes. Only enlarging an extended
//! attribute is growth.

use super::acl::{self, Acl};
use super::create::xattrs_bytes;
use super::quota::signed;
use super::volume::Volume;
use super::{Attr, Caller, FsError, Kind, SetAttr};
use crate::journal::record::{Inode, Xattr};
use crate::journal::{Batch, key};
use crate::pack::charge;
use crate::pack::entry::MAX_XATTRS;
use crate::types::Ino;

/// `XATTR_CREATE` and `XATTR_REPLACE` of setxattr(2).
const CREATE: i32 = 1;
const REPLACE: i32 = 2;

/// Prefix of the virtual attributes, which nobody sets.
pub(super) const VIRTUAL: &[u8] = b"user.px.";

impl Volume {
    /// Changes what `set` names.
    pub(super) fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        if let Some(size) = set.size {
            match Kind::from_number(self.inode(ino)?.kind)? {
                Kind::File => self.with_file(ino, |file| self.resize(file, size))?,
                Kind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid),
            }
        }
        if set.sets_attributes() || set.kill_set_id {
            self.change_inode(ino, set)?;
        }
        self.getattr(ino)
    }

    fn change_inode(&self, ino: Ino, set: &SetAttr) -> Result<(), FsError> {
        let now = self.clock.wall_ns();
        if let Some(mtime_ns) = set.mtime_ns
            && self.inode(ino)?.kind == Kind::File as u8
        {
            // It goes with the content, for which this waits, and so without the names.
            self.with_file(ino, |file| self.set_times(file, mtime_ns, now))?;
        }
        let _names = self.lock_names();
        let mut inode = self.inode(ino)?;
        let kind = Kind::from_number(inode.kind)?;
        let before = inode.clone();
        if set.kill_set_id && kind != Kind::Directory {
            inode.mode = without_set_id(inode.mode);
        }
        let is_refused = set.only_by_owner.is_some_and(|user| user != before.uid);
        if is_refused && inode.mode != before.mode {
            return Ok(());
        }
        if let Some(mode) = set.mode {
            inode.mode = mode & 0o7777;
            acl::chmod(&mut inode.xattrs, inode.mode);
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.atime_ns = set.atime_ns.unwrap_or(inode.atime_ns);
        inode.mtime_ns = set.mtime_ns.unwrap_or(inode.mtime_ns);
        if set.size.is_some() && !set.sets_attributes() && inode == before {
            // The change time moved with the content.
            return Ok(());
        }
        inode.ctime_ns = now;
        if self.removed.change(ino, &inode)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(key::inode(ino), &inode);
        batch.mark(key::dirty_inode(ino));
        self.apply(batch)?;
        self.forget_access(ino, set.atime_ns.is_some());
        Ok(())
    }

    /// Set-id bits go when somebody else writes.
    pub(super) fn kill_set_id(&self, ino: Ino) -> Result<(), FsError> {
        let mode = self.inode(ino)?.mode;
        if without_set_id(mode) == mode {
            return Ok(());
        }
        let set = SetAttr {
            kill_set_id: true,
            ..SetAttr::default()
        };
        self.change_inode(ino, &set)
    }

    /// Sets an extended attribute. An access ACL goes with the permission bits, and takes the set-group-id bit where `by`
    /// is in another group; one that the bits can say alone is not kept.
    pub(super) fn setxattr(
        &self,
        by: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        if name.starts_with(VIRTUAL) {
            return Err(FsError::NotPermitted);
        }
        check_attribute_name(name)?;
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        let _names = self.lock_names();
        let mut inode = self.inode(ino)?;
        let before = xattrs_bytes(&inode);
        let acl = acl_for(&inode, name, value)?;
        if let (acl::ACCESS, Some(acl)) = (name, acl) {
            inode.mode = inode.mode & !0o777 | acl.mode();
            if by.uid != 0 && by.gid != inode.gid {
                inode.mode &= !0o2000;
            }
            if acl.is_minimal() {
                inode.xattrs.retain(|xattr| xattr.name != name);
                return self.put_xattrs(ino, inode, before);
            }
        }
        match inode
            .xattrs
            .binary_search_by(|x| x.name.as_slice().cmp(name))
        {
            Ok(_) if flags & CREATE != 0 => return Err(FsError::Exists),
            Err(_) if flags & REPLACE != 0 => return Err(FsError::NoAttribute),
            Ok(at) => {
                if let Some(xattr) = inode.xattrs.get_mut(at) {
                    xattr.value = value.to_vec();
                }
            }
            Err(at) => inode.xattrs.insert(
                at,
                Xattr {
                    name: name.to_vec(),
                    value: value.to_vec(),
                },
            ),
        }
        if xattrs_bytes(&inode) > MAX_XATTRS {
            return Err(FsError::AttributesFull);
        }
        self.put_xattrs(ino, inode, before)
    }

    /// The value of an extended attribute.
    pub(super) fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        check_attribute_name(name)?;
        let inode = self.inode(ino)?;
        let found = inode.xattrs.into_iter().find(|xattr| xattr.name == name);
        found.map(|xattr| xattr.value).ok_or(FsError::NoAttribute)
    }

    /// The names of the extended attributes, each with a NUL behind it.
    pub(super) fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let mut list = Vec::new();
        for xattr in self.inode(ino)?.xattrs {
            list.extend_from_slice(&xattr.name);
            list.push(0);
        }
        Ok(list)
    }

    /// Removes an extended attribute.
    pub(super) fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        if name.starts_with(VIRTUAL) {
            return Err(FsError::NotPermitted);
        }
        check_attribute_name(name)?;
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        let _names = self.lock_names();
        let mut inode = self.inode(ino)?;
        let before = xattrs_bytes(&inode);
        let kept = inode.xattrs.len();
        inode.xattrs.retain(|xattr| xattr.name != name);
        if inode.xattrs.len() == kept {
            return Err(FsError::NoAttribute);
        }
        self.put_xattrs(ino, inode, before)
    }

    fn put_xattrs(&self, ino: Ino, mut inode: Inode, before: u64) -> Result<(), FsError> {
        let cost = signed(charge::xattrs_charge(xattrs_bytes(&inode)))
            - signed(charge::xattrs_charge(before));
        // What has no name any more is charged nothing.
        let cost = if inode.nlink == 0 { 0 } else { cost };
        let mut reserved = self.quota.reservation();
        match u64::try_from(cost) {
            Ok(growth) if growth > 0 => {
                self.quota().check_write(self.clock.as_ref())?;
                reserved.grow(growth)?;
            }
            _ => reserved.adjust(cost),
        }
        inode.ctime_ns = self.clock.wall_ns();
        if self.removed.change(ino, &inode)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(key::inode(ino), &inode);
        batch.mark(key::dirty_inode(ino));
        batch.charge(cost);
        self.apply(batch)?;
        reserved.confirm();
        Ok(())
    }
}

/// Greatest length of the name of an extended attribute, bytes (`XATTR_NAME_MAX`).
const MAX_ATTRIBUTE_NAME: usize = 255;

/// The ACL that `value` is, where `name` is that of one.
fn acl_for(inode: &Inode, name: &[u8], value: &[u8]) -> Result<Option<Acl>, FsError> {
    let may_have = match (name, Kind::from_number(inode.kind)?) {
        (acl::ACCESS, kind) => kind != Kind::Symlink,
        (acl::DEFAULT, kind) => kind == Kind::Directory,
        _ => return Ok(None),
    };
    match may_have {
        true => Acl::parse(value).map(Some),
        false => Err(FsError::NotSupported),
    }
}

/// Only these namespaces are kept, and nothing in them without a name of its own. Of `system` it is the two ACLs.
pub(super) fn check_attribute_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > MAX_ATTRIBUTE_NAME {
        return Err(FsError::AttributeTooLarge);
    }
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    let kept = [&b"user."[..], b"trusted.", b"security."];
    match kept.iter().find_map(|space| name.strip_prefix(*space)) {
        Some(b"") => Err(FsError::Invalid),
        Some(_) => Ok(()),
        None => Err(FsError::NotSupported),
    }
}

/// A file's mode without the bits that go with a change by somebody without the privilege, or of its owner: set-user-id,
/// and set-group-id where the group may execute (`FUSE_HANDLE_KILLPRIV_V2`). Where it may not, the bit runs nothing.
fn without_set_id(mode: u16) -> u16 {
    match mode & 0o010 {
        0 => mode & !0o4000,
        _ => mode & !0o6000,
    }
}
