//! Checks, what they find, and the report that people and scripts read.

use std::fmt;

use serde::Serialize;

/// One question, and how it is answered from what was seen.
pub(super) struct Check<S: 'static> {
    /// Stable: scripts and documents name it.
    pub(super) id: &'static str,
    /// What is true where all is well.
    pub(super) holds: &'static str,
    /// Nothing: it holds. An error: it cannot be said, and why.
    pub(super) judge: fn(&S) -> Result<Vec<Trouble>, String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    pub(super) severity: Severity,
    /// What was seen, and what comes of it.
    pub(super) seen: String,
    /// What to do: a command where there is one.
    pub(super) remedy: String,
}

/// How bad it is; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Something does not work, or will not.
    Error,
    /// Something may not work, or not for everybody.
    Warning,
}

impl Trouble {
    pub(super) fn error(seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, seen: seen.into(), remedy: remedy.into() }
    }

    pub(super) fn warning(seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, seen: seen.into(), remedy: remedy.into() }
    }
}

/// What all checks found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// `cluster`, or `node NAME`.
    of: String,
    checks: Vec<Answer>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    id: &'static str,
    holds: &'static str,
    result: Outcome,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    troubles: Vec<Trouble>,
    /// Why it could not be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Holds,
    Trouble,
    Unknown,
}

impl Report {
    /// Makes all checks.
    pub(super) fn of<S: 'static>(
        of: String,
        checks: impl IntoIterator<Item = &'static Check<S>>,
        seen: &S,
    ) -> Self {
        let answer = |check: &Check<S>| {
            let Check { id, holds, judge } = *check;
            let (result, troubles, why) = match judge(seen) {
                Ok(troubles) if troubles.is_empty() => (Outcome::Holds, troubles, None),
                Ok(troubles) => (Outcome::Trouble, troubles, None),
                Err(why) => (Outcome::Unknown, Vec::new(), Some(why)),
            };
            Answer { id, holds, result, troubles, why }
        };
        Self { of, checks: checks.into_iter().map(answer).collect() }
    }

    /// Something does not work, or will not.
    pub(crate) fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    fn troubles(&self) -> impl Iterator<Item = (&'static str, &Trouble)> {
        self.checks.iter().flat_map(|check| check.troubles.iter().map(|trouble| (check.id, trouble)))
    }

    fn count(&self, severity: Severity) -> usize {
        self.troubles().filter(|(_, trouble)| trouble.severity == severity).count()
    }

    fn unknown(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.checks.iter().filter_map(|check| Some((check.id, check.why.as_deref()?)))
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (errors, warnings, unknown) =
            (self.count(Severity::Error), self.count(Severity::Warning), self.unknown().count());
        let checks = counted(self.checks.len(), "check", "checks");
        match errors + warnings {
            0 => write!(f, "{}: nothing found by {checks}", self.of)?,
            _ => {
                let (errors, warnings) =
                    (counted(errors, "error", "errors"), counted(warnings, "warning", "warnings"));
                write!(f, "{}: {errors}, {warnings} by {checks}", self.of)?;
            }
        }
        match unknown {
            0 => writeln!(f)?,
            _ => writeln!(f, "; {unknown} could not be made")?,
        }
        for severity in [Severity::Error, Severity::Warning] {
            let word = if severity == Severity::Error { "error" } else { "warning" };
            for (id, trouble) in self.troubles().filter(|(_, trouble)| trouble.severity == severity) {
                writeln!(f, "\n{word}  {id}: {}\n    {}", trouble.seen, trouble.remedy)?;
            }
        }
        if unknown > 0 {
            writeln!(f, "\nNot known:")?;
        }
        self.unknown().try_for_each(|(id, why)| writeln!(f, "  {id}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKS: &[Check<u8>] = &[
        Check { id: "first", holds: "one is one", judge: |_| Ok(Vec::new()) },
        Check {
            id: "second",
            holds: "it is below three",
            judge: |seen| match seen {
                0..3 => Ok(Vec::new()),
                _ => Ok(vec![Trouble::warning(format!("it is {seen}"), "herald version")]),
            },
        },
        Check {
            id: "third",
            holds: "it is below four",
            judge: |seen| match seen {
                0..4 => Ok(Vec::new()),
                9.. => Err("nobody can say".to_owned()),
                _ => Ok(vec![Trouble::error(format!("it is {seen}"), "herald version")]),
            },
        },
    ];

    fn report(seen: u8) -> Report {
        Report::of("node a".to_owned(), CHECKS, &seen)
    }

    #[test]
    fn errors_come_first_and_what_is_not_known_last() {
        let cases = [
            (1, false, "node a: nothing found by 3 checks\n"),
            (
                5,
                true,
                "node a: 1 error, 1 warning by 3 checks\n\nerror  third: it is 5\n    herald version\n\n\
                 warning  second: it is 5\n    herald version\n",
            ),
            (
                9,
                false,
                "node a: 0 errors, 1 warning by 3 checks; 1 could not be made\n\nwarning  second: it is 9\n    \
                 herald version\n\nNot known:\n  third: nobody can say\n",
            ),
        ];
        for (seen, errors, text) in cases {
            let report = report(seen);
            assert_eq!((report.has_errors(), report.to_string().as_str()), (errors, text));
        }
    }

    #[test]
    fn scripts_read_all_checks() {
        let json = serde_json::to_value(report(9)).unwrap();
        assert_eq!(json["checks"][0]["result"], "holds");
        assert_eq!(json["checks"][1]["troubles"][0]["severity"], "warning");
        assert_eq!(json["checks"][2]["why"], "nobody can say");
    }
}
