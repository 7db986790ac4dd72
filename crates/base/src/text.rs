//! Text that others have written: nodes, RPC servers, contracts, other machines.
//!
//! Invariant: what comes out of here is one line of a bounded length that a terminal shows as it stands: no
//! control, no mark that turns the direction or hides. Called wherever such text comes in.

/// The longest name that is shown, in characters.
const NAME: usize = 64;
/// The longest message that is shown, in characters.
const MESSAGE: usize = 300;

/// The longest path that is shown, in characters.
const PATH: usize = 1024;

/// A path whose names others may have given: each character that is not shown as it stands by its number.
#[must_use]
pub fn path(bytes: &[u8]) -> String {
    let begin = bytes.get(..bytes.len().min(4 * PATH)).unwrap_or_default();
    let mut shown = String::new();
    for (at, c) in String::from_utf8_lossy(begin).chars().enumerate() {
        if at == PATH {
            shown.push('\u{2026}');
            break;
        }
        match is_plain(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

/// A name that others have given.
#[must_use]
pub fn name(text: &str) -> String {
    plain(text, NAME)
}

/// What others say: the first line of it.
#[must_use]
pub fn message(text: &str) -> String {
    plain(text, MESSAGE)
}

fn plain(text: &str, most: usize) -> String {
    // What it costs has nothing to do with how long the text is.
    let head: String = text.trim_start().chars().take(4 * most).collect();
    let line = head.lines().next().unwrap_or_default().trim();
    line.chars().filter(|c| is_plain(*c)).take(most).collect()
}

fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_moves_no_cursor_and_hides_nothing() {
        assert_eq!(message("\u{1b}[2Jgone\r\nprice: 0"), "[2Jgone");
        assert_eq!(name("big\u{202e}eerf\u{200b}\u{2066}!"), "bigeerf!");
        assert_eq!(name("  M\u{fc}nchen 10 GB "), "M\u{fc}nchen 10 GB");
    }

    #[test]
    fn foreign_paths_print_on_one_line_without_losing_their_difference() {
        assert_eq!(
            path("a\nb/\u{1b}[2J\u{202e}c".as_bytes()),
            "a\\u{a}b/\\u{1b}[2J\\u{202e}c"
        );
        assert_eq!(
            path("\u{4f60}/M\u{fc}nchen".as_bytes()),
            "\u{4f60}/M\u{fc}nchen"
        );
        assert_eq!(path(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn what_others_write_is_of_a_bounded_length() {
        let long = "\u{e4}".repeat(4 << 20);
        assert_eq!(path(long.as_bytes()).chars().count(), PATH + 1);
        assert_eq!(name(&long).chars().count(), NAME);
        assert_eq!(message(&long).chars().count(), MESSAGE);
    }
}
