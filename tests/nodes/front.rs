//! What stands between pxfs and a node: an address that stays while the node behind it comes and goes,
//! and that does to each exchange what a [`Fault`] says.
//!
//! Invariant: without a fault, and with a node, an exchange passes unchanged. Each connection is for
//! one exchange, so a fault strikes from the moment it is set; what is on its way then breaks.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// What becomes of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody listens.
    Refused,
    /// The connection comes about, and nothing is read from it.
    HangsAtOnce,
    /// The node has the call and answers; nothing of it arrives.
    HangsBeforeItsAnswer,
    /// Half of the answer arrives.
    HangsInItsAnswer,
    /// Reset before anything of the call has reached the node.
    ResetAtOnce,
    /// Reset when the node has done it.
    ResetBeforeItsAnswer,
    /// Reset when half of the answer has arrived.
    ResetInItsAnswer,
    /// Status 200 and nothing, whatever the node did.
    Empty,
    /// Half of the answer, then an error in the trailer.
    Trailer,
    /// Half of the answer, as if that were all of it.
    Truncated,
    /// The answer with one byte of it changed.
    WrongBytes,
    /// The answer with other CIDs in it; for the bytes of a block, those of another.
    WrongCid,
    /// This status, and nothing reaches the node.
    Status(u16),
    /// An error as nodes tell their own, and nothing reaches the node.
    Says(&'static str),
    /// What it answered to the same call when [`Front::remember`] was called.
    Replays,
    /// So many bytes a second, both ways.
    Slow(usize),
    /// Half of the files of the call reach the node, as if that were all of them.
    CutsUpload,
    /// Half of them reach the node, and nothing more is read. A call without files passes.
    HangsInItsCall,
    /// Half of them reach the node, and the connection is reset. A call without files passes.
    ResetInItsCall,
    /// The answer comes so much later, but to what is asked of the node's own disk alone.
    Late(Duration),
}

impl Fault {
    /// Nothing, or not all, of an answer arrives.
    pub(crate) const SILENT: [Self; 7] = [
        Self::Refused,
        Self::HangsAtOnce,
        Self::HangsBeforeItsAnswer,
        Self::HangsInItsAnswer,
        Self::ResetAtOnce,
        Self::ResetBeforeItsAnswer,
        Self::ResetInItsAnswer,
    ];
    /// What is sent is not taken to its end.
    pub(crate) const CUT: [Self; 2] = [Self::HangsInItsCall, Self::ResetInItsCall];
    /// An answer that is not the one, or is slow.
    pub(crate) const WRONG: [Self; 10] = [
        Self::Empty,
        Self::Trailer,
        Self::Truncated,
        Self::WrongBytes,
        Self::WrongCid,
        Self::Status(401),
        Self::Status(403),
        Self::Status(429),
        Self::Status(500),
        Self::Slow(10 << 10),
    ];
}

/// The calls whose answers are kept, to be replayed: those that read a name.
const KEPT: [&str; 2] = ["routing/get", "dht/get"];

/// An address in front of a node.
pub(crate) struct Front {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    node: Mutex<Option<String>>,
    fault: Mutex<Option<Fault>>,
    /// Only calls whose path ends in one of these meet the fault; none for all.
    paths: Mutex<&'static [&'static str]>,
    /// By path, the last answer, and the one that is replayed.
    answers: Mutex<HashMap<String, Vec<u8>>>,
    old: Mutex<HashMap<String, Vec<u8>>>,
    /// Both ends of all connections, to break them.
    open: Mutex<Vec<TcpStream>>,
    /// Paths of the exchanges that began.
    asked: Mutex<Vec<String>>,
    listens: AtomicBool,
    ended: AtomicBool,
}

impl Front {
    /// In front of the node at `url`.
    pub(crate) fn of(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let front = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        front.lead_to(url);
        let state = Arc::clone(&front.state);
        std::thread::spawn(move || listen(&state, listener));
        front
    }

    /// The address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the node is at `url`.
    pub(crate) fn lead_to(&self, url: &str) {
        let place = url.trim_start_matches("http://").to_owned();
        *lock(&self.state.node) = Some(place);
    }

    /// From now on there is no node; what is on its way breaks.
    pub(crate) fn close(&self) {
        *lock(&self.state.node) = None;
        self.break_all();
    }

