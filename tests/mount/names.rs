//! Names that are replaced, or removed and made again, while others call on them: as on a local disk a name that is
//! always there is always found.

use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;

/// One process puts another file in the place of the name again and again; what the other, who calls on it so often,
/// was refused.
const CALL_WHILE_REPLACED: &str = r#"
import collections, errno, os, signal, sys
top, rounds, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
name, new = os.path.join(top, "name"), os.path.join(top, "new")
open(name, "w").close()
pid = os.fork()
if pid == 0:
    while True:
        if how == "replaced":
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY))
            os.rename(new, name)
        else:
            os.unlink(name)
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
calls = {
    "replaced": [
        lambda: os.close(os.open(name, os.O_RDONLY)),
        lambda: os.close(os.open(name, os.O_RDWR | os.O_TRUNC)),
        lambda: os.stat(name),
        lambda: os.chmod(name, 0o640),
        lambda: os.utime(name, (1, 1)),
        lambda: os.truncate(name, 10),
        lambda: os.setxattr(name, "user.a", b"1"),
        lambda: os.listxattr(name),
        lambda: os.access(name, os.X_OK),
    ],
    "removed": [lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY))],
}
refused = collections.Counter()
try:
    for turn in range(rounds):
        for at, call in enumerate(calls[how]):
            try:
                call()
            except OSError as why:
                refused[at, errno.errorcode[why.errno]] += 1
    # It was never refused either: it is at it still.
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(dict(refused))
"#;

#[test]
fn a_name_that_is_always_there_is_found_while_it_is_replaced() {
    let machine = Machine::demo();
    for (how, rounds) in [("replaced", "4000"), ("removed", "10000")] {
        let folder = machine.dir().join(how);
        std::fs::create_dir(&folder).expect("mkdir");
        let args = ["-c", CALL_WHILE_REPLACED].map(Path::new);
        let told = tool(
            "python3",
            &[args[0], args[1], &folder, Path::new(rounds), Path::new(how)],
        );
        assert_eq!(told.stdout.trim(), "{}", "{how}");
    }
}

#[test]
fn a_descriptor_of_a_path_alone_keeps_what_it_has_found() {
    let machine = Machine::demo();
    let program = r#"
import os, sys
os.chdir(sys.argv[1])
with open("f", "w") as f:
    f.write("kept")
fd = os.open("f", os.O_PATH)
os.unlink("f")
print(os.fstat(fd).st_nlink, open(f"/proc/self/fd/{fd}").read())
"#;
    let args = ["-c", program].map(Path::new);
    let told = tool("python3", &[args[0], args[1], &machine.dir()]);
    assert_eq!(told.stdout.trim(), "0 kept");
}
