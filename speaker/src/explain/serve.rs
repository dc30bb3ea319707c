//! The admin server's side: reads the question out of the path, asks the loop, and waits for its answer.
//!
//! Questions are paced: one at a time and one each [`PACE`], so that asking in a loop costs the node at most a few
//! percent of what the loop can do. What waits longer than [`ANSWER`] is told to ask again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_runtime::ObjectName;
use herald_runtime::admin::{JsonAnswer, StatusCode};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::{
    ANNOUNCED_PATH, Answer, Asked, BGP_PATH, ENDPOINTS_PATH, Failure, HISTORY_PATH, NODE_PATH, PACKET_PATH,
    PacketQuestion, Question, ROUTES_PATH, Refusal, SERVICE_PATH, Subject, TRY_PATH, tries,
};
use crate::addresses::AddressList;

/// Questions that wait for the loop. More wait here, at the pace's lock, and are told that the speaker is busy.
pub(crate) const QUEUE: usize = 1;
/// From the request to the answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PACE: Duration = Duration::from_millis(20);

/// Asks the loop. Clones share the pace.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    questions: mpsc::Sender<Asked>,
    addresses: AddressList,
    next: Arc<Mutex<Instant>>,
    /// One try at a time: each sends packets.
    trying: Arc<Mutex<()>>,
    within: Duration,
}

impl Asker {
    /// Asks by this channel; the node's addresses come from the list.
    pub(crate) fn new(questions: mpsc::Sender<Asked>, addresses: AddressList) -> Self {
        let next = Arc::new(Mutex::new(Instant::now()));
        Self { questions, addresses, next, trying: Arc::default(), within: ANSWER }
    }

    /// The node's own addresses.
    async fn addresses(&self) -> Result<BTreeSet<IpAddr>, Refusal> {
        let listed =
            tokio::time::timeout(self.within, self.addresses.all()).await.map_err(|_| Refusal::Busy)?;
        listed.map_err(|error| Refusal::Bad(format!("the node's own addresses cannot be read: {error}")))
    }

    /// Asks for a Service, and tries its endpoints.
    async fn tried(&self, service: ObjectName) -> Answer {
        let Ok(_alone) = tokio::time::timeout(self.within, self.trying.lock()).await else {
            return Err(Refusal::Busy);
        };
        let service = self.ask(Question::Service(service)).await?;
        let service = serde_json::from_slice(&service).map_err(|error| Refusal::Bad(error.to_string()))?;
        serde_json::to_vec(&tries::tried(service).await).map_err(|error| Refusal::Bad(error.to_string()))
    }

    async fn ask(&self, question: Question) -> Answer {
        let asked = async {
            let mut next = self.next.lock().await;
            tokio::time::sleep_until(*next).await;
            let (answer, answered) = oneshot::channel();
            self.questions.send(Asked { question, answer }).await.map_err(|_| Refusal::Busy)?;
            let answer = answered.await.map_err(|_| Refusal::Busy)?;
            *next = Instant::now() + PACE;
            answer
        };
        tokio::time::timeout(self.within, asked).await.unwrap_or(Err(Refusal::Busy))
    }
}

