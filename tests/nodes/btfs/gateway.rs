//! The gateway of the stand-in, on a port of its own: files below `/btfs/CID` and `/btns/NAME`, over GET and HEAD.
//!
//! It has two defects of go-btfs: of a single raw leaf whose type no file name tells it sends the right `Content-Length` and no
//! byte, and it gives no single blocks (`?format=raw`). It has no `/ipfs/`. What is not there is waited for without end.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::Node;
use super::disk::RAW;
use super::unixfs::{self, Stop};

/// Extensions whose type it knows: some of Go's table.
const KNOWN: [&str; 10] = [
    "css", "gif", "html", "jpg", "js", "json", "pdf", "png", "txt", "xml",
];

pub(super) fn router(node: Arc<Node>) -> Router {
    Router::new().fallback(serve).with_state(node)
}

async fn serve(
    State(node): State<Arc<Node>>,
    method: Method,
    uri: Uri,
    Query(args): Query<Vec<(String, String)>>,
) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, "").into_response();
    }
    let path = uri.path();
    if !path.starts_with("/btfs/") && !path.starts_with("/btns/") {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let arg = |name: &str| {
        let found = args.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    if arg("format") == Some("raw") {
        return (StatusCode::INTERNAL_SERVER_ERROR, "seeker can't seek\n").into_response();
    }
    let found = unixfs::resolve(&node.disk, path)
        .and_then(|cid| Ok((cid, unixfs::content(&node.disk, &cid)?)));
    let (cid, content) = match found {
        Ok(found) => found,
        Err(Stop::Missing(_)) => std::future::pending().await,
        Err(Stop::Failed(why)) => return (StatusCode::NOT_FOUND, why).into_response(),
    };
    let name = arg("filename").unwrap_or(path);
    let extension = Path::new(name).extension().and_then(|text| text.to_str());
    let is_known = extension.is_some_and(|extension| KNOWN.contains(&extension));
    let length = [(header::CONTENT_LENGTH, content.len().to_string())];
    if method == Method::HEAD {
        return (length, Body::empty()).into_response();
    }
    if cid.codec() == RAW && !is_known && !content.is_empty() {
        // The head of the answer leaves before the body ends.
        let nothing = futures::stream::once(async {
            tokio::task::yield_now().await;
            Err::<Vec<u8>, _>(std::io::Error::other("seeker can't seek"))
        });
        return (length, Body::from_stream(nothing)).into_response();
    }
    content.into_response()
}
