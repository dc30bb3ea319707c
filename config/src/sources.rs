//! Where the configuration comes from: the ConfigMap or the objects of `metallb.io`, never both.
//!
//! ```text
//!   ConfigMap ──set_document──┐
//!   objects   ──set_objects───┼─> settle() -> the configuration in force, and what is to be told
//!   Secrets   ──set_secrets───┘
//! ```
//!
//! As soon as one pool or peer object exists the objects alone count; of the ConfigMap only the key `herald` is read, since
//! Herald's own settings have no object. When all pools and peers are gone the last good state stays in force until there
//! is an object again or the ConfigMap is written anew. Both roles have one of these, so that they judge alike; the
//! state that an object was good in last is each one's own.
//!
//! Pure and synchronous. Nothing is in force before [`Sources::ready`].

mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::assemble::{Assembler, Problem, Secret, Secrets, Severity};
use crate::document::parse;
use crate::objects::{Content, Key, Object, ObjectKey};
use crate::schema::kinds::Kind;
use crate::{Config, HeraldOptions};

/// What something is told about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The ConfigMap.
    ConfigMap,
    /// An object, with its uid.
    Object(ObjectKey, String),
}

/// What a [`Notice`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeReason {
    /// It is refused.
    Rejected,
    /// It is not read.
    Ignored,
    /// It is taken, and doubtful.
    Warning,
    /// It is gone.
    Deleted,
}

/// Something that whoever wrote the configuration should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: Subject,
    /// Something is not in force as it stands.
    pub refused: bool,
    /// What it says of it.
    pub reason: NoticeReason,
    /// The sentence.
    pub text: String,
}

/// What came of the newest state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Another configuration is in force than before.
    pub changed: bool,
    /// What was not told before.
    pub notices: Vec<Notice>,
}

/// The ConfigMap's value of the key `config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// There is no ConfigMap.
    Gone,
    /// It lacks the key.
    NoKey,
    /// The document.
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Source {
    #[default]
    None,
    Document,
    Objects,
}

/// Both sources, and what is in force.
#[derive(Debug, Default)]
pub struct Sources {
    reads_secrets: bool,
    document: Option<Document>,
    /// What the document was when the last object was gone: only another one counts again.
    passed_over: Option<Document>,
    objects: BTreeMap<Kind, Vec<Object>>,
    secrets: Option<BTreeMap<String, Secret>>,
    source: Source,
    herald: HeraldOptions,
    assembler: Assembler,
    in_force: Option<Config>,
    /// Of the newest state.
    refusals: Vec<String>,
    told: BTreeSet<(Subject, String)>,
    /// The document that was judged last.
    seen: Option<Document>,
    /// Why the ConfigMap's own key is not taken, where objects count.
    keys_refused: Option<String>,
}

impl Sources {
    /// `reads_secrets`: passwords of peers are wanted.
    pub fn new(reads_secrets: bool) -> Self {
        Self { reads_secrets, ..Self::default() }
    }

    /// The ConfigMap as it is now.
    pub fn set_document(&mut self, document: Document) {
        self.document = Some(document);
    }

    /// All objects of a kind as they are now; none where the API has no such kind.
    pub fn set_objects(&mut self, kind: Kind, objects: Vec<Object>) {
        self.objects.insert(kind, objects);
    }

    /// The kinds that are watched: group, version, name, plural, and which of them.
    pub fn watched(&self) -> Vec<Watched> {
        let kind = |kind: Kind| Watched {
            group: "metallb.io",
            version: kind.version(),
            kind: kind.name(),
            plural: kind.plural(),
            fields: None,
        };
        let mut watched: Vec<Watched> = Kind::CONFIGURATION.into_iter().map(kind).collect();
        if self.reads_secrets {
            watched.push(Watched {
                group: "",
                version: "v1",
                kind: SECRET,
                plural: "secrets",
                fields: Some("type=kubernetes.io/basic-auth"),
            });
        }
        watched
    }

    /// The API has none of these kinds, or is not asked for them.
    pub fn without_objects(&mut self) {
        for kind in Kind::CONFIGURATION {
            self.set_objects(kind, Vec::new());
        }
    }

    /// All objects of a watched kind as the API server has them.
    pub fn reset_json(&mut self, kind: &str, values: &[Value]) {
        if kind == SECRET {
            let named = |value: &Value| (name_of(value).to_owned(), secret(value));
            self.set_secrets(values.iter().map(named).collect());
        } else if let Some(kind) = Kind::named(kind) {
            self.set_objects(kind, values.iter().map(|value| Object::from_json(kind, value)).collect());
        }
    }

    /// One object as the API server has it.
    pub fn apply_json(&mut self, kind: &str, value: &Value) {
        if kind == SECRET {
            self.set_secret(name_of(value), Some(secret(value)));
        } else if let Some(kind) = Kind::named(kind) {
            self.apply(Object::from_json(kind, value));
        }
    }

