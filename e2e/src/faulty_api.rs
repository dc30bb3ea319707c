//! An API server that behaves badly: it asks the lab's real one in the asker's own name, and spoils what comes back.
//!
//! It speaks HTTP without TLS, in the control plane's namespace: `--api-server http://10.0.0.2:7443`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lab::Lab;
use crate::topology::CONTROL_PLANE;

const PORT: u16 = 7443;

/// What is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every answer begins this much later.
    Slow(Duration),
    /// Every request is refused by this code: 429 with `Retry-After: 1`, 401 as for a token that has run out.
    Refuses(u16),
    /// Every watch is answered by 410: the version that it would go on from is gone.
    Expired,
    /// The same, and the lists that are asked for then break off in their middle.
    CutsLists,
    /// Of watches whose path ends so nothing arrives, and nobody is told.
    HoldsWatches(&'static str),
}

/// A running one. Dropping it ends it.
#[derive(Debug)]
pub struct FaultyApi {
    now: Option<watch::Sender<State>>,
    spoiled: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    fault: Fault,
    /// Connections of an earlier one are cut.
    generation: u64,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl Lab {
    /// Starts a server between Herald and the API server, without faults yet.
    pub fn faulty_api(&self) -> Result<FaultyApi> {
        let (now, state) = watch::channel(State::default());
        let (ready, started) = sync_channel(1);
        let spoiled = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&spoiled);
        let (namespace, kubeconfig) = (self.control_plane_ns().clone(), self.kubeconfig());
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let file = Kubeconfig::read_from(kubeconfig)?;
                let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
                config.auth_info = AuthInfo::default();
                serve(Asked { client: Client::try_from(config)?, state, spoiled: counts }, ready).await
            })
        });
        let api = FaultyApi { now: Some(now), spoiled, thread: Some(thread) };
        match started.recv() {
            Ok(()) => Ok(api),
            Err(_) => Err(api.stop().err().unwrap_or_else(|| anyhow!("the faulty API server did not start"))),
        }
    }
}

impl FaultyApi {
    /// What Herald is told by `--api-server`.
    pub fn url(&self) -> String {
        format!("http://{CONTROL_PLANE}:{PORT}")
    }

    /// From now on this is wrong, and every connection is cut, so that all is asked anew.
    pub fn turn(&self, fault: Fault) {
        self.change(|state| *state = State { fault, generation: state.generation + 1 });
    }

    /// From now on this is wrong; what is under way goes on.
    pub fn drift(&self, fault: Fault) {
        self.change(|state| state.fault = fault);
    }

    /// Answers that were not the API server's, or not all of it, or late.
    pub fn spoiled(&self) -> usize {
        self.spoiled.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Some(now) = &self.now {
            now.send_modify(change);
        }
    }

    fn stop(mut self) -> Result<()> {
        self.end().unwrap_or(Ok(()))
    }

    fn end(&mut self) -> Option<Result<()>> {
        self.now = None;
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(anyhow!("the faulty API server panicked"))))
    }
}

impl Drop for FaultyApi {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Asked {
    client: Client,
    state: watch::Receiver<State>,
    spoiled: Arc<AtomicUsize>,
}

/// Until the other end of its state is dropped.
async fn serve(asked: Asked, ready: SyncSender<()>) -> Result<()> {
    let mut state = asked.state.clone();
    let listener = TcpListener::bind((CONTROL_PLANE, PORT)).await.context("listen")?;
    let _ = ready.send(());
    let mut connections = JoinSet::new();
    let mut generation = state.borrow_and_update().generation;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream, asked.clone()));
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = state.borrow_and_update().generation;
                if std::mem::replace(&mut generation, now) != now {
                    connections.abort_all();
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, asked: Asked) {
    let service = hyper::service::service_fn(move |request| {
        let asked = asked.clone();
        async move { Ok::<_, Infallible>(answer(request, asked).await) }
    });
    // Its end is whatever ends it; the asker sees that.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, asked: Asked) -> Answer {
    let Asked { client, state, spoiled } = asked;
    let fault = state.borrow().fault.clone();
    let spoil = || _ = spoiled.fetch_add(1, Ordering::Relaxed);
    let watches = request.uri().query().is_some_and(|query| query.contains("watch="));
    let path = request.uri().path().to_owned();
    let lists = request.method() == http::Method::GET
        && request.uri().query().is_some_and(|query| query.contains("limit="));
    match fault {
        Fault::Slow(delay) => {
            tokio::time::sleep(delay).await;
            spoil();
        }
        Fault::Refuses(code) => {
            spoil();
            return refusal(code);
        }
        Fault::Expired | Fault::CutsLists if watches => {
            // What is counted of lists that are cut is the lists.
            if fault == Fault::Expired {
                spoil();
            }
            return refusal(410);
        }
        _ => {}
    }
    let (head, body) = request.into_parts();
    let asked = match body.collect().await {
        Ok(body) => client.send(Request::from_parts(head, Body::from(body.to_bytes()))).await,
        Err(_) => return refusal(400),
    };
    let Ok(answer) = asked else { return refusal(502) };
    let (mut head, body) = answer.into_parts();
    hop_by_hop(&mut head.headers);
    if fault == Fault::CutsLists && lists {
        let Ok(body) = body.collect().await else { return refusal(502) };
        spoil();
        let body = body.to_bytes();
        let half = Ok(Frame::data(body.slice(..body.len() / 2)));
        let cut = stream::iter([half, Err(io::Error::other("cut"))]);
        return Response::from_parts(head, StreamBody::new(cut).boxed_unsync());
    }
    if !watches {
        return Response::from_parts(head, body.map_err(io::Error::other).boxed_unsync());
    }
    let held = BodyStream::new(body).then(move |frame| {
        let (mut state, path) = (state.clone(), path.clone());
        async move {
            let holds =
                |state: &State| matches!(state.fault, Fault::HoldsWatches(end) if path.ends_with(end));
            let gone = state.wait_for(|state| !holds(state)).await.is_err();
            if gone { Err(io::Error::other("the end")) } else { frame.map_err(io::Error::other) }
        }
    });
    Response::from_parts(head, StreamBody::new(held).boxed_unsync())
}

/// What is said of a connection is not said to the next one.
fn hop_by_hop(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
}

/// As an API server refuses.
fn refusal(code: u16) -> Answer {
    let reason = match code {
        401 => "Unauthorized",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if code == 429 {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    answer
}
