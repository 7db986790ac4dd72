//! The way from a directory up to the root.
//!
//! Invariant: it ends. Directories that lie in one another, which only a damaged journal has, are an error
//! and no walk without end. Called by who changes names, by a cut and by a recovery.

use super::FsError;
use crate::types::Ino;

/// Calls `visit` with `dir` and each directory above it but the root, up to where it says false; `parent`
/// tells which one a directory lies in.
///
/// # Errors
/// [`FsError::Damaged`] where the way comes back to itself; what `parent` and `visit` fail with.
pub(super) fn climb(
    dir: Ino,
    parent: impl Fn(Ino) -> Result<Ino, FsError>,
    mut visit: impl FnMut(Ino) -> Result<bool, FsError>,
) -> Result<(), FsError> {
    // Brent: the mark moves on after twice as many steps each time, and is met again on a circle.
    let (mut at, mut mark) = (dir, dir);
    let (mut steps, mut most) = (0_u64, 1);
    while at != Ino::ROOT && visit(at)? {
        at = parent(at)?;
        if at == mark {
            return Err(FsError::Damaged(format!(
                "directory {} of the journal lies in itself: move the state folder of the token away, and mount \
                 again",
                at.0
            )));
        }
        steps += 1;
        if steps == most {
            (mark, steps, most) = (at, 0, most.saturating_mul(2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many directories are visited from `dir` on, where each lies in what `parents` says.
    fn visited(dir: u64, parents: &[u64]) -> Result<usize, FsError> {
        let mut visited = 0;
        let parent = |at: Ino| Ok(Ino(parents[at.0 as usize]));
        climb(Ino(dir), parent, |_| {
            visited += 1;
            assert!(visited < 1000, "it does not end");
            Ok(true)
        })?;
        Ok(visited)
    }

    #[test]
    fn a_way_to_the_root_is_gone_however_long_it_is() {
        let parents: Vec<u64> = (0..500).map(|n: u64| n.saturating_sub(1)).collect();
        assert_eq!(visited(1, &parents), Ok(0));
        assert_eq!(visited(499, &parents), Ok(498));
    }

    #[test]
    fn a_cycle_of_directories_is_reported_as_damage_instead_of_looping() {
        for circle in 1..40 {
            for before in 0..40 {
                // From the last number down to 2, and from there to the end of the circle.
                let mut parents: Vec<u64> = (0..2 + circle + before)
                    .map(|n: u64| n.saturating_sub(1))
                    .collect();
                parents[2] = 1 + circle;
                let last = parents.len() as u64 - 1;
                let refused = visited(last, &parents);
                assert!(matches!(refused, Err(FsError::Damaged(_))), "{refused:?}");
            }
        }
    }
}
