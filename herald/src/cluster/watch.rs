//! `herald status --watch`: a live view on the whole terminal.
//!
//! ```text
//!   keys ──> View::press ──┐
//!   look, 2 s after the last ──> View::learned ──> View::draw (view.rs, pure) ──> the terminal
//!   a second has gone by ──┘
//! ```
//!
//! One look at a time, at the subject that is shown and no other; it has the deadlines of any look. What was told last stays when the cluster does
//! not answer, with its age. The terminal is put back as it was on every way out: the end, an error, a signal, a panic.

mod view;

use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::future::{FutureExt, LocalBoxFuture, pending};
use futures::stream::StreamExt;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use self::view::{Then, View};
use super::Cluster;
use super::sheet::Sheet;
use super::told::{Subject, Told, Wanted};
use crate::flags::ClusterFlags;

/// Between the end of a look and the next one.
const PAUSE: Duration = Duration::from_secs(2);
/// How often ages are told anew.
const AGES: Duration = Duration::from_secs(1);

/// What came of a look.
type Looked = (Subject, bool, Result<Sheet, String>);

/// Looks until told to stop. `wanted` narrows the subject that it begins with.
pub(crate) async fn watch(flags: &ClusterFlags, subject: Subject, wanted: Wanted, wide: bool) -> Result<()> {
    let cluster = Cluster::connect(flags).await?;
    let look = |at: Subject, wide: bool| {
        let cluster = cluster.clone();
        let wanted = if at == subject { wanted.clone() } else { Wanted::default() };
        async move {
            let facts = cluster.look(at, wide).await;
            let sheet = facts.map(|facts| Told::of(&facts, at, &wanted).sheet());
            (at, wide, sheet.map_err(|error| format!("{error:#}")))
        }
        .boxed_local()
    };
    // Its hook puts the terminal back before a panic is told.
    let result = match ratatui::try_init() {
        Ok(mut terminal) => {
            show_cursor_after_panic();
            live(&mut terminal, View::new(subject, wide), look).await
        }
        Err(error) => Err(error).context("the terminal cannot be drawn on"),
    };
    ratatui::restore();
    result
}

/// The cursor is shown when the terminal is dropped, and a panic that aborts drops nothing.
fn show_cursor_after_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Nothing is left to do where that fails.
        let _ = crossterm::execute!(std::io::stdout(), crossterm::cursor::Show);
        hook(panic);
    }));
}

async fn live(
    terminal: &mut DefaultTerminal,
    mut view: View,
    look: impl Fn(Subject, bool) -> LocalBoxFuture<'static, Looked>,
) -> Result<()> {
    let mut keys = EventStream::new();
    let mut ends =
        [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?];
    let [terminated, hung_up, interrupted] = &mut ends;
    let mut ages = tokio::time::interval(AGES);
    ages.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking = Some(look(view.subject(), view.wide()));
    let mut next = Instant::now();
    loop {
        terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut(), Instant::now().into_std()))?;
        let idle = looking.is_none();
        let looked = async {
            match looking.as_mut() {
                Some(look) => look.await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match view.press(key) {
                    Then::End => return Ok(()),
                    Then::Look => looking = Some(look(view.subject(), view.wide())),
                    Then::Stay => {}
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the keys cannot be read any more"),
                None => return Ok(()),
            },
            (subject, wide, told) = looked => {
                view.learn(subject, wide, told, Instant::now().into_std());
                looking = None;
                next = Instant::now() + PAUSE;
            }
            () = tokio::time::sleep_until(next), if idle => {
                looking = Some(look(view.subject(), view.wide()));
            }
            _ = ages.tick() => {}
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
        }
    }
}
