//! What a commit settles beside a user: nothing of it fails a call.

use std::cell::RefCell;

use super::rig::Rig;
use crate::journal::key;
use crate::journal::record::Content;
use crate::types::Ino;

#[test]
fn a_file_that_is_settled_while_it_is_opened_opens() {
    let mut rig = Rig::new();
    rig.put("f", &[7; 200_000]).unwrap();
    let ino = Ino(rig.ino("f").0 & Ino::MAX.0);
    rig.volume.sync().unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    let volume = &rig.volume;
    let commit = RefCell::new(Some(cut));
    let held = volume.files.hold(ino, || {
        let content: Content = volume.journal.record(&key::content(ino))?.unwrap();
        // Between its records and its stage file.
        if let Some(cut) = commit.borrow_mut().take() {
            cut.settle(&changes, &built)?;
            drop(cut);
            volume.sync()?;
        }
        if let Some(stage) = content.stage {
            volume.stage.get(stage)?;
        }
        volume.load_body(ino)
    });
    volume.leave(held.unwrap());
    assert_eq!(rig.stage_files(), 0);
    assert_eq!(rig.read("f"), [7; 200_000]);
}