/// Answers a request for a path below `/explain/`.
pub(crate) async fn page(asker: Asker, path: String, query: Option<String>) -> JsonAnswer {
    let answer = match read(&path, query.as_deref()) {
        Ok(Asking::Of(question)) => asker.ask(question).await,
        Ok(Asking::Try(service)) => asker.tried(service).await,
        Ok(Asking::Packet(packet)) => match asker.addresses().await {
            Ok(local) => asker.ask(Question::Packet(packet, local)).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(json) => JsonAnswer { status: StatusCode::OK, json },
        Err(refusal) => {
            let status = match refusal {
                Refusal::Bad(_) => StatusCode::BAD_REQUEST,
                Refusal::Unknown(_) => StatusCode::NOT_FOUND,
                Refusal::NotSynced | Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            };
            let failure = Failure { error: refusal.to_string() };
            JsonAnswer { status, json: serde_json::to_vec(&failure).unwrap_or_default() }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Asking {
    Of(Question),
    /// Whose endpoints are tried.
    Try(ObjectName),
    /// For which the node's addresses are read as well.
    Packet(PacketQuestion),
}

/// Reads path and query. Names of Kubernetes and addresses need no escapes but `%5B`, `%5D`, `%3A` and `%2F`.
fn read(path: &str, query: Option<&str>) -> Result<Asking, Refusal> {
    if let Some(name) = path.strip_prefix(SERVICE_PATH) {
        return service(SERVICE_PATH, name).map(|service| Asking::Of(Question::Service(service)));
    }
    if let Some(name) = path.strip_prefix(TRY_PATH) {
        return service(TRY_PATH, name).map(Asking::Try);
    }
    if let Some(subject) = path.strip_prefix(HISTORY_PATH) {
        let subject = match subject {
            "" => Subject::Any,
            subject => Subject::parse(&unescape(subject)).map_err(Refusal::Bad)?,
        };
        return Ok(Asking::Of(Question::History(subject)));
    }
    match path {
        PACKET_PATH => {}
        NODE_PATH => return Ok(Asking::Of(Question::Node)),
        ANNOUNCED_PATH => return Ok(Asking::Of(Question::Announced)),
        ENDPOINTS_PATH => return Ok(Asking::Of(Question::Endpoints)),
        BGP_PATH => return Ok(Asking::Of(Question::Bgp)),
        ROUTES_PATH => return Ok(Asking::Of(Question::Routes)),
        _ => {
            return Err(Refusal::Bad(format!(
                "there are {SERVICE_PATH}NAMESPACE/NAME, {TRY_PATH}NAMESPACE/NAME, {PACKET_PATH}?from=…&to=…, {NODE_PATH}, {ANNOUNCED_PATH}, {ENDPOINTS_PATH}, {BGP_PATH}, {ROUTES_PATH}, {HISTORY_PATH} and {HISTORY_PATH}ADDRESS"
            )));
        }
    }
    let value = |key: &str| {
        let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| unescape(value))
    };
    let (Some(from), Some(to)) = (value("from"), value("to")) else {
        return Err(Refusal::Bad(format!("ask for {PACKET_PATH}?from=ADDRESS&to=ADDRESS:PORT/PROTOCOL")));
    };
    PacketQuestion::parse(&from, &to).map(Asking::Packet).map_err(Refusal::Bad)
}

fn service(path: &str, name: &str) -> Result<ObjectName, Refusal> {
    match name.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err(Refusal::Bad(format!("ask for {path}NAMESPACE/NAME"))),
    }
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[2..];
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_or_refused_with_what_to_ask_for() {
        let service = Asking::Of(Question::Service(ObjectName::new("shop", "web")));
        assert_eq!(read("/explain/service/shop/web", None), Ok(service));
        assert_eq!(read("/explain/try/shop/web", None), Ok(Asking::Try(ObjectName::new("shop", "web"))));
        let packet = PacketQuestion::parse("2001:db8:c::1", "[2001:db8:1::1]:53/udp").unwrap();
        assert_eq!(
            read("/explain/packet", Some("from=2001:db8:c::1&to=%5B2001:db8:1::1%5d:53%2Fudp")),
            Ok(Asking::Packet(packet))
        );
        let address = Asking::Of(Question::History(Subject::parse("2001:db8:1::1").unwrap()));
        assert_eq!(read("/explain/history/2001%3Adb8:1::1", None), Ok(address));
        let service = Asking::Of(Question::History(Subject::parse("shop/web").unwrap()));
        assert_eq!(read("/explain/history/shop/web", None), Ok(service));
        assert_eq!(read("/explain/history/", None), Ok(Asking::Of(Question::History(Subject::Any))));
        assert!(matches!(read("/explain/history/7", None), Err(Refusal::Bad(_))));
        for (path, query) in [
            ("/explain/service/web", None),
            ("/explain/service/a/b/c", None),
            ("/explain/packet", None),
            ("/explain/packet", Some("from=10.0.0.1")),
            ("/explain/else", None),
        ] {
            let Err(Refusal::Bad(text)) = read(path, query) else { panic!("{path} was taken") };
            assert!(text.contains("/explain/"), "{text}");
        }
        assert!(matches!(read("/explain/packet", Some("from=x&to=10.0.0.1:80")), Err(Refusal::Bad(_))));
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        assert_eq!(unescape("a%2"), "a%2");
        assert_eq!(unescape("%zz%ff%2F"), "%zz%ff/");
        assert_eq!(unescape("%é"), "%é");
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_is_called_busy() {
        let (questions, mut asked) = mpsc::channel(QUEUE);
        let asker =
            Asker { within: Duration::from_millis(50), ..Asker::new(questions, AddressList::default()) };
        let question = || Question::Service(ObjectName::new("shop", "web"));
        assert_eq!(asker.ask(question()).await, Err(Refusal::Busy));
        drop(asked.recv().await);
        asked.close();
        assert_eq!(asker.ask(question()).await, Err(Refusal::Busy));
    }
}
