//! How calls are drawn: mostly such as make sense now, now and then any.

use proptest::prelude::*;
use proptest::sample::select;
use pxfs::pack::chunk::CHUNK_SIZE;

use super::call::{
    Access, Allocation, Call, FILES, How, Place, SCANS, Special, System, XATTRS, XattrMode,
};
use super::node::Body;
use super::oracle::Reference;

/// Depth of directories that are made on purpose.
const DEPTH: usize = 3;

/// The paths to choose from.
struct Paths {
    symlinks: BoxedStrategy<Place>,
    /// With the number of an extended attribute that they have.
    noted: BoxedStrategy<(Place, usize)>,
    all: BoxedStrategy<Place>,
    files: BoxedStrategy<Place>,
    dirs: BoxedStrategy<Place>,
    /// Most of them free.
    new: BoxedStrategy<Place>,
}

impl Paths {
    fn of(reference: &Reference) -> Self {
        let (mut all, mut files, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        let (mut symlinks, mut noted) = (Vec::new(), Vec::new());
        for (path, id) in reference.walk() {
            let node = reference.node(id);
            match node.body {
                Body::File(_) => files.push(path.clone()),
                Body::Directory(_) => dirs.push(path.clone()),
                Body::Symlink(_) => symlinks.push(path.clone()),
                Body::Special(_) => {}
            }
            noted.extend(node.xattrs.keys().map(|name| (path.clone(), *name)));
            if !path.is_empty() {
                all.push(path);
            }
        }
        let above: Vec<Place> = dirs
            .iter()
            .filter(|dir| dir.len() < DEPTH)
            .cloned()
            .collect();
        let new = (select(above), name()).prop_map(|(mut path, name)| {
            path.push(name);
            path
        });
        let any = prop::collection::vec(name(), 1..=3);
        let new = prop_oneof![12 => new, 1 => any].boxed();
        // A list may be empty.
        let among = |list: Vec<Place>| match list.is_empty() {
            true => new.clone(),
            false => prop_oneof![12 => select(list), 1 => new.clone()].boxed(),
        };
        let all = among(all);
        let kind = |list: Vec<Place>| prop_oneof![10 => among(list), 1 => all.clone()].boxed();
        let xattr = prop_oneof![9 => 0..3_usize, 1 => Just(4)];
        let any_xattr = (all.clone(), xattr);
        let noted = match noted.is_empty() {
            true => any_xattr.boxed(),
            false => prop_oneof![5 => select(noted), 1 => any_xattr].boxed(),
        };
        Self {
            files: kind(files),
            dirs: kind(dirs),
            symlinks: kind(symlinks),
            noted,
            all,
            new,
        }
    }
}

fn name() -> impl Strategy<Value = u8> {
    prop_oneof![20 => 0..5_u8, 2 => 5..7_u8, 1 => Just(7)]
}

/// Offsets near what matters: the start, the border of what is kept whole, chunk borders.
fn offset<T: System>() -> impl Strategy<Value = u64> {
    let chunks = T::LONGEST / CHUNK_SIZE;
    let near = move |chunk: u64, by: i64| {
        (chunk * CHUNK_SIZE)
            .saturating_add_signed(by)
            .min(T::LONGEST)
    };
    prop_oneof![
        4 => 0..200_u64,
        2 => 0..70_000_u64,
        3 => 65_000..66_000_u64,
        5 => (0..4_u64, -300..300_i64).prop_map(move |(chunk, by)| near(chunk, by)),
        1 => (0..chunks, -5000..5000_i64).prop_map(move |(chunk, by)| near(chunk, by)),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0), 12 => 1..5000_u32, 4 => 1..80_000_u32, 1 => 1..1_200_000_u32]
}

/// `create` and `exclusive`: in how many of ten.
fn how(create: u8, exclusive: u8) -> impl Strategy<Value = How> {
    let drawn = (0..10_u8, 0..10_u8, 0..10_u8, 0..10_u8);
    // Past the kernel's pages, durable at once.
    let kind = prop_oneof![
        16 => Just((false, false)),
        2 => Just((true, false)),
        1 => Just((false, true)),
        1 => Just((true, true)),
    ];
    (drawn, kind).prop_map(
        move |((creates, excludes, truncate, append), (direct, durable))| How {
            create: creates < create,
            exclusive: excludes < exclusive,
            truncate: truncate < 2,
            append: append < 2,
            direct,
            durable,
        },
    )
}

/// A slot: mostly one of `good`.
fn slot(good: &[usize], all: usize) -> BoxedStrategy<usize> {
    match good.is_empty() {
        true => (0..all).boxed(),
        false => prop_oneof![20 => select(good.to_vec()), 1 => 0..all].boxed(),
    }
}

