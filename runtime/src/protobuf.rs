//! Lists in protobuf: what the API server holds as protobuf, it need not turn into JSON.
//!
//! ```text
//!   GET …/services ──ask──> Accept: protobuf, else JSON ──> API server
//!   kube <──────short JSON───── answer <───────────────────── protobuf
//! ```
//!
//! To write JSON costs the API server most of a list's time, and half of that JSON are `managedFields`. So the lists that
//! grow with the cluster, Services and EndpointSlices, are asked for in protobuf, and turned into the JSON that `kube`
//! decodes; `managedFields` are left out unread where nobody needs them. Watches and all other requests stay as they are.
//!
//! An answer that cannot be read is an error for its caller; from then on this client asks for JSON alone.
//!
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod messages;

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes};
use prost::Message;
use serde::Serialize;
use tower::BoxError;

use self::messages::{EndpointSlice, List, ObjectMeta, Service, Status, Unknown};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PROTOBUF_OR_JSON: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf, application/json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What a document in protobuf begins with.
const MAGIC: &[u8] = b"k8s\0";
/// The lists that are asked for in protobuf, by the end of their path.
const LISTS: [&str; 2] = ["/services", "/endpointslices"];

/// One client's way with protobuf.
#[derive(Debug)]
pub(crate) struct Protobuf {
    /// Objects have their `managedFields`.
    managed_fields: bool,
    /// An answer could not be read.
    unreadable: AtomicBool,
}

impl Protobuf {
    pub(crate) fn new(managed_fields: bool) -> Self {
        Self { managed_fields, unreadable: AtomicBool::new(false) }
    }

    /// Asks for protobuf where it pays.
    pub(crate) fn ask<B>(&self, request: &mut Request<B>) {
        let uri = request.uri();
        let is_list = request.method() == Method::GET
            && LISTS.iter().any(|list| uri.path().ends_with(list))
            && !uri.query().unwrap_or_default().split('&').any(|parameter| parameter.starts_with("watch="));
        if is_list && !self.unreadable.load(Ordering::Relaxed) {
            request.headers_mut().insert(ACCEPT, PROTOBUF_OR_JSON);
        }
    }

    /// The answer in JSON.
    pub(crate) async fn answer<B>(
        &self,
        response: Response<B>,
    ) -> Result<Response<Either<B, Full<Bytes>>>, BoxError>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let content = response.headers().get(CONTENT_TYPE).and_then(|content| content.to_str().ok());
        if !content.is_some_and(|content| content.starts_with(PROTOBUF)) {
            return Ok(response.map(Either::Left));
        }
        let (mut parts, body) = response.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        let json = to_json(body, self.managed_fields).map_err(|error| {
            self.unreadable.store(true, Ordering::Relaxed);
            format!("the API server's protobuf cannot be read, JSON is asked for from now on: {error}")
        })?;
        parts.headers.insert(CONTENT_TYPE, JSON);
        parts.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(parts, Either::Right(Full::from(json))))
    }
}

/// What a document says, as JSON; its kind is left out.
fn to_json(document: Bytes, managed_fields: bool) -> Result<Vec<u8>, BoxError> {
    if !document.starts_with(MAGIC) {
        return Err("it does not begin with \"k8s\\0\"".into());
    }
    let Unknown { type_meta, raw } = Unknown::decode(document.slice(MAGIC.len()..))?;
    match type_meta.unwrap_or_default().kind.as_str() {
        "ServiceList" => list::<Service>(raw, managed_fields),
        "EndpointSliceList" => list::<EndpointSlice>(raw, managed_fields),
        "Status" => Ok(serde_json::to_vec(&Status::decode(raw)?)?),
        other => Err(format!("nobody asked for a {other:?}").into()),
    }
}

fn list<T: Object>(raw: Bytes, managed_fields: bool) -> Result<Vec<u8>, BoxError> {
    let mut list = List::<T>::decode(raw)?;
    if !managed_fields {
        list.items.iter_mut().filter_map(Object::metadata).for_each(|meta| meta.managed_fields.clear());
    }
    Ok(serde_json::to_vec(&list)?)
}

/// What a list is of.
trait Object: Debug + Default + Message + Serialize {
    fn metadata(&mut self) -> Option<&mut ObjectMeta>;
}

impl Object for Service {
    fn metadata(&mut self) -> Option<&mut ObjectMeta> {
        self.metadata.as_mut()
    }
}

impl Object for EndpointSlice {
    fn metadata(&mut self) -> Option<&mut ObjectMeta> {
        self.metadata.as_mut()
    }
}

#[cfg(test)]
mod tests;
