use super::*;

const ATTR: Attr = Attr {
    ino: Ino(7 << 48 | 42),
    kind: Kind::File,
    size: 10_000,
    blocks: 24,
    mode: 0o4755,
    nlink: 2,
    uid: 1000,
    gid: 100,
    rdev: 0,
    atime_ns: 1_700_000_000_123_456_789,
    mtime_ns: -1_200_000_000,
    ctime_ns: i64::MAX,
    birth_ns: i64::MIN,
};

const NOTHING: Change = Change {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
};

/// What is stored is shown.
const STORED: Presentation = Presentation {
    uid: None,
    gid: None,
    umask: None,
};

/// What the kernel reads from a `SystemTime` in a reply, and what fuser 0.18 makes of it on the way
/// back (`fuser::time`).
fn through_the_kernel(time: SystemTime) -> SystemTime {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap(),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap();
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                n => (-seconds - 1, 1_000_000_000 - n),
            }
        }
    };
    if seconds >= 0 {
        UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanoseconds)
    } else {
        UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds)
    }
}

#[test]
fn a_copied_tree_keeps_its_times_also_before_1970() {
    for ns in [
        0,
        1,
        -1,
        -1_200_000_000,
        -1_000_000_000,
        1_700_000_000_123_456_789,
        i64::MAX,
        i64::MIN,
    ] {
        assert_eq!(kernel_ns(through_the_kernel(system_time(ns))), ns);
    }
}

#[test]
fn a_time_beyond_what_is_stored_is_the_nearest_that_is() {
    let far = Duration::from_secs(1 << 40);
    assert_eq!(kernel_ns(UNIX_EPOCH + far), i64::MAX);
    assert_eq!(kernel_ns(UNIX_EPOCH - far), i64::MIN);
}

#[test]
fn stat_shows_what_is_stored() {
    let shown = Presentation::default().file_attr(&ATTR);
    assert_eq!(shown.ino.0, ATTR.ino.0);
    assert_eq!((shown.size, shown.blocks), (10_000, 24));
    assert_eq!((shown.perm, shown.nlink), (0o4755, 2));
    assert_eq!((shown.uid, shown.gid), (1000, 100));
    assert_eq!(shown.kind, FileType::RegularFile);
    assert_eq!(shown.mtime, UNIX_EPOCH - Duration::from_millis(1200));
}

#[test]
fn uid_gid_and_umask_of_the_mount_are_shown_instead() {
    let options = Options {
        uid: Some(5),
        gid: Some(6),
        umask: Some(0o027),
        ..Options::default()
    };
    let shown = Presentation::of(&options).file_attr(&ATTR);
    assert_eq!((shown.uid, shown.gid, shown.perm), (5, 6, 0o750));
}

#[test]
fn new_tokens_are_seen_at_once_and_files_are_cached_long() {
    let token_root = Ino(7 << 48 | 1);
    assert_eq!(entry_ttl(Ino::ROOT, true), ROOT_TTL);
    assert_eq!(entry_ttl(token_root, true), TTL);
    assert_eq!(entry_ttl(token_root, false), Duration::ZERO);
    let attr = |ino, mode| Attr { ino, mode, ..ATTR };
    assert_eq!(attr_ttl(&attr(Ino::ROOT, 0o755)), ROOT_TTL);
    assert_eq!(attr_ttl(&attr(token_root, 0o755)), ROOT_TTL);
    assert_eq!(attr_ttl(&attr(ATTR.ino, 0o755)), TTL);
    assert_eq!(attr_ttl(&attr(ATTR.ino, 0o4755)), Duration::ZERO);
    let born = |ino, birth_ns| {
        generation(&Attr {
            ino,
            birth_ns,
            ..ATTR
        })
    };
    assert_ne!(
        born(ATTR.ino, 1_700_000_000_000_000_000),
        born(ATTR.ino, 1_700_000_000_000_000_001)
    );
    assert_ne!(born(ATTR.ino, 1 << 40), born(ATTR.ino, 1 << 41));
    assert_eq!(born(token_root, 5), born(token_root, 6));
    assert!(ROOT_TTL <= Duration::from_secs(1));
}

