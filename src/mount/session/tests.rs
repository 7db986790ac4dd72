//! Real mounts: they fail without `/dev/fuse`, and root or `fusermount3` (the test with two users
//! needs root).

#[path = "tests/rig.rs"]
mod rig;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use rig::*;

use super::*;
use crate::fs::Caller;
use crate::types::Ino;

#[test]
fn files_directories_links_and_attributes_are_there_through_the_kernel() {
    let rig = Rig::new();
    fs::create_dir(rig.path("d")).unwrap();
    fs::write(rig.path("d/file"), vec![7; 3_000_000]).unwrap();
    fs::hard_link(rig.path("d/file"), rig.path("second")).unwrap();
    std::os::unix::fs::symlink("d/file", rig.path("link")).unwrap();
    fs::rename(rig.path("d/file"), rig.path("d/renamed")).unwrap();
    assert_eq!(fs::read(rig.path("second")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(
        fs::read_link(rig.path("link")).unwrap(),
        Path::new("d/file")
    );
    assert_eq!(rig.path("second").metadata().unwrap().nlink(), 2);
    let mut names: Vec<_> = fs::read_dir(rig.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["d", "link", "second"]);
    fs::remove_file(rig.path("d/renamed")).unwrap();
    fs::remove_dir(rig.path("d")).unwrap();
    assert_eq!(rig.path("second").metadata().unwrap().nlink(), 1);
    let error = fs::create_dir(rig.root().join("2")).unwrap_err();
    assert_eq!(numbers(&error), fuser::Errno::EPERM);
    let file = fs::File::options()
        .write(true)
        .open(rig.path("second"))
        .unwrap();
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    fs::File::open(rig.path("")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(rig.path("second")).unwrap(), [7; 5]);
}

#[test]
fn a_listing_has_every_entry_once_however_long_it_is() {
    let rig = Rig::new();
    let many = 3_000;
    for number in 0..many {
        fs::write(rig.path(&format!("file-{number:0100}")), b"").unwrap();
    }
    for _ in 0..2 {
        let names: std::collections::BTreeSet<_> = fs::read_dir(rig.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), many);
    }
    let listed = sh(&format!(
        "ls -f1 {0} | sort | uniq -d; ls -l {0} | wc -l",
        rig.path("").display()
    ));
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).trim(),
        format!("{}", many + 1)
    );
}

#[test]
fn times_survive_the_way_to_the_drive_and_back_also_before_1970() {
    let rig = Rig::new();
    fs::write(rig.path("old"), b"x").unwrap();
    let file = fs::File::options()
        .write(true)
        .open(rig.path("old"))
        .unwrap();
    for time in [
        UNIX_EPOCH - Duration::new(1, 200_000_000),
        UNIX_EPOCH - Duration::new(86_400 * 365, 0),
        UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
    ] {
        file.set_modified(time).unwrap();
        assert_eq!(
            rig.path("old").metadata().unwrap().modified().unwrap(),
            time
        );
    }
}

#[test]
fn the_callers_umask_is_applied_once() {
    let rig = Rig::new();
    let script = format!(
        "cd {} && umask 027 && : > f && mkdir d && mkfifo p",
        rig.path("").display()
    );
    assert!(sh(&script).status.success());
    let mode = |name: &str| rig.path(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("f"), mode("d"), mode("p")), (0o640, 0o750, 0o640));
}

