//! Keys that may be written in more than one form: the short one, or a map.

use super::decode::{Decoder, Kind, Shape};
use super::keys::{
    BalanceForms, Cohorts, Endpoint, HashByForms, Hedge, PathForms, RateForms, Sandbox, ValueForms,
};
use super::node::{Node, Value};
use super::values::http::UrlPath;
use super::values::{BalanceWord, HashByWord, Rate};
use crate::base::addr::EndpointTarget;

/// `path`: text, or one of several forms.
#[derive(Clone, Debug)]
pub(crate) enum PathKey {
    Prefix(UrlPath),
    Forms(PathForms),
}

impl Kind for PathKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::Map(_) => PathForms::decode(node, decoder).map(Self::Forms),
            _ => UrlPath::decode(node, decoder).map(Self::Prefix),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![UrlPath::shape(), PathForms::shape()])
    }
}

/// A value to match: text, or one of several forms.
#[derive(Clone, Debug)]
pub(crate) enum ValueKey {
    Exact(String),
    Forms(ValueForms),
}

impl Kind for ValueKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::Map(_) => ValueForms::decode(node, decoder).map(Self::Forms),
            _ => String::decode(node, decoder).map(Self::Exact),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![String::shape(), ValueForms::shape()])
    }
}

/// An endpoint: an address, or a map.
#[derive(Clone, Debug)]
pub(crate) enum EndpointKey {
    Address(EndpointTarget),
    Endpoint(Endpoint),
}

impl Kind for EndpointKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::Map(_) => Endpoint::decode(node, decoder).map(Self::Endpoint),
            _ => EndpointTarget::decode(node, decoder).map(Self::Address),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![EndpointTarget::shape(), Endpoint::shape()])
    }
}

/// The balancing choice: a word, or a map where there are settings.
#[derive(Clone, Debug)]
pub(crate) enum BalanceKey {
    Word(BalanceWord),
    Sticky,
    Forms(Box<BalanceForms>),
}

impl Kind for BalanceKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Map(_) => {
                BalanceForms::decode(node, decoder).map(|forms| Self::Forms(Box::new(forms)))
            }
            Value::Text(text) | Value::Filled(text) if text == "hash" => {
                let help =
                    "write what requests are known again by, such as `{ hash: { by: client_ip } }`";
                decoder.problem(node.place, "`hash` is a map", help);
                None
            }
            Value::Text(text) | Value::Filled(text) if text == "sticky" => Some(Self::Sticky),
            _ => BalanceWord::decode(node, decoder).map(Self::Word),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![
            BalanceWord::shape(),
            Shape::Word("sticky"),
            BalanceForms::shape(),
        ])
    }
}

/// What keeps clients with their pool: a word, or a map where there are settings.
#[derive(Clone, Debug)]
pub(crate) enum CohortsKey {
    Cookie,
    Cohorts(Box<Cohorts>),
}

impl Kind for CohortsKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Map(_) => {
                Cohorts::decode(node, decoder).map(|keys| Self::Cohorts(Box::new(keys)))
            }
            Value::Text(text) | Value::Filled(text) if text == "cookie" => Some(Self::Cookie),
            Value::Text(_) | Value::Filled(_) | Value::Flag(_) | Value::Integer(_) => {
                let help = "write `cookie`, or a map such as `{ cookie: cohort, max_age: 7d }`";
                decoder.problem(node.place, "`sticky` is `cookie` or a map", help);
                None
            }
            _ => {
                let help = "write `cookie`".to_owned();
                decoder.expected("`cookie` or a map", node, Some(help));
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Word("cookie"), Cohorts::shape()])
    }
}

/// What requests are known again by: a word, or a map where it has a name.
#[derive(Clone, Debug)]
pub(crate) enum HashByKey {
    Word(HashByWord),
    Forms(Box<HashByForms>),
}

impl Kind for HashByKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Map(_) => {
                HashByForms::decode(node, decoder).map(|forms| Self::Forms(Box::new(forms)))
            }
            Value::Text(text) | Value::Filled(text)
                if matches!(text.as_str(), "header" | "cookie" | "query") =>
            {
                let message = format!("`{text}` needs a name");
                let help = format!("write which one, such as `{{ {text}: session }}`");
                decoder.problem(node.place, message, help);
                None
            }
            _ => HashByWord::decode(node, decoder).map(Self::Word),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![HashByWord::shape(), HashByForms::shape()])
    }
}

/// What the process denies itself: `true`, `false` or a map.
#[derive(Clone, Debug)]
pub(crate) enum SandboxKey {
    Flag(bool),
    Sandbox(Sandbox),
}

impl Kind for SandboxKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::Map(_) => Sandbox::decode(node, decoder).map(Self::Sandbox),
            Value::Flag(_) | Value::Filled(_) => bool::decode(node, decoder).map(Self::Flag),
            _ => {
                let help = "write `false`, or a map such as `{ write: [ /var/log/lockgate ] }`";
                decoder.expected("`true`, `false` or a map", node, Some(help.to_owned()));
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Flag, Sandbox::shape()])
    }
}

/// A rate: text, or a map with a burst.
#[derive(Clone, Debug)]
pub(crate) enum RateKey {
    Rate(Rate),
    Forms(RateForms),
}

impl Kind for RateKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::Map(_) => RateForms::decode(node, decoder).map(Self::Forms),
            _ => Rate::decode(node, decoder).map(Self::Rate),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Rate::shape(), RateForms::shape()])
    }
}

/// Hedging: `off`, `true`, or a map.
#[derive(Clone, Debug)]
pub(crate) enum HedgeKey {
    Off,
    True,
    Hedge(Box<Hedge>),
}

impl Kind for HedgeKey {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Flag(true) => Some(Self::True),
            Value::Text(text) | Value::Filled(text) if text == "off" => Some(Self::Off),
            Value::Filled(text) if text == "true" => Some(Self::True),
            Value::Text(_) | Value::Filled(_) | Value::Flag(_) | Value::Integer(_) => {
                let help = "leave it out, or write `true` or `{ quantile: 99% }`";
                decoder.problem(node.place, "`hedge` is `off`, `true` or a map", help);
                None
            }
            _ => Hedge::decode(node, decoder).map(|hedge| Self::Hedge(Box::new(hedge))),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Word("off"), Shape::True, Hedge::shape()])
    }
}
