//! Whose entries are in question after a change of rules: what stood before, compared with what stands then. Pure.
//!
//! In question are frontends that came (entries from before they had rules), that went, that lost a serving endpoint, and
//! that have one whose node has come to count as dead.
//! Endpoints that merely came make nothing stale. What stands is what the [`Program`] says: of contested frontends the
//! holder's rules, and lingering ones as long as they linger.

use std::collections::HashMap;
use std::sync::Arc;

use super::stale::View;
use crate::element::Frontend;
use crate::program::Program;
use crate::rules::Backends;

/// Who served some frontends at some time.
#[derive(Debug, Default)]
pub struct Standing {
    frontends: HashMap<Frontend, Option<Arc<Backends>>>,
}

impl Standing {
    /// Of these frontends, as it is now.
    pub fn of(program: &Program, frontends: impl IntoIterator<Item = Frontend>) -> Self {
        let backends = |frontend| (frontend, program.backends(&frontend).cloned());
        Self { frontends: frontends.into_iter().map(backends).collect() }
    }

    /// What is in question now that these frontends are as the program says.
    pub fn changed(self, program: &Program) -> View {
        let mut view = View::default();
        for (frontend, before) in self.frontends {
            let after = program.backends(&frontend);
            if in_question(before.as_ref(), after) {
                view.set(frontend, after.cloned());
            }
        }
        view
    }

    /// Everything is in question: all that stands, and of these frontends those that are gone.
    pub fn replaced(self, program: &Program) -> View {
        let mut view = View::default();
        let gone = self.frontends.into_iter().filter(|(frontend, _)| program.backends(frontend).is_none());
        gone.for_each(|(frontend, _)| view.set(frontend, None));
        for (frontend, backends) in program.all_backends() {
            view.set(frontend, Some(Arc::clone(backends)));
        }
        view
    }
}

fn in_question(before: Option<&Arc<Backends>>, after: Option<&Arc<Backends>>) -> bool {
    match (before, after) {
        (None, None) => false,
        (None, Some(_)) | (Some(_), None) => true,
        (Some(before), Some(after)) => {
            !Arc::ptr_eq(before, after)
                && (before.serving().any(|endpoint| !after.serves(endpoint))
                    || after.silent.iter().any(|endpoint| !before.is_silent(endpoint)))
        }
    }
}