    /// One object is gone.
    pub fn delete_named(&mut self, kind: &str, name: &str) {
        if kind == SECRET {
            self.set_secret(name, None);
        } else if let Some(kind) = Kind::named(kind) {
            self.delete(&ObjectKey { kind, name: name.to_owned() });
        }
    }

    /// One object as it is now.
    pub fn apply(&mut self, object: Object) {
        let of_kind = self.objects.entry(object.key.kind).or_default();
        match of_kind.iter_mut().find(|known| known.key == object.key) {
            Some(known) => *known = object,
            None => of_kind.push(object),
        }
    }

    /// One object is gone.
    pub fn delete(&mut self, key: &ObjectKey) {
        if let Some(of_kind) = self.objects.get_mut(&key.kind) {
            of_kind.retain(|object| object.key != *key);
        }
    }

    /// All Secrets as they are now.
    pub fn set_secrets(&mut self, secrets: BTreeMap<String, Secret>) {
        self.secrets = Some(secrets);
    }

    /// One Secret as it is now; `None`: it is gone.
    pub fn set_secret(&mut self, name: &str, secret: Option<Secret>) {
        let Some(secrets) = &mut self.secrets else { return };
        match secret {
            Some(secret) => {
                secrets.insert(name.to_owned(), secret);
            }
            None => {
                secrets.remove(name);
            }
        }
    }

    /// Some peer has its password in a Secret, and Secrets are wanted.
    pub fn needs_secrets(&self) -> bool {
        let in_secret = |object: &Object| matches!(&object.content, Some(Content::Peer(peer)) if matches!(peer.key, Key::InSecret { .. }));
        self.reads_secrets
            && self.objects.get(&Kind::BgpPeer).is_some_and(|peers| peers.iter().any(in_secret))
    }

    /// Everything that counts was told once.
    pub fn ready(&self) -> bool {
        self.document.is_some()
            && Kind::CONFIGURATION.iter().all(|kind| self.objects.contains_key(kind))
            && (self.secrets.is_some() || !self.needs_secrets())
    }

    /// The configuration in force.
    pub fn in_force(&self) -> Option<&Config> {
        self.in_force.as_ref()
    }

