use super::*;

const FILE: Ino = Ino(7);

fn caching() -> Caching {
    let caching = Caching::default();
    caching.allow_direct();
    caching
}

/// Whether such a write is made durable.
fn is_synced(caching: &Caching, fh: Fh, flags: i32) -> bool {
    let mut synced = false;
    let sync = || {
        synced = true;
        Ok(())
    };
    let ended = caching.after_write(FILE, fh, flags, || Ok(()), sync);
    assert_eq!(ended, Ok(()));
    synced
}

fn is_direct(how: FopenFlags) -> bool {
    how.contains(FopenFlags::FOPEN_DIRECT_IO)
}

#[test]
fn a_reader_beside_a_direct_writer_is_never_forgotten() {
    let caching = caching();
    assert!(is_direct(caching.opened(FILE, Fh(1), O_WRONLY, false)));
    assert_eq!(caching.way(FILE, Fh(1)), Way::Alone);
    for flags in [O_RDONLY, O_RDWR] {
        assert!(!is_direct(caching.opened(FILE, Fh(2), flags, false)));
        assert_eq!(caching.way(FILE, Fh(1)), Way::Beside);
        assert_eq!(caching.way(FILE, Fh(2)), Way::Cached);
        caching.closed(FILE, Fh(2));
        // It may have read while a write was on its way.
        assert_eq!(caching.way(FILE, Fh(1)), Way::Beside);
    }
    caching.closed(FILE, Fh(1));
    assert!(is_direct(caching.opened(FILE, Fh(3), O_WRONLY, false)));
    assert_eq!(caching.way(FILE, Fh(3)), Way::Alone);
}

#[test]
fn a_write_is_never_made_over_a_page_that_was_read_meanwhile() {
    let caching = caching();
    let reads = std::cell::Cell::new(7);
    let mut left = 3;
    // Somebody reads between the first check and the write.
    let write = |known| {
        reads.set(reads.get() + u64::from(left > 0));
        left -= u32::from(left > 0);
        Ok((known == reads.get()).then_some(5))
    };
    let written = caching.write_beside(FILE, 0, 5, || Ok(reads.get()), write, || false);
    assert_eq!((written, reads.get()), (Ok(5), 10));
    // A reader that never stops is not waited for without end.
    let never = caching.write_beside(FILE, 0, 5, || Ok(0), |_| Ok(None), || false);
    assert!(matches!(never, Err(FsError::Disk(_))));
}

#[test]
fn repeated_readers_delay_a_write_until_its_deadline_at_most() {
    let caching = caching();
    let tries = std::cell::Cell::new(0);
    let count = |most: u64| {
        tries.set(tries.get() + 1);
        assert!(tries.get() <= most, "behind the deadline");
        tries.get()
    };
    let never = |_| {
        count(3);
        Ok(None)
    };
    let over = || tries.get() == 3;
    let written = caching.write_beside(FILE, 0, 5, || Ok(0), never, over);
    assert_eq!(written, Err(FsError::TimedOut));
    // A write that is done is reported, however late.
    let written = caching.write_beside(FILE, 0, 5, || Ok(0), |_| Ok(Some(5)), || true);
    assert_eq!(written, Ok(5));
    // Holes that fill as soon as they are found: one question before it doubts.
    tries.set(0);
    let found = caching.seek(FILE, Seek::Hole, || Ok(count(4) << 20), || tries.get() == 4);
    assert_eq!(found, Err(FsError::TimedOut));
    let found = caching.seek(FILE, Seek::Hole, || Ok(7), || true);
    assert_eq!(found, Ok(7));
}

#[test]
fn a_hole_is_doubted_while_somebody_may_store_into_it() {
    let caching = caching();
    let (data, hole) = (Seek::Data(5), Seek::Hole);
    let doubts = |found| [data, hole].map(|seek| caching.doubts(FILE, seek, &found));
    caching.opened(FILE, Fh(1), O_RDONLY, false);
    caching.opened(FILE, Fh(2), O_WRONLY, false);
    assert_eq!(doubts(Ok(9)), [false, false]);
    caching.opened(FILE, Fh(3), O_RDWR, false);
    assert_eq!(doubts(Ok(9)), [true, true]);
    assert_eq!(doubts(Ok(5)), [false, true], "data is data");
    assert_eq!(doubts(Err(FsError::NoData)), [true, false]);
    caching.closed(FILE, Fh(2));
    assert_eq!(doubts(Ok(9)), [true, true]);
    caching.closed(FILE, Fh(3));
    assert_eq!(doubts(Ok(9)), [false, false]);
}

#[test]
fn a_writer_beside_a_reader_goes_through_the_cache() {
    let caching = caching();
    caching.opened(FILE, Fh(1), O_RDONLY, false);
    assert!(!is_direct(caching.opened(FILE, Fh(2), O_WRONLY, false)));
    caching.closed(FILE, Fh(1));
    assert!(!is_direct(caching.opened(FILE, Fh(3), O_WRONLY, false)));
    assert!(is_direct(caching.opened(Ino(8), Fh(4), O_WRONLY, false)));
    caching.closed(FILE, Fh(2));
    caching.closed(FILE, Fh(3));
    assert!(is_direct(caching.opened(FILE, Fh(5), O_WRONLY, false)));
}

#[test]
fn a_write_never_leaves_the_file_its_capabilities() {
    let caching = caching();
    assert!(!is_direct(caching.opened(FILE, Fh(1), O_WRONLY, true)));
    caching.closed(FILE, Fh(1));
    assert!(is_direct(caching.opened(FILE, Fh(2), O_WRONLY, false)));
    let given = caching.capabilities();
    caching.note_capability(FILE);
    // Whoever was opening a file meanwhile learns that it may have been this one.
    assert_ne!(caching.capabilities(), given);
    let mut asked = Vec::new();
    for answer in [Err(FsError::ReadOnly(String::new())), Ok(()), Ok(())] {
        let may = answer.is_ok();
        let taken = || {
            asked.push(may);
            answer
        };
        let ended = caching.after_write(FILE, Fh(2), 0, taken, || Ok(()));
        assert_eq!(ended.is_ok(), may);
    }
    // It is retried while it fails, then no more.
    assert_eq!(asked, [false, true]);
}

#[test]
fn a_synchronous_write_is_made_durable_by_the_kernel_or_here() {
    let caching = caching();
    let flags = O_WRONLY | O_DSYNC;
    assert!(is_direct(caching.opened(FILE, Fh(1), flags, false)));
    assert!(is_synced(&caching, Fh(1), flags));
    assert!(!is_synced(&caching, Fh(1), O_WRONLY));
    caching.opened(FILE, Fh(2), O_RDONLY, false);
    caching.opened(FILE, Fh(3), flags, false);
    assert!(!is_synced(&caching, Fh(3), flags));
}

#[test]
fn without_the_kernels_word_everything_is_cached() {
    let caching = Caching::default();
    assert!(!is_direct(caching.opened(FILE, Fh(1), O_WRONLY, false)));
}

#[test]
fn close_of_whoever_wrote_is_always_asked() {
    let caching = caching();
    for (flags, asked) in [(O_RDONLY, false), (O_WRONLY, true), (O_RDWR, true)] {
        let how = caching.opened(FILE, Fh(1), flags, false);
        assert_eq!(!how.contains(FopenFlags::FOPEN_NOFLUSH), asked);
    }
}
