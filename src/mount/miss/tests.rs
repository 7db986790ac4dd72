//! Calls as fuser delivers them, with replies that a test can read.

use std::future::{pending, ready};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::types::Ino;

/// What a caller sees.
type Seen = Result<u32, i32>;

struct Answer(Sender<Seen>);

impl Reply for Answer {
    fn fail(self, errno: Errno) {
        self.0.send(Err(errno.code())).unwrap();
    }
}

fn ok(reply: Answer, value: u32) {
    reply.0.send(Ok(value)).unwrap();
}

/// Records what it is asked for, and how much at once.
struct Node {
    asked: Mutex<Vec<Want>>,
    running: AtomicUsize,
    most: AtomicUsize,
    answer: fn() -> BoxFuture<'static, Result<(), FsError>>,
}

impl Node {
    fn asked(&self) -> Vec<Want> {
        self.asked.lock().unwrap().clone()
    }
}

impl Fetcher for Node {
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>> {
        self.asked.lock().unwrap().push(want);
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let running = Slot(Some(&self.running));
        async move {
            let _running = running;
            (self.answer)().await
        }
        .boxed()
    }
}

fn brings() -> BoxFuture<'static, Result<(), FsError>> {
    ready(Ok(())).boxed()
}

fn hangs() -> BoxFuture<'static, Result<(), FsError>> {
    pending().boxed()
}

fn dir(number: u64) -> Want {
    Want::Directory {
        slot: 1,
        dir: Ino(number),
    }
}

/// Longer than any test runs: an answer that needs it is a hang.
const LONG: Duration = Duration::from_secs(600);

const SHORT: Duration = Duration::from_secs(3);

/// A machine that is too slow so often proves nothing.
const TRIES: usize = 10;

struct Rig {
    pool: Arc<Pool>,
    node: Arc<Node>,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn new(patience: Duration, answer: fn() -> BoxFuture<'static, Result<(), FsError>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // One more for what is not a call.
            .max_blocking_threads(permits::THREADS + 1)
            .enable_time()
            .build()
            .unwrap();
        let node = Arc::new(Node {
            asked: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            answer,
        });
        let drive = Arc::new(Drive::new((0, 0), 0));
        let fetcher: Arc<dyn Fetcher> = Arc::<Node>::clone(&node);
        let pool = Pool::new(drive, fetcher, runtime.handle().clone(), 2, patience);
        Self {
            pool: Arc::new(pool),
            node,
            runtime,
        }
    }

    fn serve(
        &self,
        queue: Queue,
        call: impl FnMut() -> Result<u32, FsError> + Send + 'static,
    ) -> Receiver<Seen> {
        let (sender, seen) = channel();
        let mut call = call;
        self.pool
            .serve(queue, "test", Answer(sender), move |_, _| call(), ok);
        seen
    }
}

/// Every caller must get an answer.
fn answer(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(Duration::from_secs(60))
        .expect("no call stays without an answer")
}

/// A call that lacks each of `wants` in turn.
fn lacking(wants: Vec<Want>) -> impl FnMut() -> Result<u32, FsError> {
    let mut wants = wants.into_iter();
    move || match wants.next() {
        Some(want) => Err(FsError::NotLocal(Box::new(want))),
        None => Ok(7),
    }
}

#[test]
fn what_is_here_is_answered_at_once() {
    let rig = Rig::new(LONG, hangs);
    // Only this thread runs, so the answers are there on return.
    assert_eq!(
        rig.serve(Queue::Immediate, || Ok(3)).try_recv().unwrap(),
        Ok(3)
    );
    let refused = rig.serve(Queue::Change, || Err(FsError::Quota));
    assert_eq!(
        refused.try_recv().unwrap(),
        Err(errno::of(&FsError::Quota).code())
    );
    assert!(rig.node.asked().is_empty());
}

#[test]
fn what_is_missing_is_fetched_one_after_the_other_and_then_answered() {
    let rig = Rig::new(LONG, brings);
    let seen = rig.serve(Queue::Immediate, lacking(vec![dir(1), dir(2), dir(2)]));
    assert!(seen.try_recv().is_err());
    assert_eq!(answer(&seen), Ok(7));
    assert_eq!(rig.node.asked(), [dir(1), dir(2), dir(2)]);
}

#[test]
fn a_node_that_hangs_ends_the_call_at_its_deadline() {
    let rig = Rig::new(SHORT, hangs);
    let seen = rig.serve(Queue::Immediate, lacking(vec![dir(1)]));
    assert_eq!(answer(&seen), Err(errno::of(&FsError::TimedOut).code()));
}

#[test]
fn calls_beyond_the_fetch_limit_end_at_their_own_deadlines() {
    let rig = Rig::new(SHORT, hangs);
    let all: Vec<_> = (0..3 * FETCHES_MAX)
        .map(|_| rig.serve(Queue::Immediate, lacking(vec![dir(1)])))
        .collect();
    for seen in &all {
        assert_eq!(answer(seen), Err(errno::of(&FsError::TimedOut).code()));
    }
    assert_eq!(rig.node.most.load(Ordering::SeqCst), FETCHES_MAX);
}

