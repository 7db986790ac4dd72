//! The RPC calls of the stand-in: paths, logins, arguments, answers, errors.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cid::Cid;
use futures::StreamExt;
use http_body_util::BodyExt;
use multihash::Multihash;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::disk::{Disk, RAW};
use super::unixfs::{self, Stop};
use super::{Node, TOKEN_LIFE, names};

/// Paths that want no login: under v1, and no other.
const OPEN: [&str; 6] = [
    "/api/v1/id",
    "/api/v1/config/show",
    "/api/v1/dashboard/check",
    "/api/v1/dashboard/set",
    "/api/v1/dashboard/login",
    "/api/v1/dashboard/reset",
];
/// From so many files a request on, the connection is closed after it.
const MANY_FILES: usize = 20;

/// An archive is sent in parts of so many bytes; what is begun of one is lost with an error.
const ARCHIVE_PART: usize = 1 << 20;

/// How often a pin tells how far it is.
const TELLS: Duration = Duration::from_millis(500);

type Args = Vec<(String, String)>;

pub(super) fn router(node: Arc<Node>) -> Router {
    // The limit of axum is none of go-btfs.
    let no_limit = DefaultBodyLimit::disable();
    Router::new()
        .fallback(call)
        .layer(no_limit)
        .with_state(node)
}

async fn call(
    State(node): State<Arc<Node>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(args): Query<Args>,
    request: Request,
) -> Response {
    if method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "405 - Method Not Allowed\n");
    }
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    let foreign = [header::ORIGIN, header::REFERER]
        .iter()
        .any(|name| headers.contains_key(name));
    if foreign || agent.is_some_and(|agent| agent.starts_with(b"Mozilla")) {
        return plain(StatusCode::FORBIDDEN, "403 - Forbidden\n");
    }
    let path = uri.path();
    if let Some(refusal) = refuse(&node, path, &args) {
        return refusal;
    }
    let below = ["/api/v1/", "/api/v0/", "/api/latest/"]
        .iter()
        .find_map(|base| path.strip_prefix(base));
    let Some(command) = below else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let mut response = answer(&node, command, &args, request).await;
    let server = HeaderValue::from_static("go-btfs/3.3.0");
    response.headers_mut().insert(header::SERVER, server);
    response
}

/// Turns away who has not logged in.
fn refuse(node: &Node, path: &str, args: &Args) -> Option<Response> {
    if !node.auth || OPEN.contains(&path) {
        return None;
    }
    let login = node.login.lock().expect("a lock");
    let token = get(args, "token").unwrap_or_default();
    let is_good = login
        .tokens
        .get(token)
        .is_some_and(|end| *end > Instant::now());
    let text = match (login.anybody, is_good) {
        (true, true) => return None,
        (true, false) => "invalid token\n",
        (false, _) => "please login\n",
    };
    Some(plain(StatusCode::UNAUTHORIZED, text))
}