#[test]
fn every_kind_of_node_comes_back_as_itself() {
    for (mode, kind, shown) in [
        (libc::S_IFREG, Kind::File, FileType::RegularFile),
        (libc::S_IFIFO, Kind::Fifo, FileType::NamedPipe),
        (libc::S_IFSOCK, Kind::Socket, FileType::Socket),
        (libc::S_IFCHR, Kind::CharDevice, FileType::CharDevice),
        (libc::S_IFBLK, Kind::BlockDevice, FileType::BlockDevice),
    ] {
        assert_eq!(node_kind(mode | 0o644), Some(kind));
        assert_eq!(file_type(kind), shown);
    }
    assert_eq!(node_kind(0o644), Some(Kind::File));
    assert_eq!(node_kind(libc::S_IFDIR), None);
    assert_eq!(node_kind(libc::S_IFLNK), None);
    assert_eq!(file_type(Kind::Directory), FileType::Directory);
    assert_eq!(file_type(Kind::Symlink), FileType::Symlink);
}

#[test]
fn modes_lose_their_kind_and_keep_their_set_id_bits() {
    assert_eq!(permissions(libc::S_IFREG | 0o6755), 0o6755);
    assert_eq!(permissions(u32::MAX), 0o7777);
}

#[test]
fn touch_sets_the_time_given_or_the_daemons_own() {
    let change = Change {
        atime: Some(TimeOrNow::Now),
        mtime: Some(TimeOrNow::SpecificTime(system_time(5))),
        ..NOTHING
    };
    let set = change.to_set_attr(0, STORED, 77);
    assert_eq!((set.atime_ns, set.mtime_ns), (Some(77), Some(5)));
    assert_eq!(
        (set.mode, set.uid, set.gid, set.size),
        (None, None, None, None)
    );
    assert!(!set.kill_set_id);
}

#[test]
fn set_id_bits_are_cleared_by_chown_or_a_strangers_truncation() {
    let chown = Change {
        uid: Some(5),
        ..NOTHING
    };
    let chgrp = Change {
        gid: Some(5),
        ..NOTHING
    };
    let cut = Change {
        size: Some(0),
        ..NOTHING
    };
    let chmod = Change {
        mode: Some(libc::S_IFREG | 0o4755),
        uid: Some(5),
        ..NOTHING
    };
    assert!(chown.to_set_attr(0, STORED, 0).kill_set_id);
    assert!(chgrp.to_set_attr(0, STORED, 0).kill_set_id);
    assert!(cut.to_set_attr(1000, STORED, 0).kill_set_id);
    assert!(!cut.to_set_attr(0, STORED, 0).kill_set_id);
    // A chown to nobody counts if root or the owner makes it.
    let nothing = |by, shown| NOTHING.to_set_attr(by, shown, 0);
    assert!(nothing(0, STORED).kill_set_id && nothing(1000, STORED).kill_set_id);
    assert_eq!(nothing(0, STORED).only_by_owner, None);
    assert_eq!(nothing(1000, STORED).only_by_owner, Some(1000));
    let as_mine = Presentation {
        uid: Some(1000),
        ..STORED
    };
    assert_eq!(nothing(1000, as_mine).only_by_owner, None);
    assert_eq!(nothing(5, as_mine).only_by_owner, Some(5));
    assert_eq!(cut.to_set_attr(1000, STORED, 0).only_by_owner, None);
    let times = Change {
        mtime: Some(TimeOrNow::Now),
        ..NOTHING
    };
    assert!(!times.to_set_attr(1000, STORED, 0).kill_set_id);
    let set = chmod.to_set_attr(1000, STORED, 0);
    assert_eq!((set.mode, set.kill_set_id), (Some(0o4755), false));
}
