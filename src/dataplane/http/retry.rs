//! May an attempt that failed be made again?

use crate::base::fault::{Fault, Repeat};

/// What is left of a request after an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    /// The endpoint has seen nothing of it and it is whole.
    pub unsent: bool,
    /// Its method may come twice, and a copy of it is whole.
    pub repeatable: bool,
}

/// Whether the request may be sent again after `fault`; how often, and whether there is time, is the caller's to count.
pub fn may_repeat(fault: Fault, remains: Remains) -> bool {
    match fault.repeat() {
        Repeat::Never => false,
        Repeat::NothingSent => remains.unsent,
        Repeat::Idempotent => remains.unsent || remains.repeatable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_only_when_that_cannot_do_harm() {
        let check = |fault, unsent, repeatable, expected| {
            assert_eq!(
                may_repeat(fault, Remains { unsent, repeatable }),
                expected,
                "{fault:?}"
            );
        };
        check(Fault::ConnectFailed, true, false, true);
        check(Fault::ConnectTimeout, true, false, true);
        check(Fault::ConnectionLost, true, false, true);
        check(Fault::ResponseMissing, false, true, true);
        check(Fault::ResponseMissing, false, false, false);
        check(Fault::ResponseMalformed, false, true, false);
        check(Fault::ResponseTimeout, false, true, true);
        check(Fault::ResponseTimeout, false, false, false);
        check(Fault::ClientGone, true, true, false);
    }
}
