//! What is told of one subject, as people read it: a sentence, what is wrong with the next command under each, then tables. Made once, and printed or
//! drawn on a live screen.

use herald_speaker::explain::{Finding, aligned};

/// Findings, the worst first; `-o json` has all.
const FINDINGS: usize = 20;

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
    /// The heading of a table.
    Heading,
    /// What to type next.
    Next,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) text: String,
}

impl Line {
    /// Messages are others' words: what would move a terminal's cursor or colour it is left out.
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.contains(char::is_control) {
            text = text.replace(char::is_control, " ");
        }
        Self { tone, text }
    }
}

/// All of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sheet {
    /// One sentence that says whether all is well.
    pub(super) headline: String,
    pub(super) findings: Vec<Finding>,
    pub(super) grids: Vec<Grid>,
    /// What is left to say.
    pub(super) foot: Vec<String>,
}

/// One table. Its columns never change their order; those of the wide form come last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) heading: &'static [&'static str],
    /// So many of the columns are of the wide form alone.
    pub(super) wide: usize,
    pub(super) rows: Vec<Row>,
    /// So many rows are shown.
    pub(super) shown: Option<usize>,
}

/// A row, with a cell for each column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) wrong: bool,
    pub(super) cells: Vec<String>,
}

impl Sheet {
    /// From top to bottom; the first is the headline.
    pub(super) fn lines(&self, wide: bool) -> Vec<Line> {
        let Self { headline, findings, grids, foot } = self;
        let wrong = !findings.is_empty() || grids.iter().flat_map(|grid| &grid.rows).any(|row| row.wrong);
        let mut lines = vec![Line::new(if wrong { Tone::Bad } else { Tone::Good }, headline)];
        for finding in findings.iter().take(FINDINGS) {
            lines.push(Line::new(Tone::Bad, format!("! {}", finding.text)));
            lines.extend(finding.next.iter().map(|next| Line::new(Tone::Next, format!("    {next}"))));
        }
        if findings.len() > FINDINGS {
            let more = format!("! and {} more (-o json has all)", findings.len() - FINDINGS);
            lines.push(Line::new(Tone::Bad, more));
        }
        grids.iter().filter(|grid| !grid.rows.is_empty()).for_each(|grid| grid.lines(wide, &mut lines));
        if !foot.is_empty() {
            lines.push(Line::new(Tone::Plain, ""));
            lines.extend(foot.iter().map(|text| Line::new(Tone::Plain, text)));
        }
        lines
    }

    /// What is printed.
    pub(super) fn text(&self, wide: bool, coloured: bool) -> String {
        let mut text = String::new();
        for line in self.lines(wide) {
            let colour = if coloured { line.tone.colour() } else { None };
            match colour {
                Some(colour) => text.extend(["\x1b[", colour, "m", &line.text, "\x1b[0m\n"]),
                None => text.extend([&line.text, "\n"]),
            }
        }
        text
    }
}

impl Tone {
    /// ECMA-48 §8.3.117: the parameter of SGR.
    fn colour(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Heading => Some("1"),
            Self::Next => Some("2"),
        }
    }
}

impl Grid {
    fn lines(&self, wide: bool, lines: &mut Vec<Line>) {
        let columns = self.heading.len() - if wide { 0 } else { self.wide };
        let shown = self.shown.unwrap_or(self.rows.len());
        let heading: Vec<String> = self.heading.iter().take(columns).map(|name| (*name).to_owned()).collect();
        let cells = |row: &Row| row.cells.iter().take(columns).cloned().collect();
        let rows: Vec<Vec<String>> = self.rows.iter().take(shown).map(cells).collect();
        let mut texts = aligned(&heading, &rows).into_iter();
        lines.push(Line::new(Tone::Plain, ""));
        lines.extend(texts.next().map(|text| Line::new(Tone::Heading, text)));
        let tones = self.rows.iter().map(|row| if row.wrong { Tone::Bad } else { Tone::Plain });
        lines.extend(tones.zip(texts).map(|(tone, text)| Line::new(tone, text)));
        if self.rows.len() > shown {
            let more = format!("  and {} more (-o json has all)", self.rows.len() - shown);
            lines.push(Line::new(Tone::Plain, more));
        }
    }
}

/// Nodes in one cell: so many by name.
pub(super) fn some(nodes: &[String], named: usize) -> String {
    match nodes.len() {
        0 => "-".to_owned(),
        few if few <= named => nodes.join(", "),
        many => format!("{many} nodes"),
    }
}

/// A cell that may be empty.
pub(super) fn dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// `1 address`, `2 addresses`.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let row = |wrong, cells: [&str; 3]| Row { wrong, cells: cells.map(str::to_owned).to_vec() };
        Sheet {
            headline: "1 of 2 is wrong".to_owned(),
            findings: vec![Finding { text: "it is dark".to_owned(), next: Some("light it".to_owned()) }],
            grids: vec![Grid {
                heading: &["Things", "state", "where"],
                wide: 1,
                rows: vec![row(true, ["a", "dark", "here"]), row(false, ["b", "ok", "there"])],
                shown: None,
            }],
            foot: vec!["that is all".to_owned()],
        }
    }

    #[test]
    fn wide_columns_are_left_out_and_colours_change_no_text() {
        let narrow = "1 of 2 is wrong\n! it is dark\n    light it\n\nThings  state\n  a     dark\n  b     ok\n\nthat is all\n";
        assert_eq!(sheet().text(false, false), narrow);
        assert!(
            sheet().text(true, false).contains("\n  a     dark   here\n"),
            "{}",
            sheet().text(true, false)
        );
        let coloured = sheet().text(false, true);
        assert!(coloured.contains("\x1b[31m  a     dark\x1b[0m\n") && coloured.contains("\n  b     ok\n"));
        let mut plain = coloured;
        for code in ["31", "32", "1", "2", "0"] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, narrow);
    }

    #[test]
    fn a_message_of_several_lines_or_with_escapes_is_one_line_of_text() {
        let mut sheet = sheet();
        sheet.findings[0].text = "it is\ndark\x1b[2J".to_owned();
        assert!(sheet.text(false, false).contains("\n! it is dark [2J\n"), "{}", sheet.text(false, false));
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut sheet = sheet();
        sheet.grids[0].shown = Some(1);
        sheet.findings = vec![sheet.findings[0].clone(); FINDINGS + 2];
        let text = sheet.text(false, false);
        assert!(text.contains("\n  and 1 more (-o json has all)\n"), "{text}");
        assert!(text.contains("\n! and 2 more (-o json has all)\n"), "{text}");
    }
}
