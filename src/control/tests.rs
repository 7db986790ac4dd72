use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::exit::{Exit, Failure};

/// Ends a flush on demand.
#[derive(Default)]
struct Echo(Arc<Notify>);

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, request: Request, progress: &Progress) -> Result<Value, Failure> {
        match request {
            Request::Status => Ok(json!("here")),
            Request::Flush { .. } => {
                progress.set("flush", Amount::of(0, 42));
                // Without a notification it fails instead of hanging.
                let told = tokio::time::timeout(Duration::from_secs(60), self.0.notified());
                let _ = told.await;
                Ok(Value::Null)
            }
            Request::Packages { .. } => panic!("a defect"),
            _ => Err(Failure::new(Exit::Token, "token 9: not ours")),
        }
    }
}

fn daemon(folder: &Path, state: &Path) -> (Registration, tokio::runtime::Runtime) {
    daemon_of(folder, state, Echo::default())
}

fn daemon_of(folder: &Path, state: &Path, echo: Echo) -> (Registration, tokio::runtime::Runtime) {
    let (registration, listener) = Registration::announce(folder, state, Path::new("/m")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        serve(listener, Arc::new(echo)).await;
    });
    (registration, runtime)
}

fn ask(entry: &Entry, request: &Request) -> Result<Value, Failure> {
    Client::connect(&entry.socket).unwrap().ask(request, |_| {})
}

#[test]
fn a_command_finds_the_daemon_and_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let daemon = daemon(&folder, Path::new("/state"));
    let found = find_all(&[dir.path().join("none"), folder.clone(), folder.clone()]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state_dir, Path::new("/state"));
    assert_eq!(ask(&found[0], &Request::Status), Ok(json!("here")));
    let refused = ask(&found[0], &Request::Tokens).unwrap_err();
    assert_eq!(refused, Failure::new(Exit::Token, "token 9: not ours"));
    drop(daemon.0);
    assert!(find_all(&[folder]).is_empty());
}

#[test]
fn peers_that_say_nothing_keep_nobody_from_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = daemon(dir.path(), Path::new("/state"));
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    let silent: Vec<_> = (0..200)
        .map(|_| StdStream::connect(&entry.socket).unwrap())
        .collect();
    assert_eq!(ask(&entry, &Request::Status), Ok(json!("here")));
    // Only the oldest were dropped.
    let is_gone = |mut peer: &StdStream| {
        peer.set_nonblocking(true).unwrap();
        std::io::Read::read(&mut peer, &mut [0]).is_ok_and(|read| read == 0)
    };
    let gone = silent.iter().filter(|peer| is_gone(peer)).count();
    assert!(gone > 100 && !is_gone(&silent[199]), "{gone}");
}

/// Connections that the daemon has accepted on its socket.
fn taken(entry: &Entry) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = entry.socket.to_str().unwrap();
    let is_taken = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Connected, with an inode; one waiting to be accepted has none.
        matches!(fields[..], [.., "03", inode, at] if at == path && inode != "0")
    };
    sockets.lines().filter(is_taken).count()
}

#[test]
fn simultaneous_control_clients_use_a_limited_share_of_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = daemon(dir.path(), Path::new("/state"));
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    let asking: Vec<_> = (0..200)
        .map(|_| {
            let mut peer = StdStream::connect(&entry.socket).unwrap();
            frame::write(&mut peer, &Request::Flush { token: None }).unwrap();
            peer
        })
        .collect();
    let mut before = 0;
    while before < 32 || before != taken(&entry) {
        before = taken(&entry);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(before <= 128, "{before} of {}", asking.len());
}

#[test]
fn a_long_request_says_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let is_seen = Arc::<Notify>::default();
    let echo = Echo(Arc::clone(&is_seen));
    let _daemon = daemon_of(dir.path(), Path::new("/state"), echo);
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    let mut steps = Vec::new();
    Client::connect(&entry.socket)
        .unwrap()
        .ask::<Value>(&Request::Flush { token: None }, |step| {
            steps.push(step.clone());
            is_seen.notify_one();
        })
        .unwrap();
    assert_eq!(
        steps.first().map(|step| step.amount.pending_bytes),
        Some(42)
    );
}

#[test]
fn a_defect_in_one_request_leaves_the_daemon_answering() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = daemon(dir.path(), Path::new("/state"));
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    assert!(ask(&entry, &Request::Packages { on: None }).is_err());
    assert_eq!(ask(&entry, &Request::Status), Ok(json!("here")));
}

#[test]
fn garbage_on_the_socket_leaves_the_daemon_answering() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = daemon(dir.path(), Path::new("/state"));
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    for garbage in [
        &b"\xff\xff\xff\xff"[..],
        b"\0\0\0\x03\x01{}",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = StdStream::connect(&entry.socket).unwrap();
        stream.write_all(garbage).unwrap();
    }
    assert_eq!(ask(&entry, &Request::Status), Ok(json!("here")));
}

#[test]
fn only_its_user_can_reach_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let _daemon = daemon(&folder, Path::new("/state"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let entry = find_all(std::slice::from_ref(&folder)).remove(0);
    assert_eq!((mode(&folder), mode(&entry.socket)), (0o700, 0o600));
}

#[test]
fn an_entry_in_a_folder_that_others_can_write_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = daemon(dir.path(), Path::new("/state"));
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(find_all(&[dir.path().to_owned()]).is_empty());
}

#[test]
fn root_trusts_no_control_file_or_socket_of_another_user() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test acts as another user: run it as root"
    );
    const OTHER: Option<u32> = Some(65534);
    let dir = tempfile::tempdir().unwrap();
    let (mine, theirs) = (dir.path().join("mine"), dir.path().join("theirs"));
    let _daemon = daemon(&mine, Path::new("/state"));
    let entry = find_all(std::slice::from_ref(&mine)).remove(0);
    let file = theirs.join("0.json");
    private_folder(&theirs).unwrap();
    std::fs::write(&file, serde_json::to_vec(&entry).unwrap()).unwrap();
    assert_eq!(find_all(std::slice::from_ref(&theirs)).len(), 1);
    std::os::unix::fs::chown(&theirs, OTHER, OTHER).unwrap();
    let is_believed = || !find_all(std::slice::from_ref(&theirs)).is_empty();
    assert!(!is_believed(), "a file that they did not write");
    std::os::unix::fs::chown(&file, OTHER, OTHER).unwrap();
    assert!(!is_believed(), "a socket at which they do not listen");
}

#[test]
fn a_long_state_path_does_not_keep_the_daemon_from_listening() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("x".repeat(150));
    let _daemon = daemon(&folder, Path::new("/state"));
    let entry = find_all(&[folder]).remove(0);
    assert_eq!(ask(&entry, &Request::Status), Ok(json!("here")));
}

#[test]
fn a_daemon_that_takes_over_a_state_folder_takes_over_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let first = daemon(dir.path(), Path::new("/state"));
    // As after kill -9: the entry stays.
    first.1.shutdown_background();
    std::mem::forget(first.0);
    let _second = daemon(dir.path(), Path::new("/state"));
    let entry = find_all(&[dir.path().to_owned()]).remove(0);
    assert_eq!(ask(&entry, &Request::Status), Ok(json!("here")));
}
