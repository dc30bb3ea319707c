//! What a live view shows, what keys do to it, and how it is drawn. Pure: time and the terminal's size are arguments.

use std::collections::BTreeMap;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use herald_speaker::explain::span;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::super::sheet::{Line, Sheet, Tone};
use super::super::told::Subject;

/// Lines above and below those that are scrolled: subjects and headline, state and keys.
const FRAME: u16 = 3;
/// Columns that one key moves.
const ASIDE: usize = 8;
const KEYS: &str = "q quit  tab next  arrows scroll  w wide ";

/// What is shown.
#[derive(Debug)]
pub(super) struct View {
    subject: Subject,
    wide: bool,
    /// Lines above, and columns to the left of, those that are shown.
    scroll: usize,
    aside: usize,
    /// Lines that the last frame had room for.
    room: usize,
    /// The last that was told of each subject, and when.
    told: BTreeMap<Subject, Seen>,
    /// Why the last look at the subject that is shown told nothing.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Seen {
    sheet: Sheet,
    at: Instant,
}

/// What is to be done after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Stay,
    /// Something else is shown: do not wait.
    Look,
    End,
}

impl View {
    pub(super) fn new(subject: Subject, wide: bool) -> Self {
        Self { subject, wide, scroll: 0, aside: 0, room: 1, told: BTreeMap::new(), trouble: None }
    }

    pub(super) fn subject(&self) -> Subject {
        self.subject
    }

    pub(super) fn wide(&self) -> bool {
        self.wide
    }

    /// What came of a look; the last good answer stays.
    pub(super) fn learn(&mut self, subject: Subject, wide: bool, told: Result<Sheet, String>, now: Instant) {
        match told {
            Ok(sheet) => {
                if (subject, wide) == (self.subject, self.wide) {
                    self.trouble = None;
                }
                self.told.insert(subject, Seen { sheet, at: now });
            }
            Err(why) if subject == self.subject => self.trouble = Some(why),
            Err(_) => {}
        }
    }