/// Times before and behind 1970, and with a fraction.
fn time() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        1 => Just(None),
        1 => (-5..2_000_000_000_i64).prop_map(|s| Some(s * 1_000_000_000)),
        1 => (0..4_000_000_000_000_000_000_i64).prop_map(Some),
    ]
}

/// A call that may be made now.
pub(super) fn call<T: System>(reference: &Reference) -> BoxedStrategy<Call> {
    let paths = Paths::of(reference);
    let events: u32 = T::EVENTS.iter().map(|(weight, _)| weight).sum();
    let event = T::EVENTS
        .iter()
        .map(|(weight, event)| (*weight, Just(Call::Event(*event))));
    let is_open = |at: &usize| reference.open_file(*at).is_ok();
    let open: Vec<usize> = (0..FILES).filter(is_open).collect();
    let on_files = if open.is_empty() { 20 } else { 450 };
    let scans: Vec<usize> = (0..SCANS)
        .filter(|at| reference.open_scan(*at).is_some())
        .collect();
    prop_oneof![
        160 => opening(&paths),
        on_files => on_open_files::<T>(reference, &open),
        20 => (paths.files.clone(), prop_oneof![1 => Just(0), 3 => offset::<T>()])
            .prop_map(|(path, size)| Call::Truncate(path, size)),
        220 => on_names(&paths),
        120 => on_attributes(&paths),
        100 => on_directories(&paths, &scans),
        events => prop::strategy::Union::new_weighted(event.collect()),
    ]
    .boxed()
}

fn opening(paths: &Paths) -> BoxedStrategy<Call> {
    let access = || {
        prop_oneof![
            1 => Just(Access::Read), 1 => Just(Access::Write), 6 => Just(Access::Both),
        ]
    };
    let open = |(at, path, access, how)| Call::Open {
        at,
        path,
        access,
        how,
    };
    prop_oneof![
        (0..FILES, paths.files.clone(), access(), how(3, 1)).prop_map(open),
        (0..FILES, paths.new.clone(), access(), how(9, 3)).prop_map(open),
    ]
    .boxed()
}

fn on_open_files<T: System>(reference: &Reference, open: &[usize]) -> BoxedStrategy<Call> {
    let with = |not: Access| -> Vec<usize> {
        let fits = |at: &&usize| {
            reference
                .open_file(**at)
                .is_ok_and(|open| open.access != not)
        };
        open.iter().filter(fits).copied().collect()
    };
    let any = || slot(open, FILES);
    let reader = slot(&with(Access::Write), FILES);
    let writer = || slot(&with(Access::Read), FILES);
    let how = select(vec![
        Allocation::Grow,
        Allocation::Keep,
        Allocation::Zero,
        Allocation::ZeroKeep,
        Allocation::Punch,
        Allocation::Punch,
    ]);
    let copy = || copy::<T>(&with(Access::Write), &with(Access::Read));
    // Hardly ever met by chance.
    let pairs = reference.pairs_to_take_over();
    let (often, take_over) = match pairs.is_empty() {
        true => (1, copy().boxed()),
        false => (15, select(pairs).prop_map(copy_of_all::<T>).boxed()),
    };
    prop_oneof![
        often => take_over,
        2 => any().prop_map(Call::Close),
        8 => (reader, offset::<T>(), len()).prop_map(|(at, offset, len)| Call::Read { at, offset, len }),
        20 => (writer(), offset::<T>(), len(), any_text())
            .prop_map(|(at, offset, len, text)| Call::Write { at, offset, len, text }),
        6 => (writer(), prop_oneof![1 => Just(0), 6 => offset::<T>()])
            .prop_map(|(at, size)| Call::Resize { at, size }),
        6 => (writer(), offset::<T>(), 0..2_500_000_u64, how)
            .prop_map(|(at, offset, len, how)| Call::Allocate { at, offset, len, how }),
        3 => (any(), offset::<T>(), prop::bool::ANY)
            .prop_map(|(at, offset, hole)| Call::Seek { at, offset, hole }),
        5 => copy(),
        3 => any().prop_map(Call::Sync),
        2 => any().prop_map(Call::StatOpen),
    ]
    .boxed()
}

fn copy_of_all<T: System>((from, to): (usize, usize)) -> Call {
    Call::Copy {
        from: (from, 0),
        to: (to, 0),
        len: T::LONGEST,
    }
}

