//! What was measured, beside each other: a table for people, JSON for machines, and which bars are met.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;

use super::system::Kind;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The row's word, as `--only` takes it.
    pub row: &'static str,
    /// How many Services there were; `None` where it does not matter.
    pub services: Option<u32>,
    /// What was measured.
    pub what: String,
    /// Whose it is: `herald`, `kube-proxy`, or what Herald is compared with.
    pub of: &'static str,
    /// The value.
    pub value: f64,
    /// Of the value.
    pub unit: &'static str,
    /// The most that it may be.
    pub bar: Option<f64>,
    /// The machine's load, averaged over a minute, when it was taken.
    pub load: f64,
}

impl Figure {
    /// Whether its bar is met; `None` without a bar.
    pub fn met(&self) -> Option<bool> {
        self.bar.map(|bar| self.value <= bar)
    }
}

/// All figures, in the order in which they were taken.
#[derive(Clone, Debug)]
pub struct Table {
    /// What there are so many of: Services, routes.
    counted: &'static str,
    /// Who has a column beside Herald's.
    beside: &'static [&'static str],
    figures: Vec<Figure>,
}

impl Default for Table {
    /// The service proxy's: kube-proxy stands beside Herald.
    fn default() -> Self {
        Self::new("Services", &["kube-proxy"])
    }
}

/// The figures of one row at one size.
#[derive(Debug)]
pub struct Row<'a> {
    table: &'a mut Table,
    row: &'static str,
    services: Option<u32>,
}

impl Table {
    /// An empty one: what its second column counts, and who has a column beside Herald's.
    pub fn new(counted: &'static str, beside: &'static [&'static str]) -> Self {
        Self { counted, beside, figures: Vec::new() }
    }

    /// The value of a figure that was taken.
    pub fn value(&self, row: &str, services: Option<u32>, what: &str, of: &str) -> Option<f64> {
        let same = |f: &&Figure| (f.row, f.services, f.what.as_str(), f.of) == (row, services, what, of);
        self.figures.iter().find(same).map(|figure| figure.value)
    }

    /// A row to put figures in.
    pub fn row(&mut self, row: &'static str, services: Option<u32>) -> Row<'_> {
        Row { table: self, row, services }
    }

    /// Prints all that was measured on this system (also by a run that broke off), and keeps its figures as JSON.
    pub fn keep(&self, system: &str, took: Duration, json: &Path) -> Result<()> {
        println!("{system}\n\n{}", self.text());
        let (missed, judged) = self.missed();
        let seconds = took.as_secs();
        println!("{missed} of {judged} bars missed; {seconds} s in all");
        let kept = json!({ "system": system, "seconds": seconds, "figures": self.figures });
        std::fs::write(json, format!("{kept:#}\n")).with_context(|| json.display().to_string())
    }

    /// A missed bar is a failure.
    pub fn judge(&self) -> Result<()> {
        match self.missed() {
            (0, _) => Ok(()),
            (missed, judged) => bail!("{missed} of {judged} bars missed"),
        }
    }

    /// How many bars are missed, and of how many.
    fn missed(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.figures.iter().filter_map(Figure::met).collect();
        (judged.iter().filter(|met| !**met).count(), judged.len())
    }

    /// For people: one line for each thing, Herald's value and the others' beside it.
    pub fn text(&self) -> String {
        let mut text = format!("{:<12}{:>8}  {:<58}{:>12}", "row", self.counted, "what", "herald");
        for other in self.beside {
            let _ = write!(text, "{other:>12}");
        }
        let _ = writeln!(text, "{:>12}{:>8}", "bar", "load");
        let mut told: Vec<(&str, Option<u32>, &str)> = Vec::new();
        for figure in &self.figures {
            let key = (figure.row, figure.services, figure.what.as_str());
            if told.contains(&key) {
                continue;
            }
            told.push(key);
            let of = |of: &str| {
                let same = |other: &&Figure| {
                    (other.row, other.services, other.what.as_str()) == key && other.of == of
                };
                self.figures.iter().find(same)
            };
            let shown = |figure: Option<&Figure>| figure.map_or_else(String::new, value);
            let ours = of(Kind::Herald.name());
            let verdict = match figure.met() {
                Some(true) => "  met",
                Some(false) => "  MISSED",
                None => "",
            };
            let services = figure.services.map(|services| services.to_string()).unwrap_or_default();
            let bar = figure.bar.map(|bar| format!("<= {}", number(bar))).unwrap_or_default();
            // What has no column of its own has a line of its own, in Herald's column.
            let left = ours.or_else(|| (!self.beside.contains(&figure.of)).then_some(figure));
            let _ = write!(text, "{:<12}{services:>8}  {:<58}{:>12}", figure.row, figure.what, shown(left));
            for other in self.beside {
                let _ = write!(text, "{:>12}", shown(of(other)));
            }
            let _ = writeln!(text, "{bar:>12}{:>8.1}{verdict}", figure.load);
        }
        text
    }
}

impl Row<'_> {
    /// A figure that has no bar.
    pub fn put(&mut self, of: &'static str, what: &str, value: f64, unit: &'static str) {
        self.add(of, what, value, unit, None);
    }

    /// A figure of Herald's that has one.
    pub fn bar(&mut self, what: &str, value: f64, unit: &'static str, bar: f64) {
        self.add(Kind::Herald.name(), what, value, unit, Some(bar));
    }

    fn add(&mut self, of: &'static str, what: &str, value: f64, unit: &'static str, bar: Option<f64>) {
        let (row, services) = (self.row, self.services);
        let figure = Figure { row, services, what: what.to_owned(), of, value, unit, bar, load: load() };
        eprintln!(
            "  {row}{}: {what} ({of}): {}",
            services.map(|n| format!(" at {n}")).unwrap_or_default(),
            self::value(&figure)
        );
        self.table.figures.push(figure);
    }
}

fn value(figure: &Figure) -> String {
    match figure.value.is_infinite() {
        true => "never".to_owned(),
        false => format!("{} {}", number(figure.value), figure.unit).trim().to_owned(),
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value.abs() < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

/// The machine's load over the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The value at or below which this share of the values lies; infinite for none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_systems_stand_in_one_line_with_the_bar() {
        let mut table = Table::default();
        let mut row = table.row("memory", Some(1000));
        row.bar("resident", 41.0, "MiB", 40.0);
        row.put("kube-proxy", "resident", 70.5, "MiB");
        let text = table.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("41 MiB") && text.contains("70.5 MiB") && text.contains("MISSED"), "{text}");
        assert_eq!(table.judge().expect_err("missed").to_string(), "1 of 1 bars missed");
    }

    #[test]
    fn a_value_that_equals_its_bar_is_within_it() {
        let mut table = Table::default();
        table.row("restart", None).bar("failed", 0.0, "", 0.0);
        table.judge().expect("met");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|percent| percentile(&values, percent)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 50.0), f64::INFINITY);
    }
}
