//! Which objects (nodes, Services, namespaces, pools) are meant, by their labels.
//!
//! Kubernetes' label selector semantics: the terms of one selector are AND-ed; `NotIn` and `DoesNotExist` also
//! match an object that lacks the label, and a selector without terms matches all. Where a list of selectors stands,
//! they are OR-ed; what an empty list means is the business of the field that has it, mostly *all*
//! ([`any_or_all`]).

use std::collections::{BTreeMap, BTreeSet};

/// Terms that an object's labels all have to meet; without terms every object matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

/// Whether any of the selectors matches, or there is none: the meaning of most lists of selectors.
pub fn any_or_all(selectors: &[LabelSelector], labels: &BTreeMap<String, String>) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value relates to `values`.
    pub operator: Operator,
    /// At least one for `In` and `NotIn`, none for the others.
    pub values: BTreeSet<String>,
}

impl Requirement {
    /// Whether an object with these labels meets it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// The operators of Kubernetes' label selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn requirement(operator: Operator, values: &[&str]) -> Requirement {
        Requirement {
            key: "rack".into(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
    }

    #[test]
    fn requirements_follow_kubernetes_on_present_other_and_absent_labels() {
        let r1 = labels(&[("rack", "r1")]);
        let r9 = labels(&[("rack", "r9")]);
        let none = labels(&[("zone", "a")]);
        for (requirement, expected) in [
            (requirement(Operator::In, &["r1", "r2"]), [true, false, false]),
            (requirement(Operator::NotIn, &["r1", "r2"]), [false, true, true]),
            (requirement(Operator::Exists, &[]), [true, true, false]),
            (requirement(Operator::DoesNotExist, &[]), [false, false, true]),
        ] {
            assert_eq!(
                [&r1, &r9, &none].map(|labels| requirement.matches(labels)),
                expected,
                "{requirement:?}"
            );
        }
    }

    #[test]
    fn the_terms_of_one_selector_must_all_hold() {
        let selector = LabelSelector {
            match_labels: labels(&[("edge", "true")]),
            match_expressions: vec![requirement(Operator::NotIn, &["r2"])],
        };
        assert!(selector.matches(&labels(&[("edge", "true"), ("rack", "r1")])));
        assert!(!selector.matches(&labels(&[("edge", "true"), ("rack", "r2")])));
        assert!(!selector.matches(&labels(&[("rack", "r1")])));
        assert!(LabelSelector::default().matches(&labels(&[])));
    }

    #[test]
    fn of_several_selectors_any_may_match_and_none_means_all() {
        let edge = LabelSelector { match_labels: labels(&[("edge", "true")]), ..LabelSelector::default() };
        let rack = LabelSelector {
            match_expressions: vec![requirement(Operator::Exists, &[])],
            ..LabelSelector::default()
        };
        let selectors = [edge, rack];
        assert!(any_or_all(&selectors, &labels(&[("rack", "r7")])));
        assert!(any_or_all(&selectors, &labels(&[("edge", "true")])));
        assert!(!any_or_all(&selectors, &labels(&[("zone", "a")])));
        assert!(any_or_all(&[], &labels(&[("zone", "a")])));
    }
}
