//! Rules of retries: times fit into each other, and statuses are those of errors.

use std::time::Duration;

use super::{to_u32, to_usize};
use crate::base::units::show_duration;
use crate::config::decode::{self, Decoder};
use crate::config::forms::HedgeKey;
use crate::config::keys;
use crate::config::kinds::OrOff;
use crate::config::route::{BackOff, Hedge, Retry};
use crate::config::values::Timeout;

/// Checks what is written of the retries of a route whose answers may take `response`.
pub(super) fn check(keys: &keys::Retry, response: Duration, decoder: &mut Decoder) -> Retry {
    let statuses = keys.statuses.as_ref().map(|at| &at.value);
    for at in statuses.into_iter().flatten() {
        if *at.value.0.start() < 400 {
            let help = "write statuses from 400 to 599: others are answers like any";
            decoder.problem(at.place, "an answer that is no error is not repeated", help);
        }
    }
    let per_try = keys.per_try_timeout.as_ref();
    if let Some(at) = per_try.filter(|at| at.value.0 > response) {
        let message = format!(
            "one attempt is given more time than all of them, {}",
            show_duration(response)
        );
        let help = "write a shorter one, or a longer `timeouts.response`";
        decoder.problem(at.place, message, help);
    }
    let attempts = to_u32(keys.attempts.value.0);
    Retry {
        attempts,
        statuses: statuses.map_or_else(
            || vec![Retry::STATUSES],
            |statuses| statuses.iter().map(|at| at.value.0.clone()).collect(),
        ),
        methods: keys
            .methods
            .iter()
            .flat_map(|at| &at.value.0)
            .map(|at| at.value.0.clone())
            .collect(),
        per_try_timeout: per_try.map(|at| at.value.0),
        back_off: match keys.back_off.as_ref().map(|at| &at.value) {
            None => Some(BackOff::default()),
            Some(OrOff::Off) => None,
            Some(OrOff::On(keys)) => Some(back_off(keys, decoder)),
        },
        replay: to_usize(keys.replay.value.0),
        hedge: hedge(keys, attempts, decoder),
    }
}

fn back_off(keys: &keys::BackOff, decoder: &mut Decoder) -> BackOff {
    let Timeout(base) = keys.base.value;
    let Timeout(max) = keys.max.value;
    if base > max {
        let message = format!(
            "the first pause may be longer than any, {}",
            show_duration(max)
        );
        let help = "write a shorter `base`, or a longer `max`; that is 250ms if absent";
        decoder.problem(keys.base.place, message, help);
    }
    BackOff { base, max }
}

fn hedge(keys: &keys::Retry, attempts: u32, decoder: &mut Decoder) -> Option<Hedge> {
    let at = keys.hedge.as_ref()?;
    let unwritten;
    let written = match &at.value {
        HedgeKey::Off => return None,
        HedgeKey::True => {
            unwritten = decode::unwritten::<keys::Hedge>();
            &unwritten
        }
        HedgeKey::Hedge(keys) => keys,
    };
    if attempts == 0 {
        let help = "take `hedge` out, or let `attempts` be 1 or more";
        let message = "a hedge is an attempt beyond the first, and there are none";
        decoder.problem(at.place, message, help);
    }
    let Timeout(least) = written.least.value;
    Some(Hedge {
        quantile: written.quantile.value.0,
        least,
    })
}
