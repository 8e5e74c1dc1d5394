//! Listeners across a reload: bind the new, keep the same, drain the gone.
//!
//! Binding may fail and comes first; nothing is lost then. Only when the new snapshot is in force do the new ones
//! start, so that their first connection finds its plan, and the gone ones stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::base::addr::ListenAddr;
use crate::base::name::ListenerName;
use crate::dataplane::listener::socket;
use crate::dataplane::worker::{Leaving, Workers};

use super::estate::Sockets;

/// A listener as far as sockets are concerned.
pub(super) type Place = (ListenerName, ListenAddr);

/// What is bound, in the order of the config.
///
/// Every socket is kept here beside the worker's own handle on it, so that a listener that only changes its name
/// keeps its sockets, and the connections that wait in them. The port is free again once this lets go, too.
#[derive(Debug, Default)]
pub(super) struct Bound {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    place: Place,
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

/// Sockets that wait for the snapshot that knows them.
#[derive(Debug)]
pub(super) struct Prepared {
    places: Vec<Place>,
    opened: Vec<Opened>,
    closed: Vec<ListenerName>,
}

#[derive(Debug)]
struct Opened {
    open: Open,
    /// The workers' handles.
    handles: Vec<Vec<TcpListener>>,
}

/// A listener that cannot be bound.
#[derive(Debug)]
pub(super) struct BindError {
    /// Which one, counted as in the config.
    pub(super) index: usize,
    /// Its name, and where it should have listened.
    pub(super) place: Place,
    /// The listener in force that has the port, if it is one of ours.
    pub(super) rival: Option<ListenerName>,
    /// What the system says.
    pub(super) error: io::Error,
}

impl Bound {
    /// Binds what `places` has and we have not, where nobody left us a socket for it. What is bound here and dropped is
    /// closed again.
    ///
    /// # Errors
    /// Every listener that cannot be bound.
    pub(super) fn prepare(
        &self,
        places: Vec<Place>,
        workers: usize,
        left: &mut Sockets,
    ) -> Result<Prepared, Vec<BindError>> {
        let gone = self.open.iter().map(|open| &open.place);
        let gone = gone.filter(|place| !places.contains(place));
        let closed = gone.map(|(name, _)| name.clone()).collect();
        let mut opened = Vec::new();
        let mut errors = Vec::new();
        for (index, place) in places.iter().enumerate() {
            if self.open.iter().any(|open| open.place == *place) {
                continue;
            }
            match self.bind(place, &places, workers, left) {
                Ok(one) => opened.push(one),
                Err(error) => {
                    let same_port = |open: &&Open| open.place.1.port() == place.1.port();
                    let rival = self.open.iter().find(same_port);
                    let rival = rival.map(|open| open.place.0.clone());
                    errors.push(BindError {
                        index,
                        place: place.clone(),
                        rival,
                        error,
                    });
                }
            }
        }
        if errors.is_empty() {
            Ok(Prepared {
                places,
                opened,
                closed,
            })
        } else {
            Err(errors)
        }
    }

    /// Stops the gone listeners and starts the new ones. The snapshot that knows the new ones is in force.
    pub(super) fn commit(&mut self, prepared: Prepared, workers: &Workers, drain: Duration) {
        // The gone first: a name that moved to another address belongs to the new sockets afterwards.
        for name in prepared.closed {
            let leaving = workers.unlisten(&name, drain);
            tokio::task::spawn_local(report_end(name, leaving, drain));
        }
        let mut opened = prepared.opened;
        for one in &mut opened {
            workers.listen(&one.open.place.0, std::mem::take(&mut one.handles));
        }
        let mut all = std::mem::take(&mut self.open);
        all.retain(|open| prepared.places.contains(&open.place));
        all.extend(opened.into_iter().map(|one| one.open));
        all.sort_by_key(|open| {
            prepared
                .places
                .iter()
                .position(|place| *place == open.place)
        });
        self.open = all;
    }

    /// Every listener with the address it is bound to.
    pub(super) fn addresses(&self) -> Vec<(ListenerName, SocketAddr)> {
        self.open
            .iter()
            .map(|open| (open.place.0.clone(), open.address))
            .collect()
    }

    /// A handle on every socket, for the process that goes on after this one.
    pub(super) fn duplicate(&self) -> io::Result<Sockets> {
        let mut left = Vec::new();
        for open in &self.open {
            for socket in duplicate(&open.sockets)? {
                left.push((Some(open.place.0.clone()), socket));
            }
        }
        Ok(Sockets { left })
    }