#[test]
fn set_id_bits_go_on_chown_or_a_strangers_write_when_mounted() {
    let mut options = Options::default();
    options.apply("allow_other").unwrap();
    let rig = Rig::with(Node::Answers, &options, false);
    // The mountpoint lies in a folder that is closed to others.
    fs::set_permissions(rig.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mode = |name: &str| rig.path(name).metadata().unwrap().mode() & 0o7777;
    for name in ["owned", "written", "cut"] {
        fs::write(rig.path(name), b"#!").unwrap();
        fs::set_permissions(rig.path(name), fs::Permissions::from_mode(0o4777)).unwrap();
        assert_eq!(mode(name), 0o4777);
    }
    std::os::unix::fs::chown(rig.path("owned"), Some(1), None).unwrap();
    assert_eq!(mode("owned"), 0o777);
    let stranger = "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c";
    let script = format!(
        "cd {} && {stranger} 'echo x >> written && truncate -s 1 cut'",
        rig.path("").display()
    );
    let done = sh(&script);
    assert!(done.status.success(), "{done:?}");
    assert_eq!((mode("written"), mode("cut")), (0o777, 0o777));
}

#[test]
fn copying_locking_and_asking_for_a_terminal_work_as_on_a_disk() {
    let rig = Rig::new();
    fs::write(rig.path("from"), vec![9; 300_000]).unwrap();
    // std copies by copy_file_range(2).
    assert_eq!(fs::copy(rig.path("from"), rig.path("to")).unwrap(), 300_000);
    assert_eq!(fs::read(rig.path("to")).unwrap(), vec![9; 300_000]);
    let file = fs::File::open(rig.path("to")).unwrap();
    file.lock().unwrap();
    let second = fs::File::open(rig.path("to")).unwrap();
    assert!(second.try_lock().is_err());
    file.unlock().unwrap();
    second.try_lock().unwrap();
    // "Is it a terminal" must be answered no, not "unknown question".
    let asked = sh(&format!("LC_ALL=C stty < {}", rig.path("to").display()));
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(said.contains("Inappropriate ioctl"), "{said}");
}

#[test]
fn statfs_tells_the_quota_of_the_token() {
    let rig = Rig::new();
    let token = rustix::fs::statvfs(rig.path("")).unwrap();
    assert_eq!((token.f_bsize, token.f_frsize), (4096, 4096));
    assert_eq!(token.f_blocks, QUOTA / 4096);
    assert!(token.f_bavail <= token.f_blocks);
}

#[test]
fn nothing_can_be_changed_through_a_read_only_mount() {
    let mut options = Options::default();
    options.apply("ro,fsname=archive").unwrap();
    let rig = Rig::with(Node::Answers, &options, false);
    let error = fs::write(rig.path("f"), b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(rig.kind().as_deref(), Some("fuse.pxfs"));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(table.contains(" - fuse.pxfs archive ro"));
}

#[test]
fn what_is_on_the_node_alone_is_listed_and_read() {
    let rig = Rig::with(Node::Answers, &Options::default(), true);
    assert_eq!(fs::read(rig.path("published")).unwrap(), PUBLISHED);
    assert!(rig.fetcher.asked.load(Ordering::SeqCst));
}

#[test]
fn a_hanging_node_delays_only_its_readers_until_their_deadline() {
    let options = Options {
        read_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let rig = Rig::with(Node::Hangs, &options, true);
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let path = rig.path("published");
            std::thread::spawn(move || fs::read(path).unwrap_err())
        })
        .collect();
    // Answered while more calls wait than there are threads.
    rustix::fs::statvfs(rig.path("")).unwrap();
    fs::read_dir(rig.root()).unwrap().for_each(drop);
    for reader in readers {
        assert_eq!(reader.join().unwrap().kind(), io::ErrorKind::TimedOut);
    }
}

#[test]
fn a_defect_is_an_io_error_and_the_mount_lives() {
    let rig = Rig::with(Node::Panics, &Options::default(), true);
    for _ in 0..2 * THREADS_MAX {
        let error = fs::read(rig.path("published")).unwrap_err();
        assert_eq!(numbers(&error), fuser::Errno::EIO);
    }
    assert!(rig.root().join("1").is_dir());
    assert_eq!(rig.mounted.ended(), None);
}

#[test]
fn a_busy_mount_stays_until_its_files_are_closed() {
    let rig = Rig::new();
    let file = fs::File::create(rig.path("open")).unwrap();
    assert!(matches!(rig.mounted.unmount(), Err(MountError::Busy(_))));
    assert_eq!(rig.mounted.ended(), None);
    fs::write(rig.path("more"), b"x").unwrap();
    drop(file);
    rig.unmount();
    assert_eq!(rig.end(), Ended::Unmounted);
    rig.unmount();
}

#[test]
fn a_lazy_unmount_takes_effect_at_once_and_running_calls_end() {
    let rig = Rig::with(Node::Held, &Options::default(), true);
    let path = rig.path("published");
    let reader = std::thread::spawn(move || fs::read(path).unwrap_err());
    while !rig.fetcher.asked.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(rig.mounted.unmount(), Err(MountError::Busy(_))));
    rig.mounted.detach().unwrap();
    assert_eq!(rig.kind(), None);
    rig.fetcher.let_go.notify_one();
    assert_eq!(reader.join().unwrap().kind(), io::ErrorKind::TimedOut);
    assert_eq!(rig.end(), Ended::Unmounted);
}

