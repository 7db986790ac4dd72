//! How often the kernel asks the drive: each question costs more than its answer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::command::wait_until;
use crate::harness::Machine;

/// Files of each case: what is asked once for all of them does not count.
const FILES: usize = 50;

/// A drive whose daemon logs each call.
fn told() -> Machine {
    Machine::demo_with(&["--log", "warn,pxfs=info,pxfs::mount::adapter=trace"])
}

/// How often each call came while `work` ran, for each of [`FILES`]; calls that came seldom are left
/// out.
fn calls(machine: &Machine, work: impl FnOnce(&Path)) -> BTreeMap<String, usize> {
    let before = machine.log().len();
    work(&machine.dir());
    // What ends a handle comes later than what closed it; a mark comes behind it all.
    let count = |call: &str| machine.log()[before..].matches(call).count();
    let settled = || count("TRACE open") + count("TRACE create") == count("TRACE release ");
    wait_until("every handle is gone", Duration::from_secs(60), settled);
    let log = machine.log();
    let mut calls = BTreeMap::new();
    for line in log[before..].lines() {
        let call = line.split_once(" TRACE ").map(|(_, rest)| rest);
        if let Some(name) = call.and_then(|rest| rest.split_whitespace().next()) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls.retain(|_, times| {
        *times = (*times + FILES / 2) / FILES;
        *times > 0
    });
    calls
}

fn expected(calls: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let named = calls
        .iter()
        .map(|(name, times)| ((*name).to_owned(), *times));
    named.collect()
}

#[test]
fn a_small_file_costs_five_calls_to_make_and_four_to_read() {
    let machine = told();
    let each = |dir: &Path, act: &dyn Fn(&Path)| {
        for n in 0..FILES {
            act(&dir.join(format!("file-{n}")));
        }
    };
    let made = calls(&machine, |dir| {
        each(dir, &|path| {
            let mut file = File::create(path).expect("create");
            file.write_all(&[7; 4096]).expect("write");
        });
    });
    let five = ["create", "flush", "lookup", "release", "write"];
    assert_eq!(made, expected(&five.map(|name| (name, 1))));

    let read = calls(&machine, |dir| {
        each(dir, &|path| drop(fs::read(path).expect("read")));
    });
    // The write before has made the kernel forget the length.
    let four = ["getattr", "open", "read", "release"];
    assert_eq!(read, expected(&four.map(|name| (name, 1))));
}

#[test]
fn a_name_that_is_not_there_is_asked_for_once() {
    let machine = told();
    let asked = calls(&machine, |dir| {
        for _ in 0..FILES {
            assert!(!dir.join("absent").exists());
        }
    });
    assert_eq!(asked, expected(&[]));
    // And is there as soon as somebody makes it.
    File::create(machine.dir().join("absent")).expect("create");
    assert!(machine.dir().join("absent").exists());
}
