//! What must hold for whatever the other process says during an upgrade.

use super::handover::{State, Word};

/// A line of the hand-over: its state or a word, which is written as it was read.
pub fn handovers(bytes: &[u8]) {
    if let Ok(word) = Word::read(bytes) {
        let line = word.line().expect("it is text");
        assert_eq!(Word::read(&line).ok(), Some(word));
    }
    let Ok(state) = serde_json::from_slice::<State>(bytes) else {
        return;
    };
    let (tickets, sessions) = (state.tickets(), state.sessions());
    let again = State::new(
        &tickets,
        sessions.as_ref(),
        state.access_log.clone(),
        state.owns_control,
        state.writable.clone(),
    );
    let line = again.line().expect("it is text");
    let read: State = serde_json::from_slice(&line).expect("it was written by us");
    assert_eq!(read.tickets(), tickets);
    assert_eq!(read.sessions(), sessions);
    assert_eq!(read.access_log, state.access_log);
    assert_eq!(read.writable, state.writable);
}
