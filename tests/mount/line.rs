//! What stands between a drive and its chain: a TCP proxy that hangs or breaks when a test says so.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pxfs_base::lock;

/// A proxy before one server. It passes bytes on until it is told otherwise.
pub(crate) struct Line {
    address: String,
    wire: Arc<Wire>,
}

struct Wire {
    /// Takes bytes and passes none on.
    hangs: AtomicBool,
    /// What is connected; `None` while the line is cut.
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl Line {
    /// A line to the server at that `http://` URL.
    pub(crate) fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = url.trim_start_matches("http://").to_owned();
        let wire = Arc::new(Wire {
            hangs: AtomicBool::new(false),
            open: Mutex::new(Some(Vec::new())),
        });
        let shared = Arc::clone(&wire);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if let Ok(far) = TcpStream::connect(&server) {
                    shared.connect(near, far);
                }
            }
        });
        Self { address, wire }
    }

    /// Its own URL of that scheme.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// From now on bytes stay where they are, or go on again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.wire.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Breaks every connection, and each new one.
    pub(crate) fn cut(&self) {
        for stream in lock(&self.wire.open).take().into_iter().flatten() {
            // One that its peer has closed already is broken, too.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Wire {
    fn connect(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        let mut open = lock(&self.open);
        let Some(open) = open.as_mut() else { return };
        let again = |stream: &TcpStream| stream.try_clone().expect("a socket");
        open.extend([again(&near), again(&far)]);
        for (from, to) in [(again(&near), again(&far)), (far, near)] {
            let wire = Arc::clone(self);
            std::thread::spawn(move || wire.pass(from, to));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            while self.hangs.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    }
}
