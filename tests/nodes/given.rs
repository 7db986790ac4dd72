//! The node of the one who runs this: `PXFS_TEST_IPFS=URL`, `PXFS_TEST_BTFS=URL`, and where that one
//! wants a login `PXFS_TEST_BTFS_PASSWORD_FILE=FILE`. It must pass what the nodes of the tests pass.
//!
//! `tests/run` runs these where the variable is set; without it they are no part of a run, and say so.

use pxfs::names::suite::passes_in;
use pxfs::rpc::{Client, Dialect, Login};
use pxfs::store::suite;

use crate::dialect;
use crate::names::names;
use crate::stores::{client, store};
use crate::trees;

/// Where the node of `dialect` is, and how to log in there.
fn given(dialect: Dialect) -> (String, Login) {
    let variable = match dialect {
        Dialect::Btfs => "PXFS_TEST_BTFS",
        Dialect::Ipfs => "PXFS_TEST_IPFS",
    };
    let url = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"));
    let login = match (dialect, std::env::var_os("PXFS_TEST_BTFS_PASSWORD_FILE")) {
        (Dialect::Btfs, Some(file)) => Login::PasswordFile(file.into()),
        _ => Login::Open,
    };
    (url, login)
}

async fn passes(dialect: Dialect) {
    let (url, login) = given(dialect);
    suite::passes(store(&url, dialect, login.clone())).await;
    trees::holds(
        &client(&url, dialect, login.clone()),
        &*store(&url, dialect, login.clone()),
    )
    .await;
    let (world, names) = names(&url, dialect, login);
    passes_in(world, names).await;
}

#[tokio::test]
#[ignore = "given: runs where PXFS_TEST_IPFS=URL is set"]
async fn ipfs_node_passes_the_suites() {
    passes(Dialect::Ipfs).await;
}

#[tokio::test]
#[ignore = "given: runs where PXFS_TEST_BTFS=URL is set"]
async fn btfs_node_passes_the_suites() {
    passes(Dialect::Btfs).await;
}

#[tokio::test]
#[ignore = "given: runs where PXFS_TEST_BTFS=URL is set"]
async fn btfs_node_speaks_the_dialect() {
    let (url, login) = given(Dialect::Btfs);
    dialect::holds(&Client::new(&url, Dialect::Btfs, login).expect("a client")).await;
}