#[test]
fn a_foreign_umount_is_noticed_and_the_next_mount_left_alone() {
    let rig = Rig::new();
    let mode = || rig.root().metadata().unwrap().mode() & 0o777;
    let root = rig.root().canonicalize().unwrap();
    device::unmount(&root, How::Cleanly).unwrap();
    assert_eq!(rig.end(), Ended::Unmounted);
    assert_eq!(mode(), 0o755);
    let next = device::mount(&root, &Options::default()).unwrap();
    rig.unmount();
    rig.mounted.detach().unwrap();
    assert_eq!(rig.kind().as_deref(), Some(device::KIND));
    device::unmount(&root, How::Lazily).unwrap();
    drop(next);
}

#[test]
fn a_mountpoint_in_use_is_refused_and_a_dead_one_cleaned() {
    let rig = Rig::new();
    let root = rig.root();
    assert!(matches!(
        mountpoint::check_mountpoint(&root),
        Err(MountError::AlreadyMounted { .. })
    ));
    rig.unmount();
    assert_eq!(rig.end(), Ended::Unmounted);
    // Stacked dead mounts where possible (`fusermount3` refuses).
    let canonical = root.canonicalize().unwrap();
    let deaths = if us().0 == 0 { 2 } else { 1 };
    for _ in 0..deaths {
        drop(device::mount(&canonical, &Options::default()).unwrap());
        assert_eq!(
            root.metadata().unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
    }
    assert_eq!(mountpoint::check_mountpoint(&root).unwrap(), canonical);
    assert_eq!(rig.kind(), None);
}

#[test]
fn while_it_is_mounted_the_bare_directory_takes_nothing_from_its_owner() {
    let rig = Rig::new();
    let bare = rig.mounted.bare.mode_now();
    assert_eq!(bare, 0o555);
    rig.unmount();
    assert_eq!(rig.end(), Ended::Unmounted);
    assert_eq!(rig.mounted.bare.mode_now(), 0o755);
}

#[test]
fn a_daemon_that_gives_up_leaves_no_mount_behind() {
    let rig = Rig::new();
    let Rig {
        mounted, folder, ..
    } = rig;
    let root = folder.path().join("mnt").canonicalize().unwrap();
    drop(mounted);
    assert_eq!(mountinfo::top(&root).unwrap(), None);
}

#[test]
fn the_kernel_takes_back_what_it_is_told_has_changed() {
    let rig = Rig::new();
    fs::write(rig.path("f"), b"x").unwrap();
    let attr = rig.path("f").metadata().unwrap();
    let notifier = rig.mounted.notifier();
    notifier.inval_inode(Ino(attr.ino()));
    notifier.inval_entry(Ino::ROOT, b"1");
    notifier.inval_entry(Ino::ROOT, b"never seen");
    assert_eq!(rig.path("f").metadata().unwrap().ino(), attr.ino());
    rig.unmount();
    assert_eq!(rig.end(), Ended::Unmounted);
    notifier.inval_entry(Ino::ROOT, b"1");
}

#[test]
fn what_was_looked_up_while_another_tree_came_is_not_believed_later() {
    let rig = Rig::with(Node::Answers, &Options::default(), true);
    let volume = &rig.fetcher.volume;
    let mut newer = root_of(volume.key());
    newer.sequence = 2;
    let followed = volume.begin_following(&newer).unwrap().unwrap();
    assert!(!rig.path("later").exists());
    assert!(rig.path("published").exists());
    volume.finish_following(followed).unwrap();
    // As in a newer tree: nothing that goes through the kernel.
    let dir = Ino(rig.path("").metadata().unwrap().ino());
    let by = Caller {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    rig.drive
        .mknod(by, dir, b"later", crate::fs::Kind::Fifo, 0o600, 0)
        .unwrap();
    rig.drive.unlink(dir, b"published").unwrap();
    assert!(rig.path("later").exists());
    assert!(!rig.path("published").exists());
}