#[test]
fn what_is_evicted_again_and_again_ends_at_the_deadline_too() {
    let rig = Rig::new(SHORT, brings);
    let seen = rig.serve(Queue::Immediate, || {
        Err(FsError::NotLocal(Box::new(dir(1))))
    });
    assert_eq!(answer(&seen), Err(errno::of(&FsError::TimedOut).code()));
    // It pauses between the fetches.
    let most = SHORT.as_millis() / PAUSE.as_millis() + 2;
    assert!((rig.node.asked().len() as u128) <= most);
}

#[test]
fn a_damaged_block_is_told_as_such_and_not_fetched_again() {
    let rig = Rig::new(LONG, || {
        ready(Err(FsError::Damaged("gone".to_owned()))).boxed()
    });
    let seen = rig.serve(Queue::Immediate, lacking(vec![dir(1)]));
    let damaged = errno::of(&FsError::Damaged(String::new())).code();
    assert_eq!(answer(&seen), Err(damaged));
    assert_eq!(rig.node.asked().len(), 1);
}

#[test]
fn a_panic_gives_its_caller_eio_and_harms_no_other() {
    let rig = Rig::new(LONG, brings);
    let defect = Err(errno::DEFECT.code());
    for queue in [Queue::Immediate, Queue::Change, Queue::Sync] {
        let seen = rig.serve(queue, || panic!("a defect, on purpose"));
        assert_eq!(seen.try_recv().unwrap(), defect);
    }
    let mut first = true;
    let later = rig.serve(Queue::Immediate, move || {
        if std::mem::take(&mut first) {
            return Err(FsError::NotLocal(Box::new(dir(1))));
        }
        panic!("a defect after the fetch, on purpose")
    });
    assert_eq!(answer(&later), defect);
    assert_eq!(rig.serve(Queue::Sync, || Ok(1)).try_recv().unwrap(), Ok(1));
}

#[test]
fn a_panic_of_the_fetcher_is_an_io_error_for_its_caller() {
    let rig = Rig::new(LONG, || {
        async { panic!("a defect of the fetcher, on purpose") }.boxed()
    });
    let seen = rig.serve(Queue::Immediate, lacking(vec![dir(1)]));
    assert_eq!(answer(&seen), Err(errno::DEFECT.code()));
}

#[test]
fn the_end_of_the_daemon_answers_what_still_waits() {
    let Rig {
        pool,
        runtime,
        node: _node,
    } = Rig::new(LONG, hangs);
    let (sender, seen) = channel();
    let mut call = lacking(vec![dir(1)]);
    let answer = Answer(sender);
    pool.serve(Queue::Immediate, "test", answer, move |_, _| call(), ok);
    assert!(seen.try_recv().is_err());
    drop(runtime);
    assert_eq!(seen.try_recv().unwrap(), Err(errno::DEFECT.code()));
}

#[test]
fn a_write_that_waits_for_a_fetch_retains_its_bytes() {
    let rig = Rig::new(LONG, brings);
    let (sender, seen) = channel();
    {
        let request = vec![1_u8, 2, 3];
        let own = || {
            let bytes = request.clone();
            move |_: &Drive, _: &mut Answer| Ok(u32::from(bytes.iter().sum::<u8>()))
        };
        let first = |_: &Drive| Err(FsError::NotLocal(Box::new(dir(1))));
        rig.pool
            .serve_borrowed(Queue::Change, "test", Answer(sender), first, own, ok);
    }
    assert_eq!(answer(&seen), Ok(6));
}

#[test]
fn while_calls_wait_for_the_disk_a_thread_stays_free_to_look() {
    let rig = Rig::new(LONG, hangs);
    let pool = Arc::clone(&rig.pool);
    let (release, held) = channel::<()>();
    let (entered, inside) = channel();
    // One of two session threads waits for the disk.
    let stuck = std::thread::spawn(move || {
        let (sender, seen) = channel();
        let call = move |_: &Drive, _: &mut Answer| {
            entered.send(()).unwrap();
            held.recv().unwrap();
            Ok(1)
        };
        pool.serve(Queue::Sync, "test", Answer(sender), call, ok);
        seen.recv().unwrap()
    });
    inside.recv().unwrap();
    // The other, this one, hands calls over that may wait.
    let here = std::thread::current().id();
    for queue in [Queue::Name, Queue::Change, Queue::Sync] {
        let seen = rig.serve(queue, move || {
            Ok(u32::from(std::thread::current().id() == here))
        });
        assert_eq!(answer(&seen), Ok(0));
    }
    let seen = rig.serve(Queue::Immediate, move || {
        Ok(u32::from(std::thread::current().id() == here))
    });
    assert_eq!(seen.try_recv().unwrap(), Ok(1));
    release.send(()).unwrap();
    assert_eq!(stuck.join().unwrap(), Ok(1));
    let seen = rig.serve(Queue::Change, move || {
        Ok(u32::from(std::thread::current().id() == here))
    });
    assert_eq!(seen.try_recv().unwrap(), Ok(1));
}