    /// From now on exchanges meet `fault`, or none; what is on its way breaks.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.set_for(&[], fault);
    }

    /// As [`Front::set`], for the calls whose paths end in one of `paths`.
    pub(crate) fn set_for(&self, paths: &'static [&'static str], fault: Option<Fault>) {
        *lock(&self.state.paths) = paths;
        *lock(&self.state.fault) = fault;
        let is_to_listen = fault != Some(Fault::Refused);
        let begin = Instant::now();
        while self.state.listens.load(Ordering::SeqCst) != is_to_listen {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{fault:?} is not in force within 30 s"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.break_all();
    }

    /// From now on [`Fault::Replays`] gives what was answered last.
    pub(crate) fn remember(&self) {
        let answers = lock(&self.state.answers).clone();
        *lock(&self.state.old) = answers;
    }

    /// The paths that were asked for since the last time: `/api/v0/block/get`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.state.asked))
    }

    fn break_all(&self) {
        for stream in lock(&self.state.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a lock")
}

/// Takes connections; gives the address up while nobody is to listen there.
fn listen(state: &Arc<State>, listener: TcpListener) {
    let address = listener.local_addr().expect("an address");
    let mut listener = Some(listener);
    while !state.ended.load(Ordering::SeqCst) {
        if *lock(&state.fault) == Some(Fault::Refused) {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).ok();
        }
        state.listens.store(listener.is_some(), Ordering::SeqCst);
        let accepted = listener.as_ref().and_then(|listener| {
            listener.set_nonblocking(true).expect("a socket");
            listener.accept().ok()
        });
        let Some((client, _)) = accepted else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        client.set_nonblocking(false).expect("a socket");
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let end = client.try_clone().expect("a socket");
            // Whoever asked, or the node, has gone: nobody is left to be told.
            let _ = exchange(&state, client);
            let _ = end.shutdown(Shutdown::Both);
        });
    }
}

