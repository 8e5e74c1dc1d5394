//! A pool: a named set of endpoints and the picker that chooses among them.

use std::sync::Arc;
use std::time::Duration;

use crate::base::name::{EndpointId, PoolName};
use crate::dataplane::upstream::endpoint::Endpoint;
use crate::dataplane::upstream::pick::Picker;

/// An endpoint and its share of the pool's work.
#[derive(Clone, Debug)]
pub struct Member {
    /// The endpoint, shared with the snapshots before and after.
    pub endpoint: Arc<Endpoint>,
    /// Its weight; 0 takes it out of the turn.
    pub weight: u32,
}

/// A named set of endpoints.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its endpoints. Empty while none of its names resolves.
    pub members: Box<[Member]>,
    /// The balancing choice.
    pub picker: Picker,
    /// How long a connection to an endpoint may take, TLS included.
    pub connect_timeout: Duration,
}

impl Pool {
    /// Chooses an endpoint that is not among those `tried`; `None` when there is none left.
    pub fn pick(&self, tried: &[EndpointId]) -> Option<&Arc<Endpoint>> {
        self.picker.pick(&self.members, tried)
    }
}
