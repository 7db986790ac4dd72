//! The log on stderr: filter, format, and rotation of a background process's file.
//!
//! Invariant: a reply to an interrupted caller is no error; under journald a line has a priority
//! and no time.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Size from which a background log is rotated, bytes.
pub(super) const LOG_BYTES: u64 = 10 << 20;

/// Opens a background log, after renaming a large one to `log.old`.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES) {
        std::fs::rename(path, path.with_extension("old"))?;
    }
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Stderr, and the file behind it if this process rotates it.
#[derive(Debug, Default)]
pub(crate) struct Stderr {
    file: OnceLock<PathBuf>,
    written: AtomicU64,
}

impl Stderr {
    /// Rotates the file at `path`, which stderr leads to.
    pub(super) fn rotate(&self, path: PathBuf) {
        let so_far = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        self.written.store(so_far, Ordering::Relaxed);
        // Nobody sets another.
        let _ = self.file.set(path);
    }

    /// Counts written bytes; returns the next file if this one is full.
    fn next_file(&self, written: usize) -> Option<File> {
        let path = self.file.get()?;
        let written = written as u64;
        let before = self.written.fetch_add(written, Ordering::Relaxed);
        if before <= LOG_BYTES && before + written > LOG_BYTES {
            // On failure the file grows: too long beats none.
            let next = open(path).ok()?;
            self.written.store(0, Ordering::Relaxed);
            return Some(next);
        }
        None
    }
}

pub(crate) struct Line(Arc<Stderr>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        if let Some(next) = self.0.next_file(written) {
            rustix::stdio::dup2_stderr(next)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

pub(crate) struct Lines(pub(crate) Arc<Stderr>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

/// Whether journald reads stderr (systemd.exec(5), `$JOURNAL_STREAM`).
pub(crate) fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    fstat(io::stderr())
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// A journald line: `<priority>` (sd-daemon(3)) and text; the journal adds the time.
pub(crate) struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Drops one false error of fuser: the kernel answers ENOENT to a reply whose caller was
/// interrupted.
pub(crate) struct NoInterrupted;

impl<S: Subscriber> Layer<S> for NoInterrupted {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if !event.metadata().target().starts_with("fuser") {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let gone = io::Error::from(rustix::io::Errno::NOENT).to_string();
        !(message.0.contains("reply") && message.0.ends_with(&gone))
    }
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Mutex;

    use pxfs_base::lock;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn journal(log: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let form = tracing_subscriber::fmt::layer()
            .event_format(Journal)
            .with_ansi(false)
            .with_writer(move || Shared(Arc::clone(&writer)));
        let registry = tracing_subscriber::registry()
            .with(NoInterrupted)
            .with(form);
        tracing::subscriber::with_default(registry, log);
        let written = lock(&written);
        String::from_utf8(written.clone()).unwrap()
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = lock(&self.0);
            all.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_for_journald_have_a_priority_and_no_second_time() {
        let lines = journal(|| {
            tracing::error!(path = "/m", "it broke");
            tracing::warn!("careful");
            tracing::info!("mounted");
        });
        assert_eq!(lines, "<3>it broke path=\"/m\"\n<4>careful\n<6>mounted\n");
    }

    #[test]
    fn only_a_refused_fuse_reply_is_logged_not_an_interrupted_call() {
        let say = |errno: rustix::io::Errno| {
            let err = io::Error::from(errno);
            tracing::error!(target: "fuser::reply", "Failed to send FUSE reply: {err}");
        };
        assert_eq!(journal(|| say(rustix::io::Errno::NOENT)), "");
        assert_ne!(journal(|| say(rustix::io::Errno::INVAL)), "");
        let device = || tracing::error!(target: "fuser::mnt", "/dev/fuse: {}", io::Error::from(rustix::io::Errno::NOENT));
        assert_ne!(journal(device), "");
        assert_ne!(
            journal(|| tracing::error!("no reply: No such file or directory (os error 2)")),
            ""
        );
    }

    #[test]
    fn a_mount_that_lasts_for_months_fills_no_disk_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, vec![b'x'; (LOG_BYTES - 10) as usize]).unwrap();
        let stderr = Stderr::default();
        assert!(stderr.next_file(1 << 30).is_none(), "no file is known");
        stderr.rotate(path.clone());
        assert!(stderr.next_file(10).is_none());
        let mut append = File::options().append(true).open(&path).unwrap();
        append.write_all(&[b'x'; 20]).unwrap();
        let mut next = stderr.next_file(10).expect("the next file");
        next.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(path.with_extension("old").exists());
        assert_eq!(next.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(stderr.next_file(10).is_none());
    }

    #[test]
    fn only_the_stream_that_stderr_is_counts_as_the_journal() {
        let stat = fstat(io::stderr()).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(&own)));
        for other in [None, Some(""), Some("1"), Some("1:2"), Some("x:y")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
