//! THE LINE: one request from its head to its last byte, one step a statement.
//!
//! The branches are inside the steps. A step that fails ends the exchange in a [`Fault`], and the one place where
//! a fault becomes an answer is [`exchange`]. The record is closed when the answer's body has gone, or when the
//! future is dropped because the client went away.

use std::rc::Rc;

use http::header;

use crate::base::fault::Fault;
use crate::dataplane::filter;
use crate::dataplane::http::body::{Closing, ResponseBody};
use crate::dataplane::http::forward::{self, Answer, Passage};
use crate::dataplane::http::headers::{self, Inbound};
use crate::dataplane::http::respond;
use crate::dataplane::http::upgrade::Wish;
use crate::dataplane::http::{Downstream, Engine, Reply};
use crate::dataplane::snapshot::Action;
use crate::dataplane::upstream::split::Newcomer;

/// Answers one request. There is always an answer.
///
/// Dropping the future ends the exchange: the attempt under way is cancelled and the record says that the client
/// has gone.
pub fn exchange(
    engine: Rc<Engine>,
    downstream: Rc<Downstream>,
    inbound: Inbound,
) -> impl Future<Output = Reply<ResponseBody>> {
    let record = engine.record(&downstream.facts);
    let mut closing = Box::new(Closing::new(record, downstream.enter()));
    async move {
        let style = respond::Style::of(&inbound);
        let answer = line(&engine, &downstream, inbound, &mut closing).await;
        match answer {
            Ok(answer) => respond::answer(&engine, &downstream, answer, style, closing),
            Err(fault) => respond::fault(fault, style, closing),
        }
    }
}

async fn line(
    engine: &Engine,
    downstream: &Rc<Downstream>,
    mut inbound: Inbound,
    closing: &mut Closing,
) -> Result<Answer, Fault> {
    let snapshot = engine.snapshot();
    let admitted = headers::admit(engine, downstream, &snapshot, &mut inbound, closing);
    // What is refused is counted too.
    let counted = closing.count_client(&snapshot);
    admitted.and(counted)?;
    if let Some(answer) = respond::readiness(engine, downstream, &inbound) {
        return Ok(answer);
    }
    if downstream.listener.redirect_to_https {
        return respond::to_https(&snapshot, downstream, &inbound);
    }
    let route = headers::find_route(&snapshot, downstream, &inbound)?;
    closing.record.route = Some(route.name.clone());
    closing.count(&snapshot, route)?;
    inbound.run(&route.filters)?;
    // Boxed, since few exchanges have one.
    let mut newcomer = None;
    let mut answer = 'answer: {
        let pool = match &route.action {
            Action::Redirect(redirect) => {
                break 'answer respond::redirect(redirect, downstream, &inbound);
            }
            Action::Respond(fixed) => break 'answer Answer::own(fixed.answer()),
            Action::Fail(fault) => return Err(*fault),
            Action::Forward(pool) => pool,
            Action::Fork(fork) => {
                let picked = fork.split.pick(&inbound.parts);
                let (pool, found) = picked.ok_or(Fault::NoEndpoint)?;
                newcomer = found.map(Box::new);
                pool
            }
        };
        closing.record.pool = Some(pool.name.clone());
        let wish = Wish::of(&mut inbound)?;
        let passage = Passage {
            engine,
            downstream,
            snapshot: &snapshot,
            route,
        };
        forward::forward(passage, pool, inbound, wish, closing).await?
    };
    if let Some(newcomer) = newcomer {
        welcome(engine, downstream, &newcomer, &mut answer);
    }
    filter::on_response(&route.filters, &mut answer.head, || {
        engine.stock.take_fields()
    });
    Ok(answer)
}

/// Tells a client its place among those that stay with their pool.
#[cold]
fn welcome(engine: &Engine, downstream: &Downstream, newcomer: &Newcomer<'_>, answer: &mut Answer) {
    let is_secure = downstream.facts.secure.is_some();
    if let Some(cookie) = newcomer.set_cookie(is_secure) {
        let fields = answer.head.map_in(|| engine.stock.take_fields());
        fields.append(header::SET_COOKIE, cookie);
    }
}
