//! Several contracts in one drive, of one chain and of several.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Answer, run, wait_until};
use crate::contract::{Chain, Kind, wallet};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// `CLI.md`: the command line cannot be used as it is; a chain that is not the one.
const USAGE: i32 = 2;
const WRONG_CHAIN: i32 = 3;
const SOON: Duration = Duration::from_secs(120);
/// Upload units of the free package.
const UNITS: u64 = 25;

/// A machine with these contracts, `NAME=ADDRESS@CHAIN`, on these chains, not started.
fn machine(chains: &[String], contracts: &[String], more: &[&str]) -> Machine {
    let machine = Machine::prepared("mount");
    let (wallet, node) = (wallet(&machine), machine.node().display().to_string());
    let node = format!("embedded={node}");
    let mut args = vec![
        "-f", "--wallet", &wallet, "--node", &node, "--volume", "plain",
    ];
    for chain in chains {
        args.extend(["--rpc-url", chain]);
    }
    for contract in contracts {
        args.extend(["--contract", contract]);
    }
    args.extend(["--refresh", "1s"]);
    machine.with_args(&[&args, more].concat())
}

fn directories(machine: &Machine) -> BTreeSet<String> {
    let listed = fs::read_dir(machine.mountpoint()).expect("listed");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    listed.map(|entry| name(entry.expect("an entry"))).collect()
}

/// The row of the token whose directory has this name.
#[track_caller]
fn row(machine: &Machine, directory: &str) -> Value {
    let status = machine.status();
    let rows = status["tokens"].as_array().expect("tokens");
    let found = rows.iter().find(|row| row["directory"] == directory);
    found
        .unwrap_or_else(|| panic!("no {directory} in {status:#}"))
        .clone()
}

/// Waits until the directory can be written.
#[track_caller]
fn registered(machine: &Machine, token: &str) {
    machine.ask(&["register", token, "--yes"]).ok();
    wait_until("it can be written", SOON, || {
        row(machine, token)["state"] == "ok"
    });
}

