//! Lists in protobuf: what the API server holds as protobuf, it need not turn into JSON.
//!
//! ```text
//!   page ──ask──> Accept: protobuf, else JSON ──> API server
//!   K <──read, one at a time── Page<Bytes> <──decode── protobuf
//! ```
//!
//! To write JSON costs the API server most of a list's time, to read it costs Herald more than all else in a start, and
//! half of that JSON are `managedFields`. So the lists that grow with the cluster, Services and EndpointSlices, are asked
//! for in protobuf; `managedFields` are left out unread where nobody needs them. Watches and all other requests are JSON.
//! A page is cut into its objects without a copy, and each is read by itself: with `managedFields` one takes many times
//! the memory of its bytes.
//!
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod messages;

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

impl<K> Page<K> {
    /// Each object by `read`.
    ///
    /// # Errors
    /// The first of `read`.
    pub fn each<T, E>(self, read: impl FnMut(K) -> Result<T, E>) -> Result<Page<T>, E> {
        let objects = self.objects.into_iter().map(read).collect::<Result<_, E>>()?;
        Ok(Page { objects, more: self.more, version: self.version })
    }
}

/// A kind whose lists are read in protobuf.
pub trait InProtobuf: Sized {
    /// What a list of it is called.
    const LIST: &str;

    /// Reads an object, with or without its `managedFields`.
    ///
    /// # Errors
    /// If it is damaged.
    fn read(object: Bytes, managed_fields: bool) -> Result<Self, BoxError>;
}

impl<K: Clone> From<ObjectList<K>> for Page<K> {
    fn from(list: ObjectList<K>) -> Self {
        let full = |text: &String| !text.is_empty();
        let (more, version) = (list.metadata.continue_, list.metadata.resource_version);
        Self { objects: list.items, more: more.filter(full), version: version.filter(full) }
    }
}

impl InProtobuf for Service {
    const LIST: &str = "ServiceList";

    fn read(object: Bytes, managed_fields: bool) -> Result<Self, BoxError> {
        messages::Service::decode(object)?.read(managed_fields)
    }
}

impl InProtobuf for EndpointSlice {
    const LIST: &str = "EndpointSliceList";

    fn read(object: Bytes, managed_fields: bool) -> Result<Self, BoxError> {
        messages::EndpointSlice::decode(object)?.read(managed_fields)
    }
}

/// Reads an object: [`InProtobuf::read`].
pub(crate) type Read<K> = fn(Bytes, bool) -> Result<K, BoxError>;

/// What came of it that a page was asked for in protobuf.
pub(crate) enum Answer {
    /// The page, its objects unread.
    Page(Page<Bytes>),
    /// The page in JSON: the API server has the choice.
    Json(Bytes),
    /// None: to ask in JSON tells why.
    Refused,
    /// An answer that cannot be read.
    Unreadable(BoxError),
}

/// Asks for a page of a list of this name in protobuf.
pub(crate) async fn page(
    client: Client,
    url: &str,
    parameters: &ListParams,
    list: &str,
) -> kube::Result<Answer> {
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
    Ok(cut(document, list).map_or_else(Answer::Unreadable, Answer::Page))
}

/// A document's objects, if it is a list of this name.
fn cut(document: Bytes, list: &str) -> Result<Page<Bytes>, BoxError> {
    if !document.starts_with(MAGIC) {
        return Err("it does not begin with \"k8s\\0\"".into());
    }
    let Unknown { type_meta, raw } = Unknown::decode(document.slice(MAGIC.len()..))?;
    match type_meta.unwrap_or_default().kind {
        of if of == list => Ok(List::decode(raw)?.page()),
        other => Err(format!("it is a {other:?}").into()),
    }
}

#[cfg(test)]
mod tests;
