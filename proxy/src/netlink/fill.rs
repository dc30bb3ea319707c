//! Whole tables: what is wanted in place of whatever is there.
//!
//! Where tables are in force it is one transaction, so that no packet meets half of them. Where there are none, many
//! elements come in parts before the rules: nothing leads to them until then.

use super::batch::Batch;
use super::{Kernel, KernelError, Subject, check_classes};
use crate::element::Element;
use crate::family::IpFamily;
use crate::ruleset::{Ruleset, Table, Timeouts};

/// Elements of one transaction where a load is in parts.
const PART: usize = 8192;

impl Kernel {
    /// Puts this ruleset with these elements in place of whatever is in our tables, in one transaction. Connections keep
    /// their translations.
    ///
    /// Tables of the same layout, such as an earlier run's, are refilled rather than replaced: a packet that is between
    /// two hooks while the kernel changes over would find the new hook too early and the old one too late, and go
    /// untranslated. (That is some 100 ns; it can happen only when the layout changes, with a new version of Herald.)
    pub fn replace(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        check_classes(elements)?;
        let ruleset = &ruleset.clone().with_elements(elements);
        if self.has_layout(ruleset)? {
            self.refill(ruleset, elements)
        } else {
            self.rebuild(ruleset, elements)
        }
    }

    /// New rules and elements in the chains and sets that are there.
    pub(super) fn refill(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        match self.write(ruleset, elements, Batch::flush_table) {
            // Somebody changed the table under its old name.
            Err(KernelError::Refused { subject: Subject::Object(_), .. }) => self.rebuild(ruleset, elements),
            written => written,
        }
    }

    /// New tables.
    pub(super) fn rebuild(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        if elements.len() > PART && self.is_absent()? {
            return self.load(ruleset, elements);
        }
        self.write(ruleset, elements, |batch, table| {
            batch.delete_table(table.family, Ruleset::TABLE);
            batch.add_table(table);
        })
    }

    /// New tables where there are none: they are filled in parts while no packet sees them, and come into force with
    /// their rules, which are the last part. In one transaction the hash tables could not grow meanwhile, since the kernel
    /// does that in a worker of the same processor, and each element would be added the slow way.
    fn load(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        let loaded = self.try_load(ruleset, elements);
        if loaded.is_err()
            && let Err(error) = self.remove()
        {
            let error = herald_runtime::chain(&error);
            tracing::warn!(
                error,
                "Herald's tables are left in the kernel without rules until the next try: they do nothing"
            );
        }
        loaded
    }

    fn try_load(&mut self, ruleset: &Ruleset, elements: &[Element]) -> Result<(), KernelError> {
        self.transact(None, &[], &[], 0, |batch| {
            for table in &ruleset.tables {
                batch.add_table(table);
                batch.add_constants(table);
            }
        })?;
        for part in elements.chunks(PART) {
            self.transact(None, &[], part, part.len(), |batch| batch.elements(part, false))?;
        }
        self.transact(None, &[], &[], 0, |batch| {
            for table in &ruleset.tables {
                batch.add_rules(table);
            }
        })?;
        self.filled(elements);
        Ok(())
    }

    fn filled(&mut self, elements: &[Element]) {
        self.timeouts = Timeouts::of(elements);
        self.timeouts.warn_of_rounded();
    }

    /// Makes both tables ready, then fills them. Elements come before rules: they are cheapest to add to a set that no
    /// rule uses yet.
    fn write(
        &mut self,
        ruleset: &Ruleset,
        elements: &[Element],
        prepare: impl Fn(&mut Batch, &Table),
    ) -> Result<(), KernelError> {
        self.transact(None, &[], elements, elements.len(), |batch| {
            for table in &ruleset.tables {
                prepare(batch, table);
                batch.add_constants(table);
            }
            batch.elements(elements, false);
            for table in &ruleset.tables {
                batch.add_rules(table);
            }
        })?;
        self.filled(elements);
        Ok(())
    }

    /// True when neither of our tables is there.
    fn is_absent(&mut self) -> Result<bool, KernelError> {
        for family in IpFamily::ALL {
            if self.has_table(family, Ruleset::TABLE)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
