//! A [`Kernel`] that is dumped after every batch: what is in nf_tables must be what all batches so far amount to.
//!
//! All tests of this suite write through it, so each batch of theirs is a test of the dump reader and the other way round.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};

use herald_proxy::netlink::{Adopted, Kernel, KernelError};
use herald_proxy::ruleset::Ruleset;
use herald_proxy::{Changes, Element};

/// The kernel and what should be in it.
pub(crate) struct CheckedKernel {
    kernel: Kernel,
    model: Option<(Ruleset, BTreeSet<Element>)>,
}

impl CheckedKernel {
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self { kernel, model: None }
    }

    pub(crate) fn replace(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        self.kernel.replace(ruleset, elements)?;
        self.holds(ruleset, elements);
        Ok(())
    }

    pub(crate) fn adopt(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<Adopted, KernelError> {
        let adopted = self.kernel.adopt(ruleset, elements)?;
        self.holds(ruleset, elements);
        Ok(adopted)
    }

    pub(crate) fn apply(&mut self, changes: &Changes) -> Result<(), KernelError> {
        self.kernel.apply(changes)?;
        if let Some((_, model)) = &mut self.model {
            changes.remove.iter().for_each(|element| {
                model.remove(element);
            });
            model.extend(&changes.add);
        }
        self.check();
        Ok(())
    }

    fn holds(&mut self, ruleset: &Ruleset, elements: &[Element]) {
        self.model = Some((ruleset.clone(), elements.iter().copied().collect()));
        self.check();
    }

    /// Dump equals model.
    pub(crate) fn check(&mut self) {
        let Some((ruleset, model)) = &self.model else { return };
        let dump: BTreeSet<Element> = self.kernel.dump(ruleset).unwrap().into_iter().collect();
        let missing: Vec<_> = model.difference(&dump).collect();
        let extra: Vec<_> = dump.difference(model).collect();
        assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, too many {extra:?}");
    }
}

impl Deref for CheckedKernel {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.kernel
    }
}

impl DerefMut for CheckedKernel {
    fn deref_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}