/// From a chunk to the same, and from anywhere to anywhere.
fn copy<T: System>(readers: &[usize], writers: &[usize]) -> impl Strategy<Value = Call> + use<T> {
    let chunks = (0..4_u64, 0..5_u64)
        .prop_map(|(first, count)| (first * CHUNK_SIZE, first * CHUNK_SIZE, count * CHUNK_SIZE));
    let bytes = (offset::<T>(), offset::<T>(), 0..200_000_u64);
    (
        slot(readers, FILES),
        slot(writers, FILES),
        prop_oneof![chunks, bytes],
    )
        .prop_map(|(from, to, (offset, to_offset, len))| Call::Copy {
            from: (from, offset),
            to: (to, to_offset),
            len,
        })
}

fn any_text() -> impl Strategy<Value = u8> {
    prop::num::u8::ANY
}

fn on_names(paths: &Paths) -> BoxedStrategy<Call> {
    let Paths {
        all,
        files,
        dirs,
        new,
        ..
    } = paths;
    let special = select(vec![
        Special::File,
        Special::Fifo,
        Special::Socket,
        Special::CharDevice,
        Special::BlockDevice,
    ]);
    let target = prop_oneof![1 => Just(0), 10 => 1..200_u16, 2 => 4090..4100_u16];
    let to = prop_oneof![1 => all.clone(), 1 => new.clone()];
    let flags = prop_oneof![4 => Just(0), 1 => Just(1), 2 => Just(2)];
    prop_oneof![
        4 => new.clone().prop_map(Call::Mkdir),
        2 => dirs.clone().prop_map(Call::Rmdir),
        4 => all.clone().prop_map(Call::Unlink),
        3 => (prop_oneof![5 => files.clone(), 1 => all.clone()], new.clone())
            .prop_map(|(from, to)| Call::Link(from, to)),
        1 => (new.clone(), target).prop_map(|(path, len)| Call::Symlink(path, len)),
        1 => paths.symlinks.clone().prop_map(Call::Readlink),
        1 => (new.clone(), special).prop_map(|(path, kind)| Call::Mknod(path, kind)),
        6 => (all.clone(), to, flags).prop_map(|(from, to, flags)| Call::Rename(from, to, flags)),
    ]
    .boxed()
}

fn on_attributes(paths: &Paths) -> BoxedStrategy<Call> {
    let any_path = prop_oneof![8 => paths.all.clone(), 1 => Just(Place::new())].boxed();
    let file = || paths.files.clone();
    let (mode, set_id) = (0..0o10000_u16, 0o4000..0o10000_u16);
    let name = prop_oneof![9 => 0..3_usize, 1 => 3..XATTRS.len()];
    let value = prop_oneof![4 => 0..300_u32, 1 => 0..40_000_u32];
    let xattr_mode = select(vec![
        XattrMode::Any,
        XattrMode::Any,
        XattrMode::Create,
        XattrMode::Replace,
    ]);
    prop_oneof![
        4 => any_path.clone().prop_map(Call::Stat),
        1 => (file(), mode.clone()).prop_map(|(path, mode)| Call::Chmod(path, mode & 0o1777)),
        1 => (paths.dirs.clone(), mode).prop_map(|(path, mode)| Call::Chmod(path, mode & 0o3777)),
        2 => (file(), set_id).prop_map(|(path, mode)| Call::Chmod(path, mode)),
        3 => (prop_oneof![any_path.clone(), file()], 0..3_u32, 0..3_u32)
            .prop_map(|(path, uid, gid)| Call::Chown(path, uid, gid)),
        2 => (any_path.clone(), time(), time()).prop_map(|(path, a, m)| Call::Touch(path, a, m)),
        4 => (any_path.clone(), name, value, any_text(), xattr_mode)
            .prop_map(|(path, name, len, text, mode)| Call::SetXattr(path, name, len, text, mode)),
        2 => paths.noted.clone().prop_map(|(path, name)| Call::GetXattr(path, name)),
        1 => paths.noted.clone().prop_map(|(path, name)| Call::RemoveXattr(path, name)),
        1 => any_path.prop_map(Call::ListXattrs),
    ]
    .boxed()
}

fn on_directories(paths: &Paths, open: &[usize]) -> BoxedStrategy<Call> {
    let at = || slot(open, SCANS);
    let dirs = prop_oneof![2 => Just(Place::new()), 3 => paths.dirs.clone()];
    let opening = if open.is_empty() { 30 } else { 3 };
    prop_oneof![
        opening => (0..SCANS, dirs).prop_map(|(at, path)| Call::OpenDir { at, path }),
        8 => (at(), 1..4_usize).prop_map(|(at, about)| Call::ReadDir { at, about }),
        2 => at().prop_map(Call::Mark),
        2 => at().prop_map(Call::Back),
        1 => at().prop_map(Call::CloseDir),
    ]
    .boxed()
}
