//! Rules of what routes do: one thing each, and pools that exist.

use super::{KnownPools, filter, to_u32};
use crate::base::name::PoolName;
use crate::config::decode::{self, At, Decoder};
use crate::config::forms::CohortsKey;
use crate::config::keys;
use crate::config::kinds::{Count, Named};
use crate::config::route::{Action, Cohorts, Mirror};
use crate::config::values::Timeout;

/// Checks what a route does.
pub(super) fn check(
    keys: &keys::Route,
    pools: &KnownPools<'_>,
    decoder: &mut Decoder,
) -> Option<Action> {
    const ACTIONS: [&str; 4] = ["pool", "split", "redirect", "respond"];
    let written = ACTIONS
        .iter()
        .filter(|action| keys.written.has(action))
        .count();
    if written != 1 {
        let message = match written {
            0 => "the route does nothing",
            _ => "the route does more than one thing",
        };
        decoder.problem(
            keys.written.place,
            message,
            "a route has one of `pool`, `split`, `redirect` and `respond`",
        );
    }
    if let (Some(sticky), false) = (&keys.sticky, keys.written.has("split")) {
        let help = "write it beside a `split`; endpoints of one pool keep their clients by its \
                    `balance: sticky`";
        decoder.problem(sticky.place, "`sticky` without `split`", help);
    }
    let mut action = None;
    if let Some(respond) = &keys.respond {
        action = Some(respond_of(&respond.value, decoder));
    }
    if let Some(redirect) = &keys.redirect {
        action = redirect.value.to.as_ref().map(|to| Action::Redirect {
            to: to.value.0.clone(),
            status: redirect.value.status.value.0,
        });
    }
    if let Some(split) = &keys.split {
        action = Some(split_of(keys, split, pools, decoder));
    }
    if let Some(pool) = &keys.pool {
        check_known(pool, pools, decoder);
        action = Some(Action::Pool(pool.value.clone()));
    }
    action
}

/// Checks where copies of what a route does go.
pub(super) fn mirror(
    keys: &keys::Route,
    action: &Action,
    pools: &KnownPools<'_>,
    decoder: &mut Decoder,
) -> Option<Mirror> {
    let at = keys.mirror.as_ref()?;
    let pool = at.value.pool.as_ref();
    if let Some(pool) = pool {
        check_known(pool, pools, decoder);
    }
    let is_original = |name: &PoolName| match action {
        Action::Pool(own) => own == name,
        Action::Split { pools, cohorts: _ } => pools.iter().any(|(own, _)| own == name),
        Action::Redirect { .. } | Action::Respond { .. } => false,
    };
    if let Action::Redirect { .. } | Action::Respond { .. } = action {
        let help = "leave `mirror` out, or write it beside a `pool` or `split`";
        decoder.problem(at.place, "nothing is sent that could be copied", help);
    }
    let pool = pool?;
    if is_original(&pool.value) {
        let message = format!("`{}` would get every request twice", pool.value);
        let help = "name a pool that the route does not lead to";
        decoder.problem(pool.place, message, help);
    }
    Some(Mirror {
        pool: pool.value.clone(),
        share: at.value.percent.value.0,
    })
}

/// Reports a pool that is not there.
fn check_known(pool: &At<PoolName>, pools: &KnownPools<'_>, decoder: &mut Decoder) {
    if let Some(names) = &pools.names
        && !names.contains(&pool.value)
    {
        let help = match pools.listed.as_slice() {
            [] => format!(
                "there are no pools: add `pools: {{ {}: {{ endpoints: […] }} }}`",
                pool.value
            ),
            names => decoder.suggest(pool.value.as_str(), "pools are", names.iter().copied()),
        };
        decoder.problem(
            pool.place,
            format!("pool `{}` is not defined", pool.value),
            help,
        );
    }
}

fn split_of(
    keys: &keys::Route,
    split: &At<Named<PoolName, Count<0, 65535>>>,
    pools: &KnownPools<'_>,
    decoder: &mut Decoder,
) -> Action {
    let written = &split.value.0;
    for (pool, _) in written {
        check_known(pool, pools, decoder);
    }
    let weights = written.iter().filter_map(|(pool, weight)| {
        let weight = weight.as_ref()?.value.0;
        Some((pool.value.clone(), to_u32(weight)))
    });
    let weights: Vec<_> = weights.collect();
    if written.is_empty() {
        let help = "write each pool with its weight, such as `split: { api: 90, api-next: 10 }`";
        decoder.problem(split.place, "no pools to split between", help);
    } else if weights.len() == written.len() && weights.iter().all(|(_, weight)| *weight == 0) {
        let help = "give at least one pool a weight above 0";
        decoder.problem(
            split.place,
            "all weights are 0: no pool would get a request",
            help,
        );
    }
    Action::Split {
        pools: weights,
        cohorts: keys.sticky.as_ref().map(|at| cohorts(&at.value, decoder)),
    }
}

fn cohorts(key: &CohortsKey, decoder: &mut Decoder) -> Cohorts {
    let unwritten;
    let keys = match key {
        CohortsKey::Cookie => {
            unwritten = decode::unwritten::<keys::Cohorts>();
            &unwritten
        }
        CohortsKey::Cohorts(keys) => keys,
    };
    let Timeout(max_age) = keys.max_age.value;
    if max_age.as_millis() % 1000 != 0 {
        let help = "write whole seconds: cookies know no others";
        decoder.problem(keys.max_age.place, "part of a second", help);
    }
    Cohorts {
        cookie: keys.cookie.value.0.clone(),
        max_age,
    }
}

fn respond_of(keys: &keys::Respond, decoder: &mut Decoder) -> Action {
    let status = u16::try_from(keys.status.value.0).unwrap_or(u16::MAX);
    let body = &keys.body;
    // RFC 9110 §15.3.5, §15.3.6 and §15.4.5.
    if matches!(status, 204 | 205 | 304) && !body.value.is_empty() {
        let message = format!("an answer with status {status} has no body");
        decoder.problem(
            body.place,
            message,
            "leave `body` out, or choose another status",
        );
    }
    Action::Respond {
        status,
        body: body.value.clone(),
        headers: filter::fields(keys.headers.as_ref(), |name| &name.0),
    }
}
