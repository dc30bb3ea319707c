//! Answers as people read them: what is wrong and what to do first, then aligned tables.

use std::fmt::{self, Write as _};

use super::model::{EndpointAnswer, PacketAnswer, PortAnswer, Said, ServiceAnswer, StandingAnswer};

/// Source ranges that are named.
const NAMED: usize = 6;

/// Prints rows under a heading, columns aligned, indented by two.
pub fn table(f: &mut fmt::Formatter<'_>, heading: &[String], rows: &[Vec<String>]) -> fmt::Result {
    writeln!(f)?;
    aligned(heading, rows).iter().try_for_each(|line| writeln!(f, "{line}"))
}

/// The lines of a table: the heading, then one for each row.
pub fn aligned(heading: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let own = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 2);
        own.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            // The heading is not indented, so that its first column has the rows' indentation to spare.
            let head = heading[column].chars().count() + 2;
            let indent = if column == 0 { 2 } else { 0 };
            head.max(width(column) + indent)
        })
        .collect();
    let rows = rows.iter().map(|row| line(row, &widths, 2));
    std::iter::once(line(heading, &widths, 0)).chain(rows).collect()
}

fn line(cells: &[String], widths: &[usize], indent: usize) -> String {
    let mut text = " ".repeat(indent);
    let mut end = 0;
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(cell);
        end += width;
        let pad = end.saturating_sub(text.chars().count());
        text.extend(std::iter::repeat_n(' ', pad));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The cells of a heading.
pub fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

pub(super) fn advice(f: &mut fmt::Formatter<'_>, advice: &[String]) -> fmt::Result {
    advice.iter().try_for_each(|advice| writeln!(f, "! {advice}"))
}

/// `OtherZone: hinted for other zones`, but only the word where that says it all.
fn why(said: &Said) -> String {
    match said.reason.as_str() {
        "Ready" | "NotReady" | "NotLocal" => said.reason.clone(),
        reason => format!("{reason}: {}", said.text),
    }
}

impl fmt::Display for ServiceAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Service {} on {}: {}", self.service, self.node, self.headline())?;
        advice(f, &self.advice)?;
        self.frontends(f)?;
        self.ports.iter().try_for_each(|port| ports(f, port))?;
        self.masquerade(f)?;
        self.announcements(f)?;
        if let Some(health) = &self.health_check {
            let status = if health.local_endpoints == 0 { 503 } else { 200 };
            writeln!(
                f,
                "\nHealth check node port {}: answers {status}, {} ready here",
                health.port, health.local_endpoints
            )?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nNoted")?;
            self.notes.iter().try_for_each(|note| writeln!(f, "  {}: {}", note.reason, note.text))?;
        }
        Ok(())
    }
}

impl ServiceAnswer {
    fn headline(&self) -> String {
        if let Some(why) = &self.not_proxied {
            return format!("not proxied ({}): {}", why.reason, why.text);
        }
        let all = self.frontends.len() + self.frontends_left_out;
        let serving = self.frontends.iter().filter(|frontend| frontend.state == "Serves").count();
        match (all, serving) {
            (0, _) => "no frontend on this node".to_owned(),
            (all, serving) if serving + self.frontends_left_out == all => match all {
                1 => "its frontend serves".to_owned(),
                all => format!("all {all} frontends serve"),
            },
            (all, serving) => format!("{serving} of {all} frontends serve clients"),
        }
    }

