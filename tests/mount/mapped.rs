//! Bytes stored through a shared mapping: they come late, and are kept whatever the quota says.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::{tool, wait_until};
use crate::harness::Machine;
use crate::samples::pattern;

/// Length of the mapped file: more than is left when it is stored into.
const LEN: u64 = 16 << 20;

/// Maps a sparse file, takes all room that is left, stores into the mapping, and tells the error
/// numbers of `msync` and `fsync`.
const STORE_AT_FULL_QUOTA: &str = r#"
import mmap, os, sys
path, filler, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
def told(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
fd = os.open(path, os.O_RDWR)
with mmap.mmap(fd, size) as m:
    with open(filler, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"f" * 1048576)
        except OSError:
            pass
    for at in range(0, size, 65536):
        m[at:at+8] = at.to_bytes(8, "little")
    print(told(m.flush), told(lambda: os.fsync(fd)))
    print(told(lambda: os.close(fd)))
"#;

#[test]
fn what_is_stored_through_a_mapping_at_a_full_quota_is_kept_and_told() {
    let mut machine = Machine::demo();
    let (sparse, filler) = (machine.dir().join("sparse"), machine.dir().join("filler"));
    File::create(&sparse)
        .and_then(|file| file.set_len(LEN))
        .expect("a sparse file");
    machine.flush();
    let python = ["-c", STORE_AT_FULL_QUOTA].map(Path::new);
    let len = LEN.to_string();
    let told = tool(
        "python3",
        &[python[0], python[1], &sparse, &filler, Path::new(&len)],
    );
    let full = Errno::DQUOT.raw_os_error();
    assert_eq!(told.stdout.trim(), format!("{full} {full}\n{full}"));

    // Nothing that exceeds the quota is published, and `status` says why and because of what.
    let token = machine.token("1");
    assert_eq!(token["state"], "quota");
    let reason = token["reason"].as_str().expect("a reason");
    assert!(reason.contains("sparse"), "{reason}");
    let refused = machine.ask(&["flush"]).exits(7).one_line();
    assert!(
        refused.stderr.contains("more are used than the quota has"),
        "{}",
        refused.stderr
    );

    // It is there after the kernel has forgotten it, after a crash, and published once there is room.
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
    check(&sparse);
    machine.kill();
    machine.start();
    check(&sparse);
    machine.ask(&["flush"]).exits(7);
    fs::remove_file(&filler).expect("deleting goes on");
    wait_until("there is room", Duration::from_secs(5), || {
        machine.token("1")["state"] == "ok"
    });
    File::open(&sparse)
        .and_then(|file| file.sync_all())
        .expect("nothing to tell any more");
    machine.flush();
    let second = {
        machine.stop();
        let mut second = Machine::prepared_second(&machine);
        second.start();
        second
    };
    check(&second.dir().join("sparse"));
}

#[track_caller]
fn check(path: &Path) {
    let bytes = fs::read(path).expect("readable");
    assert_eq!(bytes.len() as u64, LEN);
    for at in (0..bytes.len()).step_by(65536) {
        assert_eq!(bytes[at..at + 8], (at as u64).to_le_bytes(), "at {at}");
    }
}

#[test]
fn a_mapping_of_a_descriptor_that_appends_is_stored_where_it_is_mapped() {
    let machine = Machine::demo();
    let path = machine.dir().join("log");
    fs::write(&path, pattern(1, 0, 200_000)).expect("writable");
    let program = r#"
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
with mmap.mmap(fd, 200000) as m:
    m[4096:4104] = b"replaced"
    m.flush()
"#;
    tool("python3", &[Path::new("-c"), Path::new(program), &path]);
    let file = File::open(&path).expect("readable");
    assert_eq!(file.metadata().expect("stat").len(), 200_000);
    let mut found = [0; 8];
    file.read_exact_at(&mut found, 4096).expect("readable");
    assert_eq!(&found, b"replaced");
}
