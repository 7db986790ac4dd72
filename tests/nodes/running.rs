//! The nodes of the tests are nodes: they keep to themselves, find each other when told to, and end.

use crate::kubo::Kubo;

#[test]
fn a_node_knows_nobody_until_it_is_connected() {
    let (a, b) = (Kubo::start(), Kubo::start());
    assert_eq!(a.ipfs(&["bootstrap", "list"]), "");
    assert_eq!(a.ipfs(&["swarm", "peers"]), "");
    a.connect(&b);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "from a to b").expect("a file");
    let path = file.path().to_str().expect("a path");
    let cid = a.ipfs(&["add", "-Q", path]);
    assert_eq!(
        b.ipfs(&["cat", "--timeout=120s", cid.trim()]),
        "from a to b"
    );
}

#[test]
fn a_node_that_was_killed_has_what_it_had() {
    let mut node = Kubo::start();
    let cid = node.ipfs(&["add", "-Q", "Cargo.toml"]);
    let before = node.url().to_owned();
    node.kill();
    assert!(
        !node
            .try_ipfs(&["--api", "/ip4/127.0.0.1/tcp/1", "id"])
            .status
            .success()
    );
    node.run();
    assert_ne!(node.url(), "", "was {before}");
    let have = node.ipfs(&["cat", "--offline", cid.trim()]);
    assert_eq!(have, std::fs::read_to_string("Cargo.toml").expect("a file"));
}
