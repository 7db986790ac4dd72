//! What commits hold, beside all else that is done: another machine mounts just that.

use super::Past;
use super::log::Replay;
use super::violation::Violation;

/// Of a write under way while a commit is cut so much is in it whole, bytes.
const BLOCK: u64 = 4096;

impl Past {
    /// Whether each commit held the tree of an instant of its cut: the names after some of the calls, in order, and
    /// of each file that was built what a cut of the power may leave then, with all that had returned before.
    pub(super) fn judge_commits(&self) -> Result<(), Violation> {
        let mut replay = Replay::of(&self.log, &self.before);
        for commit in &self.shelf.commits {
            let fault = replay.cut(commit.when).check(&commit.found, BLOCK);
            fault.map_err(|why| why.within(&format!("a commit of {:?}", commit.when)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::shelf::Commit;
    use super::super::violation::Lost;
    use super::super::{Plan, Scene, live};
    use crate::fs::Limits;
    use crate::journal::Without;

    #[test]
    fn a_commit_of_another_tree_is_noticed_while_threads_work_beside() {
        let plan = Plan {
            seed: 1,
            steps: 120,
            cuts: Some(0),
            scene: Scene::Attended,
            how: (Without::default(), Limits::default()),
        };
        let mut past = live(plan).expect("a history that keeps all promises");
        let is_built =
            |commit: &&Commit| commit.found.bytes.values().any(|bytes| !bytes.is_empty());
        let commit = past.shelf.commits.iter().find(is_built);
        let commit = commit.expect("a commit with a file").clone();
        let mut judge = |change: &dyn Fn(&mut Commit)| {
            let mut other = commit.clone();
            change(&mut other);
            past.shelf.commits = vec![other];
            past.judge_commits().map_err(|why| why.lost)
        };
        assert_eq!(judge(&|_| ()), Ok(()));
        let torn = judge(&|commit| {
            let mut files = commit.found.bytes.values_mut();
            let file = files.find(|bytes| !bytes.is_empty()).expect("as above");
            file[0] ^= 0x55;
        });
        assert_eq!(torn, Err(Lost::Bytes));
        let lost = judge(&|commit| drop(commit.found.tree.entries.pop_last()));
        assert_eq!(lost, Err(Lost::Names));
        // What was done later is not in it, nor is what was there before that.
        let early = judge(&|commit| commit.when = (0, 0));
        assert_eq!(early, Err(Lost::Names));
    }
}
