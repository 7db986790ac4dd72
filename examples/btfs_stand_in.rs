//! The tests' stand-in for a BTFS node, by hand: `cargo run --example btfs_stand_in -- PASSWORD`. It prints its URL, wants that
//! password, and ends, with all that it holds, with its standard input (Ctrl-D) or by Ctrl-C.

use std::io::{self, Read};

#[allow(dead_code, reason = "shared with the suite of nodes")]
#[path = "../tests/nodes/btfs/mod.rs"]
mod btfs;

fn main() -> io::Result<()> {
    let Some(password) = std::env::args().nth(1) else {
        return Err(io::Error::other("which password is it to want?"));
    };
    let node = btfs::Btfs::guarded(&password);
    println!("{}", node.url());
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