/// Calls that block until released, and how many have begun.
struct Held {
    begun: Receiver<()>,
    release: Vec<Sender<()>>,
    begins: Sender<()>,
}

impl Held {
    fn new() -> Self {
        let (begins, begun) = channel();
        let release = Vec::new();
        Self {
            begun,
            release,
            begins,
        }
    }

    fn call(&mut self, wants: Vec<Want>) -> impl FnMut() -> Result<u32, FsError> + use<> {
        let (release, held) = channel();
        self.release.push(release);
        let begins = self.begins.clone();
        let mut wants = wants.into_iter();
        move || match wants.next() {
            Some(want) => Err(FsError::NotLocal(Box::new(want))),
            None => {
                begins.send(()).unwrap();
                // Released also when the test fails.
                let _ = held.recv();
                Ok(1)
            }
        }
    }

    fn await_begun(&self, count: usize) {
        for _ in 0..count {
            let begun = self.begun.recv_timeout(Duration::from_secs(60));
            begun.expect("it begins");
        }
    }
}

#[test]
fn calls_blocked_on_disk_do_not_delay_fetches_changes_or_replies() {
    // Verification runs beside the runtime.
    let rig = Rig::new(LONG, || {
        async { drop(tokio::task::spawn_blocking(|| ()).await) }
            .map(Ok)
            .boxed()
    });
    let slots = [rig.pool.enter(Queue::Sync), rig.pool.enter(Queue::Sync)];
    let mut held = Held::new();
    let syncs: Vec<_> = (0..3 * permits::SYNCS)
        .map(|_| rig.serve(Queue::Sync, held.call(Vec::new())))
        .collect();
    held.await_begun(permits::SYNCS);
    let read = rig.serve(Queue::Immediate, lacking(vec![dir(1), dir(2)]));
    assert_eq!(answer(&read), Ok(7));
    let mut writing = Held::new();
    let writes: Vec<_> = (0..3 * permits::CHANGES)
        .map(|_| rig.serve(Queue::Change, writing.call(Vec::new())))
        .collect();
    writing.await_begun(permits::CHANGES);
    assert_eq!(answer(&rig.serve(Queue::Name, || Ok(8))), Ok(8));
    let (sender, seen) = channel();
    let aside = rig.pool.aside();
    aside.run("test", Answer(sender), |_, _| Ok(9), ok);
    assert_eq!(answer(&seen), Ok(9));
    held.release.clear();
    writing.release.clear();
    for seen in syncs.iter().chain(&writes) {
        assert_eq!(answer(seen), Ok(1));
        assert!(seen.recv().is_err(), "answered twice");
    }
    drop(slots);
}

#[test]
fn a_fetched_call_waits_for_a_thread_until_its_deadline_only() {
    let rig = Rig::new(SHORT, brings);
    let mut held = Held::new();
    let stuck: Vec<_> = (0..permits::FETCHED)
        .map(|_| rig.serve(Queue::Change, held.call(vec![dir(1)])))
        .collect();
    held.await_begun(permits::FETCHED);
    let late = rig.serve(Queue::Change, lacking(vec![dir(2)]));
    assert_eq!(answer(&late), Err(errno::of(&FsError::TimedOut).code()));
    held.release.clear();
    for seen in &stuck {
        assert_eq!(answer(seen), Ok(1));
    }
}

#[test]
fn a_kernel_retry_after_a_timeout_does_not_wait_twice() {
    for silence in [hangs, gives_up] {
        is_waited_for_once(&Rig::new(SHORT, silence));
    }
}

fn gives_up() -> BoxFuture<'static, Result<(), FsError>> {
    ready(Err(FsError::TimedOut)).boxed()
}

fn is_waited_for_once(rig: &Rig) {
    let want = |offset| Want::Content {
        slot: 1,
        ino: Ino(2),
        cid: crate::pack::cid::leaf_cid(b"content"),
        size: 1 << 20,
        offset,
        len: 4096,
    };
    let ask = |thread, offset| {
        let (sender, seen) = channel();
        let mut lacks = lacking(vec![want(offset)]);
        let call = move |_: &Drive, _: &mut Answer| lacks();
        (rig.pool).serve_thread(thread, Queue::Read, "test", Answer(sender), call, ok);
        answer(&seen)
    };
    let timed_out = Err(Errno::ETIMEDOUT.code());
    // A thread that asks too late causes another fetch.
    let is_spared = (0..TRIES).any(|_| {
        assert_eq!(ask(1, 0), timed_out);
        let asked = rig.node.asked().len();
        assert_eq!(ask(1, 0), timed_out);
        rig.node.asked().len() == asked
    });
    assert!(is_spared, "the node was asked again each time");
    let asked = rig.node.asked().len();
    // Other contents, and other threads, are fetched again.
    assert_eq!(ask(1, 8192), timed_out);
    assert_eq!(ask(2, 0), timed_out);
    assert_eq!(rig.node.asked().len(), asked + 2);
}
