//! As a service of systemd: told when it is mounted and when it ends, with the wallet as a credential.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use crate::harness::{Machine, is_mounted};

const SOON: Duration = Duration::from_secs(60);

/// The lines that come to `socket`. It is read all the time: few messages fit into it, and who has one more waits.
fn lines(socket: UnixDatagram) -> Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(len) = socket.recv(&mut message) {
            for line in String::from_utf8_lossy(&message[..len]).lines() {
                // Whoever has heard enough is gone.
                drop(tell.send(line.to_owned()));
            }
        }
    });
    told
}

/// Waits for the line `wanted`.
#[track_caller]
fn hears(told: &Receiver<String>, wanted: &str) {
    loop {
        let line = told.recv_timeout(SOON);
        if line.unwrap_or_else(|why| panic!("never told {wanted}: {why}")) == wanted {
            return;
        }
    }
}

#[test]
fn a_systemd_service_is_ready_once_mounted_with_a_credential_wallet() {
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
    let told = lines(socket);
    service.set_env("CREDENTIALS_DIRECTORY", &credentials);
    service.set_env("NOTIFY_SOCKET", &name);
    service.start();
    hears(&told, "READY=1");
    assert!(is_mounted(&service.mountpoint()));
    let kept = fs::read(service.dir().join("file")).expect("readable");
    assert_eq!(kept, b"kept");

    fs::write(service.dir().join("more"), vec![7; 3 << 20]).expect("writable");
    assert!(service.terminate().success());
    hears(&told, "STOPPING=1");
    assert!(!is_mounted(&service.mountpoint()));
}
