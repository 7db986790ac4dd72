//! As a service of systemd: told when it is mounted and when it ends, with the wallet as a credential.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::harness::{Machine, is_mounted};

/// Waits for a message with `wanted` among its lines.
fn told(socket: &UnixDatagram, wanted: &str) {
    let begin = Instant::now();
    let mut message = [0; 4096];
    while begin.elapsed() < Duration::from_secs(30) {
        let len = socket.recv(&mut message).expect("a message in time");
        let text = String::from_utf8_lossy(&message[..len]);
        if text.lines().any(|line| line == wanted) {
            return;
        }
    }
    panic!("never told {wanted}");
}

#[test]
fn a_service_is_ready_when_it_is_mounted_and_takes_the_wallet_as_a_credential() {
    let mut first = Machine::demo();
    fs::write(first.dir().join("file"), b"kept").expect("writable");
    first.flush();
    first.stop();

    let mut service = Machine::prepared_service(&first).with_args(&["--take-over"]);
    let credentials = service.scratch().join("credentials");
    fs::create_dir(&credentials).expect("a folder");
    let wallet = credentials.join("wallet");
    fs::copy(first.state().join("wallet"), &wallet).expect("a wallet");
    fs::set_permissions(&wallet, Permissions::from_mode(0o400)).expect("chmod");
    let name = service.scratch().join("notify");
    let socket = UnixDatagram::bind(&name).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    service.set_env("CREDENTIALS_DIRECTORY", &credentials);
    service.set_env("NOTIFY_SOCKET", &name);
    service.start();
    told(&socket, "READY=1");
    assert!(is_mounted(&service.mountpoint()));
    let kept = fs::read(service.dir().join("file")).expect("readable");
    assert_eq!(kept, b"kept");

    fs::write(service.dir().join("more"), vec![7; 3 << 20]).expect("writable");
    assert!(service.terminate().success());
    told(&socket, "STOPPING=1");
    assert!(!is_mounted(&service.mountpoint()));
}
