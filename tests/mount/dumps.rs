//! The wallet's key ends in no core dump, of whatever command that reads it.
//!
//! Each process is told from outside that its core dump may be of any size, as a kernel that pipes dumps into a
//! program takes it anyway, and is then ended by a signal that makes one.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::command::ends;
use crate::contract::{Chain, Kind, wallet};
use crate::harness::Machine;

const SOON: Duration = Duration::from_secs(120);

/// Ends the process by a signal that makes a core dump of any size, where there may be one.
fn abort(pid: Pid) {
    let most = getrlimit(Resource::Core).maximum;
    let any = Rlimit {
        current: most,
        maximum: most,
    };
    prlimit(Some(pid), Resource::Core, any).expect("up to the bound that all have");
    kill_process(pid, Signal::ABORT).expect("it runs");
}

/// The same command, begun where core dumps may be of any size.
fn unbound(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let line = r#"ulimit -S -c "$(ulimit -H -c)" && exec "$@""#;
    shell.args(["-c", line, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let set = command.get_envs();
    shell.envs(set.filter_map(|(name, value)| value.map(|value| (name, value))));
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

/// How a child ends.
fn end_of(mut child: Child) -> ExitStatus {
    ends("the child", SOON, move || child.wait().expect("our child"))
}

#[track_caller]
fn assert_undumped(what: &str, ended: ExitStatus) {
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{what}");
    assert!(!ended.core_dumped(), "there is a core dump of `{what}`");
}

/// The most that a core dump of the process may have, as it has bound it itself.
fn limit_of(pid: Pid) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero()));
    let limits = limits.expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max core"));
    let mut words = line.expect("a line").split_whitespace();
    words.nth(4).unwrap_or_default().to_owned()
}

#[test]
fn no_core_dump_has_the_wallets_key_whichever_command_has_read_it() {
    // This machine makes core dumps, and that can be seen.
    let folder = tempfile::tempdir().expect("a folder");
    let mut sleep = Command::new("sleep");
    let sleep = sleep.arg("1000").current_dir(folder.path()).spawn();
    let sleep = sleep.expect("a program");
    abort(Pid::from_child(&sleep));
    let ended = end_of(sleep);
    assert!(
        ended.core_dumped(),
        "no core dump of any program can be had here, so nothing is shown: see /proc/sys/kernel/core_pattern"
    );

    let chain = Chain::new(Kind::Sync);
    let mut machine = chain.machine(None);
    machine.start_without_token();
    assert_eq!(limit_of(machine.pid()), "0");
    abort(machine.pid());
    let ended = machine.ended(SOON);
    machine.kill();
    assert_undumped("mount", ended);

    let contract = chain.contract().to_string();
    for command in [
        &["mount", "drive", "-f"][..],
        &["tokens"],
        &["mint", "--package", "0", "--yes"],
        &["register", "1", "--yes"],
        &["upgrade", "1", "--package", "1", "--yes"],
        &["sync", "1", "--yes"],
        &["doctor"],
        &["deploy", "--yes"],
        &["oracle"],
    ] {
        // By the time that the chain is asked, which never answers, the wallet is read.
        let chain = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", chain.local_addr().expect("bound"));
        let machine = Machine::prepared("mount");
        let mut asked = machine.command();
        asked.args(command).args(["--volume", "plain"]);
        asked.args(["--rpc-url", &url, "--contract", &contract]);
        asked.args(["--wallet", &wallet(&machine)]);
        match command {
            ["oracle"] => asked.args([
                "--node",
                &format!("gateway={url}"),
                "--allow-address",
                "127.0.0.1",
            ]),
            _ => asked.args(["--node", &format!("embedded={}", machine.node().display())]),
        };
        asked.arg("--state-dir").arg(machine.state());
        let mut asked = unbound(&asked);
        asked
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = asked.spawn().expect("pxfs starts");
        let pid = Pid::from_child(&child);
        let what = format!("{command:?} before it calls the chain");
        let call = ends(&what, SOON, move || {
            chain.accept().map(|(call, _)| (call, chain))
        });
        let _held = call.expect("a call");
        assert_eq!(limit_of(pid), "0", "{command:?}");
        abort(pid);
        assert_undumped(&command.join(" "), end_of(child));
    }
}