#[test]
fn tokens_of_several_contracts_are_mounted_together_and_kept_distinct() {
    let chain = Chain::new(Kind::Sync);
    let (sync, v2) = (chain.contract(), chain.another(Kind::V2));
    let contracts = [format!("one={sync}"), format!("my-two={v2}")];
    let more = ["--commit-idle", "500ms"];
    let mut machine = machine(&[chain.url().to_owned()], &contracts, &more);
    machine.start_without_token();
    let both = ["my-two-1", "one-1"].map(str::to_owned);
    assert_eq!(directories(&machine), BTreeSet::from(both));
    let unregistered = row(&machine, "one-1");
    assert_eq!(unregistered["state"], "unregistered");
    let reason = unregistered["reason"].as_str().expect("a reason");
    assert!(reason.contains("pxfs register one-1"), "{reason}");
    registered(&machine, "one-1");
    machine.stop();
    machine.start_without_token();

    let (one, two) = (
        machine.mountpoint().join("one-1"),
        machine.mountpoint().join("my-two-1"),
    );
    fs::write(one.join("file"), pattern(1, 0, 300_000)).expect("written");
    fs::write(two.join("file"), pattern(2, 0, 300_000)).expect("written");
    machine.flush();
    let inodes = |machine: &Machine| {
        ["one-1", "my-two-1", "one-1/file", "my-two-1/file"].map(|path| {
            let found = fs::metadata(machine.mountpoint().join(path));
            found.expect("there").ino()
        })
    };
    let numbers = inodes(&machine);
    assert_eq!(BTreeSet::from(numbers).len(), numbers.len());
    for (directory, contract, dialect) in [("one-1", sync, "px-sync"), ("my-two-1", v2, "px-v2")] {
        let row = row(&machine, directory);
        assert_eq!(row["id"], "1");
        assert_eq!(row["contract"], format!("{contract:#x}"));
        assert_eq!(
            (&row["dialect"], &row["chain_id"]),
            (&dialect.into(), &31337.into())
        );
        assert_eq!(row["pending_files"], 0, "{row:#}");
        assert!(row["last_error"].is_null(), "{row:#}");
    }
    // One account sends for both: each commit of the one that charges is charged once.
    let charged = |machine: &Machine| {
        wait_until("each commit is charged once", SOON, || {
            let commits = row(machine, "my-two-1")["sequence"]
                .as_u64()
                .expect("a number");
            chain.storage_on(v2, Kind::V2).1 + commits == UNITS
        });
    };
    charged(&machine);

    // Commands take the name, and guess nothing.
    machine.ask(&["fsck", "one-1"]).ok();
    machine.ask(&["sync", "my-two-1", "--yes"]).ok();
    for asked in [
        &["sync", "1", "--yes"][..],
        &["sync", "three-1", "--yes"],
        &["mint", "--package", "0", "--yes"],
        &["packages"],
        &["packages", "--on", "three"],
        &["fsck", "1"],
    ] {
        let refused = machine.ask(asked).exits(USAGE).one_line();
        assert!(refused.stderr.contains("one, my-two"), "{}", refused.stderr);
    }
    machine.ask(&["packages", "--on", "my-two"]).ok();
    // What a command was told of contracts is held against the one that it is for.
    let (other, swapped) = (format!("0x{}", "11".repeat(20)), format!("one={v2}"));
    let (sync_alone, v2_alone) = (sync.to_string(), v2.to_string());
    let mint = ["mint", "--on", "one", "--package", "1", "--yes"];
    for (asked, contract) in [
        (&mint[..], &other),
        (&mint, &v2_alone),
        (&mint, &swapped),
        (&["sync", "my-two-1", "--yes"], &sync_alone),
    ] {
        let asked = [asked, &["--contract", contract]].concat();
        let refused = machine.ask(&asked).exits(USAGE).one_line().stderr;
        assert!(refused.contains("--contract asks for"), "{refused}");
    }
    let all = ["--contract", &contracts[0], "--contract", &contracts[1]];
    for contracts in [&all[..], &all[2..], &["--contract", &v2_alone]] {
        let asked = [&["packages", "--on", "my-two"], contracts].concat();
        machine.ask(&asked).ok();
    }
    let owner = chain.owner().to_string();
    let refused = machine.ask(&[&mint[..], &["--address", &owner]].concat());
    let refused = refused.exits(USAGE).one_line().stderr;
    assert!(refused.contains("only watched"), "{refused}");
    let minted = machine.ask(&["mint", "--on", "one", "--package", "1", "--yes", "--json"]);
    let minted = minted.ok().json();
    assert_eq!(minted["directory"], "one-2");
    assert_eq!(minted["contract"], format!("{sync:#x}"));
    let third = machine.mountpoint().join("one-2");
    wait_until("the new token appears", SOON, || third.is_dir());
    let table = machine.ask(&["status"]).ok().stdout;
    for name in ["one-1", "one-2", "my-two-1"] {
        assert!(table.contains(name), "{table}");
    }
    let owned = machine.ask(&["tokens", "--json"]).ok().json();
    assert_eq!(owned.as_array().expect("a list").len(), 3);
    fs::write(two.join("file"), pattern(3, 0, 200_000)).expect("written");
    let path = two.to_str().expect("a path");
    machine.ask(&["flush", path]).ok();
    charged(&machine);

    // After a restart all is as it was, with the same numbers.
    machine.stop();
    machine.start_without_token();
    assert_pattern(&one.join("file"), 1, 300_000);
    assert_pattern(&two.join("file"), 3, 200_000);
    assert_eq!(inodes(&machine)[..2], numbers[..2]);
    machine.stop();
    // Where nothing is mounted, commands know them too.
    let owned = ["tokens", "--json", "--rpc-url", chain.url(), "--wallet"];
    let wallet = wallet(&machine);
    let named = [
        "--node",
        "embedded=n",
        "--contract",
        &contracts[0],
        "--contract",
        &contracts[1],
    ];
    let owned = machine
        .ask(&[&owned[..], &[&wallet], &named].concat())
        .ok()
        .json();
    let names: BTreeSet<_> = owned
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["directory"])
        .map(Value::to_string)
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn an_unreachable_chain_does_not_affect_other_chains_tokens() {
    let first = Chain::new(Kind::Sync);
    let second = Chain::with(Kind::Sync, &["--chain-id", "100"]);
    let chains = [
        format!("31337={}", first.url()),
        format!("100={}", second.url()),
    ];
    let contracts = [
        format!("one={}@31337", first.contract()),
        format!("two={}@100", second.contract()),
    ];
    let mut machine = machine(&chains, &contracts, &[]);
    machine.start_without_token();
    registered(&machine, "one-1");
    registered(&machine, "two-1");
    // The same contract address, token and account: chains tell them apart.
    assert_eq!(first.contract(), second.contract());
    assert_eq!(row(&machine, "two-1")["chain_id"], 100);
    let (one, two) = (
        machine.mountpoint().join("one-1"),
        machine.mountpoint().join("two-1"),
    );
    fs::write(one.join("f"), b"on the first").expect("written");
    fs::write(two.join("f"), b"on the second").expect("written");
    machine.flush();
    // A command that was told of one chain does nothing on the other.
    let both = ["--rpc-url", &chains[0], "--rpc-url", &chains[1]];
    let swapped = format!("31337={}", second.url());
    let mint = ["mint", "--on", "one", "--package", "1", "--yes"];
    for told in [
        &["--chain-id", "100"][..],
        &["--rpc-url", second.url()],
        &["--rpc-url", first.url(), "--rpc-url", second.url()],
        &["--rpc-url", &chains[1]],
        &["--rpc-url", &swapped],
    ] {
        let refused = machine.ask(&[&mint[..], told].concat());
        let refused = refused.exits(WRONG_CHAIN).one_line().stderr;
        assert!(refused.contains(told[0]), "{refused}");
    }
    for told in [
        &both[..],
        &["--rpc-url", second.url()],
        &["--chain-id", "100", "--contract", &contracts[1]],
    ] {
        let asked = [&["packages", "--on", "two"], told].concat();
        machine.ask(&asked).ok();
    }
    assert_ne!(
        row(&machine, "one-1")["name"],
        row(&machine, "two-1")["name"]
    );

    let second_url = second.url().to_owned();
    second.end();
    wait_until("its chain is told, and the other's is well", SOON, || {
        let status = machine.status();
        let chains = status["chains"].as_array().expect("chains").clone();
        let well: Vec<_> = chains.iter().map(|one| (&one["id"], &one["ok"])).collect();
        well == [(&31337.into(), &true.into()), (&100.into(), &false.into())]
    });
    fs::write(one.join("more"), pattern(1, 0, 100_000)).expect("written");
    fs::write(two.join("more"), pattern(2, 0, 100_000))
        .expect("written, by what the chain said last");
    machine.flush();
    machine
        .ask(&["mint", "--on", "one", "--package", "1", "--yes"])
        .ok();
    let minted = machine.mountpoint().join("one-2");
    wait_until("a new token appears", SOON, || minted.is_dir());
    let silent = second_url;
    assert_left_out(
        &machine.ask(&["tokens", "--json"]),
        &["one-1", "one-2"],
        &silent,
    );
    machine.stop();

    // Nor where nothing is mounted.
    let wallet = wallet(&machine);
    let named = [
        &both[..],
        &["--contract", &contracts[0]],
        &["--contract", &contracts[1]],
    ]
    .concat();
    let named = [&named[..], &["--node", "embedded=n", "--wallet", &wallet]].concat();
    machine
        .ask(&[&["packages", "--on", "one"], &named[..]].concat())
        .ok();
    for about in [
        &["packages", "--on", "two"][..],
        &["sync", "two-1", "--yes"],
    ] {
        let refused = machine.ask(&[about, &named[..]].concat());
        let refused = refused.exits(WRONG_CHAIN).one_line().stderr;
        assert!(refused.contains(&silent), "{about:?}: {refused}");
    }
    let list = |more: &[&str]| machine.ask(&[&["tokens"], more, &named[..]].concat());
    assert_left_out(&list(&["--json"]), &["one-1", "one-2"], &silent);
    // In words: a line for each token, and one for the chain.
    let told = list(&[]).exits(WRONG_CHAIN).one_line();
    assert!(told.stdout.contains("one-2") && !told.stdout.contains("two-"));
    assert!(
        told.stderr.contains("chain 100") && told.stderr.contains(&silent),
        "{}",
        told.stderr
    );
    // One that takes every call and answers none.
    let hung = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hung = format!("http://{}", hung.local_addr().expect("bound"));
    let mut named = named.clone();
    let numbered = format!("100={hung}");
    for word in &mut named {
        if *word == chains[1] {
            *word = &numbered;
        }
    }
    let mut command = machine.command();
    command.args(["tokens", "--json"]).args(&named);
    let state = machine.state();
    command.arg("--state-dir").arg(state);
    assert_left_out(&run(command, SOON), &["one-1", "one-2"], &hung);
}