/// One call and its answer.
fn exchange(state: &State, mut client: TcpStream) -> io::Result<()> {
    let mut fault = *lock(&state.fault);
    let keep = |end: &TcpStream| -> io::Result<()> {
        lock(&state.open).push(end.try_clone()?);
        Ok(())
    };
    keep(&client)?;
    if fault == Some(Fault::HangsAtOnce) {
        return hang(&client);
    }
    let mut call = Vec::new();
    let head = head(&mut client, &mut call)?;
    let text = String::from_utf8_lossy(&call[..head]).into_owned();
    let path = text.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    lock(&state.asked).push(path.clone());
    let paths = *lock(&state.paths);
    if !paths.is_empty() && !paths.iter().any(|end| path.ends_with(end)) {
        fault = None;
    }
    if matches!(fault, Some(Fault::Late(_))) && text.contains("offline=true") {
        fault = None;
    }
    let old = lock(&state.old).get(&path).cloned();
    match fault {
        Some(Fault::ResetAtOnce) => return reset(&client),
        Some(Fault::Status(status)) => {
            // The rest of the call is read, or the answer is lost in a reset.
            body(&mut client, &text, call.split_off(head), None, |_| Ok(()))?;
            return answer(&mut client, status, "no");
        }
        Some(Fault::Says(why)) => {
            body(&mut client, &text, call.split_off(head), None, |_| Ok(()))?;
            let told = format!(r#"{{"Message":"{why}","Code":0,"Type":"error"}}"#);
            return answer(&mut client, 500, &told);
        }
        Some(Fault::Replays) if old.is_some() => {
            body(&mut client, &text, call.split_off(head), None, |_| Ok(()))?;
            return client.write_all(&old.unwrap_or_default());
        }
        _ => {}
    }
    let rate = match fault {
        Some(Fault::Slow(rate)) => Some(rate),
        _ => None,
    };
    let place = lock(&state.node).clone().ok_or(io::ErrorKind::NotFound)?;
    let mut node = TcpStream::connect(place)?;
    keep(&node)?;
    let mut sent = call.split_off(head);
    let mut text = text;
    if fault == Some(Fault::CutsUpload) {
        body(
            &mut client,
            &text,
            std::mem::take(&mut sent),
            None,
            |part| {
                sent.extend_from_slice(part);
                Ok(())
            },
        )?;
        let length = |bytes: usize| format!("content-length: {bytes}");
        let half = sent.len() / 2;
        text = text.replace(&length(sent.len()), &length(half));
        sent.truncate(half);
    }
    node.write_all(closing(&text).as_bytes())?;
    if let Some(fault) = fault.filter(|fault| Fault::CUT.contains(fault))
        && length(&text) > Some(0)
    {
        let half = length(&text).unwrap_or_default() / 2;
        while sent.len() < half && read(&mut client, &mut sent)? > 0 {}
        sent.truncate(half);
        node.write_all(&sent)?;
        if fault == Fault::ResetInItsCall {
            node.shutdown(Shutdown::Both)?;
            return reset(&client);
        }
        while *lock(&state.fault) == Some(fault) && !state.ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        return Ok(());
    }
    // A node may answer before it has all.
    let (mut reader, mut sender) = (client.try_clone()?, node.try_clone()?);
    std::thread::spawn(move || {
        body(&mut reader, &text, sent, rate, |part| {
            sender.write_all(part)
        })
    });
    let is_kept = KEPT.iter().any(|end| path.ends_with(end));
    if rate.is_some() || (fault.is_none() && !is_kept) {
        return copy(&mut node, &mut client, rate);
    }
    let mut told = Vec::new();
    node.read_to_end(&mut told)?;
    if let Some(Fault::Late(late)) = fault {
        // Ends early when whoever asks has gone, or the fault is over.
        client.set_read_timeout(Some(late))?;
        let gone = client.peek(&mut [0; 1]);
        if gone.is_ok() {
            return Ok(());
        }
    }
    if is_kept {
        lock(&state.answers).insert(path, told.clone());
    }
    spoil(fault, &told, &mut client)
}

/// An answer of this status.
fn answer(client: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    client.write_all(format!("{head}{body}").as_bytes())
}

/// Gives an answer on, as `fault` wants it.
fn spoil(fault: Option<Fault>, answer: &[u8], client: &mut TcpStream) -> io::Result<()> {
    let Some(fault) = fault else {
        return client.write_all(answer);
    };
    let end = find(answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let (head, rest) = answer.split_at(end);
    let text = String::from_utf8_lossy(head).to_lowercase();
    let mut content = match text.contains("transfer-encoding: chunked") {
        true => unchunked(rest),
        false => rest.to_vec(),
    };
    let half = content.len() / 2;
    let status = text
        .lines()
        .next()
        .unwrap_or("http/1.1 200 ok")
        .to_uppercase();
    let opened = |more: &str| format!("{status}\r\nconnection: close\r\n{more}\r\n");
    let announced = |length: usize| opened(&format!("content-length: {length}\r\n"));
    match fault {
        Fault::HangsBeforeItsAnswer => hang(client),
        Fault::ResetBeforeItsAnswer => reset(client),
        Fault::HangsInItsAnswer | Fault::ResetInItsAnswer => {
            client.write_all(announced(content.len().max(1)).as_bytes())?;
            client.write_all(&content[..half])?;
            client.flush()?;
            match fault {
                Fault::HangsInItsAnswer => hang(client),
                _ => reset(client),
            }
        }
        Fault::Empty => {
            client.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        }
        Fault::Trailer => {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: X-Stream-Error\r\n\r\n";
            client.write_all(head.as_bytes())?;
            if half > 0 {
                client.write_all(format!("{half:x}\r\n").as_bytes())?;
                client.write_all(&content[..half])?;
                client.write_all(b"\r\n")?;
            }
            client.write_all(b"0\r\nX-Stream-Error: the node's disk is unwell\r\n\r\n")
        }
        Fault::Truncated => {
            client.write_all(announced(half).as_bytes())?;
            client.write_all(&content[..half])
        }
        Fault::WrongBytes => {
            // In the middle of text a letter stays one.
            if let Some(byte) = content.get_mut(half) {
                *byte ^= 1;
            }
            client.write_all(announced(content.len()).as_bytes())?;
            client.write_all(&content)
        }
        Fault::WrongCid => {
            let content = other_cids(&content);
            client.write_all(announced(content.len()).as_bytes())?;
            client.write_all(&content)
        }
        Fault::Refused
        | Fault::HangsAtOnce
        | Fault::ResetAtOnce
        | Fault::Status(_)
        | Fault::Says(_)
        | Fault::Replays
        | Fault::Late(_)
        | Fault::CutsUpload
        | Fault::HangsInItsCall
        | Fault::ResetInItsCall
        | Fault::Slow(_) => client.write_all(answer),
    }
}

/// Text with one letter of each CID changed to another; other bytes with other ones.
fn other_cids(content: &[u8]) -> Vec<u8> {
    let Some(text) = std::str::from_utf8(content)
        .ok()
        .filter(|t| t.starts_with('{'))
    else {
        return b"another block".to_vec();
    };
    let mut text = text.to_owned();
    for begin in ["Qm", "bafkrei"] {
        let places: Vec<usize> = text.match_indices(begin).map(|(at, _)| at).collect();
        for at in places {
            let at = at + begin.len() + 10;
            if let Some(letter) = text.get(at..=at) {
                let other = if letter == "a" { "b" } else { "a" };
                text.replace_range(at..=at, other);
            }
        }
    }
    text.into_bytes()
}

/// Reads the head of a message, and perhaps more; where the head ends.
fn head(from: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        if let Some(at) = find(bytes, b"\r\n\r\n") {
            return Ok(at + 4);
        }
        if read(from, bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head of a call, after whose answer the connection ends.
fn closing(head: &str) -> String {
    let kept = head
        .lines()
        .filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("connection:"));
    let lines: String = kept.map(|line| format!("{line}\r\n")).collect();
    format!("{lines}connection: close\r\n\r\n")
}

/// The length of a body as its head announces it.
fn length(head: &str) -> Option<usize> {
    let head = head.to_lowercase();
    head.lines().find_map(|line| {
        let value = line.strip_prefix("content-length:")?;
        value.trim().parse().ok()
    })
}

/// The body of a message whose head is `head`, of which `some` is read already.
fn body(
    from: &mut TcpStream,
    head: &str,
    some: Vec<u8>,
    rate: Option<usize>,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let length = length(head);
    let head = head.to_lowercase();
    let chunked = head.contains("transfer-encoding: chunked");
    let (mut part, mut total, mut tail) = (some, 0, Vec::new());
    loop {
        slowly(&part, rate, &mut out)?;
        total += part.len();
        tail.extend_from_slice(&part);
        let is_whole = match length {
            Some(length) => total >= length,
            None => !chunked || tail.ends_with(b"\r\n0\r\n\r\n") || tail == b"0\r\n\r\n",
        };
        if is_whole {
            return Ok(());
        }
        let rest = tail.len().saturating_sub(16);
        tail.drain(..rest);
        part.clear();
        if read(from, &mut part)? == 0 {
            return Ok(());
        }
    }
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, rate: Option<usize>) -> io::Result<()> {
    let mut part = Vec::new();
    while read(from, &mut part)? > 0 {
        slowly(&part, rate, |bytes| to.write_all(bytes))?;
        part.clear();
    }
    to.shutdown(Shutdown::Write)
}

/// Writes `bytes`, at `rate` a second.
fn slowly(
    bytes: &[u8],
    rate: Option<usize>,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Some(rate) = rate else {
        return out(bytes);
    };
    for part in bytes.chunks((rate / 20).max(1)) {
        out(part)?;
        std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / rate as f64));
    }
    Ok(())
}

fn read(from: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut part = [0; 64 << 10];
    let length = from.read(&mut part)?;
    bytes.extend_from_slice(&part[..length]);
    Ok(length)
}

/// Holds the connection until somebody breaks it.
fn hang(client: &TcpStream) -> io::Result<()> {
    let mut byte = [0; 1];
    let mut client = client;
    // What comes is taken, and says nothing.
    while client.read(&mut byte)? > 0 {}
    Ok(())
}

/// Breaks it as a crashed machine does.
fn reset(client: &TcpStream) -> io::Result<()> {
    set_socket_linger(client, Some(Duration::ZERO))?;
    client.shutdown(Shutdown::Both)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The content of a chunked body, as far as it is there.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let digits = std::str::from_utf8(&bytes[..end]).unwrap_or("0");
        let length = usize::from_str_radix(digits.trim(), 16).unwrap_or(0);
        let begin = end + 2;
        if length == 0 || bytes.len() < begin + length {
            break;
        }
        content.extend_from_slice(&bytes[begin..begin + length]);
        bytes = bytes.get(begin + length + 2..).unwrap_or_default();
    }
    content
}
