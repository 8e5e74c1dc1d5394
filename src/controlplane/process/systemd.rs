//! What systemd is told (sd_notify(3)): ready, reloading, stopping, which process is the one, and that it is alive.
//!
//! The life sign is one of every worker: the loop hands a message to each and this waits for the answers, so that a worker that
//! hangs is noticed, and not only a process that is gone. Without `NOTIFY_SOCKET` nothing is told.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot, watch as cell};
use tokio::time::{self, MissedTickBehavior};

use crate::controlplane::reload::board::Board;
use crate::controlplane::reload::{Demands, Ending, Event, Turns};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Systemd {
    is_on: Cell<bool>,
}

impl Systemd {
    /// Tells systemd if `is_on`, else nobody.
    pub fn new(is_on: bool) -> Rc<Self> {
        let is_on = Cell::new(is_on);
        Rc::new(Self { is_on })
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// The process serves.
    pub fn ready(&self, board: &Board) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status(board))]);
    }

    /// From now on another process is the one; this one says nothing more.
    pub(super) fn hand_over(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
        self.is_on.set(false);
    }

    fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of a reload"),
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.is_on.get()
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "systemd cannot be told; it is not tried again");
            self.is_on.set(false);
        }
    }
}

/// What `systemctl status` shows.
fn status(board: &Board) -> String {
    match board.latest() {
        None => "starting".to_owned(),
        Some(latest) if latest.is_good() => format!("version {} in force", latest.version),
        Some(latest) => format!(
            "version {} in force; the last reload was refused",
            latest.version
        ),
    }
}

/// The interval at which systemd wants a life sign of this process.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// What is looked at to tell systemd of it.
#[derive(Debug)]
pub struct Teller {
    /// Whom it is told.
    pub systemd: Rc<Systemd>,
    /// Shows whether the process is to end.
    pub demands: cell::Receiver<Demands>,
    /// Shows reloads as they begin and end.
    pub turns: cell::Receiver<Turns>,
    /// Shows how they ended.
    pub board: Arc<Board>,
    /// The loop.
    pub events: mpsc::Sender<Event>,
    /// How often a life sign is wanted.
    pub watchdog: Option<Duration>,
}

impl Teller {
    /// Tells until nothing more can happen, or another process is the one.
    pub async fn run(mut self) {
        if !self.systemd.is_on() {
            return;
        }
        // Twice in the time, as sd_watchdog_enabled(3) has it.
        let period = self.watchdog.map_or(Duration::MAX, |within| within / 2);
        let mut beat = time::interval(period.clamp(Duration::from_millis(1), YEAR));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Turns::default();
        loop {
            let news = tokio::select! {
                biased;
                ending = self.demands.wait_for(|demands| demands.ending > Ending::NotYet) => {
                    ending.map(|_| News::Ending)
                }
                turned = self.turns.changed() => turned.map(|()| News::Turn),
                _ = beat.tick(), if self.watchdog.is_some() => Ok(News::Beat),
            };
            match news {
                Ok(News::Ending) => break,
                Ok(News::Turn) => self.turned(&mut told),
                Ok(News::Beat) => self.beat(period).await,
                Err(_) => return,
            }
        }
        let status = NotifyState::Status("draining");
        self.systemd.tell(&[NotifyState::Stopping, status]);
        while self.watchdog.is_some() {
            // The loop drains, and answers nobody; that this goes on shows that it can.
            beat.tick().await;
            self.systemd.tell(&[NotifyState::Watchdog]);
        }
    }

    fn turned(&mut self, told: &mut Turns) {
        let now = *self.turns.borrow_and_update();
        if now.begun > told.begun {
            told.begun = now.begun;
            self.systemd.reloading();
        }
        if now.ended == now.begun && now.ended > told.ended {
            told.ended = now.ended;
            self.systemd.ready(&self.board);
        }
    }

    /// A life sign, if every worker gives one in time.
    async fn beat(&self, within: Duration) {
        let pulse = async {
            let (answer, pulse) = oneshot::channel();
            self.events.send(Event::Pulse(answer)).await.ok()?;
            pulse.await.ok()?.felt().await;
            Some(())
        };
        match time::timeout(within, pulse).await {
            Ok(Some(())) => self.systemd.tell(&[NotifyState::Watchdog]),
            Ok(None) => {}
            Err(_) => tracing::error!(?within, "a worker gives no sign of life: systemd gets none"),
        }
    }
}

/// What there may be to tell.
enum News {
    /// The process is to end.
    Ending,
    /// A reload begins or has ended.
    Turn,
    /// A sign of life is due.
    Beat,
}

/// Long enough for never.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
