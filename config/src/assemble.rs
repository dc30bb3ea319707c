//! From objects to the one configuration: what they mean together.
//!
//! A bad object is refused alone. What refers to something bad is judged by what is left: an advertisement of two
//! pools of which one is refused announces the other. Of an object that is refused the last good state stays in force,
//! as long as it is the same object (by uid) and goes with the rest. When two objects contradict each other the one
//! that was in force before wins, then the older one; so a mistake in a new object harms no old one.
//!
//! Invariant: the configuration that comes out keeps every promise of [`Config`], whatever the objects are, and what
//! was refused is told with object, field and remedy. Nothing here depends on the order of the objects.

mod advertisements;
mod peers;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::bfd::BfdProfile;
use crate::objects::{Content, Object, ObjectKey};
use crate::peer::Peer;
use crate::problem::ConfigError;
use crate::schema::kinds::Kind;
use crate::{Config, HeraldOptions};

pub use peers::{Secret, Secrets};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object is not in force as it stands, and neither is an earlier state of it.
    Refused,
    /// The object is not in force as it stands; its last good state is.
    Kept,
    /// The object is in force but for this part of it.
    Partly,
    /// The object is in force, but probably not as meant.
    Warning,
}

/// Something about one object that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: ObjectKey,
    /// How bad it is.
    pub severity: Severity,
    /// What and where; line 0 when the object came from the API server.
    pub error: ConfigError,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { line, path, message, .. } = &self.error;
        if *line > 0 {
            write!(f, "line {line}, ")?;
        }
        write!(f, "{}", self.object)?;
        if !path.is_empty() {
            write!(f, ", {path}")?;
        }
        write!(f, ": {message}")
    }
}

/// What the objects mean together.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembly {
    /// What is in force.
    pub config: Config,
    /// By object; of one object the worst first.
    pub problems: Vec<Problem>,
}

/// Assembles again and again, and remembers of each object what was good last.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    in_force: BTreeMap<ObjectKey, InForce>,
}

#[derive(Debug, Clone)]
struct InForce {
    uid: String,
    content: Content,
    /// With its key and its profile, of which the content only knows where they stood.
    peer: Option<(Peer, Option<BfdProfile>)>,
}

impl Assembler {
    /// All objects of one namespace as they are now.
    pub fn assemble(&mut self, objects: &[Object], secrets: Secrets<'_>, herald: &HeraldOptions) -> Assembly {
        let mut round =
            Round { former: &self.in_force, next: BTreeMap::new(), objects, problems: Vec::new() };
        let mut pools = pools::admit(&mut round);
        let communities = advertisements::admit_communities(&mut round);
        let mut bfd_profiles = peers::admit_profiles(&mut round);
        let peers = peers::admit(&mut round, &mut bfd_profiles, secrets);
        let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        advertisements::admit_bgp(&mut round, &mut pools, &communities, &names);
        advertisements::admit_l2(&mut round, &mut pools);
        peers::warn_of_echo(&mut round, &pools, &peers, &bfd_profiles);
        let refused_pools = round.refused(Kind::IpAddressPool);
        let Round { next, mut problems, .. } = round;
        for object in objects {
            problems.extend(object.warnings.iter().map(|warning| Problem {
                object: object.key.clone(),
                severity: Severity::Warning,
                error: ConfigError {
                    line: warning.line,
                    column: warning.column,
                    path: warning.path.clone(),
                    message: warning.message.clone(),
                },
            }));
        }
        problems.sort_by(|a, b| {
            let rank = |of: &Problem| (of.object.clone(), of.severity, of.error.line, of.error.column);
            rank(a).cmp(&rank(b)).then_with(|| a.error.path.cmp(&b.error.path))
        });
        self.in_force = next;
        let pools = pools.into_values().map(|of| of.pool).collect();
        let config = Config { peers, pools, bfd_profiles, refused_pools, herald: herald.clone() };
        Assembly { config, problems }
    }
}

/// What is wrong with an object, or the parts of it that do not count.
type Verdict = Result<Vec<ConfigError>, Vec<ConfigError>>;

/// Which state of an object is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The newest.
    New,
    /// The one that was in force until now: only what would break the promises of [`Config`] refuses it.
    LastGood,
}

/// One assembly under way.
struct Round<'a> {
    former: &'a BTreeMap<ObjectKey, InForce>,
    next: BTreeMap<ObjectKey, InForce>,
    objects: &'a [Object],
    problems: Vec<Problem>,
}

impl<'a> Round<'a> {
    /// Judges the objects of a kind one after the other; `judge` takes what it accepts into its own account. What is
    /// refused is judged again by its last good state, and `lost` is told what then is not in force at all.
    fn admit(
        &mut self,
        kind: Kind,
        mut judge: impl FnMut(&'a Object, &Content, State) -> Verdict,
        mut lost: impl FnMut(&'a Object, &InForce) -> bool,
    ) {
        for (object, former) in self.in_order(kind) {
            let errors = match &object.content {
                Some(content) => match judge(object, content, State::New) {
                    Ok(partly) => {
                        self.tell(object, Severity::Partly, partly);
                        self.enforce(object, content.clone());
                        continue;
                    }
                    Err(errors) => errors,
                },
                None => object.errors.clone(),
            };
            let kept = former.is_some_and(|former| {
                judge(object, &former.content, State::LastGood).is_ok() || lost(object, former)
            });
            if let (true, Some(former)) = (kept, former) {
                self.next.insert(object.key.clone(), former.clone());
            }
            self.tell(object, if kept { Severity::Kept } else { Severity::Refused }, errors);
        }
    }

    /// What was in force and has not changed first, then the older, then by name.
    fn in_order(&self, kind: Kind) -> Vec<(&'a Object, Option<&'a InForce>)> {
        let of_kind = self.objects.iter().filter(|object| object.key.kind == kind);
        let mut order: Vec<(&Object, Option<&InForce>)> = of_kind
            .map(|object| {
                let former = self.former.get(&object.key).filter(|former| former.uid == object.uid);
                (object, former)
            })
            .collect();
        order.sort_by_key(|(object, former)| {
            let same =
                |former: &InForce| object.content.as_ref().is_none_or(|content| *content == former.content);
            (!former.is_some_and(same), &object.created, &object.key)
        });
        order
    }

    fn enforce(&mut self, object: &Object, content: Content) {
        let peer = self.next.get(&object.key).and_then(|known| known.peer.clone());
        let in_force = InForce { uid: object.uid.clone(), content, peer };
        self.next.insert(object.key.clone(), in_force);
    }

    fn tell(&mut self, object: &Object, severity: Severity, errors: Vec<ConfigError>) {
        let problem = |mut error: ConfigError| {
            if error.line == 0 {
                error.line = object.line;
            }
            Problem { object: object.key.clone(), severity, error }
        };
        self.problems.extend(errors.into_iter().map(problem));
    }

    /// Objects of a kind that are there and not in force.
    fn refused(&self, kind: Kind) -> Vec<String> {
        let of_kind = self.objects.iter().filter(|object| object.key.kind == kind);
        let mut names: Vec<String> = of_kind
            .filter(|object| !self.next.contains_key(&object.key))
            .map(|object| object.key.name.clone())
            .collect();
        names.sort();
        names
    }
}