async fn answer(node: &Arc<Node>, command: &str, args: &Args, request: Request) -> Response {
    if let Some(refusal) = unreadable(command, args) {
        return refusal;
    }
    let arg = get(args, "arg").unwrap_or_default();
    match command {
        "id" => lines(&[json!({
            "ID": "16Uiu2HAmStandIn", "AgentVersion": "go-btfs/3.3.0/stand-in",
            "BttcAddress": "", "TronAddress": "", "VaultAddress": "",
            "ChainID": 0, "SimpleMode": true
        })]),
        "version" => lines(&[json!({"Version": "3.3.0", "Repo": "10", "System": "stand-in"})]),
        "config/show" => lines(&[json!({
            "Addresses": {
                // One address is a text, and no list.
                "API": format!("/ip4/127.0.0.1/tcp/{}", node.address.port()),
                "RemoteAPI": [node.remote_api.lock().expect("a lock").clone()],
            },
            "API": {"EnableTokenAuth": node.auth},
            "Datastore": {"StorageMax": "32GB", "StorageGCWatermark": 90, "Spec": {"mounts": [
                {"child": {"type": "flatfs", "sync": true}, "mountpoint": "/blocks"}
            ]}}
        })]),
        "dashboard/login" => log_in(node, arg),
        "block/put" => put(node, args, request).await,
        "block/get" | "block/stat" => {
            with_path(node, arg, async |cid| {
                let data = match wait(args, || node.disk.get(&cid)).await {
                    Ok(data) => data,
                    Err(Late::Offline) => return missing(&cid),
                    Err(Late::Deadline) => return failed("context deadline exceeded"),
                };
                match command {
                    "block/get" => ([("X-Stream-Output", "1")], data).into_response(),
                    _ => lines(&[json!({"Key": cid.to_string(), "Size": data.len()})]),
                }
            })
            .await
        }
        "pin/add" => with_path(node, arg, async |cid| pin(node, args, cid, None).await).await,
        "pin/update" => update(node, args).await,
        "pin/rm" => {
            with_path(node, arg, async |cid| match node.disk.unpin(&cid) {
                true => lines(&[json!({"Pins": [cid.to_string()]})]),
                false => failed("not pinned or pinned indirectly"),
            })
            .await
        }
        "pin/ls" => list(node, args),
        "repo/gc" => match node.disk.collect() {
            Ok(gone) => lines(
                &gone
                    .iter()
                    .map(|cid| json!({"Key": {"/": cid.to_string()}}))
                    .collect::<Vec<_>>(),
            ),
            Err(why) => failed(&why),
        },
        "repo/stat" => lines(&[json!({"RepoSize": 0, "StorageMax": 32_000_000_000_u64})]),
        "dag/import" => {
            // A nil node in a goroutine of its own: the process ends.
            node.die();
            std::future::pending().await
        }
        "dht/put" => {
            let record = match files(request).await {
                (mut files, None) if !files.is_empty() => files.swap_remove(0),
                _ => return bad_request("file argument 'value-file' is required"),
            };
            match names::put(&node.disk, arg, &record) {
                None => failed("invalid key"),
                Some(false) => lines(&[]),
                Some(true) => lines(&[event(3, "failed to find any peer in table")]),
            }
        }
        "dht/get" => match names::get(&node.disk, arg) {
            None => failed("invalid key"),
            // It has no peers, and says so before everything else.
            Some(Some(record)) => lines(&[
                event(3, "failed to find any peer in table"),
                event(5, &data_encoding::BASE64.encode(&record)),
            ]),
            Some(None) => {
                let why = "routing: not found";
                let alone = || event(3, "failed to find any peer in table");
                trailed(&[alone(), alone(), event(3, why)], why)
            }
        },
        "name/resolve" => {
            let (name, below) = split(arg.trim_start_matches("/btns/"));
            match names::resolve(&node.disk, name) {
                Some(path) if !path.starts_with("/btfs/") => failed("unknown namespace"),
                Some(path) => lines(&[json!({"Path": format!("{path}{below}")})]),
                None => failed("could not resolve name"),
            }
        }
        "cat" => cat(node, args).await,
        "block/rm" => remove(node, args),
        "refs/local" => {
            let keys = node.disk.keys();
            let told = keys
                .iter()
                .map(|cid| json!({"Ref": cid.to_string(), "Err": ""}));
            lines(&told.collect::<Vec<_>>())
        }
        "ls" => list_links(node, args).await,
        "get" => fetch(node, args, arg).await,
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Refuses what lacks an argument, or has one that cannot be read.
fn unreadable(command: &str, args: &Args) -> Option<Response> {
    let wanted = match command {
        "block/get" | "block/stat" | "dht/get" | "dht/put" => Some("key"),
        "block/rm" => Some("hash"),
        "cat" | "get" | "ls" | "pin/add" | "pin/rm" => Some("btfs-path"),
        "pin/update" => Some("from-path"),
        _ => None,
    };
    if let (Some(wanted), None) = (wanted, get(args, "arg")) {
        return Some(bad_request(&format!("argument \"{wanted}\" is required")));
    }
    let flag = get(args, "offline").filter(|text| text.parse::<bool>().is_err());
    if let Some(text) = flag {
        let why =
            format!("Could not convert value \"{text}\" to type \"bool\" (for option \"offline\")");
        return Some(bad_request(&why));
    }
    let timeout = get(args, "timeout");
    // Without a body.
    let is_nonsense = timeout.is_some_and(|text| duration(text).is_none());
    is_nonsense.then(|| StatusCode::OK.into_response())
}

/// The content of each path, one behind the other; `offset` and `length` count over all of it.
async fn cat(node: &Node, args: &Args) -> Response {
    let mut all = Vec::new();
    for (_, path) in args.iter().filter(|(name, _)| name == "arg") {
        match found(node, args, path, unixfs::streamed).await {
            Ok(data) => all.extend(data),
            Err(why) => return failed(&why),
        }
    }
    let number = |name: &str| get(args, name).map(str::parse::<i64>);
    let (offset, length) = match (number("offset"), number("length")) {
        (Some(Err(_)), _) | (_, Some(Err(_))) => return bad_request("an offset is a number"),
        (offset, length) => (
            offset.and_then(Result::ok).unwrap_or(0),
            length.and_then(Result::ok).unwrap_or(i64::MAX),
        ),
    };
    let (Ok(offset), Ok(length)) = (usize::try_from(offset), usize::try_from(length)) else {
        return failed("cannot specify negative offset or length");
    };
    let part: Vec<u8> = all.into_iter().skip(offset).take(length).collect();
    ([("X-Stream-Output", "1")], part).into_response()
}

/// Removes blocks; what is pinned stays, with `force` too.
fn remove(node: &Node, args: &Args) -> Response {
    let asked = args.iter().filter(|(name, _)| name == "arg");
    let removed = asked.map(|(_, text)| {
        let Ok(cid) = text.parse::<Cid>() else {
            return json!({"Hash": text, "Error": "selected encoding not supported"});
        };
        let error = match node.disk.pinned_through(&cid) {
            Some(root) => format!("pinned via {root}"),
            None if node.disk.get(&cid).is_none() => format!("blockstore: block not found: {text}"),
            None => {
                node.disk.remove(&cid);
                String::new()
            }
        };
        json!({"Hash": text, "Error": error})
    });
    lines(&removed.collect::<Vec<_>>())
}

fn log_in(node: &Node, password: &str) -> Response {
    let right = std::fs::read_to_string(node.disk.folder().join("password"));
    if right.is_ok_and(|right| right == password) {
        let mut login = node.login.lock().expect("a lock");
        let token = format!("stand+in/{}==", login.tokens.len() + 1);
        let random = getrandom::u64().expect("the system gives random bytes");
        let token = format!("{token}{random}");
        login
            .tokens
            .insert(token.clone(), Instant::now() + TOKEN_LIFE);
        login.anybody = true;
        return lines(&[json!({"Success": true, "Text": token})]);
    }
    lines(&[json!({"Success": false, "Text": "password is not correct"})])
}

/// What a request brings, up to where it is cut, and the error there.
async fn files(request: Request) -> (Vec<Bytes>, Option<String>) {
    let mut files = Vec::new();
    let mut multipart = match Multipart::from_request(request, &()).await {
        Ok(multipart) => multipart,
        Err(refused) => return (files, Some(refused.body_text())),
    };
    loop {
        match multipart.next_field().await {
            Ok(None) => return (files, None),
            Ok(Some(field)) => match field.bytes().await {
                Ok(bytes) => files.push(bytes),
                Err(_) => return (files, Some("unexpected EOF".into())),
            },
            Err(_) => return (files, Some("multipart: NextPart: EOF".into())),
        }
    }
}

async fn put(node: &Node, args: &Args, request: Request) -> Response {
    let (files, error) = files(request).await;
    let version_and_codec = match get(args, "format") {
        None | Some("v0") => (0, 0x70),
        Some("raw") => (1, 0x55),
        Some("protobuf") => (1, 0x70),
        Some(other) => return failed(&format!("unrecognized format: {other}")),
    };
    if files.is_empty() && error.is_none() {
        return bad_request("file argument 'data' is required");
    }
    let mut told = Vec::new();
    for data in &files {
        let hash = Multihash::wrap(0x12, &Sha256::digest(data)).expect("a hash");
        let cid = match version_and_codec {
            (0, _) => Cid::new_v0(hash).expect("a hash"),
            (_, codec) => Cid::new_v1(codec, hash),
        };
        node.disk.put(&cid, data);
        if get(args, "pin") == Some("true") {
            node.disk.pin(&cid);
        }
        told.push(json!({"Key": cid.to_string(), "Size": data.len()}));
    }
    let mut response = match error {
        None => lines(&told),
        Some(error) => trailed(&told, &error),
    };
    if files.len() >= MANY_FILES {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Pins what is not pinned yet; waits for what is missing.
async fn pin(node: &Arc<Node>, args: &Args, root: Cid, from: Option<Cid>) -> Response {
    if from.is_none() && node.disk.is_pinned(&root) {
        return lines(&[json!({"Pins": [root.to_string()]})]);
    }
    if get(args, "progress") == Some("true") && from.is_none() {
        return pin_telling(node, args, root).await;
    }
    // What the old root has is not looked at.
    let known = from.map_or_else(HashSet::new, |from| node.disk.found_below(&from));
    // `offline` does not help: the pinner asks the network all the same.
    let patient: Args = args
        .iter()
        .filter(|(name, _)| name != "offline")
        .cloned()
        .collect();
    let whole = wait(&patient, || {
        let _one = node.disk.gate.lock().expect("a lock");
        node.disk.below(&root, &known)?;
        node.disk.pin(&root);
        Some(())
    });
    match whole.await {
        Ok(()) => lines(&[json!({"Pins": [root.to_string()]})]),
        Err(_) => failed("context deadline exceeded"),
    }
}

/// Pins, and tells every half second how many blocks it has come to, also where they are no more than before.
async fn pin_telling(node: &Arc<Node>, args: &Args, root: Cid) -> Response {
    let (node, begin) = (Arc::clone(node), Instant::now());
    let patience = get(args, "timeout").and_then(duration);
    // As many as there are by now, and whether that is all.
    let look = move || {
        let _one = node.disk.gate.lock().expect("a lock");
        let slowness = *node.slowness.lock().expect("a lock");
        let reached = match slowness {
            Duration::ZERO => usize::MAX,
            each => (begin.elapsed().as_millis() / each.as_millis()) as usize,
        };
        let found = node.disk.found_below(&root);
        let there = found.iter().filter(|cid| node.disk.links(cid).is_some());
        let there = there.count();
        let is_whole = there == found.len() && reached >= there;
        if is_whole {
            node.disk.pin(&root);
        }
        (there.min(reached), is_whole)
    };
    let is_late = move || patience.is_some_and(|patience| begin.elapsed() >= patience);
    let step = async move || {
        let until = Instant::now() + TELLS;
        loop {
            let (blocks, is_whole) = look();
            if is_whole || is_late() || Instant::now() >= until {
                return (blocks, is_whole);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let late = "context deadline exceeded";
    // Before the root is there it counts nothing.
    let told = |blocks: usize| match blocks {
        0 => json!({"Pins": null}),
        blocks => json!({"Pins": null, "Progress": blocks}),
    };
    let pinned = json!({"Pins": [root.to_string()]});
    let (blocks, is_whole) = step().await;
    if is_whole {
        return lines(&[told(blocks), pinned]);
    }
    if is_late() {
        return failed(late);
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let first = text_of(&[told(blocks)]);
    let rest = futures::stream::unfold(Some(end), move |end| {
        let (step, pinned) = (step.clone(), pinned.clone());
        async move {
            let end = end?;
            let (blocks, is_whole) = step().await;
            if is_whole {
                return Some((text_of(&[told(blocks), pinned]), None));
            }
            if is_late() {
                let _ = end.send(());
                return None;
            }
            Some((text_of(&[told(blocks)]), Some(end)))
        }
    });
    let lines = futures::stream::once(async { first }).chain(rest);
    let lines = lines.map(Ok::<_, std::convert::Infallible>);
    let body = Body::from_stream(lines).with_trailers(async move {
        ended.await.ok()?;
        let mut trailers = HeaderMap::new();
        trailers.insert("X-Stream-Error", HeaderValue::from_static(late));
        Some(Ok(trailers))
    });
    let headers = [
        ("Content-Type", "application/json"),
        ("Trailer", "X-Stream-Error"),
    ];
    (headers, Body::new(body)).into_response()
}

async fn update(node: &Arc<Node>, args: &Args) -> Response {
    let cids: Vec<Cid> = args
        .iter()
        .filter(|(name, _)| name == "arg")
        .filter_map(|(_, text)| text.parse().ok())
        .collect();
    let [from, to] = cids[..] else {
        return bad_request("argument \"to-path\" is required");
    };
    if !node.disk.is_pinned(&from) {
        return failed("'from' cid was not recursively pinned already");
    }
    if from == to {
        return lines(&[json!({"Pins": [from.to_string(), to.to_string()]})]);
    }
    if node.disk.is_pinned(&to) {
        return failed("'to' cid was already recursively pinned");
    }
    let response = pin(node, args, to, Some(from)).await;
    if response.status() == StatusCode::OK && get(args, "unpin") != Some("false") {
        node.disk.unpin(&from);
    }
    response
}

fn list(node: &Node, args: &Args) -> Response {
    let kind = get(args, "type").unwrap_or("all");
    // How it is pinned, where that is of the kind that is asked for.
    let pinned = |cid: &Cid| match node.disk.pinned_through(cid) {
        Some(root) if root == *cid && kind != "indirect" => Some("recursive".to_owned()),
        Some(root) if root != *cid && kind != "recursive" => {
            Some(format!("indirect through {root}"))
        }
        _ => None,
    };
    let line = |(cid, kind): &(Cid, String)| json!({"Cid": cid.to_string(), "Type": kind});
    let all = |told: &[(Cid, String)]| {
        if get(args, "stream") == Some("true") {
            return lines(&told.iter().map(line).collect::<Vec<_>>());
        }
        let keys = told
            .iter()
            .map(|(cid, kind)| (cid.to_string(), json!({"Type": kind})));
        lines(&[json!({"Keys": keys.collect::<serde_json::Map<_, _>>()})])
    };
    let asked: Vec<&str> = args
        .iter()
        .filter(|(name, _)| name == "arg")
        .map(|(_, text)| text.as_str())
        .collect();
    if asked.is_empty() {
        let mut told: Vec<_> = node
            .disk
            .pins()
            .into_iter()
            .map(|cid| (cid, "recursive".to_owned()))
            .collect();
        if kind != "recursive" {
            let roots = node.disk.pins();
            let below = roots.iter().flat_map(|root| node.disk.found_below(root));
            let below: HashSet<Cid> = below.filter(|cid| !roots.contains(cid)).collect();
            told.extend(below.into_iter().map(|cid| (cid, "indirect".to_owned())));
        }
        return all(&told);
    }
    let mut told = Vec::new();
    for text in asked {
        let cid = unixfs::resolve(&node.disk, text).ok();
        let is_stream = get(args, "stream") == Some("true");
        let why = || format!("path '{text}' is not pinned");
        match cid.and_then(|cid| Some((cid, pinned(&cid)?))) {
            Some(pin) => told.push(pin),
            None if is_stream && !told.is_empty() => {
                return trailed(&told.iter().map(line).collect::<Vec<_>>(), &why());
            }
            None => return failed(&why()),
        }
    }
    all(&told)
}

/// What `look` finds where `path` leads, or the error, once it is certain.
async fn found<T>(
    node: &Node,
    args: &Args,
    path: &str,
    look: impl Fn(&Disk, &Cid) -> Result<T, Stop>,
) -> Result<T, String> {
    // The block that was missing last.
    let absent = Mutex::new(None);
    let waited = wait(args, || {
        let tried = unixfs::resolve(&node.disk, path).and_then(|cid| look(&node.disk, &cid));
        match tried {
            Err(Stop::Missing(cid)) => {
                *absent.lock().expect("a lock") = Some(cid);
                None
            }
            tried => Some(tried),
        }
    });
    let waited = waited.await;
    let absent = absent.into_inner().expect("a lock");
    match (waited, absent) {
        (Ok(Ok(found)), _) => Ok(found),
        (Ok(Err(Stop::Failed(why))), _) => Err(why),
        (Ok(Err(Stop::Missing(cid))), _) | (Err(Late::Offline), Some(cid)) => Err(not_here(&cid)),
        (Err(_), _) => Err("context deadline exceeded".to_owned()),
    }
}

/// The links of each directory that is asked for; with `stream` a line for each link.
async fn list_links(node: &Node, args: &Args) -> Response {
    let is_on = |name: &str| get(args, name) != Some("false");
    let resolves = is_on("resolve-type") || is_on("size");
    let mut objects = Vec::new();
    for (_, path) in args.iter().filter(|(name, _)| name == "arg") {
        let links = found(node, args, path, |disk, cid| {
            unixfs::list(disk, cid, resolves)
        });
        match links.await {
            Ok(links) => objects.push((path, links)),
            Err(why) => return failed(&why),
        }
    }
    if objects.is_empty() {
        return bad_request("argument \"btfs-path\" is required");
    }
    let object = |path: &str, links: &[Value]| json!({"Hash": path, "Links": links});
    if get(args, "stream") == Some("true") {
        let one = |path: &str, link: Value| json!({"Objects": [object(path, &[link])]});
        let told = objects
            .into_iter()
            .flat_map(|(path, links)| links.into_iter().map(move |link| one(path, link)));
        return lines(&told.collect::<Vec<_>>());
    }
    let told: Vec<_> = objects
        .iter()
        .map(|(path, links)| object(path, links))
        .collect();
    lines(&[json!({"Objects": told})])
}

/// The archive of what a path leads to, under its last name. A block that is missing ends it, in the trailer.
async fn fetch(node: &Node, args: &Args, path: &str) -> Response {
    let root = match found(node, args, path, |_, cid| Ok(*cid)).await {
        Ok(root) => root,
        Err(why) => return failed(&why),
    };
    let name = path.trim_end_matches('/').rsplit('/').next();
    let name = name.unwrap_or_default();
    let (come, root) = (Mutex::new(Vec::new()), root.to_string());
    let whole = found(node, args, &root, |disk, cid| {
        let mut out = Vec::new();
        let done = unixfs::archive(disk, cid, name, &mut out);
        *come.lock().expect("a lock") = out;
        done
    });
    let why = whole.await.err();
    let mut archive = come.into_inner().expect("a lock");
    let headers = [
        ("Content-Type", "application/x-tar"),
        ("X-Stream-Output", "1"),
    ];
    match why {
        None => (headers, archive).into_response(),
        Some(why) if archive.is_empty() => failed(&why),
        Some(why) => {
            archive.truncate(archive.len() / ARCHIVE_PART * ARCHIVE_PART);
            ended(archive, &why, headers)
        }
    }
}

/// Why something did not come.
enum Late {
    Offline,
    Deadline,
}

/// Looks until it is there: at once with `offline`, until `timeout`, or for ever.
async fn wait<T>(args: &Args, look: impl Fn() -> Option<T>) -> Result<T, Late> {
    let begin = Instant::now();
    let patience = get(args, "timeout").and_then(duration);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if get(args, "offline") == Some("true") {
            return Err(Late::Offline);
        }
        if patience.is_some_and(|patience| begin.elapsed() >= patience) {
            return Err(Late::Deadline);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A Go duration in its simple forms.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: f64 = number.parse().ok()?;
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// What a CID or a path leads to. Of a path, all above it must be here.
async fn with_path(node: &Node, path: &str, work: impl AsyncFnOnce(Cid) -> Response) -> Response {
    match unixfs::resolve(&node.disk, path) {
        Ok(cid) => work(cid).await,
        Err(Stop::Missing(cid)) => missing(&cid),
        Err(Stop::Failed(why)) => failed(&why),
    }
}

/// The first name of a path, and the rest with its slash.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.find('/').unwrap_or(path.len()))
}

fn get<'a>(args: &'a Args, name: &str) -> Option<&'a str> {
    let found = args.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

fn event(kind: u8, extra: &str) -> Value {
    json!({"Extra": extra, "ID": "", "Responses": null, "Type": kind})
}

fn text_of(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn lines(values: &[Value]) -> Response {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Chunked-Output", "1"),
    ];
    (headers, text_of(values)).into_response()
}

/// Lines, and an error after them.
fn trailed(values: &[Value], error: &str) -> Response {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Chunked-Output", "1"),
    ];
    ended(text_of(values), error, headers)
}

/// What came, and an error after it.
fn ended(
    come: impl Into<Bytes>,
    error: &str,
    headers: [(&'static str, &'static str); 2],
) -> Response {
    let mut trailers = HeaderMap::new();
    let error = HeaderValue::from_str(error).expect("text");
    trailers.insert("X-Stream-Error", error);
    // Of unknown length: only then are there trailers.
    let come = Ok::<_, std::convert::Infallible>(come.into());
    let body = Body::from_stream(futures::stream::iter([come]));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let trailer = [("Trailer", "X-Stream-Error")];
    (headers, trailer, Body::new(body)).into_response()
}

fn failed(message: &str) -> Response {
    let body = json!({"Message": message, "Code": 0, "Type": "error"}).to_string();
    let headers = [("Content-Type", "application/json")];
    (StatusCode::INTERNAL_SERVER_ERROR, headers, body).into_response()
}

fn missing(cid: &Cid) -> Response {
    failed(&not_here(cid))
}

/// The text names the other form of a node's CID.
fn not_here(cid: &Cid) -> String {
    let other = match cid.version() {
        cid::Version::V0 => Cid::new_v1(cid.codec(), *cid.hash()),
        cid::Version::V1 if cid.codec() != RAW => Cid::new_v0(*cid.hash()).unwrap_or(*cid),
        cid::Version::V1 => *cid,
    };
    format!("block was not found locally (offline): ipld: could not find {other}")
}

fn bad_request(why: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}
