//! Sockets that listen: bound by us, one a worker on the same address, which the kernel shares out (SO_REUSEPORT); or
//! inherited, as many as there are.
//!
//! A socket has a queue of its own of connections that are there and not taken yet, and closing it resets them. So a socket
//! that was inherited is never closed while its listener lives, whatever the number of workers is now, and never one bound
//! beside it: with more workers than sockets several take from one queue, with fewer a worker takes from several.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::base::addr::ListenAddr;

/// Connections that the kernel has accepted and a worker has not taken yet.
pub(super) const BACKLOG: u16 = 4096;

/// Binds `address` once for every worker. Port 0 is chosen by the kernel, the same for all.
///
/// # Errors
/// What the system says: the port is taken, the address is not ours, the right is missing.
pub fn bind(address: &ListenAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    match address {
        ListenAddr::One(address) => bind_all(*address, workers),
        ListenAddr::All(port) => {
            bind_all(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)), workers).or_else(|error| {
                match error.raw_os_error() {
                    // A host without IPv6: every address of the one family there is.
                    Some(EAFNOSUPPORT | EADDRNOTAVAIL) => {
                        bind_all(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), workers)
                    }
                    _ => Err(error),
                }
            })
        }
    }
}

/// Makes an inherited socket ready for workers.
///
/// # Errors
/// It is none that listens, or the system does not let us set it up.
pub fn adopt(socket: &TcpListener) -> io::Result<()> {
    if !SockRef::from(socket).is_listener()? {
        return Err(io::Error::other("it does not listen"));
    }
    socket.set_nonblocking(true)
}

/// Whether a socket bound to `bound` is one for `wanted`.
pub fn is_at(bound: SocketAddr, wanted: &ListenAddr) -> bool {
    match wanted {
        ListenAddr::One(address) => bound == *address,
        ListenAddr::All(port) => bound.port() == *port && bound.ip().is_unspecified(),
    }
}

/// Handles on `sockets` for so many workers: every worker has one at least, and every socket is with one at least.
///
/// # Errors
/// When the system has no more descriptors.
pub fn share(sockets: &[TcpListener], workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let share = |worker: usize| {
        let own = sockets.iter().skip(worker).step_by(workers);
        // Beyond the number of sockets: one that another worker takes from as well.
        let shared = sockets.iter().cycle().skip(worker).take(1);
        let handles: Vec<_> = match worker < sockets.len() {
            true => own.collect(),
            false => shared.collect(),
        };
        handles.into_iter().map(TcpListener::try_clone).collect()
    };
    (0..workers).map(share).collect()
}

const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

fn bind_all(mut address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // Before the first of ours: without SO_REUSEPORT the address must be free, so that a second Lockgate, which
    // would share it silently, is refused.
    if address.port() != 0 {
        drop(open(address, false)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = open(address, true)?;
        socket.listen(BACKLOG.into())?;
        let listener = TcpListener::from(socket);
        address.set_port(listener.local_addr()?.port());
        sockets.push(listener);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let sockets = bind(&"127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = sockets
            .iter()
            .map(|s| s.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    }

    #[test]
    fn every_worker_and_every_socket_has_its_share() {
        for (sockets, workers) in [(1, 1), (1, 4), (3, 2), (2, 3), (4, 4), (5, 2)] {
            let bound = bind(&"127.0.0.1:0".parse().unwrap(), sockets).unwrap();
            let shares = share(&bound, workers).unwrap();
            assert_eq!(shares.len(), workers);
            assert!(shares.iter().all(|share| !share.is_empty()));
            let handles: usize = shares.iter().map(Vec::len).sum();
            assert_eq!(handles, sockets.max(workers), "{sockets} for {workers}");
            drop(bound);
            // What is left reaches every queue: no connection is refused, and each is taken.
            let address = shares[0][0].local_addr().unwrap();
            let clients: Vec<_> = (0..20)
                .map(|_| std::net::TcpStream::connect(address).unwrap())
                .collect();
            let taken = shares.iter().flatten();
            let taken = taken.map(|socket| std::iter::from_fn(|| socket.accept().ok()).count());
            assert_eq!(taken.sum::<usize>(), clients.len());
        }
    }

    #[test]
    fn a_socket_is_known_by_its_address() {
        let check = |bound: &str, wanted: &str, expected| {
            let wanted: ListenAddr = wanted.parse().unwrap();
            assert_eq!(is_at(bound.parse().unwrap(), &wanted), expected, "{bound}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("0.0.0.0:80", ":80", true);
        check("[::]:80", ":80", true);
        check("127.0.0.1:80", ":80", false);
        check("[::]:80", "0.0.0.0:80", false);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_not_taken() {
        let socket = open("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let listener = TcpListener::from(socket);
        assert!(adopt(&listener).is_err());
        let mut bound = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        adopt(&bound.remove(0)).unwrap();
    }

    #[test]
    fn an_address_that_is_taken_is_refused() {
        let taken = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = ListenAddr::One(taken[0].local_addr().unwrap());
        assert_eq!(
            bind(&address, 1).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