    fn bind(
        &self,
        place: &Place,
        places: &[Place],
        workers: usize,
        left: &mut Sockets,
    ) -> io::Result<Opened> {
        // A listener that goes and one that comes at the same address are one that changed its name.
        let renamed = self.open.iter().find(|open| {
            open.place.1 == place.1 && place.1.port() != 0 && !places.contains(&open.place)
        });
        let mut sockets = match renamed {
            Some(open) => duplicate(&open.sockets)?,
            None => left.take(&place.0, &place.1),
        };
        if sockets.is_empty() {
            sockets = socket::bind(&place.1, workers)?;
        }
        let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
        let address = first.local_addr()?;
        let handles = socket::share(&sockets, workers)?;
        let open = Open {
            place: place.clone(),
            address,
            sockets,
        };
        Ok(Opened { open, handles })
    }
}

/// Says how the connections of a listener end that is gone.
async fn report_end(listener: ListenerName, mut leaving: Leaving, within: Duration) {
    let connections = leaving.told().await;
    tracing::info!(
        %listener,
        connections,
        ?within,
        "draining: the listener is closed, connections are told"
    );
    match leaving.finished().await {
        0 => tracing::info!(%listener, "drained"),
        connections => {
            tracing::warn!(%listener, connections, "cut: the drain's time was up");
        }
    }
}

fn duplicate(sockets: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    sockets.iter().map(TcpListener::try_clone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, address: &str) -> Place {
        (name.into(), address.parse().unwrap())
    }

    fn bound(places: &[Place]) -> Bound {
        let prepared = Bound::default()
            .prepare(places.to_vec(), 2, &mut Sockets::default())
            .unwrap();
        Bound {
            open: prepared.opened.into_iter().map(|one| one.open).collect(),
        }
    }

    /// A listener as if its config named the port that the system chose.
    fn bound_to_a_port() -> (Bound, SocketAddr) {
        let mut bound = bound(&[place("a", "127.0.0.1:0")]);
        let address = bound.open[0].address;
        bound.open[0].place.1 = ListenAddr::One(address);
        (bound, address)
    }

    #[test]
    fn a_listener_of_the_same_name_and_address_keeps_its_sockets() {
        let bound = bound(&[place("a", "127.0.0.1:0"), place("b", "127.0.0.1:0")]);
        let prepared = bound
            .prepare(vec![place("b", "127.0.0.1:0")], 2, &mut Sockets::default())
            .unwrap();
        assert!(prepared.opened.is_empty());
        assert_eq!(prepared.closed, ["a".into()]);
    }

    #[test]
    fn a_listener_that_moved_is_bound_anew_before_the_old_one_goes() {
        let (bound, old) = bound_to_a_port();
        let prepared = bound
            .prepare(vec![place("a", "127.0.0.1:0")], 2, &mut Sockets::default())
            .unwrap();
        let [opened] = &prepared.opened[..] else {
            panic!()
        };
        assert_eq!(
            (opened.open.place.0.as_str(), opened.handles.len()),
            ("a", 2)
        );
        assert_ne!(opened.open.address, old);
        assert_eq!(prepared.closed, ["a".into()]);
    }

    #[test]
    fn a_listener_that_changed_its_name_keeps_its_sockets() {
        let (bound, address) = bound_to_a_port();
        let prepared = bound
            .prepare(
                vec![place("b", &address.to_string())],
                2,
                &mut Sockets::default(),
            )
            .unwrap();
        let [opened] = &prepared.opened[..] else {
            panic!()
        };
        assert_eq!(opened.open.address, address);
        assert_eq!(prepared.closed, ["a".into()]);
    }

    #[test]
    fn what_another_process_left_is_taken_and_nothing_bound() {
        let (old, address) = bound_to_a_port();
        let mut left = old.duplicate().unwrap();
        assert_eq!(left.left.len(), 2, "one a worker");
        // More workers now: they share the sockets that are there.
        let places = vec![place("new", &address.to_string())];
        let prepared = Bound::default().prepare(places, 3, &mut left).unwrap();
        let opened = &prepared.opened[0];
        assert_eq!((opened.open.sockets.len(), opened.handles.len()), (2, 3));
        assert_eq!(opened.open.address, address);
        assert!(left.left.is_empty());
        drop(old);
        drop(left);
        // The queues have lived all along.
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn every_listener_that_cannot_be_bound_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let places = vec![
            place("a", "127.0.0.1:0"),
            place("b", &address),
            place("c", "192.0.2.1:0"),
        ];
        let errors = Bound::default()
            .prepare(places, 1, &mut Sockets::default())
            .unwrap_err();
        let indexes: Vec<_> = errors.iter().map(|error| error.index).collect();
        assert_eq!(indexes, [1, 2]);
    }
}
