//! A tip below a mistake on the command line: who writes a Service or an address where a subcommand belongs knows what to look at,
//! and not yet by which command.

use std::net::IpAddr;

use clap::error::{ContextKind, ContextValue};

/// The error, with the commands that take what was written, if there are such.
pub(crate) fn add(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && let Some(tip) = of(word)
    {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

fn of(word: &str) -> Option<String> {
    if word.parse::<IpAddr>().is_ok() {
        return Some(format!("of one address tells `herald history {word}`"));
    }
    let (namespace, name) = word.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| {
        format!("of one Service tell `herald explain service {word}`, `herald try {word}` and `herald history {word}`")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    #[test]
    fn who_names_a_service_or_an_address_is_told_the_commands_that_take_it() {
        for (line, tip) in [
            (
                "status default/web",
                "tip: of one Service tell `herald explain service default/web`, `herald try default/web` and `herald history default/web`",
            ),
            (
                "explain default/web",
                "tip: of one Service tell `herald explain service default/web`, `herald try default/web` and `herald history default/web`",
            ),
            ("status 192.0.2.7", "tip: of one address tells `herald history 192.0.2.7`"),
            ("explain 2001:db8::7", "tip: of one address tells `herald history 2001:db8::7`"),
            // What clap finds is not overwritten.
            ("status service", "tip: a similar subcommand exists: 'services'"),
            ("status /", ""),
        ] {
            let words = std::iter::once("herald").chain(line.split(' '));
            let error = add(Cli::try_parse_from(words).unwrap_err()).to_string();
            let told = error.lines().map(str::trim).find(|line| line.starts_with("tip:")).unwrap_or_default();
            assert_eq!(told, tip, "{line}: {error}");
        }
    }
}
