//! Lists in protobuf: what the API server holds as protobuf, it need not turn into JSON.
//!
//! ```text
//!   page ──ask──> Accept: protobuf, else JSON ──> API server
//!   Page<K> <──read── messages <──decode── protobuf
//! ```
//!
//! To write JSON costs the API server most of a list's time, to read it costs Herald more than all else in a start, and
//! half of that JSON are `managedFields`. So the lists that grow with the cluster, Services and EndpointSlices, are asked
//! for in protobuf; `managedFields` are left out unread where nobody needs them. Watches and all other requests are JSON.
//!
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod messages;

use std::fmt::Debug;

use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{ListParams, Request};
use kube::client::Body;
use kube::core::ObjectList;
use prost::Message;
use tower::BoxError;

use self::messages::{List, Unknown};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PROTOBUF_OR_JSON: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf, application/json");
/// What a document in protobuf begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A page of a list.
#[derive(Debug, PartialEq)]
pub struct Page<K> {
    /// What is on it.
    pub objects: Vec<K>,
    /// The next page's token.
    pub more: Option<String>,
    /// The version of the whole list.
    pub version: Option<String>,
}

/// A kind whose lists are read in protobuf.
pub trait InProtobuf: Sized {
    /// What a page has, with or without `managedFields`.
    ///
    /// # Errors
    /// If it is no list of this kind, or damaged.
    fn list(document: Bytes, managed_fields: bool) -> Result<Page<Self>, BoxError>;
}

impl<K: Clone> From<ObjectList<K>> for Page<K> {
    fn from(list: ObjectList<K>) -> Self {
        let full = |text: &String| !text.is_empty();
        let (more, version) = (list.metadata.continue_, list.metadata.resource_version);
        Self { objects: list.items, more: more.filter(full), version: version.filter(full) }
    }
}

impl InProtobuf for Service {
    fn list(document: Bytes, managed_fields: bool) -> Result<Page<Self>, BoxError> {
        list(document, "ServiceList", |service: messages::Service| service.read(managed_fields))
    }
}

impl InProtobuf for EndpointSlice {
    fn list(document: Bytes, managed_fields: bool) -> Result<Page<Self>, BoxError> {
        list(document, "EndpointSliceList", |slice: messages::EndpointSlice| slice.read(managed_fields))
    }
}

/// Reads a page: [`InProtobuf::list`].
pub(crate) type Read<K> = fn(Bytes, bool) -> Result<Page<K>, BoxError>;

/// What came of it that a page was asked for in protobuf.
pub(crate) enum Answer<K> {
    /// The page.
    Page(Page<K>),
    /// The page in JSON: the API server has the choice.
    Json(Bytes),
    /// None: to ask in JSON tells why.
    Refused,
    /// An answer that cannot be read.
    Unreadable(BoxError),
}

/// Asks for a page in protobuf.
pub(crate) async fn page<K>(
    client: Client,
    url: &str,
    parameters: &ListParams,
    managed_fields: bool,
    read: Read<K>,
) -> kube::Result<Answer<K>> {
    let mut request = Request::new(url).list(parameters).map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, PROTOBUF_OR_JSON);
    let answer = client.send(request.map(Body::from)).await?;
    if !answer.status().is_success() {
        return Ok(Answer::Refused);
    }
    let content = answer.headers().get(CONTENT_TYPE).and_then(|content| content.to_str().ok());
    let is_protobuf = content.is_some_and(|content| content.starts_with(PROTOBUF));
    let document = answer.into_body().collect_bytes().await?;
    if !is_protobuf {
        return Ok(Answer::Json(document));
    }
    Ok(match read(document, managed_fields) {
        Ok(page) => Answer::Page(page),
        Err(error) => Answer::Unreadable(error),
    })
}

fn list<M, K>(
    document: Bytes,
    kind: &str,
    read: impl Fn(M) -> Result<K, BoxError>,
) -> Result<Page<K>, BoxError>
where
    M: Debug + Default + Message,
{
    if !document.starts_with(MAGIC) {
        return Err("it does not begin with \"k8s\\0\"".into());
    }
    let Unknown { type_meta, raw } = Unknown::decode(document.slice(MAGIC.len()..))?;
    match type_meta.unwrap_or_default().kind {
        of if of == kind => List::<M>::decode(raw)?.page(read),
        other => Err(format!("it is a {other:?}").into()),
    }
}

#[cfg(test)]
mod tests;