    /// What of the newest state is not in force, one sentence each; empty when all of it is.
    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }

    /// Whether the objects are what counts.
    pub fn from_objects(&self) -> bool {
        self.source == Source::Objects
    }

    /// Judges the newest state.
    pub fn settle(&mut self) -> Outcome {
        let mut notices = Vec::new();
        if !self.ready() {
            return Outcome::default();
        }
        let before = self.in_force.clone();
        let counts = |kind| self.objects.get(&kind).is_some_and(|objects| !objects.is_empty());
        let objects = counts(Kind::IpAddressPool) || counts(Kind::BgpPeer);
        let rewritten = self.passed_over.is_none() || self.passed_over != self.document;
        match (objects, self.source) {
            (true, _) => self.objects_count(&mut notices),
            (false, Source::Objects) if self.passed_over.is_none() => {
                self.passed_over = self.document.clone();
                self.refusals = vec!["all pools and peers are gone".to_owned()];
                notices.push(Notice {
                    about: Subject::ConfigMap,
                    refused: true,
                    reason: NoticeReason::Deleted,
                    text: "all IPAddressPools and BGPPeers are gone; the last configuration stays in force until there is one \
                           of them again or this ConfigMap is written anew"
                        .to_owned(),
                });
            }
            (false, Source::Objects) if !rewritten => {}
            (false, _) => self.document_counts(&mut notices),
        }
        for notice in &notices {
            self.told.insert((notice.about.clone(), notice.text.clone()));
        }
        Outcome { changed: self.in_force != before, notices }
    }

    fn objects_count(&mut self, notices: &mut Vec<Notice>) {
        self.passed_over = None;
        self.refusals.clear();
        self.herald_keys(notices);
        let objects: Vec<Object> = self.objects.values().flatten().cloned().collect();
        let nothing = BTreeMap::new();
        let secrets = match self.reads_secrets {
            true => Secrets::Read(self.secrets.as_ref().unwrap_or(&nothing)),
            false => Secrets::Unread,
        };
        let assembly = self.assembler.assemble(&objects, secrets, &self.herald);
        self.source = Source::Objects;
        self.in_force = Some(assembly.config);
        let mut current = BTreeSet::new();
        for problem in assembly.problems {
            let uid =
                objects.iter().find(|object| object.key == problem.object).map(|object| object.uid.clone());
            let notice = notice_of(&problem, uid.unwrap_or_default());
            if notice.refused {
                self.refusals.push(problem.to_string());
            }
            let told = (notice.about.clone(), notice.text.clone());
            if !self.told.contains(&told) {
                notices.push(notice);
            }
            current.insert(told);
        }
        // What is over may be told again when it comes back.
        self.told.retain(|told| matches!(told.0, Subject::ConfigMap) || current.contains(told));
    }

    /// The ConfigMap beside the objects: its key `herald` counts, the rest is ignored and told so.
    fn herald_keys(&mut self, notices: &mut Vec<Notice>) {
        if self.document == self.seen && self.source == Source::Objects {
            self.refusals.extend(self.keys_refused.clone());
            return;
        }
        self.seen = self.document.clone();
        self.keys_refused = None;
        let mut ignored = false;
        match &self.document {
            Some(Document::Text(text)) => match parse(text) {
                Ok(parsed) => {
                    let Config { peers, pools, bfd_profiles, .. } = &parsed.config;
                    ignored = !(peers.is_empty() && pools.is_empty() && bfd_profiles.is_empty());
                    self.herald = parsed.config.herald;
                }
                Err(errors) => {
                    let text = format!("{errors}\n(its key herald stays as it was last good)");
                    self.keys_refused = Some(format!("ConfigMap: {errors}"));
                    self.refusals.extend(self.keys_refused.clone());
                    notices.push(Notice {
                        about: Subject::ConfigMap,
                        refused: true,
                        reason: NoticeReason::Rejected,
                        text,
                    });
                }
            },
            Some(Document::Gone) => self.herald = HeraldOptions::default(),
            Some(Document::NoKey) | None => {}
        }
        if ignored {
            notices.push(Notice {
                about: Subject::ConfigMap,
                refused: false,
                reason: NoticeReason::Ignored,
                text: "there are IPAddressPools or BGPPeers, and they alone count: of this ConfigMap only the key herald is \
                       read; remove the rest of it"
                    .to_owned(),
            });
        }
    }

    fn document_counts(&mut self, notices: &mut Vec<Notice>) {
        let again = self.source == Source::Objects;
        if self.document == self.seen && !again {
            return;
        }
        let gone = matches!(self.seen, Some(Document::Text(_) | Document::NoKey));
        self.seen = self.document.clone();
        let mut refuse = |text: String, refusals: &mut Vec<String>, in_force: bool| {
            let then = if in_force { "the last good one stays in force" } else { "nothing is done yet" };
            *refusals = vec![text.clone()];
            let text = format!("{text}\n({then})");
            notices.push(Notice {
                about: Subject::ConfigMap,
                refused: true,
                reason: NoticeReason::Rejected,
                text,
            });
        };
        match &self.document {
            Some(Document::Text(text)) => match parse(text) {
                Ok(parsed) => {
                    self.source = Source::Document;
                    self.passed_over = None;
                    self.refusals.clear();
                    self.herald = parsed.config.herald.clone();
                    self.in_force = Some(parsed.config);
                    notices.extend(parsed.warnings.iter().map(|warning| Notice {
                        about: Subject::ConfigMap,
                        refused: false,
                        reason: NoticeReason::Warning,
                        text: warning.to_string(),
                    }));
                }
                Err(errors) => refuse(errors.to_string(), &mut self.refusals, self.in_force.is_some()),
            },
            Some(Document::NoKey) => {
                let text = "the key \"config\" is missing: put the document under data.config".to_owned();
                refuse(text, &mut self.refusals, self.in_force.is_some());
            }
            Some(Document::Gone) if gone => {
                self.refusals = vec!["the ConfigMap is gone".to_owned()];
                notices.push(Notice {
                    about: Subject::ConfigMap,
                    refused: true,
                    reason: NoticeReason::Deleted,
                    text: "the ConfigMap is gone; the last configuration stays in force until there is a new one"
                        .to_owned(),
                });
            }
            Some(Document::Gone) | None => {}
        }
    }
}

const SECRET: &str = "Secret";

/// A kind to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// Empty for the core.
    pub group: &'static str,
    /// The version to read.
    pub version: &'static str,
    /// As objects name it.
    pub kind: &'static str,
    /// As URLs name it.
    pub plural: &'static str,
    /// A field selector.
    pub fields: Option<&'static str>,
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

fn secret(value: &Value) -> Secret {
    Secret {
        of_type: value["type"].as_str().unwrap_or_default().to_owned(),
        password: value["data"]["password"].as_str().and_then(from_base64),
    }
}

/// RFC 4648 §4, as the API server writes it; none for anything else.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u8);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

fn notice_of(problem: &Problem, uid: String) -> Notice {
    let then = match problem.severity {
        Severity::Refused => "\n(the object is not in force)",
        Severity::Kept => "\n(its last good state stays in force)",
        Severity::Partly => "\n(the rest of the object is in force)",
        Severity::Warning => "",
    };
    let path = &problem.error.path;
    let dot = if path.is_empty() { "" } else { ": " };
    Notice {
        about: Subject::Object(problem.object.clone(), uid),
        refused: problem.is_error(),
        reason: if problem.is_error() { NoticeReason::Rejected } else { NoticeReason::Warning },
        text: format!("{path}{dot}{}{then}", problem.error.message),
    }
}
