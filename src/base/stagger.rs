//! Attempts at one thing that begin one after the other: the first that succeeds ends the others.
//!
//! Dialling uses it for the addresses of a name (RFC 8305 §5), and looking names up for the servers that are asked.
//! Nothing is spawned: dropping the future drops every attempt.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time;

/// The value of the first attempt that has one; else the error of the last that failed, or `None` if there was no
/// attempt.
///
/// The next one begins as soon as one has failed, and after `gap` if all that run are silent. `attempts` is asked for
/// one more than have begun at most.
pub async fn first<T, E, F>(
    attempts: impl IntoIterator<Item = F>,
    gap: Duration,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.into_iter().peekable();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut last = None;
    loop {
        if let Some(next) = waiting.next() {
            running.push(Box::pin(next));
        }
        if running.is_empty() {
            return last.map(Err);
        }
        let turn = poll_fn(|cx| {
            let mut has_failed = false;
            let mut at = 0;
            while let Some(attempt) = running.get_mut(at) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(value)) => return Poll::Ready(Some(value)),
                    Poll::Ready(Err(error)) => {
                        last = Some(error);
                        has_failed = true;
                        drop(running.remove(at));
                    }
                    Poll::Pending => at += 1,
                }
            }
            match has_failed {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        let ended = match waiting.peek() {
            Some(_) => time::timeout(gap, turn).await.ok().flatten(),
            None => turn.await,
        };
        if let Some(value) = ended {
            return Some(Ok(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const GAP: Duration = Duration::from_millis(250);

    /// Attempts that end after so many milliseconds, well or not; what came of them, when, and which of them began.
    fn play(script: &[(u64, bool)]) -> (Option<Result<usize, usize>>, u128, Vec<usize>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let begun = RefCell::new(Vec::new());
        let attempts = script
            .iter()
            .enumerate()
            .map(|(number, &(takes, is_good))| {
                begun.borrow_mut().push(number);
                async move {
                    time::sleep(Duration::from_millis(takes)).await;
                    match is_good {
                        true => Ok(number),
                        false => Err(number),
                    }
                }
            });
        let (ended, took) = runtime.block_on(async {
            let start = time::Instant::now();
            let ended = first(attempts, GAP).await;
            (ended, start.elapsed().as_millis())
        });
        (ended, took, begun.into_inner())
    }

    #[test]
    fn the_first_that_succeeds_wins() {
        let check = |script: &[(u64, bool)], ended, took, begun: usize| {
            let (found, time, began) = play(script);
            assert_eq!(found, ended, "{script:?}");
            assert_eq!(time, took, "{script:?}");
            // One that is looked at ahead is made, and not begun.
            assert!(began.len() <= begun + 1, "{script:?}: {began:?}");
        };
        check(&[], None, 0, 0);
        check(&[(10, true), (0, true)], Some(Ok(0)), 10, 1);
        // A silent one does not hold up the next for longer than the gap, and still may win.
        check(&[(900, true), (10, true)], Some(Ok(1)), 260, 2);
        check(&[(300, true), (100, true)], Some(Ok(0)), 300, 2);
        // One that fails makes place for the next at once.
        check(&[(10, false), (20, true)], Some(Ok(1)), 30, 2);
        check(&[(900, false), (30, false), (5, true)], Some(Ok(2)), 285, 3);
    }

    #[test]
    fn when_all_fail_the_last_failure_is_told() {
        assert_eq!(play(&[(40, false), (10, false)]).0, Some(Err(1)));
        assert_eq!(play(&[(400, false), (10, false)]).0, Some(Err(0)));
    }
}
