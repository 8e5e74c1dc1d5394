//! What is held against the health of endpoints, and what they are asked, from what is written.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config;
use crate::config::pool::HealthCheck;
use crate::dataplane::upstream::health::{Outlier, Policy, Slow, Thresholds};
use crate::dataplane::upstream::pool::Pool;
use crate::dataplane::upstream::probe::{HttpQuestion, Plan, Question};

pub(super) fn policy(pool: &config::pool::Pool) -> Policy {
    let check = pool.health_check.as_ref().map(|written| Thresholds {
        rise: written.rise,
        fall: written.fall,
    });
    let outlier = pool.outlier.map(|written| Outlier {
        failures: written.failures,
        success_rate: written.success_rate,
        requests: written.requests,
        window: written.window,
        ejection: written.ejection,
        max_ejected: written.max_ejected,
        slow: written.latency.map(|written| Slow {
            factor: written.factor,
            least: written.least,
            lasts: written.lasts,
        }),
    });
    Policy { check, outlier }
}

/// How the endpoints of a pool are checked; the plan from before, if it is the same.
pub(super) fn plan(pool: &config::pool::Pool, previous: Option<&Arc<Pool>>) -> Option<Arc<Plan>> {
    let written = pool.health_check.as_ref()?;
    let plan = Plan {
        question: question(written),
        port: written.port,
        interval: written.interval,
        fast_interval: written.fast_interval,
        timeout: written.timeout,
    };
    let known = previous.and_then(|previous| previous.settings.check.as_ref());
    let known = known.filter(|known| ***known == plan);
    Some(known.map_or_else(|| Arc::new(plan), Arc::clone))
}

/// Names, values and paths were read as what they are, so none of them is left out.
fn question(written: &HealthCheck) -> Question {
    match &written.question {
        config::pool::Question::Tcp => Question::Tcp,
        config::pool::Question::Grpc { service } => Question::Grpc {
            service: service.as_str().into(),
        },
        config::pool::Question::Http {
            path,
            host,
            headers,
            status,
            body,
        } => {
            let mut fields = HeaderMap::new();
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                    fields.append(name, value);
                }
            }
            let target = path.parse();
            let host = host.as_deref().map(HeaderValue::from_str);
            Question::Http(Box::new(HttpQuestion {
                target: target.unwrap_or(PathAndQuery::from_static("/")),
                host: host.and_then(Result::ok),
                fields,
                statuses: status.as_slice().into(),
                body: body.as_deref().map(Into::into),
            }))
        }
    }
}