/// A server that lets nobody in: a key was revoked, or a plan has ended.
fn denies() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            // Whatever is asked.
            let mut asked = [0; 4096];
            let _ = connection.read(&mut asked);
            let _ = connection.write_all(
                b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
    url
}

#[test]
fn a_chain_that_denies_access_does_not_affect_other_chains_tokens() {
    let chain = Chain::new(Kind::Sync);
    let denied = denies();
    let urls = [format!("31337={}", chain.url()), format!("100={denied}")];
    let contracts = [
        format!("one={}@31337", chain.contract()),
        format!("two={}@100", chain.contract()),
    ];
    let mut machine = machine(&urls, &contracts, &["--commit-idle", "1h"]);
    machine.start_without_token();
    registered(&machine, "one-1");
    fs::write(machine.mountpoint().join("one-1/f"), b"written").expect("written");
    machine.flush();
    assert_left_out(&machine.ask(&["tokens", "--json"]), &["one-1"], &denied);
    machine.stop();
}

/// The list has these tokens, and says that those of the chain at `silent` are left out.
#[track_caller]
fn assert_left_out(answer: &Answer, tokens: &[&str], silent: &str) {
    let Answer { code, stderr, .. } = answer;
    assert_eq!(*code, Some(WRONG_CHAIN), "{stderr}");
    let listed = answer.json();
    let listed = listed.as_array().expect("a list").iter();
    let listed: Vec<_> = listed.map(|row| &row["directory"]).collect();
    assert_eq!(listed, tokens);
    let told: Value = serde_json::from_str(stderr).expect("one object");
    let line = told["error"].as_str().expect("a line");
    assert_eq!(told["exit"], WRONG_CHAIN);
    assert!(
        line.contains("chain 100") && line.contains(silent),
        "{line}"
    );
}

