//! The `pxfs` command.

fn main() {}