    /// What a key does.
    pub(super) fn press(&mut self, key: KeyEvent) -> Then {
        let page = self.room.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Then::End,
            KeyCode::Char('q') | KeyCode::Esc => return Then::End,
            KeyCode::Tab => return self.turn(1),
            KeyCode::BackTab => return self.turn(Subject::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='7') => {
                let at = digit.to_digit(10).map_or(0, |digit| digit as usize - 1);
                return self.show(Subject::ALL[at]);
            }
            KeyCode::Char('w') => {
                self.wide = !self.wide;
                return Then::Look;
            }
            KeyCode::Char('r') => return Then::Look,
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(page),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => (self.scroll, self.aside) = (0, 0),
            KeyCode::End | KeyCode::Char('G') => self.scroll = usize::MAX,
            KeyCode::Right | KeyCode::Char('l') => self.aside = self.aside.saturating_add(ASIDE),
            KeyCode::Left | KeyCode::Char('h') => self.aside = self.aside.saturating_sub(ASIDE),
            _ => {}
        }
        Then::Stay
    }

    fn turn(&mut self, by: usize) -> Then {
        let all = Subject::ALL;
        let at = all.iter().position(|subject| *subject == self.subject).unwrap_or(0);
        self.show(all[(at + by) % all.len()])
    }

    fn show(&mut self, subject: Subject) -> Then {
        if subject == self.subject {
            return Then::Stay;
        }
        (self.subject, self.scroll, self.aside, self.trouble) = (subject, 0, 0, None);
        Then::Look
    }

    /// Draws all of it; what does not fit is left out.
    pub(super) fn draw(&mut self, area: Rect, buffer: &mut Buffer, now: Instant) {
        self.subjects(area, buffer);
        self.state(area, buffer, now);
        let seen = self.told.get(&self.subject);
        let lines = seen.map(|seen| seen.sheet.lines(self.wide)).unwrap_or_default();
        let (headline, body) = match lines.split_first() {
            Some((headline, body)) => (Some(headline), body),
            None => (None, &[][..]),
        };
        self.room = usize::from(area.height.saturating_sub(FRAME)).max(1);
        self.scroll = self.scroll.min(body.len().saturating_sub(self.room));
        let longest = body.iter().map(|line| line.text.chars().count()).max().unwrap_or(0);
        self.aside = self.aside.min(longest.saturating_sub(usize::from(area.width)));
        if area.height < FRAME {
            return;
        }
        match headline {
            Some(line) => self.line(area, buffer, 1, line, 0),
            None => {
                let text = match self.trouble {
                    Some(_) => "nothing is known yet",
                    None => "looking ...",
                };
                let line = Line { tone: Tone::Plain, text: text.to_owned() };
                self.line(area, buffer, 1, &line, 0);
            }
        }
        // The heading of a table stays while its rows go by.
        let above = body.iter().take(self.scroll).rev().find(|line| line.tone == Tone::Heading);
        let shown = body.iter().skip(self.scroll).take(self.room).enumerate();
        for (row, line) in shown {
            let line = match above {
                Some(heading) if row == 0 && line.tone != Tone::Heading => heading,
                _ => line,
            };
            let Ok(row) = u16::try_from(row) else { break };
            self.line(area, buffer, row + 2, line, self.aside);
        }
    }

    fn subjects(&self, area: Rect, buffer: &mut Buffer) {
        let mut x = area.x;
        for subject in Subject::ALL.into_iter().take_while(|_| area.height > 0) {
            let style = match subject == self.subject {
                true => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
                false => Style::new(),
            };
            let room = usize::from(area.right().saturating_sub(x));
            (x, _) = buffer.set_stringn(x, area.y, format!(" {} ", subject.word()), room, style);
        }
    }

    fn state(&self, area: Rect, buffer: &mut Buffer, now: Instant) {
        let Some(y) = area.bottom().checked_sub(1).filter(|y| *y > area.y) else { return };
        let age = |seen: &Seen| span(now.saturating_duration_since(seen.at).as_secs());
        let (text, style) = match (&self.trouble, self.told.get(&self.subject)) {
            (None, None) => (String::new(), Style::new()),
            (None, Some(seen)) => (format!("seen {} ago", age(seen)), Style::new()),
            (Some(why), None) => (why.clone(), Style::new().fg(Color::Red)),
            (Some(why), Some(seen)) => {
                (format!("this is {} old: {why}", age(seen)), Style::new().fg(Color::Red))
            }
        };
        let width = usize::from(area.width);
        let (end, _) = buffer.set_stringn(area.x, y, text, width, style);
        // Where there is room left for all of them.
        let keys = u16::try_from(KEYS.len()).unwrap_or(u16::MAX);
        if let Some(x) = area.right().checked_sub(keys).filter(|x| *x > end) {
            buffer.set_stringn(x, y, KEYS, width, Style::new().add_modifier(Modifier::DIM));
        }
    }

    fn line(&self, area: Rect, buffer: &mut Buffer, row: u16, line: &Line, aside: usize) {
        let style = match line.tone {
            Tone::Plain => Style::new(),
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Bad => Style::new().fg(Color::Red),
            Tone::Heading => Style::new().add_modifier(Modifier::BOLD),
            Tone::Next => Style::new().add_modifier(Modifier::DIM),
        };
        let from = line.text.char_indices().nth(aside).map_or(line.text.len(), |(at, _)| at);
        buffer.set_stringn(area.x, area.y + row, &line.text[from..], usize::from(area.width), style);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::super::services::tests::{announced, shop};
    use super::super::super::told::{Told, Wanted};
    use super::*;
    use crate::testing::golden;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn services(rows: usize) -> Sheet {
        let mut facts = shop();
        announced(&mut facts);
        let mut more: Vec<_> = facts.services.iter().cycle().take(rows).cloned().collect();
        for (number, service) in more.iter_mut().enumerate().skip(facts.services.len()) {
            service.name += &format!("-{number}");
        }
        facts.services = more;
        Told::of(&facts, Subject::Services, &Wanted::default()).sheet()
    }

    /// What is on a terminal of this size.
    fn screen(view: &mut View, (width, height): (u16, u16), now: Instant) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut(), now)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn the_frame_is_as_in_its_golden_file() {
        let begin = Instant::now();
        let now = begin + Duration::from_secs(34);
        let mut view = View::new(Subject::Services, false);
        view.learn(Subject::Services, false, Ok(services(5)), begin);
        let fresh = screen(&mut view, (120, 16), begin + Duration::from_secs(1));
        view.learn(Subject::Services, false, Err("the API server does not answer".to_owned()), now);
        let stale = screen(&mut view, (80, 12), now);
        golden("status-watch.txt", &format!("{fresh}---\n{stale}"));
    }

    #[test]
    fn what_is_wrong_is_red_and_the_subject_is_marked() {
        let begin = Instant::now();
        let mut view = View::new(Subject::Services, false);
        view.learn(Subject::Services, false, Ok(services(5)), begin);
        let mut terminal = Terminal::new(TestBackend::new(80, 16)).unwrap();
        terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut(), begin)).unwrap();
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(0, 1)].fg, Color::Red, "the headline");
        let x = u16::try_from(" overview ".len() + 1).unwrap();
        assert!(buffer[(x, 0)].modifier.contains(Modifier::REVERSED));
        assert!(!buffer[(1, 0)].modifier.contains(Modifier::REVERSED));
    }

    #[test]
    fn keys_turn_to_subjects_scroll_and_end() {
        let mut view = View::new(Subject::All, false);
        assert_eq!(view.press(key(KeyCode::Tab)), Then::Look);
        assert_eq!(view.subject(), Subject::Services);
        assert_eq!(view.press(key(KeyCode::BackTab)), Then::Look);
        assert_eq!(view.press(key(KeyCode::BackTab)), Then::Look);
        assert_eq!(view.subject(), Subject::Routes);
        assert_eq!(view.press(key(KeyCode::Char('2'))), Then::Look);
        assert_eq!((view.subject(), view.press(key(KeyCode::Char('2')))), (Subject::Services, Then::Stay));
        assert_eq!((view.press(key(KeyCode::Char('w'))), view.wide()), (Then::Look, true));
        assert_eq!(view.press(key(KeyCode::Down)), Then::Stay);
        for end in [key(KeyCode::Char('q')), KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)] {
            assert_eq!(view.press(end), Then::End);
        }
    }

    #[test]
    fn the_last_line_can_be_reached_and_the_heading_stays() {
        let begin = Instant::now();
        let mut view = View::new(Subject::Services, false);
        view.learn(Subject::Services, false, Ok(services(100)), begin);
        let top = screen(&mut view, (120, 20), begin);
        assert!(!top.contains("shop/web"), "the wrong ones come first: {top}");
        view.press(key(KeyCode::End));
        let end = screen(&mut view, (120, 20), begin);
        let rows: Vec<&str> = end.lines().collect();
        assert!(rows[2].starts_with("Services "), "{end}");
        assert!(rows[18].starts_with("  shop/web"), "{end}");
        view.press(key(KeyCode::Up));
        assert_ne!(screen(&mut view, (120, 20), begin), end, "one key is enough to leave the end");
        for code in [KeyCode::Home, KeyCode::Right] {
            view.press(key(code));
        }
        let aside = screen(&mut view, (40, 20), begin);
        assert!(aside.lines().nth(1).unwrap().starts_with("41 of 100"), "the headline stays: {aside}");
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        let begin = Instant::now();
        for seen in [false, true] {
            let mut view = View::new(Subject::Services, true);
            if seen {
                view.learn(Subject::Services, true, Ok(services(10)), begin);
            }
            for size in [(1, 1), (1, 2), (2, 3), (40, 4), (300, 100)] {
                screen(&mut view, size, begin);
            }
        }
    }

    #[test]
    fn an_answer_about_another_subject_does_not_hide_that_this_one_is_not_known() {
        let begin = Instant::now();
        let mut view = View::new(Subject::Pools, false);
        view.learn(Subject::Pools, false, Err("forbidden".to_owned()), begin);
        view.learn(Subject::Services, false, Ok(services(5)), begin);
        let text = screen(&mut view, (80, 6), begin);
        assert!(text.contains("nothing is known yet") && text.contains("forbidden"), "{text}");
    }
}