#[test]
fn unpublished_data_of_a_lost_token_carries_its_contracts_name() {
    let chain = Chain::new(Kind::Sync);
    let other = chain.another(Kind::Sync);
    let contracts = [format!("one={}", chain.contract()), format!("two={other}")];
    let more = ["--commit-idle", "1h", "--commit-max", "1h"];
    let mut machine = machine(&[chain.url().to_owned()], &contracts, &more);
    machine.start_without_token();
    registered(&machine, "one-1");
    registered(&machine, "two-1");
    for token in ["one-1", "two-1"] {
        fs::write(machine.mountpoint().join(token).join("f"), token).expect("written");
    }
    chain.give_away();
    let aside = machine.mountpoint().join("one-1.detached");
    wait_until("it is set aside", SOON, || aside.is_dir());
    assert_eq!(row(&machine, "one-1.detached")["state"], "detached");
    assert_eq!(row(&machine, "two-1")["state"], "ok");
    let saved = machine.scratch().join("saved");
    let saved_text = saved.to_str().expect("a path");
    machine
        .ask(&["detach", "two-1", "--save", saved_text])
        .exits(5);
    machine.ask(&["detach", "one-1", "--save", saved_text]).ok();
    assert_eq!(fs::read(saved.join("f")).expect("saved"), b"one-1");
    assert!(!aside.exists());

    // Also where nothing is mounted.
    let file = machine.mountpoint().join("two-1/g");
    fs::write(&file, b"not published").expect("written");
    let synced = fs::File::open(&file).and_then(|file| file.sync_all());
    synced.expect("durable here");
    machine.kill();
    chain.give_away_of(other);
    let saved = machine.scratch().join("saved too");
    let node = format!("embedded={}", machine.node().display());
    let (wallet, saved_text) = (wallet(&machine), saved.to_str().expect("a path"));
    let parts = [
        "--rpc-url",
        chain.url(),
        "--wallet",
        &wallet,
        "--node",
        &node,
    ];
    let named = ["--contract", &contracts[0], "--contract", &contracts[1]];
    let detach = |token| ["detach", token, "--save", saved_text];
    let line = |token| [&detach(token)[..], &parts, &named].concat();
    machine.ask(&line("one-1")).exits(5);
    machine.ask(&line("two-1")).ok();
    assert_eq!(fs::read(saved.join("g")).expect("saved"), b"not published");
}

