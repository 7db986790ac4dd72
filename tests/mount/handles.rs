//! File handles: they open the file that they were made of, also when the kernel knows nothing of it any more, and never
//! another one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;

/// Makes handles of what is named below the folder, or tells what they open. Arguments: folder, file of the handles, names.
const PROGRAM: &str = r#"
import ctypes, errno, os, pickle, struct, sys
top, kept, names = sys.argv[1], sys.argv[2], sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
folder = os.open(top, os.O_RDONLY)
def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")
    return answer
def handle(name):
    buffer, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
    struct.pack_into("Ii", buffer, 0, 128, 0)
    checked(libc.name_to_handle_at(folder, name.encode(), buffer, ctypes.byref(mount), 0))
    return buffer.raw
def told(name, handle):
    buffer = ctypes.create_string_buffer(handle, len(handle))
    try:
        path = checked(libc.open_by_handle_at(folder, buffer, os.O_PATH))
    except OSError as why:
        return errno.errorcode[why.errno]
    link = "/proc/self/fd/%d" % path
    if not os.path.isdir(link):
        return open(link).read() or "empty"
    # A folder is put where it lies, up to the mountpoint.
    return os.path.relpath(os.readlink(link), top), sorted(os.listdir(link))
if names:
    pickle.dump({name: handle(name) for name in names}, open(kept, "wb"))
else:
    for name, handle in pickle.load(open(kept, "rb")).items():
        print(name, told(name, handle))
"#;

#[track_caller]
fn told(dir: &Path, kept: &Path, names: &[&str]) -> String {
    let mut args = vec![Path::new("-c"), Path::new(PROGRAM), dir, kept];
    args.extend(names.iter().map(Path::new));
    tool("python3", &args).stdout
}

#[test]
fn a_file_handle_always_opens_its_own_file_never_another() {
    let mut machine = Machine::demo();
    let (dir, kept) = (machine.dir(), machine.scratch().join("handles"));
    fs::create_dir_all(dir.join("a/b/c")).expect("mkdir");
    for name in [
        "a/b/c/deep",
        "moved",
        "linked",
        "removed",
        "replaced",
        "a/empty",
    ] {
        let content = if name == "a/empty" { "" } else { name };
        fs::write(dir.join(name), content).expect("write");
    }
    fs::hard_link(dir.join("linked"), dir.join("a/second")).expect("link");
    fs::create_dir(dir.join("gone")).expect("mkdir");
    let names = [
        "a/b/c/deep",
        "moved",
        "linked",
        "removed",
        "replaced",
        "a/empty",
        "a/b/c",
        "a",
        ".",
        "gone",
    ];
    told(&dir, &kept, &names);
    fs::rename(dir.join("moved"), dir.join("a/b/here")).expect("rename");
    fs::remove_file(dir.join("linked")).expect("unlink");
    fs::remove_file(dir.join("removed")).expect("unlink");
    fs::remove_dir(dir.join("gone")).expect("rmdir");
    fs::write(dir.join("new"), "another one").expect("write");
    fs::rename(dir.join("new"), dir.join("replaced")).expect("rename");
    let expected = "a/b/c/deep a/b/c/deep
moved moved
linked linked
removed ESTALE
replaced ESTALE
a/empty empty
a/b/c ('a/b/c', ['deep'])
a ('a', ['b', 'empty', 'second'])
. ('.', ['a', 'replaced'])
gone ESTALE
";
    machine.flush();
    machine.restart();
    // Before anybody has looked anything up.
    assert_eq!(told(&dir, &kept, &[]), expected, "after a new mount");
    machine.kill();
    machine.start();
    assert_eq!(told(&dir, &kept, &[]), expected, "after a crash");
    // Found by its number, and by its name: the same file.
    let numbers =
        || ["a/b/c/deep", "a/b"].map(|name| fs::metadata(dir.join(name)).expect("stat").ino());
    let before = numbers();
    machine.restart();
    assert_eq!(numbers(), before);
    assert_eq!(told(&dir, &kept, &[]), expected, "after lookups by name");
}
