//! What stands between pxfs and a node: an address that stays while the node behind it comes and goes.
//!
//! Invariant: bytes pass unchanged for as long as the node is there; without one, connections are
//! closed at once. It ends with its value, and so do the connections through it.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// An address in front of a node.
pub(crate) struct Front {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    node: Mutex<Option<String>>,
    /// Both ends of all connections, to break them.
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

impl Front {
    /// In front of the node at `url`.
    pub(crate) fn of(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let front = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        front.lead_to(url);
        let state = Arc::clone(&front.state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.ended.load(Ordering::SeqCst) {
                    break;
                }
                pass(&state, client);
            }
        });
        front
    }

    /// The address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the node is at `url`.
    pub(crate) fn lead_to(&self, url: &str) {
        let place = url.trim_start_matches("http://").to_owned();
        *self.state.node.lock().expect("a lock") = Some(place);
    }

    /// From now on there is no node; what is on its way breaks.
    pub(crate) fn close(&self) {
        *self.state.node.lock().expect("a lock") = None;
        for stream in self.state.open.lock().expect("a lock").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.close();
        // The one who listens hears of it.
        let _ = TcpStream::connect(self.address);
    }
}

/// Connects a client to the node, both ways.
fn pass(state: &State, client: TcpStream) {
    let place = state.node.lock().expect("a lock").clone();
    let node = place.and_then(|place| TcpStream::connect(place).ok());
    let Some(node) = node else {
        return;
    };
    let ends = [&client, &node].map(|end| end.try_clone().expect("a socket"));
    state.open.lock().expect("a lock").extend(ends);
    let back = [&node, &client].map(|end| end.try_clone().expect("a socket"));
    let [from_node, to_client] = back;
    for (mut from, mut to) in [(client, node), (from_node, to_client)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