#[test]
fn an_address_is_watched_on_several_contracts() {
    let chain = Chain::new(Kind::Sync);
    let other = chain.another(Kind::V1);
    let contracts = [format!("one={}", chain.contract()), format!("two={other}")];
    let more = ["--commit-idle", "500ms"];
    let mut owner = machine(&[chain.url().to_owned()], &contracts, &more);
    owner.start_without_token();
    registered(&owner, "one-1");
    fs::write(owner.mountpoint().join("one-1/f"), b"seen").expect("written");
    fs::write(owner.mountpoint().join("two-1/g"), b"seen too").expect("written");
    owner.flush();
    let name = row(&owner, "two-1")["name"].clone();
    let name = name.as_str().expect("a name").to_owned();
    wait_until("what it owes is charged", SOON, || {
        chain.storage_on(other, Kind::V1).0 > 0
    });
    owner.stop();
    let sent = chain.sent();
    let node = format!("embedded={}", owner.node().display());
    let address = chain.owner().to_string();
    let named = ["--contract", &contracts[0], "--contract", &contracts[1]];
    let rest = [
        "-f",
        "--rpc-url",
        chain.url(),
        "--node",
        &node,
        "--address",
        &address,
    ];
    let mut watcher = Machine::prepared("mount").with_args(&[&rest[..], &named].concat());
    // It says that one token cannot be shown, and goes on.
    drop(watcher.try_start());
    wait_until("it is mounted", SOON, || {
        watcher.ask(&["status"]).code == Some(0)
    });
    let seen = fs::read(watcher.mountpoint().join("one-1/f"));
    assert_eq!(seen.expect("published"), b"seen");
    // The older contract keeps no names.
    assert_eq!(directories(&watcher), BTreeSet::from(["one-1".to_owned()]));
    let hidden = row(&watcher, "two-1");
    let reason = hidden["reason"].as_str().expect("a reason");
    assert!(reason.contains("keeps no names"), "{reason}");
    watcher.stop();
    // Whoever knows the name says it, for the contract that it is of.
    let called = format!("two-1={name}");
    let mut watcher = watcher.with_args(&["--name", &called]);
    watcher.start_without_token();
    let seen = fs::read(watcher.mountpoint().join("two-1/g"));
    assert_eq!(seen.expect("published"), b"seen too");
    watcher.stop();
    assert_eq!(chain.sent(), sent);
}

#[test]
fn contracts_that_cannot_be_told_apart_are_refused_before_anything_is_mounted() {
    let chain = Chain::new(Kind::Sync);
    let (url, one) = (chain.url(), chain.contract());
    let other = chain.another(Kind::V1);
    let (numbered, wrong) = (format!("31337={url}"), format!("100={url}"));
    let named = |name: &str, at: &str| format!("{name}={at}");
    let (one, other) = (one.to_string(), other.to_string());
    let cases: Vec<(Vec<String>, Vec<&str>, i32, &str)> = vec![
        (
            vec![one.clone(), other.clone()],
            vec![url],
            USAGE,
            "give each a name",
        ),
        (
            vec![named("a", &one), named("a", &other)],
            vec![url],
            USAGE,
            "have this name",
        ),
        (
            vec![named("a", &one), named("b", &one)],
            vec![url],
            USAGE,
            "named twice",
        ),
        (
            vec![named("1", &one)],
            vec![url],
            USAGE,
            "cannot name a contract",
        ),
        (
            vec![format!("{one}@100")],
            vec![&numbered],
            USAGE,
            "--rpc-url 100=URL",
        ),
        (
            vec![format!("{one}@100")],
            vec![&wrong],
            WRONG_CHAIN,
            "is of chain 31337",
        ),
        (
            vec![named("a", &one), format!("b={other}@31337")],
            vec![url, &numbered],
            USAGE,
            "chain 31337 is named twice",
        ),
    ];
    for (contracts, urls, code, words) in cases {
        let urls: Vec<String> = urls.into_iter().map(str::to_owned).collect();
        let mut machine = machine(&urls, &contracts, &[]);
        let mountpoint = machine.mountpoint().display().to_string();
        let wallet = wallet(&machine);
        let mut line = vec![
            "mount",
            &mountpoint,
            "--wallet",
            &wallet,
            "--node",
            "embedded=n",
        ];
        line.extend(["--volume", "plain", "-f"]);
        for url in &urls {
            line.extend(["--rpc-url", url]);
        }
        for contract in &contracts {
            line.extend(["--contract", contract]);
        }
        let refused = machine.ask(&line).exits(code).one_line();
        assert!(
            refused.stderr.contains(words),
            "{contracts:?}: {}",
            refused.stderr
        );
        assert!(!machine.is_running());
    }
    // Of one contract the name may be left out, and stand.
    let mut machine = machine(
        &[wrong.replace("100=", "31337=")],
        &[named("a", &one)],
        &["--token", "a-1"],
    );
    machine.start();
    machine.ask(&["register", "1", "--yes"]).ok();
    machine.ask(&["fsck", "a-1"]).exits(5);
    machine.stop();
}