    fn frontends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.frontends.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = self
            .frontends
            .iter()
            .map(|frontend| {
                let address = match frontend.address.contains(':') {
                    true => format!("[{}]", frontend.address),
                    false => frontend.address.clone(),
                };
                let at = format!("{address}:{}/{}", frontend.port, frontend.protocol);
                let mut text = frontend.text.clone();
                if let Some(sources) = &frontend.sources {
                    let more = if sources.len() > NAMED { ", …" } else { "" };
                    let named: Vec<&str> = sources.iter().take(NAMED).map(String::as_str).collect();
                    let named = if named.is_empty() { "nobody".to_owned() } else { named.join(", ") };
                    text.push_str(&format!("; only from {named}{more}"));
                }
                cells([&at, &frontend.kind, &frontend.policy, &text])
            })
            .collect();
        table(f, &cells(["Frontends", "kind", "policy", "a client from outside gets"]), &rows)?;
        left_out(f, self.frontends_left_out)
    }

    /// One line per reason, with the kinds of frontends that it concerns.
    fn masquerade(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<(&Said, Vec<&str>)> = Vec::new();
        for frontend in &self.frontends {
            for said in &frontend.masquerade {
                let at = reasons.iter().position(|(known, _)| *known == said).unwrap_or_else(|| {
                    reasons.push((said, Vec::new()));
                    reasons.len() - 1
                });
                if !reasons[at].1.contains(&frontend.kind.as_str()) {
                    reasons[at].1.push(&frontend.kind);
                }
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let row = |(said, kinds): &(&Said, Vec<&str>)| {
            cells([&kinds.join(", "), &format!("{}: {}", said.reason, said.text)])
        };
        let rows: Vec<Vec<String>> = reasons.iter().map(row).collect();
        table(f, &cells(["Masqueraded", "so that endpoints see this node's address"]), &rows)
    }

    fn announcements(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.announcements.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = self
            .announcements
            .iter()
            .map(|announcement| {
                let mut told = match &announcement.reason {
                    None if announcement.routes.is_empty() => "yes".to_owned(),
                    None => format!("yes, by {}", announcement.routes.join(", ")),
                    Some(said) => format!("no, {}: {}", said.reason, said.text),
                };
                for of in &announcement.layer2 {
                    let name = |node: &Option<String>| node.clone().unwrap_or_else(|| "nobody".to_owned());
                    let (owner, next) = (name(&of.owner), name(&of.next));
                    told += &format!("; on {} owned by {owner}", of.interface);
                    if let Some(claim) = of.claim {
                        told += &format!(" (claim {claim})");
                    }
                    told += &format!(", next {next}");
                    if let Some(by) = &of.next_by {
                        told += &format!(" ({by})");
                    }
                }
                cells([&announcement.address, &told])
            })
            .collect();
        table(f, &cells(["Announced", "from this node"]), &rows)
    }
}

fn left_out(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > 0 { writeln!(f, "  and {count} more") } else { Ok(()) }
}

fn ports(f: &mut fmt::Formatter<'_>, port: &PortAnswer) -> fmt::Result {
    let name = if port.name.is_empty() { String::new() } else { format!("{} ", port.name) };
    let mut heading = vec![format!("Port {name}{}/{}, {}", port.port, port.protocol, port.family)];
    if !port.uses_cluster && !port.uses_local {
        return Ok(());
    }
    if port.endpoints.is_empty() {
        return writeln!(f, "\n{}\n  no endpoint", heading[0]);
    }
    heading.push("node".to_owned());
    let uses = [(port.uses_cluster, "anywhere"), (port.uses_local, "this node")];
    heading.extend(uses.iter().filter(|(used, _)| *used).map(|(_, name)| (*name).to_owned()));
    heading.push("why".to_owned());
    let rows: Vec<Vec<String>> = port.endpoints.iter().map(endpoint).collect();
    table(f, &heading, &rows)?;
    left_out(f, port.endpoints_left_out)
}

fn endpoint(endpoint: &EndpointAnswer) -> Vec<String> {
    let mut row = cells([&endpoint.address, endpoint.node.as_deref().unwrap_or("-")]);
    let mut reasons: Vec<String> = Vec::new();
    for standing in [&endpoint.cluster, &endpoint.local].into_iter().flatten() {
        row.push(share(standing));
        let reason = why(&standing.said);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if endpoint.slices.len() > 1 {
        reasons.push(format!("in {} slices", endpoint.slices.len()));
    }
    row.push(reasons.join("; "));
    row
}

fn share(standing: &StandingAnswer) -> String {
    if standing.used { format!("{}/{}", standing.slots, standing.of) } else { "-".to_owned() }
}

impl fmt::Display for PacketAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        advice(f, &self.advice)?;
        let mut about = format!("On {}", self.node);
        if let Some(service) = &self.service {
            write!(about, ", Service {service}")?;
        }
        if let (Some(kind), Some(policy)) = (&self.kind, &self.policy) {
            write!(about, ", {kind}, policy {policy}")?;
        }
        let rows: Vec<Vec<String>> = self.walk.iter().map(|step| cells([&step.at, &step.text])).collect();
        writeln!(f, "\n{about}")?;
        let width = rows.iter().filter_map(|row| row.first()).map(|at| at.chars().count() + 4).max();
        rows.iter().try_for_each(|row| writeln!(f, "{}", line(row, &[width.unwrap_or(0), 0], 2)))
    }
}
