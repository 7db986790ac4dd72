//! Build systems, which trust times to the nanosecond: `make` with a C compiler, cargo.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::start_anew;
use crate::command::{Answer, TOOL, run};
use crate::harness::Machine;

/// Units of the C project.
const UNITS: usize = 12;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir -p");
    fs::write(path, text).expect("write");
}

/// A program of several units, most of them in a library.
fn c_project(folder: &Path) {
    let mut header = String::from("#pragma once\n");
    let (mut calls, mut objects) = (String::new(), String::new());
    for unit in 0..UNITS {
        header += &format!("int unit{unit}(int);\n");
        calls += &format!("    sum += unit{unit}({unit});\n");
        objects += &format!(" lib/unit{unit}.o");
        let text =
            format!("#include \"units.h\"\nint unit{unit}(int x) {{ return x * {unit}; }}\n");
        write(&folder.join(format!("lib/unit{unit}.c")), &text);
    }
    write(&folder.join("lib/units.h"), &header);
    let main = format!(
        "#include <stdio.h>\n#include \"lib/units.h\"\nint main(void) {{\n    int sum = 0;\n{calls}    \
         printf(\"%d\\n\", sum);\n    return 0;\n}}\n"
    );
    write(&folder.join("main.c"), &main);
    let makefile = format!(
        "program: main.o libunits.a\n\tcc -o $@ $^\nlibunits.a:{objects}\n\tar rcs $@ $^\n\
         main.o {objects}: lib/units.h\n%.o: %.c\n\tcc -O1 -c -o $@ $<\n"
    );
    write(&folder.join("Makefile"), &makefile);
}

#[track_caller]
fn make(folder: &Path, args: &[&str]) -> Answer {
    let mut command = Command::new("make");
    command
        .current_dir(folder)
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .args(args);
    run(command, TOOL).ok()
}

#[track_caller]
fn prints(program: &Path, text: &str) {
    let answer = run(Command::new(program), TOOL).ok();
    assert_eq!(answer.stdout, text);
}

#[test]
fn make_builds_a_c_project_and_only_what_changed_afterwards() {
    let mut machine = Machine::demo();
    let project = machine.dir().join("project");
    c_project(&project);
    make(&project, &["-j2"]);
    let sum: usize = (0..UNITS).map(|unit| unit * unit).sum();
    prints(&project.join("program"), &format!("{sum}\n"));
    make(&project, &["-q"]);
    start_anew(&mut machine);
    make(&project, &["-q"]);
    let changed = "#include \"units.h\"\nint unit3(int x) { return x * 3 + 1; }\n";
    write(&project.join("lib/unit3.c"), changed);
    let built = make(&project, &[]).stdout;
    assert_eq!(built.matches("cc -O1 -c").count(), 1, "{built}");
    prints(&project.join("program"), &format!("{}\n", sum + 1));
}

/// `cargo build` without a network, and without what the cargo that runs this test has set.
#[track_caller]
fn cargo_build(folder: &Path) -> String {
    let set_by_cargo = |name: &str| name.starts_with("CARGO") || name.starts_with("RUST");
    let kept = |name: &str| matches!(name, "CARGO_HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN");
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if set_by_cargo(&text) && !kept(&text) {
            command.env_remove(&name);
        }
    }
    command.current_dir(folder).args(["build", "--offline"]);
    run(command, TOOL).ok().stderr
}

#[test]
fn cargo_builds_a_crate_and_only_what_changed_afterwards() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let project = machine.dir().join("project");
    let manifest =
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    write(&project.join("Cargo.toml"), manifest);
    let library = |answer: u32| {
        let text = format!("pub mod part;\npub fn answer() -> u32 {{ part::two() * {answer} }}\n");
        write(&project.join("src/lib.rs"), &text);
    };
    library(21);
    write(&project.join("src/part.rs"), "pub fn two() -> u32 { 2 }\n");
    let main = "fn main() { println!(\"{}\", small::answer()); }\n";
    write(&project.join("src/main.rs"), main);
    assert!(cargo_build(&project).contains("Compiling"));
    let program = project.join("target/debug/small");
    prints(&program, "42\n");
    assert!(!cargo_build(&project).contains("Compiling"));
    start_anew(&mut machine);
    assert!(!cargo_build(&project).contains("Compiling"));
    library(22);
    assert!(cargo_build(&project).contains("Compiling"));
    prints(&program, "44\n");
}
