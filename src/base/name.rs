//! Names that operators give to things, one type a kind, so that they cannot be mixed up.
//!
//! Cloning one is a reference count: names travel with every exchange into the access log.

use std::fmt;
use std::sync::Arc;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as the operator wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    )+};
}

names! {
    /// The name of a listener: its address as written, or the `name` given to it.
    ListenerName;
    /// The name of a route: its `name`, or host and path of its match.
    RouteName;
    /// The name of a pool: its key under `pools`, behind the name of its site if it has one.
    PoolName;
    /// The name of a site: that of its file, without extension.
    SiteName;
}

/// The number of one endpoint object in this process.
///
/// Never used twice: workers key their idle connections by it, and an endpoint that leaves the config and
/// comes back is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);
