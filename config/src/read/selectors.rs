//! Label selectors, whose keys are spelled in two ways.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Value;
use super::scalars::{nonempty, one_of};
use crate::selector::{LabelSelector, Operator, Requirement};

/// How the keys of a selector are spelled.
pub(crate) struct Spelling {
    keys: &'static [&'static str; 2],
}

/// As in the ConfigMap.
pub(crate) const KEBAB: Spelling = Spelling { keys: &["match-labels", "match-expressions"] };
/// As in Kubernetes' objects.
pub(crate) const CAMEL: Spelling = Spelling { keys: &["matchLabels", "matchExpressions"] };

/// A list of selectors.
pub(crate) fn selectors(value: &Value<'_>, spelling: &Spelling) -> Option<Vec<LabelSelector>> {
    all(value.items()?, |value| selector(value, spelling))
}

/// One selector.
pub(crate) fn selector(value: &Value<'_>, spelling: &Spelling) -> Option<LabelSelector> {
    let fields = value.fields(spelling.keys)?;
    let [labels, expressions] = spelling.keys.map(|key| fields.get(key));
    let match_labels = labels.map(|value| match_labels(&value));
    let match_expressions = expressions.map(|value| value.items().and_then(|items| all(items, requirement)));
    Some(LabelSelector {
        match_labels: match_labels.unwrap_or_else(|| Some(BTreeMap::new()))?,
        match_expressions: match_expressions.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

/// Reads every value, for the sake of the errors, and gives the results only if all are there.
pub(crate) fn all<'a, T, C: FromIterator<T>>(
    values: Vec<Value<'a>>,
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> Option<C> {
    let results: Vec<Option<T>> = values.iter().map(read).collect();
    results.into_iter().collect()
}

fn match_labels(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    let labels: Vec<Option<(String, String)>> = value
        .entries()?
        .into_iter()
        .map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())))
        .collect();
    labels.into_iter().collect()
}

fn requirement(value: &Value<'_>) -> Option<Requirement> {
    let fields = value.fields(&["key", "operator", "values"])?;
    let key = fields.required("key", "rack").and_then(|value| nonempty(&value, "the key"));
    let operator = fields.required("operator", "In").and_then(|value| {
        one_of(
            &value,
            &[
                ("In", Operator::In),
                ("NotIn", Operator::NotIn),
                ("Exists", Operator::Exists),
                ("DoesNotExist", Operator::DoesNotExist),
            ],
        )
    });
    let values: Option<BTreeSet<String>> = fields.get("values").map_or_else(
        || Some(BTreeSet::new()),
        |value| all(value.items()?, |value| value.text().map(str::to_owned)),
    );
    let (key, operator, values) = (key?.to_owned(), operator?, values?);
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            value.fail(format!("{operator:?} has no values: add values: [...] with at least one"))
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            value.fail(format!("{operator:?} takes no values: remove them, or use In or NotIn"))
        }
        _ => Some(Requirement { key, operator, values }),
    }
}
